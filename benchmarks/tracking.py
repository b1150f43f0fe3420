"""What tracking costs the sessions of SQLAlchemy: a transaction that writes one row, until its commit has returned.

What it would cost by hand stands beside it: a session that is not tracked, and `cache.invalidate()` after its commit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import interleave, median, ratios
from tests.support.postgres_servers import PostgresServer
from unstale import Cache
from unstale.sources.outbox import Outbox
from unstale.sqlalchemy import track

GROUP = "tracking"
RATIO_MAX = 1.10
OUTBOX_RATIO_MAX = 1.25
BY_HAND = "memory://, by hand"
ROWS = 40


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[int]


def measure(options: Options) -> list[Figure]:
    """Measure on private servers: one that waits for its disk at each commit, as servers do, and one that does not."""
    figures = []
    for fsync in (True, False):
        with PostgresServer(fsync=fsync) as server, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            cases = {"untracked": writing(stack, server)}
            with Outbox(server.url) as outbox:
                outbox.create()
            for name, url, with_outbox in (
                ("memory://", "memory://", False),
                ("sqlite://", f"sqlite:///{folder}/cache", False),
                ("memory://, outbox", "memory://", True),
            ):
                cache = stack.enter_context(Cache(url, name=name))
                cache.ticket()
                cases[name] = writing(stack, server, cache, outbox=with_outbox)
            by_hand = stack.enter_context(Cache("memory://", name=BY_HAND))
            by_hand.ticket()
            cases[BY_HAND] = writing(stack, server, by_hand, tracked=False)
            rounds, count = (15, 20) if options.quick else (101, 20)
            times = interleave(cases, rounds=rounds, times=count)
            figures += judged(times, fsync=fsync)
    return figures


def writing(
    stack: ExitStack, server: PostgresServer, cache: Cache | None = None, *, tracked: bool = True, outbox: bool = False
) -> Callable[[int], float]:
    """Give a case: transactions that read one row and change it, over an engine that no other case listens to.

    Sessions tell the cache of it if they are tracked; else it is invalidated by hand after each.
    """
    engine = create_engine(server.url.replace("postgresql://", "postgresql+psycopg://"))
    stack.callback(engine.dispose)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        for number in range(ROWS):
            session.merge(Product(id=number, price=0))
    sessions = sessionmaker(engine)
    if cache is not None and tracked:
        track(sessions, cache, outbox=outbox)
    told = None if tracked else cache

    def write(times: int) -> float:
        began = time.perf_counter()
        for number in range(times):
            with sessions.begin() as session:
                session.get_one(Product, number % ROWS).price += 1
            if told is not None:
                told.invalidate(f"product:{number % ROWS}", "table:product")
        return time.perf_counter() - began

    return write


def judged(times: dict[str, list[float]], *, fsync: bool) -> list[Figure]:
    """Give the figures of one server: each case by the untracked one of its round.

    The targets are for a server as it comes: one that does not wait for its disk loses what it has acknowledged. What
    publishing by hand costs is no target: it is the part of tracking that nobody is spared.
    """
    what = "waits for its disk" if fsync else "does not"
    note = f"untracked: {median(times['untracked']) * 1e6:.0f} us"
    figures = []
    for name, taken in times.items():
        if name == "untracked":
            continue
        target = (OUTBOX_RATIO_MAX if "outbox" in name else RATIO_MAX) if fsync and name != BY_HAND else None
        by_untracked = ratios(taken, times["untracked"])
        figures.append(figure(GROUP, f"{name}, server {what}", by_untracked, "x", target=target, note=note))
        note = ""
    return figures
