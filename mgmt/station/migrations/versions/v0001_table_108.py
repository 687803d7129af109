"""Table 108, the copies started, and attempts not yet finished: the store's first format."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables; a store of the first format, made without alembic, has them."""
    if sa.inspect(op.get_bind()).has_table("channels"):
        return
    op.create_table(
        "meta",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(255), nullable=False),
    )
    op.create_table(
        "channels",
        sa.Column("local_port", sa.String(255), primary_key=True),
        sa.Column("remote_port", sa.String(255), primary_key=True),
        sa.Column("remote_port_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("bandwidth_bps", sa.BigInteger),
        sa.Column("rtt_ns", sa.BigInteger),
        sa.Column("sessions", sa.Integer, nullable=False),
        sa.Column("connections_per_session", sa.Integer, nullable=False),
        sa.Column("measured_at", sa.String(40)),
        sa.Column("method", sa.String(255), nullable=False),
        sa.Column("failed", sa.Boolean, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "copies",
        sa.Column("copy_id", sa.String(128), primary_key=True),
        sa.Column("array", sa.String(255), nullable=False),
        sa.Column("remote_array", sa.String(255), nullable=False),
        sa.Column("volume", sa.String(255), nullable=False),
        sa.Column("remote_volume", sa.String(255), nullable=False),
        sa.Column("local_port", sa.String(255), nullable=False),
        sa.Column("remote_port", sa.String(255), nullable=False),
        sa.Column("started_at", sa.String(40), nullable=False),
    )
    op.create_table(
        "open_ends",
        sa.Column("attempt", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("array", sa.String(255), nullable=False),
        sa.Column("hold", sa.String(255), nullable=False),
        sa.Column("local_port", sa.String(255), nullable=False),
        sa.Column("remote_port", sa.String(255), nullable=False),
        sa.Column("previous_bytes", sa.BigInteger, nullable=False),
    )
