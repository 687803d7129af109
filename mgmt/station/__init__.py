"""The management station 8: channel table 108, sizing, and the flow of figure 5.

Each use case is a function of :class:`mgmt.station.context.Station` written once; the HTTP API
(:mod:`mgmt.api`) and through it the command line call it.
"""
