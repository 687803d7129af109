"""What alembic runs: the versions in one transaction, on the connection that the station has opened."""

from __future__ import annotations

from alembic import context

from mgmt.station.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
