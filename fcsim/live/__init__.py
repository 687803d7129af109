# SPDX-License-Identifier: Apache-2.0
"""Live mode: one emulated point-to-point link between two processes, R_RDY by R_RDY, in exact link time.

:class:`~fcsim.live.live_end.LiveEnd` is one end, sans-IO; :mod:`fcsim.live.shell` puts it on a socket.
"""
