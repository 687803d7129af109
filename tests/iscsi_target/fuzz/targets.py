"""The fuzz targets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.iscsi_target.fuzz.engine import FuzzTarget
from tests.iscsi_target.fuzz.pdu import PduTarget
from tests.iscsi_target.fuzz.session import SessionTarget
from tests.iscsi_target.fuzz.text import TextTarget

TARGETS: Mapping[str, Callable[[], FuzzTarget]] = {
    "pdu": PduTarget,
    "text": TextTarget,
    "session": SessionTarget,
}
