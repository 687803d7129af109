"""Jitter, loss and credit-zero time beside bandwidth and delay in table 108: what M2 tells for people."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COLUMNS = ("jitter_ns", "loss_ppm", "credit_zero_ppm")


def upgrade() -> None:
    """Add the columns; channels that were measured before have none of the values."""
    for name in _COLUMNS:
        op.add_column("channels", sa.Column(name, sa.BigInteger))
