from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted import CODEC, Bench, KilledError, Script
from unstale.core import ops
from unstale.core.calls import read_served, read_values
from unstale.core.node import Node
from unstale.core.origin import Origin
from unstale.core.read import read
from unstale.core.record import Stamp
from unstale.errors import LoadTimeoutError, ReentrantLoadError, UnavailableError, UnprovenError, ValueTypeError


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


def upper(keys: list[str]) -> dict[str, str]:
    """Load many keys."""
    return {key: key.upper() for key in keys if not key.startswith("gone")}


def failing(_keys: Any = None) -> Any:
    """Load in vain."""
    raise ConnectionError("down")


def absent() -> Any:
    """Load what does not exist."""
    raise LookupError("a")


def many(bench: Bench, node: Node, keys: str, call: Any = upper, **how: Any) -> Script:
    """Begin to read keys, which are given as one text."""
    return bench.script(read_values(node, [bench.want(key, **how) for key in keys.split()], call))


# From the store -----------------------------------------------------------------------------------------------------


def test_all_that_the_store_has_comes_in_one_request(bench: Bench) -> None:
    """One fetch asks for all that is not resident; what is found is not loaded."""
    here, there = bench.node("here"), bench.node("there")
    assert many(bench, here, "a b c gone").end() == {"a": "A", "b": "B", "c": "C"}
    bench.run(read(there, bench.want("a")))
    script = many(bench, there, "a b c", failing)
    assert script.until(ops.Fetch).keys == tuple(f"{CODEC.shape}|{key}" for key in "bc")
    assert script.end() == {"a": "A", "b": "B", "c": "C"}
    assert many(bench, there, "a b c", failing).end() == {"a": "A", "b": "B", "c": "C"}


def test_when_the_store_fails_the_policy_decides(bench: Bench) -> None:
    """A store that does not answer: all is loaded, or the stale is served, or the read is refused."""
    node = bench.node()
    how = {"ttl": 5, "stale_if_error": "1h"}
    many(bench, node, "a b", **how).end()
    bench.now += 6
    bench.hear(node)
    bench.broken[ops.Fetch] = UnavailableError("no store")
    with pytest.raises(UnavailableError):
        many(bench, node, "a b", store_out="refuse", **how).end()
    assert many(bench, node, "a b", failing, store_out="stale", **how).end() == {"a": "A", "b": "B"}
    bench.run_spawned()
    assert many(bench, node, "a b", lambda keys: dict.fromkeys(keys, 1), **how).end() == {"a": 1, "b": 1}


def test_h26_when_one_server_of_the_store_fails_only_its_keys_are_lost(bench: Bench) -> None:
    """What other servers hold is served from there; of what the one holds the policy decides, and one error tells."""
    here, there, error = bench.node("here"), bench.node("there"), UnavailableError("no server")
    many(bench, here, "a b c").end()
    refusing = many(bench, there, "a b c", store_out="refuse")
    assert refusing.answer((error, bench.perform(refusing.until(ops.Fetch))[1], error)).error is error
    script = many(bench, there, "a b c", lambda keys: dict.fromkeys(keys, "new"))
    script.answer((error, bench.perform(script.until(ops.Fetch))[1], error))
    assert script.end() == {"a": "new", "b": "B", "c": "new"}
    assert there.counts["trouble:fetch"] == 2, "one for each read"


def test_a_store_that_takes_nothing_is_reported(bench: Bench) -> None:
    """Fills that the store refuses fail no read."""
    node = bench.node()
    bench.broken[ops.Store] = UnavailableError("no store")
    assert many(bench, node, "a b").end() == {"a": "A", "b": "B"}
    assert node.counts["trouble:store"] == 1


def test_h03_fills_that_a_record_overtakes_are_not_sent(bench: Bench) -> None:
    """A record that comes while many keys are loaded keeps those that it names out of both tiers, and no others."""
    node = bench.node()
    script = many(bench, node, "a b")
    script.until(ops.Load)
    bench.publish("a")
    bench.hear(node)
    assert script.end() == {"a": "A", "b": "B"}
    assert list(node.table.cells) == ["b"]
    assert list(bench.store.entries) == [f"{CODEC.shape}|b"]
    bench.publish("*")
    bench.hear(node)
    script = many(bench, node, "a b")
    script.until(ops.Load)
    bench.publish("*")
    bench.hear(node)
    assert script.perform().done, "nothing is sent"


