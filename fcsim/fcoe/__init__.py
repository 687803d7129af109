# SPDX-License-Identifier: Apache-2.0
"""FCoE endpoints for real peers: an FCF with its name server, and a VN2VN port. Sans-IO cores and a thin shell.

:class:`~fcsim.fcoe.fcf.Fcf` and :class:`~fcsim.fcoe.vn2vn.Vn2vnPort` take and give Ethernet frames;
:mod:`fcsim.fcoe.shell` puts either on a network interface.
"""
