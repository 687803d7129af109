"""Bringing a store to the version that this station reads: :mod:`mgmt.station.migrations`, run by alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from mgmt.station.database import StationStoreError

#: The version that this station reads and writes: the newest in the migrations.
HEAD = "0003"
#: All that it can bring there.
KNOWN = ("0001", "0002", HEAD)


def bring_to_head(connection: Connection, where: str) -> None:
    """Make or change the tables so that the store has version :data:`HEAD`, all or nothing.

    Raises :class:`StationStoreError` for a store that a newer version has written.
    """
    found = version_of(connection)
    if found == HEAD:
        return
    if found is not None and found not in KNOWN:
        raise StationStoreError(
            f"{where} has version {found}, this version reads up to {HEAD}: use the newer version"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def version_of(connection: Connection) -> str | None:
    """The version of a store; ``None`` of an empty one. A store from before alembic has no version of its own: 0001."""
    tables = inspect(connection)
    if tables.has_table("alembic_version"):
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if found is not None:
            return str(found)
    if not tables.has_table("meta"):
        return None
    earlier = connection.execute(text("SELECT value FROM meta WHERE key = 'format'")).scalar()
    if earlier is not None and earlier != "1":
        return f"format {earlier}"
    return "0001" if tables.has_table("channels") else None
