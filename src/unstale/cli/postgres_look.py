"""Looking at a cache upon PostgreSQL without leaving a trace: no table is made, and nobody becomes a member."""

from __future__ import annotations

import secrets
from typing import Final, TypeVar

import msgspec

from unstale.clock import boottime
from unstale.core.ops import Batch, Fetched, Identity, MarksReply, Members
from unstale.engines.postgres_home import Home
from unstale.engines.postgres_link import Link
from unstale.engines.postgres_log import LogSteps
from unstale.engines.postgres_store import Ask, Steps, StoreSteps
from unstale.engines.postgres_url import PostgresUrl
from unstale.engines.postgres_wire import Param, Row, Statement

T = TypeVar("T")
MAX_TTL_S: Final = 7 * 24 * 3600.0
SETTINGS: Final = (
    "server_version", "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "max_connections",
)  # fmt: skip
STORED: Final = """SELECT key FROM {s}.entry WHERE cache = (SELECT id FROM {s}.cache WHERE name = $1)
  AND until > clock_timestamp() AND substr(key, position('|'::bytea IN key) + 1) = $2 ORDER BY key"""
# A member writes after twice its bound at the latest; the server's clock only tells people of it.
SILENT: Final = """SELECT node FROM {s}.member WHERE cache = (SELECT id FROM {s}.cache WHERE name = $1)
  AND clock_timestamp() > at + 2.5 * bound * interval '1 second'"""
ASKED: Final = "SELECT name::text, setting FROM pg_settings WHERE name = ANY(string_to_array($1, ' '))"
REPLICAS: Final = "SELECT count(*) FROM pg_stat_replication"


class PostgresLook:
    """One cache of a schema: those methods of the ports that change nothing.

    Args:
        url: Where it is.
        name: Of the cache.
    """

    def __init__(self, url: PostgresUrl, name: str) -> None:
        self.url = url
        self._name = name.encode()
        self._store = StoreSteps(url.schema, name, MAX_TTL_S)
        self._log = LogSteps(url.schema, name, 0, 0, MAX_TTL_S, boottime, lambda: secrets.token_hex(8))
        self._link = Link(Home(url, self._log.adopt, making=False), self._log.channel)

    def _rows(self, name: str, sql: str, *params: Param) -> list[Row]:
        def steps() -> Steps[list[Row]]:
            return (yield Ask(Statement(name, sql.format(s=f'"{self.url.schema}"')), params, proof=False))

        return self._link.run(steps())

    def read_head(self) -> Identity:
        """See `LogPort.read_head`."""
        return self._link.run(self._log.after(0, 0)).identity

    def read_members(self) -> Members:
        """See `LogPort.read_members`. How old the list is cannot be seen from outside: old enough."""
        return msgspec.structs.replace(self._link.run(self._log.read_members()), age_s=float("inf"))

    def read_about(self, nodes: tuple[str, ...]) -> tuple[bytes, ...]:
        """See `LogPort.read_about`."""
        return self._link.run(self._log.read_about(nodes))

    def read_marks(self, scopes: tuple[str, ...]) -> MarksReply:
        """See `StorePort.read_marks`."""
        return self._link.run(self._store.read_marks(scopes))

    def fetch(self, keys: tuple[str, ...]) -> tuple[Fetched | None, ...]:
        """See `StorePort.fetch`."""
        return self._link.run(self._store.fetch(keys))

    def stored_keys(self, key: str) -> list[str]:
        """Give the stored keys of all shapes in which an entry of a key is stored: a look at all keys there are."""
        return [(row[0] or b"").decode() for row in self._rows("stored", STORED, self._name, key.encode())]

    def after(self, position: int, limit: int) -> Batch:
        """Give records after a position, with the identity of the log, without becoming a member."""
        return self._link.run(self._log.after(position, limit))

    def silent(self) -> frozenset[str]:
        """Give the members that have not written for longer than a living one may be silent."""
        return frozenset((row[0] or b"").decode() for row in self._rows("silent", SILENT, self._name))

    def settings(self) -> dict[str, str]:
        """Give settings of the server, and how many replicas it has, as far as this user may know."""
        rows = self._rows("settings", ASKED, " ".join(SETTINGS))
        told = {(name or b"").decode(): (setting or b"").decode() for name, setting in rows}
        ((count,),) = self._rows("replicas", REPLICAS)
        return told | {"replicas": str(int.from_bytes(count or b"", "big"))}

    def close(self) -> None:
        """Close the connections."""
        self._link.close()
