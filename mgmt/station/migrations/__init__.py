"""The versions of the station's store, made one after the other by alembic when a station opens it."""
