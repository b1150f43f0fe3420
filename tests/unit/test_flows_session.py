from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import pytest

from tests.support.scripted import Bench, KilledError
from unstale.core import ops
from unstale.core.context import NOTHING, Surroundings, surroundings
from unstale.core.many import read_many
from unstale.core.node import Node
from unstale.core.publish import publish, publish_once, unpublished
from unstale.core.read import read
from unstale.core.record import EVERYTHING, Record, Stamp
from unstale.core.session import GENERATIONS_MAX, Tickets
from unstale.core.write import invalidate, write
from unstale.errors import NotPublishedError, UnavailableError
from unstale.testing.world import NoLock

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


@pytest.fixture
def tickets() -> Iterator[Tickets]:
    """Give the tickets of a session around the test."""
    one = Tickets(NoLock())
    surroundings.set(Surroundings(tickets=one))
    yield one
    surroundings.set(None)


def source(bench: Bench, node: Node, **how: object) -> str:
    """Read the key: how it came. A session's ticket that is not reached is waited for as long as the policy says."""
    return str(bench.run(read(node, bench.want(KEY, lambda: "new", **({"ticket_wait": 0} | how)))).source)


def holding(bench: Bench, name: str = "b") -> Node:
    """Give a node that holds the key in memory, as it was before anything is written."""
    node = bench.node(name)
    surrounded = surroundings.get()
    surroundings.set(None)
    assert source(bench, node) == "load"
    surroundings.set(surrounded)
    return node


def failover(bench: Bench, generation: str = "g2") -> None:
    """Let the log live on as another generation, with all that it had."""
    bench.log.generation = generation


# Read your writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_h05_a_session_reads_its_own_write_on_another_node(bench: Bench, tickets: Tickets, *, inside: bool) -> None:
    """A node that has not applied what the session published loads; without the session it serves what it has."""
    late = holding(bench)
    writer = bench.node("a")
    if not inside:
        surroundings.set(None)
    bench.run(invalidate(writer, Record("r", (KEY,)), wait=False))
    bench.broken[ops.Poll] = UnavailableError("cut off")
    assert source(bench, late) == ("load" if inside else "l1")
    assert tickets.by_cache == ({"": (Stamp("g1", 1),)} if inside else {})


def test_a_session_whose_ticket_is_reached_has_its_hits(bench: Bench, tickets: Tickets) -> None:
    """A node that has applied what the session asks for serves from memory, and asks nobody."""
    node = holding(bench)
    bench.run(publish(node, Record("r", ("other",))))
    script = bench.script(read(node, bench.want(KEY)))
    assert script.done
    assert script.value.source == "l1"
    assert tickets.raises == 1
    assert tickets.lives == {"": node.max_staleness_s}


def test_a_ticket_of_its_own_counts_for_a_read(bench: Bench, tickets: Tickets) -> None:
    """A read with `after=`, and one that is strong, does not ask for the session's ticket."""
    node = holding(bench)
    tickets.merge({"": (Stamp("g1", 99),)})
    assert source(bench, node) == "load"
    assert source(bench, node, after=Stamp("g1", 0)) == "l1"
    assert source(bench, node, consistency="strong") == "l1"


def test_a_session_has_a_ticket_for_each_cache(bench: Bench, tickets: Tickets) -> None:
    """What was published to one cache is not asked of another."""
    node = holding(bench)
    tickets.merge({"another": (Stamp("g1", 99),)})
    assert source(bench, node) == "l1"


def test_h05_many_keys_are_read_as_one(bench: Bench, tickets: Tickets) -> None:
    """A read of many keys answers the session's ticket too."""
    node = holding(bench)
    tickets.merge({"": (Stamp("g1", 99),)})
    wants = [bench.want(KEY, ticket_wait=0)]
    assert bench.run(read_many(node, wants, lambda keys: dict.fromkeys(keys, 2)))[KEY].source == "load"


