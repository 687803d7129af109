"""Fabric replay: the commands of a capture, at their times, as the load of two hosts of a simulated fabric.

:mod:`~tools.capture.fabric_replay.load` makes the load out of exchanges, :mod:`~tools.capture.fabric_replay.device`
answers as the captured target did, :mod:`~tools.capture.fabric_replay.run` simulates and compares.
"""
