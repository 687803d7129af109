"""Measuring devices 4 and 5 and their manager 3: bandwidth and round-trip time of a channel (spec B).

``wire`` the probe packets · ``dispersion`` from arrival times to a bandwidth · ``measurement`` the master side ·
``responder`` the remote side (these four sans-IO) · ``endpoint`` one UDP socket that plays both · ``serve`` the
process that answers M1 with M2 · ``cli`` the command.
"""
