"""Captures of a shop's tables by a replication slot, and what they tell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support.outboxes import NAME
from tests.support.postgres_servers import PostgresServer
from unstale.core.record import read_record
from unstale.sources.capture_config import Config, parse_config
from unstale.sources.connections import connect
from unstale.sources.feed import Feed
from unstale.sources.slot import SlotFeed
from unstale.sources.slot_admin import create_slot, slot_of
from unstale.sources.slot_tables import captured

SLOT = slot_of(NAME)
CONFIG = parse_config('[tables.product]\nscopes = ["product:{id}", "tenant:{tenant}"]\n[tables.review]\n')
TABLES = (
    "DROP TABLE IF EXISTS review, product CASCADE",
    "CREATE TABLE product (id integer PRIMARY KEY, tenant text, price integer, note text)",
    "ALTER TABLE product REPLICA IDENTITY FULL",
    "CREATE TABLE review (product integer, number integer, PRIMARY KEY (product, number))",
    "INSERT INTO product SELECT n, 'acme', 1 FROM generate_series(1, 20) n",
)


def make_slot(server: PostgresServer, config: Config = CONFIG) -> None:
    """Make the slot of the shop's cache."""
    with contextlib.closing(connect(server.url)) as database:
        create_slot(database, SLOT, captured(database, config))


def forget_slot(server: PostgresServer) -> None:
    """Take away whatever an earlier test has left."""
    server.sql(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
        f"DROP PUBLICATION IF EXISTS {SLOT}",
        "DROP TABLE IF EXISTS unstale_capture",
    )


@contextlib.contextmanager
def reading(server: PostgresServer, config: Config = CONFIG, **how: Any) -> Iterator[SlotFeed]:
    """Give a feed upon the slot, and close it."""
    with contextlib.closing(SlotFeed(server.url, NAME, config, **how)) as feed:
        yield feed


def drained(feed: Feed, limit: int = 500) -> list[tuple[str, ...]]:
    """Read a source to its end, settling each part: the scopes of its records."""
    scopes: list[tuple[str, ...]] = []
    first = True
    while True:
        part, first = feed.read(limit, first=first), False
        for row in part.rows:
            record = read_record(row.data, row.id)
            assert record is not None
            scopes.append(record.scopes)
        if part.rows:
            feed.settle([row.id for row in part.rows], {})
        if not part.more:
            return scopes