def test_h05_a_write_through_raises_the_ticket(bench: Bench, tickets: Tickets) -> None:
    """A write within a session raises its ticket, and so does one whose writer failed."""
    node = bench.node()
    bench.run(write(node, bench.want(KEY), lambda: 1, Record("r1", (KEY,))))
    assert tickets.by_cache[""] == (Stamp("g1", 1),)

    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        bench.run(write(node, bench.want(KEY), fail, Record("r2", (KEY,))))
    assert tickets.by_cache[""] == (Stamp("g1", 2),)


# What is not published ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scopes", [(KEY,), ("tag",), (EVERYTHING,)])
def test_h02_what_a_relay_has_to_publish_is_read_past_the_cache(
    bench: Bench, tickets: Tickets, scopes: tuple[str, ...]
) -> None:
    """Reads of what was left to a relay load, until this node applies its record: then the ticket is there."""
    node = holding(bench)
    surroundings.set(None)
    bench.run(read(node, bench.want("tagged:1", lambda: 1, scopes=("tag",))))
    surroundings.set(Surroundings(tickets=tickets))
    record = Record("row", scopes)
    unpublished(node, (record,))
    for key, own in ((KEY, ()), ("tagged:1", ("tag",))):
        touched = EVERYTHING in scopes or bool({key, *own} & set(scopes))
        want = bench.want(key, lambda: "new", scopes=own)
        assert (bench.run(read(node, want)).source == "load") == touched
        many = bench.run(read_many(node, [bench.want(key, scopes=own)], lambda keys: dict.fromkeys(keys, 2)))
        assert (many[key].source == "load") == touched
    bench.log.append((record,))
    bench.hear(node)
    assert tickets.all_published
    assert tickets.by_cache == {"": (Stamp("g1", 1),)}
    assert source(bench, node) == ("l1" if scopes == ("tag",) else "load")
    assert source(bench, node) == "l1"


def test_h02_a_publication_that_failed_is_read_past_the_cache(bench: Bench, tickets: Tickets) -> None:
    """What may or may not have been published is read past the cache, until the invalidation was repeated."""
    node = holding(bench)
    bench.broken[ops.Append] = UnavailableError("no log")
    with pytest.raises(NotPublishedError):
        bench.run(publish(node, Record("r1", (KEY,))))
    assert source(bench, node) == "load"
    assert bench.run(publish_once(node, (Record("r2", ("other",)),))) is None
    assert tickets.by_cache == {}
    bench.broken.clear()
    bench.run(publish(node, Record("r3", ("other",))))
    assert source(bench, node) == "load"
    bench.run(publish(node, Record("r4", (KEY, "other"))))
    assert tickets.all_published
    source(bench, node)
    assert source(bench, node) == "l1"


@pytest.mark.parametrize("once", [False, True])
def test_h02_a_publication_whose_task_was_cancelled(bench: Bench, tickets: Tickets, *, once: bool) -> None:
    """Whoever was cancelled while the log was asked does not know what became of it: reads go past the cache."""
    node = holding(bench)
    record = Record("r1", (KEY,))
    script = bench.script(publish_once(node, (record,)) if once else publish(node, record))
    script.until(ops.Append)
    script.fail(KilledError())
    assert source(bench, node) == "load"


def test_what_was_rolled_back_is_forgotten(bench: Bench, tickets: Tickets) -> None:
    """A record that was rolled back is waited for no more."""
    node = holding(bench)
    record = Record("row", (KEY,))
    unpublished(node, (record,))
    tickets.forget(record)
    tickets.forget(record)
    assert source(bench, node) == "l1"


def test_a_session_that_is_over_leaves_nothing_behind(bench: Bench) -> None:
    """What never came is forgotten with the session; what comes after its end harms nobody."""
    node = bench.node()
    record = Record("row", (KEY,))
    surroundings.set(Surroundings(tickets=Tickets(NoLock())))
    unpublished(node, (record,))
    arrivals = node.intents[record.id]
    surroundings.set(None)
    gc.collect()
    assert node.intents == {}
    node.intents[record.id] = arrivals
    bench.log.append((record,))
    bench.hear(node)
    assert node.applied == 1


# Failovers ----------------------------------------------------------------------------------------------------------


