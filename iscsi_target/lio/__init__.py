# SPDX-License-Identifier: Apache-2.0
"""The Linux kernel's target (LIO) from a description: model → plan → apply.

::

    model.py        what is wanted, in values: backstores, targets, portal groups, LUNs, ACLs
    saveconfig.py   the same as targetcli's saveconfig.json, both ways
    nodes.py        the same as a flat table of nodes, the form in which wanted and present are compared
    plan.py         wanted + present → ordered steps (pure)
    configfs.py     what is present, read from configfs
    kernel.py       one step, through rtslib
    apply.py        all steps or none of them; what is ours is written down in record.py
    counters.py     sessions and counters of the kernel's target
"""
