from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted import CODEC, Bench, KilledError, Script
from unstale.core import ops
from unstale.core.flights import Flight
from unstale.core.load import acceptable
from unstale.core.origin import Origin
from unstale.core.read import read
from unstale.core.record import Stamp
from unstale.core.table import Table
from unstale.errors import (
    LoadTimeoutError,
    OriginBusyError,
    ReentrantLoadError,
    UnavailableError,
    ValueTypeError,
)

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


def failing() -> Any:
    """Load in vain."""
    raise ConnectionError("down")


def loading(bench: Bench, node: Any, key: str, inside: Script | None = None, **how: Any) -> Script:
    """Begin a read of a key, up to the call of its loader."""
    script = bench.script(read(node, bench.want(key, lambda: f"loaded {key}", **how)), inside=inside)
    script.until(ops.Load)
    return script


# Flights ------------------------------------------------------------------------------------------------------------


def test_h25_a_reader_waits_for_a_load_under_way(bench: Bench) -> None:
    """Who wants what is being loaded waits, and has the same result; it counts as neither load nor hit."""
    node = bench.node()
    first = loading(bench, node, KEY)
    second = bench.script(read(node, bench.want(KEY, failing)))
    second.until(ops.Wait)
    assert first.end().source == "load"
    served = second.end()
    assert (served.value, served.source) == ("loaded k:1", "flight")


def test_h24_two_loads_that_need_each_other_do_not_wait_for_ever(bench: Bench) -> None:
    """Of two loads that need each other, the one that would close the circle loads what it needs itself.

    1. "a" is loaded. 2. "b" is loaded. 3. The load of "a" waits for that of "b". 4. The load of "b" asks for "a".
    """
    node = bench.node()
    one, two = loading(bench, node, "a:1"), loading(bench, node, "b:1")
    waits = bench.script(read(node, bench.want("b:1", failing)), inside=one)
    waits.until(ops.Wait)
    circle = bench.script(read(node, bench.want("a:1", lambda: "again")), inside=two)
    assert circle.end().value == "again"
    two.end()
    assert waits.end().value == "loaded b:1"
    one.end()


def test_h24_a_load_that_needs_itself_is_an_error(bench: Bench) -> None:
    """A loader that asks for what it is loading, at whatever depth, gets an error that names the key."""
    node = bench.node()
    outer = loading(bench, node, "a:1")
    middle = loading(bench, node, "b:1", inside=outer)
    inner = bench.script(read(node, bench.want("a:1", failing)), inside=middle)
    with pytest.raises(ReentrantLoadError):
        inner.end()


def test_h24_a_blocking_reader_does_not_wait_for_its_own_thread(bench: Bench) -> None:
    """A flight that this very thread carries would never land while the thread waits: the reader loads itself."""
    node = bench.node()
    loading(bench, node, KEY)
    assert bench.run(read(node, bench.want(KEY, lambda: "mine", blocking=True))).value == "mine"


def test_h05_a_reader_does_not_board_what_a_record_has_ended(bench: Bench) -> None:
    """A load that began before an invalidation is out of the air for whoever comes after it."""
    node = bench.node()
    first = loading(bench, node, KEY)
    bench.publish(KEY)
    bench.hear(node)
    assert bench.run(read(node, bench.want(KEY, lambda: "new"))).value == "new"
    assert first.end().why == "loaded, not kept: overtaken by a record"
    assert bench.run(read(node, bench.want(KEY))).value == "new"


def test_a_reader_with_more_scopes_does_not_board(bench: Bench) -> None:
    """A load that does not depend on all that its reader's entry has to depend on is not for that reader."""
    node = bench.node()
    first = loading(bench, node, KEY)
    assert bench.run(read(node, bench.want(KEY, lambda: "tagged", scopes=("tag",)))).value == "tagged"
    first.end()
    assert bench.run(read(node, bench.want(KEY, lambda: "again", scopes=("tag", "other")))).value == "again"