# Stale values -------------------------------------------------------------------------------------------------------


def test_within_their_grace_stale_values_are_served_and_refreshed(bench: Bench) -> None:
    """Each key that is stale within its grace is served, and refreshed in the background by the loader of many."""
    node = bench.node()
    many(bench, node, "a b", lambda keys: dict.fromkeys(keys, "old"), grace="1h").end()
    bench.publish("a", soft=True)
    bench.hear(node)
    assert many(bench, node, "a b", grace="1h").end() == {"a": "old", "b": "old"}
    assert len(bench.spawned) == 1
    bench.run_spawned()
    assert many(bench, node, "a b", failing, grace="1h").end() == {"a": "A", "b": "old"}


def test_a_refresh_that_finds_nothing_keeps_the_stale_value(bench: Bench) -> None:
    """If the loader of many leaves out the key that is refreshed, nothing is stored in its place."""
    node = bench.node()
    many(bench, node, "a", lambda keys: dict.fromkeys(keys, "old"), grace="1h").end()
    bench.publish("a", soft=True)
    bench.hear(node)
    many(bench, node, "a", lambda _keys: {}, grace="1h").end()
    bench.run_spawned()
    assert node.counts["trouble:refresh"] == 1
    assert node.refreshing == set()


def test_stale_values_stand_in_for_a_load_that_fails(bench: Bench) -> None:
    """When the loader of many fails, stale values are served if there is one for every key; else it is raised."""
    node = bench.node()
    how = {"ttl": 5, "stale_if_error": "1h"}
    many(bench, node, "a b", **how).end()
    bench.now += 6
    bench.hear(node)
    assert many(bench, node, "a b", failing, **how).end() == {"a": "A", "b": "B"}
    assert node.counts["trouble:load"] == 2, "one a key"
    with pytest.raises(ConnectionError):
        many(bench, node, "a b c", failing, **how).end()
    bench.now += 3600
    bench.hear(node)
    with pytest.raises(ConnectionError):
        many(bench, node, "a b", failing, **how).end()


def test_a_mistake_of_the_caller_is_raised_whatever_is_stale(bench: Bench) -> None:
    """A loader that returns no mapping, or a value that cannot be kept, is an error that no stale value hides."""
    node = bench.node()
    how = {"ttl": 5, "stale_if_error": "1h"}
    many(bench, node, "a", **how).end()
    bench.now += 6
    bench.hear(node)
    for wrong in (lambda _keys: ["A"], lambda keys: {key: {1} for key in keys}):
        with pytest.raises(ValueTypeError):
            many(bench, node, "a", wrong, **how).end()
    assert node.flights == {}


def test_h26_without_proof_the_policy_may_refuse(bench: Bench) -> None:
    """With a lapsed lease and nothing that vouches for a key, `refuse` raises."""
    node = bench.node()
    bench.now += 10
    with pytest.raises(UnprovenError):
        many(bench, node, "a b", unproven="refuse").end()
    assert many(bench, node, "a b").end() == {"a": "A", "b": "B"}


def test_a_failure_that_is_remembered_is_raised(bench: Bench) -> None:
    """If one of the keys is remembered as a failure, reading many raises it."""
    node = bench.node()
    with pytest.raises(LookupError):
        bench.run(read_served(node, bench.want("a", absent, not_found=(LookupError,))))
    with pytest.raises(LookupError):
        many(bench, node, "b a", not_found=(LookupError,)).end()


def test_h26_without_proof_the_policy_may_prefer_the_stale(bench: Bench) -> None:
    """With a lapsed lease and nothing that vouches, `unproven="stale"` serves what is resident, as for one key."""
    node = bench.node()
    how = {"grace": "1h", "revalidate": False, "unproven": "stale"}
    many(bench, node, "a b", **how).end()
    bench.now += 10
    bench.broken[ops.Fetch] = UnavailableError("no store")
    assert many(bench, node, "a b", lambda keys: dict.fromkeys(keys, 1), **how).end() == {"a": "A", "b": "B"}


