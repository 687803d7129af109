"""Replay: the SCSI commands of a capture, played to a live target.

:mod:`~tools.capture.replay.collect` takes commands and their data out of a capture, :mod:`~tools.capture.replay.plan`
decides what is played when (pure), :mod:`~tools.capture.replay.play` plays it through our initiator,
:mod:`~tools.capture.replay.verdict` compares. :mod:`~tools.capture.replay.exact` plays the initiator's PDUs themselves.
"""
