"""Simulation of links and fabrics in exact time; the loops are in ``*_kernel.py`` and compiled where possible."""