def test_stale_values_stand_in_for_a_load_of_another_that_fails(bench: Bench) -> None:
    """A key that another reader loads in vain is served stale within `stale_if_error`, as for one key."""
    node = bench.node()
    how = {"ttl": 5, "stale_if_error": "1h"}
    many(bench, node, "a", **how).end()
    bench.now += 6
    bench.hear(node)
    one = bench.script(read(node, bench.want("a", failing, **how)))
    one.until(ops.Load)
    script = many(bench, node, "a", failing, **how)
    script.until(ops.Wait)
    assert one.end().stale
    assert script.end() == {"a": "A"}


def test_a_loader_of_many_has_its_time(bench: Bench) -> None:
    """The policy's hard timeout bounds a load of many keys as it does a load of one."""
    script = many(bench, bench.node(), "a b", hard_timeout=1)
    script.until(ops.Wait)
    with pytest.raises(LoadTimeoutError):
        script.end()


# Flights ------------------------------------------------------------------------------------------------------------


def test_h25_a_key_that_is_being_loaded_is_waited_for(bench: Bench) -> None:
    """Of many keys, one that another reader loads is not loaded again; one that it leaves out is left out."""
    node = bench.node()
    one = bench.script(read(node, bench.want("a", lambda: "one")))
    one.until(ops.Load)
    first = many(bench, node, "b gone")
    first.until(ops.Load)
    second = many(bench, node, "a b c gone")
    second.until(ops.Load)
    second.perform()
    second.until(ops.Wait)
    one.end()
    first.end()
    assert second.end() == {"a": "one", "b": "B", "c": "C"}


def test_h24_a_key_whose_load_died_is_loaded_by_the_loader_of_many(bench: Bench) -> None:
    """If the flight that is waited for dies, the loader of many is asked for that one key; it may leave it out."""
    node = bench.node()
    for key, found in (("a", {"a": "A"}), ("gone", {})):
        one = bench.script(read(node, bench.want(key, lambda: "one")))
        one.until(ops.Load)
        script = many(bench, node, key)
        script.until(ops.Wait)
        one.kill()
        assert script.end() == found


def test_h24_all_flights_land_when_the_loader_of_many_is_killed(bench: Bench) -> None:
    """A loader of many that is cancelled strands nobody who waits for one of its keys."""
    node = bench.node()
    script = many(bench, node, "a b")
    script.until(ops.Load)
    waiters = [bench.script(read(node, bench.want(key, lambda: "mine"))) for key in ("a", "b")]
    for waiter in waiters:
        waiter.until(ops.Wait)
    script.kill()
    assert isinstance(script.error, KilledError)
    assert [waiter.end().value for waiter in waiters] == ["mine", "mine"]
    assert node.flights == {}


def test_those_who_wait_for_a_loader_of_many_hear_of_its_failure(bench: Bench) -> None:
    """An exception of the loader of many reaches all who wait for one of its keys."""
    node = bench.node()
    script = many(bench, node, "a b", failing)
    script.until(ops.Load)
    waiter = bench.script(read(node, bench.want("b", lambda: "mine")))
    waiter.until(ops.Wait)
    for one in (script, waiter):
        with pytest.raises(ConnectionError):
            one.end()


def test_h24_a_loader_of_many_that_needs_one_of_its_keys(bench: Bench) -> None:
    """Asking for any of the keys that are being loaded, alone or together, is an error, not a deadlock."""
    node = bench.node()
    script = many(bench, node, "a b")
    script.until(ops.Load)
    for inner in (read(node, bench.want("b", lambda: "x")), read_values(node, [bench.want("b")], upper)):
        with pytest.raises(ReentrantLoadError):
            bench.script(inner, inside=script).end()


@pytest.mark.parametrize("how", [{"coalesce": "off"}, {"after": Stamp("g0", 1), "ticket_wait": 0}])
def test_h24_a_loader_of_many_that_needs_itself_without_coalescing(bench: Bench, how: dict[str, Any]) -> None:
    """The same holds where readers do not wait for one another: else it would call itself for ever."""
    node = bench.node()
    script = many(bench, node, "a b", **how)
    script.until(ops.Load)
    inner = bench.script(read_values(node, [bench.want("b", **how)], failing), inside=script)
    with pytest.raises(ReentrantLoadError):
        inner.end()