def test_h05_with_a_lapsed_lease_only_a_later_flight_is_acceptable(bench: Bench) -> None:
    """Without proof, a result counts only if its view was taken after the reader arrived."""
    node = bench.node()
    want = bench.want(KEY)
    flight = Flight(want.stored_key, (KEY,), None)
    flight.stamp, flight.view_from = Stamp("g1", 0), bench.now
    assert acceptable(node, want, flight, bench.now)
    assert acceptable(node, want, flight, bench.now + 1)
    assert not acceptable(node, want, flight, bench.now + 10)
    assert not acceptable(node, bench.want(KEY, anew=True), flight, bench.now + 1)
    flight.stamp = None
    assert not acceptable(node, want, flight, bench.now + 1)


def test_h24_whoever_waits_for_a_flight_that_died_takes_over(bench: Bench) -> None:
    """A leader that is cancelled leaves neither result nor error: a waiter loads."""
    node = bench.node()
    first = loading(bench, node, KEY)
    second = bench.script(read(node, bench.want(KEY, lambda: "mine")))
    second.until(ops.Wait)
    first.fail(KilledError())
    assert second.end().value == "mine"
    assert node.flights == {}


@pytest.mark.parametrize("end", ["killed", "overtaken"])
def test_h25_who_waited_in_vain_finds_what_another_has_loaded(bench: Bench, end: str) -> None:
    """Of all who waited for a flight in vain one loads; who wakes after that has its result, and loads nothing."""
    node = bench.node()
    first = loading(bench, node, KEY)
    loads: list[int] = []
    bench.now += 0.1
    waiters = [bench.script(read(node, bench.want(KEY, lambda: loads.append(1)))) for _ in range(3)]
    for waiter in waiters:
        waiter.until(ops.Wait)
    if end == "killed":
        first.kill()
    else:
        bench.publish(KEY)
        bench.hear(node)
        first.end()
    for waiter in waiters:
        waiter.end()
    assert loads == [1]


def test_a_value_that_cannot_be_kept_reaches_all_who_wait(bench: Bench) -> None:
    """If the value cannot be encoded, its readers get that error, and no flight is left in the air."""
    node = bench.node()
    first = bench.script(read(node, bench.want(KEY, lambda: {1, 2})))
    first.until(ops.Load)
    second = bench.script(read(node, bench.want(KEY, failing)))
    second.until(ops.Wait)
    for script in (first, second):
        with pytest.raises(ValueTypeError):
            script.end()
    assert node.flights == {}


# Timeouts -----------------------------------------------------------------------------------------------------------


def test_a_load_with_a_timeout_runs_by_itself(bench: Bench) -> None:
    """With a timeout the load is spawned, and its reader waits for it; a result in time is served."""
    node = bench.node()
    how = {"hard_timeout": 5, "stale_if_error": "1h", "soft_timeout": 1}
    for value in ("first", "second"):
        script = bench.script(read(node, bench.want(KEY, value.title, **how)))
        script.until(ops.Wait)
        bench.run_spawned()
        assert script.end().value == value.title()
        bench.publish(KEY, soft=True)
        bench.hear(node)


def test_a_slow_load_goes_on_behind_the_stale_value(bench: Bench) -> None:
    """After the soft timeout the stale value is served, and the load ends later, for whoever comes then."""
    node = bench.node()
    how = {"stale_if_error": "1h", "soft_timeout": 1}
    bench.run(read(node, bench.want(KEY, lambda: "old", stale_if_error="1h")))
    bench.publish(KEY, soft=True)
    bench.hear(node)
    served = bench.run(read(node, bench.want(KEY, lambda: "new", **how)))
    assert (served.value, served.stale, served.why) == ("old", True, "stale: the load is slow")
    bench.run_spawned()
    assert bench.run(read(node, bench.want(KEY))).value == "new"


def test_after_the_hard_timeout_others_begin_anew(bench: Bench) -> None:
    """Who has waited for too long gets an error; the load is out of the air, and whoever comes begins a new one."""
    node = bench.node()
    how = {"hard_timeout": 1}
    waiters = [bench.script(read(node, bench.want(KEY, lambda: "slow", **how))) for _ in range(2)]
    for script in waiters:
        script.until(ops.Wait)
    for script in waiters:
        with pytest.raises(LoadTimeoutError):
            script.end()
    assert node.flights == {}
    bench.hear(node)
    third = bench.script(read(node, bench.want(KEY, lambda: "new", **how)))
    third.until(ops.Wait)
    assert len(bench.spawned) == 2
    bench.run_spawned()
    assert third.end().value == "new"


