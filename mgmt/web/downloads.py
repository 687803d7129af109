"""Lists to take away: all rows as CSV or JSON, in base units."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import Response

from mgmt.columns import Row
from mgmt.http import ProblemError
from mgmt.separated import comma_separated


def download(name: str, form: str, rows: Sequence[Row], fields: Sequence[str]) -> Response:
    """A file ``name.form``. Raises :class:`ProblemError` for another form than ``csv`` and ``json``."""
    if form == "csv":
        text, media_type = comma_separated(list(rows), tuple(fields)), "text/csv"
    elif form == "json":
        found: Any = list(rows)
        text, media_type = json.dumps(found, ensure_ascii=False, indent=1), "application/json"
    else:
        raise ProblemError(
            "NOT_FOUND", f"a list comes as csv or json, not {form!r:.40}", status=404, title="No such list"
        )
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"', "Cache-Control": "no-store"}
    return Response(text, media_type=media_type, headers=headers)