# The origin, tickets, replicas --------------------------------------------------------------------------------------


def test_h25_the_loader_of_many_takes_one_place(bench: Bench) -> None:
    """One call of the loader is one load of the origin, and its place is given back whatever happens."""
    node, origin = bench.node(), Origin(1)
    for call in (upper, failing):
        script = many(bench, node, "a b c", call, origin=origin)
        script.until(ops.Load)
        queued = bench.script(read(node, bench.want("d", lambda: "D", origin=origin)))
        assert queued.until(ops.Wait).signal.fired is False
        with contextlib.suppress(ConnectionError):
            script.end()
        assert queued.end().value == "D"
        bench.publish("*")
        bench.hear(node)


def test_h37_a_ticket_that_is_not_reached_loads_all(bench: Bench) -> None:
    """For a ticket that this node has not reached, all keys are loaded, past replicas that may lag."""
    node = bench.node()
    many(bench, node, "a b").end()
    bench.now += 10
    script = many(bench, node, "a b", after=Stamp("g0", 1), ticket_wait=0, replica_lag=3)
    assert script.until(ops.Sleep).seconds == 3
    assert script.end() == {"a": "A", "b": "B"}


def test_h24_an_awaited_loader_of_many_is_asked_for_one_key(bench: Bench) -> None:
    """If the flight that is waited for dies, a coroutine function of many is asked for that one key too."""

    async def later(keys: list[str]) -> dict[str, str]:
        return upper(keys)

    node = bench.node()
    for key, found in (("a", {"a": "A"}), ("gone", {})):
        one = bench.script(read(node, bench.want(key, lambda: "one")))
        one.until(ops.Load)
        script = many(bench, node, key, later)
        script.until(ops.Wait)
        one.kill()
        op = script.until(ops.Load)
        flow: Any = op.call()
        with pytest.raises((StopIteration, LookupError)) as ended:
            flow.send(None)
        if found:
            script.answer(ended.value.value)  # type: ignore[attr-defined]
        else:
            script.fail(ended.value)
        assert script.end() == found


def test_what_was_loaded_before_one_value_was_refused_is_served(bench: Bench) -> None:
    """If one of the values cannot be kept the caller gets that error; who waits for another one has its value."""
    node = bench.node()
    script = many(bench, node, "a b", lambda _keys: {"a": "A", "b": {1}})
    script.until(ops.Load)
    waiters = {key: bench.script(read(node, bench.want(key, absent))) for key in ("a", "b")}
    for waiter in waiters.values():
        waiter.until(ops.Wait)
    for refused in (script, waiters["b"]):
        with pytest.raises(ValueTypeError):
            refused.end()
    assert waiters["a"].end().value == "A"


def test_nothing_is_asked_for_nothing(bench: Bench) -> None:
    """No keys: nothing is asked."""
    assert many(bench, bench.node(), "", failing).done


# What a result depends on -------------------------------------------------------------------------------------------


def test_what_depends_on_another_cache_is_not_kept(bench: Bench) -> None:
    """A load of many keys that read another cache cannot be kept: its records are never heard of here."""
    node, other = bench.node(), Bench()
    elsewhere = other.node()
    other.log.generation = elsewhere.generation = "elsewhere"
    script = many(bench, node, "a")
    script.until(ops.Load)
    bench.script(read_served(elsewhere, other.want("part", lambda: "p")), inside=script).end()
    script.end()
    assert node.table.cells == {}
    assert not [key for key in bench.store.entries if key.endswith("|a")]


def test_scopes_of_parts_end_all_that_was_loaded_together(bench: Bench) -> None:
    """What the loader of many reads through the cache, all of its results depend on."""
    node = bench.node()
    script = many(bench, node, "a b")
    script.until(ops.Load)
    bench.script(read_served(node, bench.want("part", lambda: "p", scopes=("t",))), inside=script).end()
    script.end()
    bench.publish("t")
    bench.hear(node)
    assert list(node.table.cells) == []