def test_h10_a_session_takes_over_the_new_generation(bench: Bench, tickets: Tickets) -> None:
    """After a failover the next read loads, and the ones after it are hits again."""
    node = bench.node()
    bench.run(publish(node, Record("r", (KEY,))))
    failover(bench)
    assert source(bench, node) == "load"  # this node is in the old one still, and has the ticket's
    bench.hear(node)
    assert node.generation == "g2"
    assert source(bench, node) == "load"
    assert tickets.by_cache == {"": (Stamp("g2", 1),)}
    assert source(bench, node) == "l1"


def test_h10_a_node_that_is_late_does_not_lower_the_ticket(bench: Bench, tickets: Tickets) -> None:
    """A node in the old generation, and a ticket of the new one: the read loads, the node crosses, the ticket stays."""
    node = holding(bench)
    failover(bench)
    bench.publish("other")
    tickets.merge({"": (Stamp("g2", 0),)})
    assert source(bench, node) == "load"
    assert (node.generation, tickets.by_cache) == ("g2", {"": (Stamp("g2", 0),)})
    source(bench, node)
    assert source(bench, node) == "l1"


def test_a_node_that_is_late_asks_for_no_head(bench: Bench, tickets: Tickets) -> None:
    """Within one generation the ticket will be reached: a read that comes too early loads, and asks no more."""
    node = holding(bench)
    tickets.merge({"": (Stamp("g1", 99),)})
    bench.broken[ops.ReadHead] = UnavailableError("no log")
    assert source(bench, node) == "load"
    assert node.counts["trouble:head"] == 0


@pytest.mark.parametrize("fault", ["log gone", "deposed", "not joined"])
def test_h10_only_a_log_that_proves_itself_is_believed(bench: Bench, tickets: Tickets, fault: str) -> None:
    """Without an answer, or with that of a server that may be deposed, the ticket stays, and reads load."""
    node = bench.node(joined=fault != "not joined")
    tickets.merge({"": (Stamp("g9", 7),)})
    if fault == "log gone":
        bench.broken[ops.ReadHead] = UnavailableError("no log")
    script = bench.script(read(node, bench.want(KEY, lambda: 1, ticket_wait=0)))
    if fault == "deposed":
        script.until(ops.ReadHead)
        script.answer(ops.Identity("g1", 5, "", proven=False))
    assert script.end().source == "load"
    assert tickets.by_cache == {"": (Stamp("g9", 7),)}


def test_h37_tickets_of_two_generations_are_both_kept(bench: Bench, tickets: Tickets) -> None:
    """No node reaches both: reads load until the log says which one is in force."""
    node = holding(bench)
    tickets.merge({"": (Stamp("g0", 5), Stamp("g1", 0), Stamp("g0", 3))})
    assert tickets.by_cache == {"": (Stamp("g1", 0), Stamp("g0", 5))}
    assert source(bench, node) == "load"
    assert tickets.by_cache == {"": (Stamp("g1", 0),)}
    assert source(bench, node) == "l1"


def test_h27_generations_of_a_ticket_are_bounded(tickets: Tickets) -> None:
    """A client that sends tickets of many generations makes no session grow, and does not push out the newest."""
    for number in range(100):
        tickets.merge({"": (Stamp(f"g{number}", 1),)})
    newest = tuple(Stamp(f"g{number}", 1) for number in range(100 - GENERATIONS_MAX, 100))
    assert tickets.by_cache == {"": newest}


def test_h37_what_is_published_meanwhile_still_has_to_be_seen(bench: Bench, tickets: Tickets) -> None:
    """A session takes over the head of the log; what it has published since that was read is not lost."""
    node = bench.node()
    tickets.merge({"": (Stamp("g0", 5),)})
    script = bench.script(read(node, bench.want(KEY, lambda: 1)))
    script.until(ops.ReadHead)
    head = bench.ports.log.read_head()
    bench.run(publish(bench.node("a"), Record("r", (KEY,))))
    script.answer(head)
    script.end()
    assert tickets.by_cache == {"": (Stamp("g1", 1),)}


def test_nothing_is_around_where_nothing_was_set() -> None:
    """The surroundings of a test are its own."""
    assert surroundings.get() is None
    assert not NOTHING.changed
