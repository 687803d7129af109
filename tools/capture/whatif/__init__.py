"""What if: the same commands, at the same times, over a channel with other credits, buffers, length or speed.

:mod:`~tools.capture.whatif.pipes` carries data as a Fibre Channel link with credits does (the simulator's link), or
as a TCP connection with a buffer does; :mod:`~tools.capture.whatif.predict` puts the commands of a capture on it.
"""
