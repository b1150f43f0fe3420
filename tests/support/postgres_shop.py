"""Engines upon PostgreSQL, all of one cache, closed after the test."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from unstale.core.ops import Batch, Member
from unstale.core.record import Logged
from unstale.engines.postgres import PostgresEngine
from unstale.engines.postgres_url import parse_url

MEMBER = Member("n", "", 0, 2.0)
_names = itertools.count()

Engines = Callable[..., PostgresEngine]


@contextlib.contextmanager
def open_engines() -> Iterator[Engines]:
    """Give what makes engines, all of one cache unless they are named."""
    name = f"shop {next(_names)}"
    with contextlib.ExitStack() as stack:

        def one(url: str, **settings: Any) -> PostgresEngine:
            engine = PostgresEngine(parse_url(url), **({"name": name} | settings))
            stack.callback(engine.close)
            return engine

        yield one


def whole_log(engine: PostgresEngine) -> list[Logged]:
    """Read a log from its first position to its head."""
    read: list[Logged] = []
    while True:
        batch: Batch = engine.poll(MEMBER, len(read), 500, 0.0)
        read.extend(batch.records)
        if len(read) >= batch.identity.head:
            return read
