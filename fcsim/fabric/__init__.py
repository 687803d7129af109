"""Fabric simulation: a scenario in TOML, run by :mod:`fcsim.engine`, told as a switch's operator would read it."""
