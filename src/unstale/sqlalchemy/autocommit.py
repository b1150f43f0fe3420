"""Connections that commit without being asked: a rollback takes nothing back there, and so proves nothing."""

from __future__ import annotations

from sqlalchemy import Connection


def commits_itself(connection: Connection) -> bool:
    """Say whether a connection is in autocommit, as its options, its engine or its driver have it."""
    asked = connection.get_execution_options().get("isolation_level")
    level = asked or getattr(connection.dialect, "_on_connect_isolation_level", None)
    return level == "AUTOCOMMIT" or getattr(connection.connection.driver_connection, "autocommit", None) is True


def released_all(connection: Connection) -> bool:
    """Say whether a savepoint was all that was open: SQLite's driver begins nothing before it, so its end commits."""
    return getattr(connection.connection.driver_connection, "in_transaction", None) is False
