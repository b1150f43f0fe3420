"""Change capture on PostgreSQL, its log on Redis: from a commit that goes round the application to another node."""

from __future__ import annotations

import time

import psycopg

from benchmarks.figures import Figure, Options, figure
from benchmarks.outbox import relay_process, scene, until
from benchmarks.stats import median, quantile
from unstale import Cache
from unstale.sources.capture import Capture
from unstale.sources.capture_config import Config

GROUP = "capture"
APPLIED_P99_MS_MAX = 50.0


def applied(options: Options) -> list[Figure]:
    """Commit by a connection that knows of no cache, one change after the other, and wait for another node."""
    count = 300 if options.quick else 2000
    seen_ms: list[float] = []
    with scene() as (cache, database), psycopg.connect(database, autocommit=True) as db:
        db.execute("INSERT INTO product SELECT n, 1 FROM generate_series(1000, %s) n", (1000 + count,))
        with Capture(database) as capture:
            capture.install(capture.plan(["product"], Config(), ["shop"]))
        with relay_process(cache, database), Cache(cache.url, name="shop", truth="outbox") as other:
            other.ticket()
            marks = other.node.marks.by_scope
            for number in range(1000, 1000 + count):
                scope = f"product:{number}"
                db.execute("UPDATE product SET price = 2 WHERE id = %s", (number,))
                done = time.perf_counter()
                until(lambda scope=scope: scope in marks)  # type: ignore[misc]
                seen_ms.append((time.perf_counter() - done) * 1e3)
    note = f"middle one: {median(seen_ms):.1f} ms; {count:,} commits"
    name = "commit to applied by another node, by trigger and NOTIFY, 99th in 100"
    return [figure(GROUP, name, [quantile(seen_ms, 0.99)], "ms", target=APPLIED_P99_MS_MAX, sense="<", note=note)]


def cost(options: Options) -> list[Figure]:
    """Change one row, and a hundred thousand, with triggers and without."""
    rounds, rows = (50, 20_000) if options.quick else (400, 100_000)
    figures = []
    with scene() as (_cache, database), psycopg.connect(database, autocommit=True) as db:
        db.execute("INSERT INTO product SELECT n, 1 FROM generate_series(1000, %s) n", (999 + rows,))
        db.execute("VACUUM ANALYZE product")
        one, many = "UPDATE product SET price = price + 1 WHERE id = 17", "UPDATE product SET price = price + 1"
        took: dict[tuple[str, bool], list[float]] = {}
        for captured in (False, True):
            if captured:
                with Capture(database) as capture:
                    capture.install(capture.plan(["product"], Config(), ["shop"]))
            for statement, times in ((one, rounds), (many, 5)):
                for _round in range(times):
                    began = time.perf_counter()
                    db.execute(statement)
                    took.setdefault((statement, captured), []).append((time.perf_counter() - began) * 1e3)
    for statement, what in ((one, "a statement of one row"), (many, f"a statement of {rows + 1:,} rows")):
        note = f"the same without triggers: {median(took[statement, False]):.2f} ms"
        figures.append(figure(GROUP, what, took[statement, True], "ms", note=note))
    return figures


def measure(options: Options) -> list[Figure]:
    """Measure each part on private servers of its own."""
    return [*applied(options), *cost(options)]