def test_a_load_that_fails_alone_is_counted(bench: Bench) -> None:
    """The failure of a load in the background reaches those who wait, and is counted."""
    node = bench.node()
    script = bench.script(read(node, bench.want(KEY, failing, hard_timeout=1)))
    script.until(ops.Wait)
    bench.run_spawned()
    with pytest.raises(ConnectionError):
        script.end()
    assert node.counts["failed:ConnectionError"] == 1


# One load a cluster -------------------------------------------------------------------------------------------------


def test_h25_a_late_holder_of_the_lock_is_not_waited_for(bench: Bench) -> None:
    """Losers of the lock wait for the entry with back-off, and load themselves when the holder is late."""
    node = bench.node()
    bench.store.lock(f"{CODEC.shape}|{KEY}", 60)
    began = bench.now
    served = bench.run(read(node, bench.want(KEY, lambda: "mine", coalesce="cluster", lock_ttl=3)))
    assert served.value == "mine"
    assert 3 <= bench.now - began < 4


def test_h25_losers_of_the_lock_get_what_its_holder_has_stored(bench: Bench) -> None:
    """As soon as the holder has stored the entry, those who wait have it, and have loaded nothing."""
    here, there = bench.node("here"), bench.node("there")
    holder = loading(bench, here, KEY, coalesce="cluster")
    loser = bench.script(read(there, bench.want(KEY, failing, coalesce="cluster")))
    loser.until(ops.Sleep)
    holder.end()
    served = loser.end()
    assert (served.value, served.source) == ("loaded k:1", "store")
    assert bench.store.locks == {}


def test_h25_a_refresh_under_way_elsewhere_is_left_alone(bench: Bench) -> None:
    """Of the nodes that could refresh a stale entry, the one that holds the lock does."""
    here, there = bench.node("here"), bench.node("there")
    how = {"coalesce": "cluster", "grace": "1h"}
    for node in (here, there):
        bench.run(read(node, bench.want(KEY, lambda: "old", **how)))
    bench.publish(KEY, soft=True)
    for node in (here, there):
        bench.hear(node)
        assert bench.run(read(node, bench.want(KEY, lambda: "new", **how))).stale
    refreshing = bench.script(bench.spawned.pop(0)())
    refreshing.until(ops.Load)
    bench.run_spawned()
    assert there.counts["refreshed elsewhere"] == 1
    refreshing.end()
    for node in (here, there):
        assert node.refreshing == set()
        assert bench.run(read(node, bench.want(KEY))).value == "new"


def test_a_lock_that_fails_is_done_without(bench: Bench) -> None:
    """The lock only saves loads: if the store cannot give it, or take it back, the read loads all the same."""
    node = bench.node()
    bench.broken[ops.Unlock] = UnavailableError("no unlock")
    assert bench.run(read(node, bench.want(KEY, lambda: "one", coalesce="cluster"))).value == "one"
    bench.broken[ops.Lock] = UnavailableError("no lock")
    assert bench.run(read(node, bench.want("k:2", lambda: "two", coalesce="cluster"))).value == "two"
    assert (node.counts["trouble:unlock"], node.counts["trouble:lock"]) == (1, 1)


def test_h24_a_reader_killed_after_it_took_the_lock(bench: Bench) -> None:
    """Whoever is cancelled between taking the lock and loading gives it back."""
    node = bench.node()
    script = bench.script(read(node, bench.want(KEY, failing, coalesce="cluster")))
    script.until(ops.Lock)
    script.perform()
    script.until(ops.Fetch)
    script.fail(KilledError())
    script.until(ops.Unlock)
    script.perform()
    assert isinstance(script.error, KilledError)
    assert bench.store.locks == {}


# The origin ---------------------------------------------------------------------------------------------------------


