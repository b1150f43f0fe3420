"""What other processes do in the tests upon PostgreSQL; run as a script, it plays the role named first."""

from __future__ import annotations

import json
import random
import secrets
import signal
import sys
from typing import Any

from unstale.core.ops import Fetched, Item
from unstale.core.record import Record
from unstale.engines.postgres import PostgresEngine
from unstale.engines.postgres_url import parse_url
from unstale.errors import EngineError


def tell(value: object) -> None:
    """Say something, at once."""
    print(json.dumps(value), flush=True)  # noqa: T201 - the way back


def append(engine: PostgresEngine, count: int) -> None:
    """Append so many records, one or three at a time, and tell of each that was acknowledged; stop at an error."""
    tell("ready")
    sys.stdin.readline()
    done = 0
    while done < count:
        records = tuple(Record(secrets.token_hex(8), (f"s{done % 7}",)) for _ in range(1 + 2 * (done % 2)))
        try:
            appended = engine.append(records)
        except EngineError as error:
            tell(["error", type(error).__name__])
            break
        for logged in appended.records:
            tell([logged.id, logged.position])
        done += len(records)
    tell("done")


def interrupted(_signal: int, _frame: object) -> None:
    """Interrupt a call."""
    raise KeyboardInterrupt


def read(engine: PostgresEngine, times: int) -> None:
    """Read entries all the time, and be interrupted so often; tell what was found under a key that it does not say."""
    keys = [f"k{number}" for number in range(10)]
    engine.store(tuple(Item(key, key.encode(), 600.0) for key in keys))
    signal.signal(signal.SIGALRM, interrupted)
    chance, count = random.Random(1), 0
    wrong: list[str] = []
    tell("ready")
    while count < times:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.002))
            for key in keys * 100:
                (found,) = engine.fetch((key,))
                if not isinstance(found, Fetched) or found.data != key.encode():
                    wrong.append(key)
        except KeyboardInterrupt:
            count += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    tell(wrong)


def main(role: str, url: str, name: str, *rest: str) -> None:
    """Play a role."""
    roles: dict[str, Any] = {"append": append, "read": read}
    engine = PostgresEngine(parse_url(url), name=name)
    roles[role](engine, *map(int, rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
