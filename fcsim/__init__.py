# SPDX-License-Identifier: Apache-2.0
"""Fibre Channel over the shared reservation core.

::

    wire/, layers.py     bytes: one description per format, codecs and scapy layers derived from it
    speeds.py, clock.py  line rates, frame times, the credit formulas; time as whole ticks
    port/                cores: a port's credits in the standard's words, recovery, link states, a port group as a pool
    fcp/                 cores: SCSI exchanges at both ends; CDBs stay bytes
    engine/, fabric/     exact simulation of links and fabrics (compiled kernels); scenarios, results, plots
    live/                one emulated link between two processes, in exact link time
    fcoe/                FCoE on a network interface, to real peers
"""

from credits.plain_kernels import heed_the_variable as _heed_the_variable

_heed_the_variable()
