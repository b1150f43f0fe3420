"""Loads that may read a replica: how far it lags is measured, and the loader is told where to read."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import unstale
from tests.support.scripted import Bench
from unstale import Cache
from unstale.core import ops
from unstale.core.calls import read_served
from unstale.core.context import enter, leave
from unstale.core.many import read_many
from unstale.core.node import Node
from unstale.core.read import read
from unstale.core.record import Record, Stamp
from unstale.core.write import write
from unstale.errors import OutsideLoadError, PolicyError, UnavailableError, UnprovenError, UsageError
from unstale.testing.disabled import disabled

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


class Database:
    """A primary, and a replica that is behind by so many seconds; `lag` is what is told of that."""

    def __init__(self, bench: Bench, lag: Any = 1.0) -> None:
        self.bench = bench
        self.lag = lag
        self.took_s = 0.0
        self.asks = True
        self.read: list[str] = []

    def measure(self) -> Any:
        """Tell how far the replica is behind."""
        self.bench.now += self.took_s
        if isinstance(self.lag, Exception):
            raise self.lag
        return self.lag

    def load(self) -> str:
        """Read where the loader is told to, or the replica, without asking."""
        self.read.append("primary" if self.asks and unstale.needs_primary() else "replica")
        return self.read[-1]

    def want(self, key: str = KEY, **how: Any) -> Any:
        """Give a read."""
        return self.bench.want(key, self.load, **({"replica": self.measure} | how))


@pytest.fixture
def database(bench: Bench) -> Database:
    """Give a database."""
    return Database(bench)


@pytest.fixture
def node(bench: Bench) -> Node:
    """Give a node that has been there for a while, and holds a lease."""
    node = bench.node()
    node.keep_history(2)
    bench.publish("first")
    bench.hear(node)
    for _ in range(2):
        bench.now += 2
        bench.hear(node)
    bench.now += 0.1  # what is applied now is remembered
    return node


def test_h17_a_replica_that_may_answer_dates_the_load_back(bench: Bench, database: Database, node: Node) -> None:
    """What a replica shows is kept with the stamp of what had been applied a lag ago, and lives from then on."""
    bench.publish("another")
    bench.hear(node)
    database.took_s = 0.25
    began = bench.now
    served = bench.run(read(node, database.want()))
    assert (served.value, served.why, served.stamp) == ("replica", "loaded", Stamp("g1", 1))
    assert (served.view_from, served.fresh_until) == (began - 1, began + 59)
    bench.publish(KEY)
    bench.hear(node)
    assert bench.run(read(node, bench.want(KEY))) is None


def test_h17_the_lag_counts_from_before_it_was_measured(bench: Bench, database: Database, node: Node) -> None:
    """Measuring may take its time: the replica was so far behind when that began, at worst."""
    bench.publish(KEY)
    bench.hear(node)
    bench.now += 0.9
    database.took_s = 0.25
    served = bench.run(read(node, database.want()))
    assert (served.value, served.stamp) == ("primary", Stamp("g1", 2))


@pytest.mark.parametrize("scope", [KEY, "tag", "*"])
def test_h17_what_has_changed_since_is_read_from_the_primary(
    bench: Bench, database: Database, node: Node, scope: str
) -> None:
    """A record that the replica may not show yet sends its load to the primary, whose answer is kept undated."""
    bench.publish(scope)
    bench.hear(node)
    served = bench.run(read(node, database.want(scopes=("tag",))))
    assert (served.value, served.why, served.stamp, served.view_from) == (
        "primary",
        "loaded",
        Stamp("g1", 2),
        bench.now,
    )
    bench.now += 0.1
    bench.publish("*")
    bench.hear(node)
    bench.now += 1.5
    bench.hear(node)
    assert bench.run(read(node, database.want(scopes=("tag",)))).value == "replica"


def test_h17_who_does_not_ask_is_not_kept_where_the_replica_is_late(
    bench: Bench, database: Database, node: Node
) -> None:
    """A loader that does not ask may have read the replica: its answer goes to its reader alone."""
    database.asks = False
    bench.publish(KEY)
    bench.hear(node)
    served = bench.run(read(node, database.want()))
    assert (served.value, served.why) == ("replica", "loaded, not kept: overtaken by a record")


def test_a_node_without_a_history_reads_the_primary(bench: Bench, database: Database) -> None:
    """Nobody can say what a replica's answer is worth before the node has been there for as long as it lags."""
    node = bench.node()
    assert bench.run(read(node, database.want())).value == "primary"
    bench.now += 1
    bench.hear(node)
    assert bench.run(read(node, database.want("k:2"))).value == "replica"


