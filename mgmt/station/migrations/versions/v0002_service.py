"""Arrays, channel history, events, alarms, policies, reservations as the station knows them, and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _number() -> sa.Column[int]:
    return sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)


def upgrade() -> None:
    """Make the tables; stations from before them are told so by the format."""
    op.execute("DELETE FROM meta WHERE key = 'format'")
    op.execute("INSERT INTO meta (key, value) VALUES ('format', '2')")
    op.create_table(
        "arrays",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("address", sa.String(1024), nullable=False),
        sa.Column("added_at", sa.String(40), nullable=False),
        sa.Column("added_by", sa.String(255), nullable=False),
    )
    op.create_table(
        "channel_samples",
        sa.Column("local_port", sa.String(255), primary_key=True),
        sa.Column("remote_port", sa.String(255), primary_key=True),
        sa.Column("span_s", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("samples", sa.BigInteger, nullable=False),
        sa.Column("bandwidth_bps", sa.BigInteger, nullable=False),
        sa.Column("bandwidth_min_bps", sa.BigInteger, nullable=False),
        sa.Column("bandwidth_max_bps", sa.BigInteger, nullable=False),
        sa.Column("rtt_ns", sa.BigInteger, nullable=False),
        sa.Column("rtt_min_ns", sa.BigInteger, nullable=False),
        sa.Column("rtt_max_ns", sa.BigInteger, nullable=False),
        sa.Column("method", sa.String(255), nullable=False),
    )
    op.create_index("channel_samples_by_age", "channel_samples", ["span_s", "at_ms"])
    op.create_table(
        "events",
        _number(),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("array", sa.String(255)),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "alarms",
        _number(),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("array", sa.String(255)),
        sa.Column("target", sa.Text),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("raised_at", sa.String(40), nullable=False),
        sa.Column("changed_at", sa.String(40), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("cleared_at", sa.String(40)),
        sa.Column("acknowledged_at", sa.String(40)),
        sa.Column("acknowledged_by", sa.String(255)),
        sa.Column("note", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alarms_cleared_at", "alarms", ["cleared_at"])
    op.create_table(
        "policies",
        sa.Column("target_key", sa.String(1024), primary_key=True),
        sa.Column("local_port", sa.String(255)),
        sa.Column("remote_port", sa.String(255)),
        sa.Column("policy", sa.Text, nullable=False),
    )
    op.create_index("policies_by_channel", "policies", ["local_port", "remote_port"])
    op.create_table(
        "holdings",
        sa.Column("array", sa.String(64), primary_key=True),
        sa.Column("target_key", sa.String(1024), primary_key=True),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_bytes", sa.BigInteger, nullable=False),
        sa.Column("reserved_units", sa.BigInteger, nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_s", sa.BigInteger),
        sa.Column("since", sa.String(40), nullable=False),
        sa.Column("changed_at", sa.String(40), nullable=False),
        sa.Column("changed_by", sa.String(255), nullable=False),
    )
    op.create_table(
        "trail",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("verb", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("of", sa.BigInteger),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("array", sa.String(255)),
        sa.Column("target", sa.Text),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_trail_of", "trail", ["of"])
    op.create_index("ix_trail_request_id", "trail", ["request_id"])
