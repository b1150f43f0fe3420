"""The outbox on PostgreSQL, its log on Redis: the relay's rate, and how soon a commit is published, and by whom."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import median, quantile
from tests.support.postgres_servers import PostgresServer
from tests.support.redis_servers import RedisServer
from unstale import Cache
from unstale.clock import boottime
from unstale.core.record import Record, encode_record
from unstale.sources.outbox import Outbox
from unstale.sources.relay import Relay

GROUP = "outbox"
RELAYED_PER_S_MIN = 10_000.0
PUBLISH_P99_MS_MAX = 5.0
KILLED_MS_MAX = 1500.0
PATIENCE_S = 60.0
ROOT = Path(__file__).resolve().parents[1]
DYING = """
import os, signal, sys
import psycopg
from unstale import Cache
from unstale.clock import boottime
log, database, scope = sys.argv[1:]
cache = Cache(log, name="shop", truth="outbox")
db = psycopg.connect(database)
db.execute("UPDATE product SET price = price + 1")
cache.in_transaction(db).invalidate(scope)
db.commit()
os.write(1, repr(boottime()).encode())
os.kill(os.getpid(), signal.SIGKILL)
"""


@contextlib.contextmanager
def scene() -> Iterator[tuple[Cache, str]]:
    """Give a cache on a Redis of its own, and the URL of a database with a product and an empty outbox."""
    with RedisServer() as log, PostgresServer(fsync=True, synchronous_commit="on") as server:
        with Outbox(server.url) as outbox:
            outbox.create()
        server.sql("CREATE TABLE product (id integer PRIMARY KEY, price integer)", "INSERT INTO product VALUES (17, 1)")
        with Cache(f"{log.url}?timeout=5s", name="shop", truth="outbox") as cache:
            cache.ticket()
            yield cache, server.url


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, and look often."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > limit:
            msg = "it did not come"
            raise TimeoutError(msg)
        time.sleep(0.0002)


def relayed(options: Options) -> list[Figure]:
    """Read, publish and delete a backlog, record by record as transactions have written it."""
    rounds, count = (3, 10_000) if options.quick else (9, 30_000)
    rates: list[float] = []
    again: list[float] = []
    with scene() as (cache, database), psycopg.connect(database, autocommit=True) as db:
        relay = Relay(cache, database)
        for round_ in range(rounds):
            for rate, known in ((rates, False), (again, True)):
                records = [
                    Record(f"{round_}-{known}-{n:012x}", (f"item:{n}", f"list:{n % 997}"), who="host:1", at=time.time())
                    for n in range(count)
                ]
                if known:
                    for start in range(0, count, 500):
                        cache.ports.log.append(tuple(records[start : start + 500]))
                with db.cursor().copy("COPY unstale_outbox (id, cache, data) FROM STDIN") as copy:
                    for record in records:
                        copy.write_row((record.id, "shop", encode_record(record)))
                began = time.perf_counter()
                told = relay.once()
                rate.append(count / (time.perf_counter() - began))
                left = db.execute("SELECT count(*) FROM unstale_outbox").fetchone()
                if told != count or left != (0,):
                    msg = f"{told} of {count} records were relayed, and {left} are left"
                    raise RuntimeError(msg)
    return [
        figure(GROUP, "relayed by one relay, 500 a call", rates, "records/s", target=RELAYED_PER_S_MIN, sense=">="),
        figure(
            GROUP, "the same, published before by who committed", again, "records/s", target=RELAYED_PER_S_MIN,
            sense=">=",
        ),
    ]  # fmt: skip


def committed(options: Options) -> list[Figure]:
    """Commit and publish, one transaction after the other, while a relay in another process deletes the rows."""
    count = 300 if options.quick else 3000
    publish_ms, seen_ms, plain_ms, whole_ms = [], [], [], []
    with (
        scene() as (cache, database),
        relay_process(cache, database),
        psycopg.connect(database) as db,
        Cache(cache.url, name="shop", truth="outbox") as other,
    ):
        other.ticket()
        marks = other.node.marks.by_scope
        for number in range(count):
            began = time.perf_counter()
            db.execute("UPDATE product SET price = price + 1")
            db.commit()
            plain_ms.append((time.perf_counter() - began) * 1e3)
            scope = f"product:{number}"
            began = time.perf_counter()
            tx = cache.in_transaction(db)
            db.execute("UPDATE product SET price = price + 1")
            tx.invalidate(scope)
            db.commit()
            done = time.perf_counter()
            tx.publish()
            publish_ms.append((time.perf_counter() - done) * 1e3)
            whole_ms.append((time.perf_counter() - began) * 1e3)
            until(lambda scope=scope: scope in marks)  # type: ignore[misc]
            seen_ms.append((time.perf_counter() - done) * 1e3)
    note = f"middle one: {median(publish_ms):.2f} ms; {count:,} commits"
    return [
        figure(
            GROUP, "commit to acknowledged by the log, 99th in 100", [quantile(publish_ms, 0.99)], "ms",
            target=PUBLISH_P99_MS_MAX, sense="<", note=note,
        ),
        figure(
            GROUP, "commit to applied by another node, 99th in 100", [quantile(seen_ms, 0.99)], "ms",
            note=f"middle one: {median(seen_ms):.2f} ms",
        ),
        figure(
            GROUP, "transaction with record and publishing", whole_ms, "ms",
            note=f"the same transaction without: {median(plain_ms):.2f} ms",
        ),
    ]  # fmt: skip


@contextlib.contextmanager
def relay_process(cache: Cache, database: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `unstale relay`, which pulses."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-m", "unstale.cli", "relay", cache.url, "--database", database, "--name", "shop"],
        env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: cache.node.timeline and cache.stats()["proven_s"] < cache.node.bound_s)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def killed(options: Options) -> list[Figure]:
    """Kill the process that commits between its commit and its publishing, and wait for the relay of another one."""
    rounds = 5 if options.quick else 30
    took_ms = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with scene() as (cache, database), relay_process(cache, database):
        marks: Any = cache.node.marks.by_scope
        for number in range(rounds):
            scope = f"killed:{number}"
            process = subprocess.Popen(
                [sys.executable, "-c", DYING, cache.url, database, scope], env=environment, stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            until(lambda scope=scope: scope in marks)  # type: ignore[misc]
            seen = boottime()
            at, _ = process.communicate(timeout=PATIENCE_S)
            if process.returncode != -signal.SIGKILL:
                msg = f"the process ended with {process.returncode}"
                raise RuntimeError(msg)
            took_ms.append((seen - float(at)) * 1e3)
    note = f"the slowest of {rounds}; the middle one: {median(took_ms):.0f} ms"
    name = "committer killed with SIGKILL: commit to applied, by the relay"
    return [figure(GROUP, name, [max(took_ms)], "ms", target=KILLED_MS_MAX, sense="<", note=note)]


def measure(options: Options) -> list[Figure]:
    """Measure each part on private servers of its own."""
    return [*relayed(options), *committed(options), *killed(options)]