# Tickets ------------------------------------------------------------------------------------------------------------


def test_h37_a_replica_answers_a_ticket_that_it_has_reached(bench: Bench, database: Database, node: Node) -> None:
    """What was applied a lag ago is there: up to that position a ticket is answered by the replica, without waiting."""
    ticket = bench.publish("another")
    bench.hear(node)
    assert bench.run(read(node, database.want(after=ticket))).value == "primary"
    bench.now += 1
    bench.hear(node)
    assert bench.run(read(node, database.want("k:2", after=ticket))).value == "replica"
    assert bench.run(read(node, database.want("k:3", after=Stamp("g0", 1), ticket_wait=0))).value == "primary"


def test_h37_strong_reads_too(bench: Bench, database: Database, node: Node) -> None:
    """A strong read has the head for its ticket: a replica answers it where nothing has happened for that long."""
    assert bench.run(read(node, database.want(consistency="strong"))).value == "replica"
    bench.publish("another")
    bench.hear(node)
    assert bench.run(read(node, database.want("k:2", consistency="strong"))).value == "primary"
    bench.broken[ops.ReadHead] = UnavailableError("away")
    assert bench.run(read(node, database.want("k:3", consistency="strong"))).value == "primary"


def test_h37_who_does_not_ask_does_not_answer_a_ticket(bench: Bench, database: Database, node: Node) -> None:
    """What may be older than the ticket is refused, whoever waits; and the error says what to write."""
    database.asks = False
    ticket = bench.publish("another")
    bench.hear(node)
    with pytest.raises(UnprovenError, match="what the ticket stands for") as refused:
        bench.run(read(node, database.want(after=ticket)))
    assert "if unstale.needs_primary()" in refused.value.hint
    assert node.flights == {}
    many = [database.want(key, after=ticket) for key in ("a", "b")]
    with pytest.raises(UnprovenError):
        bench.run(read_many(node, many, lambda keys: dict.fromkeys(keys, "replica")))


def test_h37_parts_are_as_fresh_as_the_whole(bench: Bench, database: Database, node: Node) -> None:
    """What a load with a ticket reads through the cache is told the same."""
    ticket = bench.publish("another")
    bench.hear(node)
    script = bench.script(read(node, bench.want("whole", lambda: "x", after=ticket)))
    script.until(ops.Load)
    assert bench.script(read_served(node, database.want()), inside=script).end().value == "primary"


@pytest.mark.parametrize("how", [{}, {"replica_lag": 1}])
def test_h37_a_ticket_needs_the_primary_where_nothing_is_measured(bench: Bench, node: Node, how: Any) -> None:
    """Without `replica=` nobody knows what a replica shows: a ticket is read from the primary, all else as before."""
    load = unstale.needs_primary
    assert bench.run(read(node, bench.want(KEY, load, after=Stamp("g1", 1), **how))).value is True
    assert bench.run(read(node, bench.want("k:2", load, **how))).value is False


def test_h05_who_waits_with_a_ticket_does_not_get_what_a_replica_showed(
    bench: Bench, database: Database, node: Node
) -> None:
    """A flight from a replica began before; a reader with a ticket of its key joins it, and loads anew."""
    first = bench.script(read(node, database.want()))
    first.until(ops.Load)
    first.perform()
    assert isinstance(first.op, ops.Load), "the first was the measuring, this is the loader"
    second = bench.script(read(node, database.want()))
    second.until(ops.Wait)
    ticket = bench.publish(KEY)
    bench.hear(node)
    third = bench.script(read(node, database.want(after=ticket)))
    assert first.end().value == "replica"
    assert (second.end().value, third.end().value) == ("primary", "primary")