def test_h25_a_part_is_loaded_in_the_place_of_the_whole(bench: Bench) -> None:
    """A load within a load of the same origin takes no second place, nor waits for one that waits for a place."""
    node, origin = bench.node(), Origin(1, wait=1)
    whole = loading(bench, node, "whole:1", origin=origin)
    queued = bench.script(read(node, bench.want("part:1", lambda: "queued", origin=origin)))
    queued.until(ops.Wait)
    part = bench.script(read(node, bench.want("part:1", lambda: "part", origin=origin)), inside=whole)
    assert part.end().value == "part"
    whole.end()
    assert queued.end().value == "queued"
    assert bench.run(read(node, bench.want("other:1", lambda: "x", origin=origin))).value == "x"


def test_h25_no_place_in_time_is_an_error(bench: Bench) -> None:
    """A load that finds no place in time raises, takes no place with it, and leaves no flight."""
    node, origin = bench.node(), Origin(1, wait=1)
    whole = loading(bench, node, "whole:1", origin=origin)
    with pytest.raises(OriginBusyError):
        bench.run(read(node, bench.want(KEY, failing, origin=origin)))
    whole.end()
    assert node.flights == {}
    assert bench.run(read(node, bench.want(KEY, lambda: "x", origin=origin))).value == "x"


# What is kept -------------------------------------------------------------------------------------------------------


def test_h17_a_load_from_a_lagging_replica_is_backdated(bench: Bench) -> None:
    """Its stamp is what had been applied by the moment that its view may show; no history so far back: not kept."""
    node = bench.node()
    node.keep_history(5)
    want = bench.want(KEY, lambda: "x", replica_lag=5)
    assert bench.run(read(node, want)).why == "loaded, not kept: no stamp"
    bench.now += 6
    bench.publish(KEY)
    bench.hear(node)
    assert bench.run(read(node, want)).why == "loaded, not kept: overtaken by a record"
    bench.now += 6
    bench.hear(node)
    assert bench.run(read(node, want)).why == "loaded"


def test_h37_a_lagging_replica_does_not_answer_a_ticket(bench: Bench) -> None:
    """A load for a ticket begins when the slowest replica has caught up with it."""
    node = bench.node()
    bench.now += 10
    want = bench.want(KEY, lambda: "x", replica_lag=5, after=Stamp("g0", 1), ticket_wait=0)
    script = bench.script(read(node, want))
    assert script.until(ops.Sleep).seconds == 5
    assert script.end().value == "x"


def test_h27_a_value_that_is_too_large_is_not_resident(bench: Bench) -> None:
    """A value larger than the whole table goes to the store alone."""
    node = bench.node(table=Table(10, 2000))
    served = bench.run(read(node, bench.want(KEY, lambda: "x" * 5000)))
    assert (served.value, served.cell) == ("x" * 5000, None)
    assert node.table.cells == {}
    assert bench.run(read(node, bench.want(KEY))).source == "store"


def test_a_fill_that_a_record_overtakes_is_not_sent(bench: Bench) -> None:
    """A record that comes between the end of a load and its sending leaves nothing in the store."""
    node = bench.node()
    script = bench.script(read(node, bench.want(KEY, lambda: "x", coalesce="cluster")))
    script.until(ops.Load)
    script.perform()
    bench.log.entries.clear()
    assert script.done or isinstance(script.op, ops.Store)
    script.end()
    assert bench.run(read(node, bench.want(KEY))).value == "x"


def test_h24_a_load_that_the_background_refuses_leaves_nobody_waiting(bench: Bench) -> None:
    """When no thread can be had for a load, its reader is told, and whoever waits for it loads by itself."""
    node = bench.node()
    script = bench.script(read(node, bench.want(KEY, lambda: "first", hard_timeout=5)))
    script.until(ops.Spawn)
    waiter = bench.script(read(node, bench.want(KEY, lambda: "second")))
    waiter.until(ops.Wait)
    with pytest.raises(RuntimeError, match="no thread"):
        script.fail(RuntimeError("no thread")).end()
    assert waiter.end().value == "second"
    assert node.flights == {}


def test_a_reader_that_is_cancelled_expects_no_position_any_more(bench: Bench) -> None:
    """Who waits for a ticket and is cancelled leaves nothing behind."""
    node = bench.node()
    ticket = Stamp(bench.log.generation, node.applied + 1)
    script = bench.script(read(node, bench.want(KEY, lambda: "value", after=ticket)))
    script.until(ops.Wait)
    assert node.expected == 1
    script.kill()
    assert node.expected == 0
