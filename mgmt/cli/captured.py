"""Sizes out of captures: ``recommend --capture FILE`` and ``--size capture:FILE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from credits.sizing import Inputs
from mgmt import sizing
from mgmt.cli.commands import CAPTURE_SIZES
from mgmt.cli.failures import BadValue, Failed

PREFIX = "capture:"


def captured_inputs(paths: Sequence[Path], unit_bytes: int | None = None) -> tuple[Inputs, Mapping[str, Any]]:
    """What the policies work from, measured in captures; and each measured term as (value, meaning).

    Raises :class:`~mgmt.cli.failures.BadValue` for files that are no captures, :class:`~mgmt.cli.failures.Failed` for
    captures that do not show enough.
    """
    module_name, _, name = CAPTURE_SIZES.partition(":")
    module = import_module(module_name)
    try:
        found: tuple[Inputs, Mapping[str, Any]] = getattr(module, name)(paths, unit_bytes)
    except module.NothingMeasured as error:
        raise Failed(str(error)) from error
    except module.CaptureError as error:
        raise BadValue(str(error)) from error
    return found


def captured_size(text: str) -> int:
    """Bytes to reserve for ``capture:FILE``, by the document's formula."""
    inputs, _ = captured_inputs([Path(text.removeprefix(PREFIX))])
    return sizing.recommendations(sizing.DOCUMENT, inputs)[0].reserve_bytes