# The bound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [None, OSError("down"), 2.5, "1s", True, -1, math.nan, math.inf])
def test_a_replica_that_is_too_late_or_unknown_does_not_answer(
    bench: Bench, database: Database, node: Node, lag: Any
) -> None:
    """The primary is asked, and its answer kept; who did not ask is refused; an eventual read is answered, not kept."""
    database.lag = lag
    assert bench.run(read(node, database.want())).value == "primary"
    assert bench.run(read(node, bench.want(KEY))).value == "primary"
    database.asks = False
    with pytest.raises(UnprovenError, match="max_staleness does not allow"):
        bench.run(read(node, database.want("k:2")))
    served = bench.run(read(node, database.want("k:3", consistency="eventual", bound_s=math.inf)))
    assert served.value == "replica"
    assert (served.why == "loaded") == (lag == 2.5)
    assert bool(node.counts["trouble:replica"]) == (lag not in {None, 2.5})


def test_what_was_refused_may_be_answered_stale(bench: Bench, database: Database, node: Node) -> None:
    """A policy with a grace for failed loads serves what it has where the replica must not answer."""
    database.asks = False
    assert bench.run(read(node, database.want(stale_if_error="1h", ttl=2))).value == "replica"
    bench.now += 2
    bench.hear(node)
    database.lag = None
    served = bench.run(read(node, database.want(stale_if_error="1h", ttl=2)))
    assert (served.value, served.stale, served.why) == ("replica", True, "stale: the load failed")


# Many keys ----------------------------------------------------------------------------------------------------------


def test_h17_many_keys_are_dated_back_together(bench: Bench, database: Database, node: Node) -> None:
    """One measuring counts for all keys that are loaded together; one of them that has changed sends all of them."""

    def load(keys: list[str]) -> dict[str, str]:
        return dict.fromkeys(keys, database.load())

    def many(*keys: str) -> set[Any]:
        wants = [database.want(key) for key in keys]
        served = bench.run(read_many(node, wants, load))
        return {(served[key].value, served[key].stamp.position) for key in keys}

    bench.publish("c")
    bench.hear(node)
    assert many("a", "b") == {("replica", 1)}
    assert many("c", "d") == {("primary", 2)}


# Where else it may be asked -----------------------------------------------------------------------------------------


def test_a_writer_reads_the_primary(bench: Bench, node: Node) -> None:
    """What is in force is what the primary says, after a commit more than ever."""
    served = bench.run(write(node, bench.want(KEY), unstale.needs_primary, Record("r", (KEY,))))
    assert served.value is True


def test_where_nothing_is_loaded_it_cannot_be_asked() -> None:
    """Outside of a load there is no read that could need anything."""
    with pytest.raises(OutsideLoadError, match="needs_primary"):
        unstale.needs_primary()


def test_a_disabled_cache_reads_the_primary() -> None:
    """Where the cache is disabled nobody knows what a reader has seen."""
    with Cache(f"memory://{uuid.uuid4()}") as cache:
        assert cache.get_or_load("k", unstale.needs_primary) is False
        with disabled(cache):
            assert cache.get_or_load("k", unstale.needs_primary) is True


def test_a_transaction_that_has_written_reads_the_primary() -> None:
    """What it has written, and not committed, no replica shows."""

    class Writing:
        over = False

        def touches(self, scopes: Any) -> bool:
            return "other" in scopes

    with Cache(f"memory://{uuid.uuid4()}") as cache, contextlib.ExitStack() as stack:
        transaction = Writing()
        enter(transaction)
        stack.callback(leave, transaction)
        assert cache.get_or_load("k", unstale.needs_primary) is True


def test_the_colour_of_what_measures() -> None:
    """What measures is awaited where the function is; a blocking function is refused what it cannot await."""

    class Meter:
        async def __call__(self) -> float:
            return 0.01

    async def measure() -> float:
        return 0.01

    def load() -> int:
        return 1

    with Cache(f"memory://{uuid.uuid4()}") as cache:
        for wrong in (measure, Meter()):
            with pytest.raises(PolicyError, match="is a coroutine function") as refused:
                cache.cached("one", replica=wrong)(load)
            assert refused.value.hint
        with pytest.raises(UsageError, match="has to be awaited"):
            cache.get_or_load("k", load, replica=measure)

        for right in (measure, Meter(), lambda: 0.01):

            @cache.cached("later", replica=right, shared=True)
            async def later() -> bool:
                return unstale.needs_primary()

            assert asyncio.run(later()) in {False, True}
            cache.invalidate("later")
