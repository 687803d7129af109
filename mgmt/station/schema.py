"""The tables of the station's store, as SQLAlchemy describes them; :mod:`mgmt.station.migrations` makes them.

Values that only people read are texts: times as ISO 8601, targets and the parts of audit records as canonical JSON.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()
#: A number that the database counts; SQLite counts only what it calls INTEGER.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

META = Table(
    "meta",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
)
CHANNELS = Table(
    "channels",
    METADATA,
    Column("local_port", String(255), primary_key=True),
    Column("remote_port", String(255), primary_key=True),
    Column("remote_port_number", Integer, primary_key=True, autoincrement=False),
    Column("bandwidth_bps", BigInteger),
    Column("rtt_ns", BigInteger),
    Column("jitter_ns", BigInteger),
    Column("loss_ppm", BigInteger),
    Column("credit_zero_ppm", BigInteger),
    Column("sessions", Integer, nullable=False),
    Column("connections_per_session", Integer, nullable=False),
    Column("measured_at", String(40)),
    Column("method", String(255), nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)
COPIES = Table(
    "copies",
    METADATA,
    Column("copy_id", String(128), primary_key=True),
    Column("array", String(255), nullable=False),
    Column("remote_array", String(255), nullable=False),
    Column("volume", String(255), nullable=False),
    Column("remote_volume", String(255), nullable=False),
    Column("local_port", String(255), nullable=False),
    Column("remote_port", String(255), nullable=False),
    Column("started_at", String(40), nullable=False),
)
OPEN_ENDS = Table(
    "open_ends",
    METADATA,
    Column("attempt", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("array", String(255), nullable=False),
    Column("hold", String(255), nullable=False),
    Column("local_port", String(255), nullable=False),
    Column("remote_port", String(255), nullable=False),
    Column("previous_bytes", BigInteger, nullable=False),
)
ARRAYS = Table(
    "arrays",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("address", String(1024), nullable=False),
    Column("added_at", String(40), nullable=False),
    Column("added_by", String(255), nullable=False),
)
SAMPLES = Table(
    "channel_samples",
    METADATA,
    Column("local_port", String(255), primary_key=True),
    Column("remote_port", String(255), primary_key=True),
    Column("span_s", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("samples", BigInteger, nullable=False),
    Column("bandwidth_bps", BigInteger, nullable=False),
    Column("bandwidth_min_bps", BigInteger, nullable=False),
    Column("bandwidth_max_bps", BigInteger, nullable=False),
    Column("rtt_ns", BigInteger, nullable=False),
    Column("rtt_min_ns", BigInteger, nullable=False),
    Column("rtt_max_ns", BigInteger, nullable=False),
    Column("method", String(255), nullable=False),
    Index("channel_samples_by_age", "span_s", "at_ms"),
)
EVENTS = Table(
    "events",
    METADATA,
    Column("number", _NUMBER, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("array", String(255)),
    Column("text", Text, nullable=False),
    Column("by", String(255), nullable=False),
    sqlite_autoincrement=True,
)
ALARMS = Table(
    "alarms",
    METADATA,
    Column("number", _NUMBER, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("array", String(255)),
    Column("target", Text),
    Column("text", Text, nullable=False),
    Column("raised_at", String(40), nullable=False),
    Column("changed_at", String(40), nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("cleared_at", String(40), index=True),
    Column("acknowledged_at", String(40)),
    Column("acknowledged_by", String(255)),
    Column("note", Text, nullable=False),
    sqlite_autoincrement=True,
)
POLICIES = Table(
    "policies",
    METADATA,
    Column("target_key", String(1024), primary_key=True),
    Column("local_port", String(255)),
    Column("remote_port", String(255)),
    Column("policy", Text, nullable=False),
    Index("policies_by_channel", "local_port", "remote_port"),
)
HOLDINGS = Table(
    "holdings",
    METADATA,
    Column("array", String(64), primary_key=True),
    Column("target_key", String(1024), primary_key=True),
    Column("target", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("requested_bytes", BigInteger, nullable=False),
    Column("reserved_units", BigInteger, nullable=False),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lease_s", BigInteger),
    Column("since", String(40), nullable=False),
    Column("changed_at", String(40), nullable=False),
    Column("changed_by", String(255), nullable=False),
)
TRAIL = Table(
    "trail",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(40), nullable=False),
    Column("by", String(255), nullable=False),
    Column("verb", String(32), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("of", BigInteger, index=True),
    Column("cause", String(32), nullable=False),
    Column("subject", Text, nullable=False),
    Column("array", String(255)),
    Column("target", Text),
    Column("request_id", String(128), nullable=False, index=True),
    Column("inputs", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("detail", Text, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
