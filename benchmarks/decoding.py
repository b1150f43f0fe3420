"""From commit to applied by change capture: a replication slot of PostgreSQL, and a binary log of MariaDB.

The relay is a process of its own, as `unstale relay`; the node that applies is this one. Commits come at random
moments, so that they do not fall in step with the relay.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import quantile
from tests.support import binlogs, slots
from tests.support.outboxes import NAME, behind_an_outbox, proven
from tests.support.postgres_servers import PostgresServer
from tests.support.processes import PATHS
from tests.support.waiting import until
from unstale import Cache
from unstale.core.marks import full

GROUP = "decoding"
TARGET_MS = 250.0
ROWS = 20
CONFIG = '[tables.product]\nscopes = ["product:{id}"]\n'
PAUSE_S = (0.005, 0.06)
OTHERS_PAUSE_S = 0.005


def measure(options: Options) -> list[Figure]:
    rounds, samples = (2, 50) if options.quick else (5, 200)
    figures = []
    with PostgresServer(wal_level="logical", fsync=True) as server:
        server.sql(*slots.TABLES, "CREATE TABLE other (x integer, y text)")
        slots.make_slot(server)
        with relayed(server.url, "slot") as cache, server.client() as client:
            figures += told(cache, client.execute, "slot", rounds, samples)
            with writing(server):
                figures += told(cache, client.execute, "slot, while others write", rounds, samples)
    with binlogs.logging_server(options=(*binlogs.LOGGED, "--sync-binlog=1")) as mariadb:
        mariadb.sql(*binlogs.TABLES)
        with relayed(mariadb.url, "binlog") as cache, mariadb.client(autocommit=True) as client:
            cursor = client.cursor()
            figures += told(cache, cursor.execute, "binlog", rounds, samples)
    return figures


@contextlib.contextmanager
def relayed(database: str, source: str) -> Iterator[Cache]:
    """Give a node, with a relay in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "capture.toml")
        config.write_text(CONFIG)
        url = f"sqlite:///{folder}/shop.cache"
        relay = subprocess.Popen(
            [sys.executable, "-m", "unstale.cli", "relay", url, "--database", database, "--name", NAME, "--source",
             source, "--config", str(config)],
            env={**os.environ, "PYTHONPATH": PATHS}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with behind_an_outbox(url, max_staleness="2s") as cache:
                until(lambda: proven(cache))
                yield cache
        finally:
            relay.send_signal(signal.SIGTERM)
            relay.wait(10)


@contextlib.contextmanager
def writing(server: PostgresServer) -> Iterator[None]:
    """Let another client write into a table that is not captured."""
    stopped = threading.Event()

    def write() -> None:
        with server.client() as client:
            while not stopped.wait(OTHERS_PAUSE_S):
                client.execute("INSERT INTO other SELECT n, repeat('x', 200) FROM generate_series(1, 50) n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def told(cache: Cache, execute: Callable[[str], Any], name: str, rounds: int, samples: int) -> list[Figure]:
    """Commit again and again, and measure when the node has applied it: the median and the last hundredth, by round."""
    chance = random.Random(1)
    medians, lates = [], []
    for _ in range(rounds):
        taken = []
        for _ in range(samples):
            row = chance.randrange(1, ROWS + 1)
            scope = f"product:{row}"
            before = position(cache, scope)
            execute(f"UPDATE product SET price = price + 1 WHERE id = {row}")
            began = time.perf_counter()
            while position(cache, scope) == before:
                time.sleep(0.0002)
            taken.append((time.perf_counter() - began) * 1e3)
            time.sleep(chance.uniform(*PAUSE_S))
        medians.append(quantile(taken, 0.5))
        lates.append(quantile(taken, 0.99))
    note = f"{samples} commits a round"
    return [
        figure(GROUP, f"{name}: commit to applied, p50", medians, "ms", note=note),
        figure(GROUP, f"{name}: commit to applied, p99", lates, "ms", target=TARGET_MS, sense="<", note=note),
    ]


def position(cache: Cache, scope: str) -> int:
    """Give where a scope was ended last, as this node knows."""
    mark = cache.node.marks.by_scope.get(scope)
    return 0 if mark is None else full(mark).last
