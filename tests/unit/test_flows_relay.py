"""Pulses and what they carry: a source read in parts, settled when acknowledged, and refused records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import pytest

from tests.support.scripted import Bench
from unstale.core import ops
from unstale.core.publish import publish_once
from unstale.core.record import Record, Stamp
from unstale.core.tail import Drained, beat, forward, pulse
from unstale.errors import FullError, NotPublishedError, UnavailableError


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


class Told:
    """A source that tells records in parts of two, and what it was told in return.

    Args:
        ids: Of its records.
    """

    def __init__(self, *ids: str) -> None:
        self.left = [Record(one, (f"s:{one}",)) for one in ids]
        self.reads = 0
        self.settled: list[tuple[str, ...]] = []
        self.refused: dict[str, str] = {}

    def __call__(self) -> Drained:
        """Tell the next part."""
        self.reads += 1
        part = tuple(self.left[:2])

        def settle(refused: Mapping[str, str]) -> None:
            self.refused |= refused
            self.settled.append(tuple(record.id for record in part))
            del self.left[: len(part)]

        return Drained(part, "t1", more=len(self.left) > 2, settle=settle)


def log_of(bench: Bench) -> list[str]:
    """Give what the log holds: ids of records, and `pulse n` for a pulse that covers n."""
    records = [logged.record for logged in bench.log.log]
    return [f"pulse {one.covers.position}" if one.covers is not None else one.id for one in records]


def test_h19_the_pulse_comes_after_all_parts(bench: Bench) -> None:
    """The head is read first; each part is acknowledged, then settled, then the next is read; last comes the pulse."""
    relay, source = bench.node("relay", relayed=True), Told("a", "b", "c", "d", "e")
    relay.timeline = "t1"
    script = bench.script(pulse(relay, source))
    assert isinstance(script.op, ops.ReadHead)
    seen = []
    while script.op is not None:
        seen.append(type(script.op).__name__)
        script.perform()
    assert seen == ["ReadHead", "Load", "Append", "Load", "Load", "Append", "Load", "Load", "Append", "Load"]
    assert log_of(bench) == ["a", "b", "c", "d", "e", "pulse 0"]
    assert source.settled == [("a", "b"), ("c", "d"), ("e",)]


def test_h02_what_is_not_acknowledged_is_not_settled(bench: Bench) -> None:
    """When an append fails there is no pulse, and the source tells the same once more: published under the same ids."""
    relay, source = bench.node("relay", relayed=True), Told("a", "b", "c")
    script = bench.script(pulse(relay, source))
    script.until(ops.Append)
    script.perform().until(ops.Append)
    script.fail(FullError("no space"))
    assert isinstance(script.error, NotPublishedError)
    assert (log_of(bench), source.settled) == (["a", "b"], [("a", "b")])
    source.left.insert(0, Record("b", ("s:b",)))  # it was acknowledged, but the source did not hear of it
    bench.run(pulse(relay, source))
    assert [one for one in log_of(bench) if len(one) == 1] == ["a", "b", "c"]


def test_records_are_forwarded_without_a_pulse(bench: Bench) -> None:
    """Between two pulses only records are published; where there is nothing, nothing is appended."""
    relay, source = bench.node("relay", relayed=True), Told("a", "b", "c")
    assert bench.run(forward(relay, source)) == 3
    assert bench.run(forward(relay, source)) == 0
    assert bench.run(forward(relay, lambda: Drained((Record("d", ("s",)),), "t1"))) == 1
    assert log_of(bench) == ["a", "b", "c", "d"]


def test_a_record_that_the_log_refuses_ends_everything(bench: Bench) -> None:
    """Where the log refuses one record but takes another, everything ends in its place, and what follows goes on."""
    relay, source = bench.node("relay", relayed=True), Told("a", "b", "c")
    script = bench.script(forward(relay, source, sift=True))
    script.until(ops.Append)
    script.perform()
    assert script.until(ops.Append).records[0].id == "b"
    script.fail(FullError("too large"))
    assert script.until(ops.Append).records[0].scopes == ("*",)
    script.end()
    assert [logged.record.scopes for logged in bench.log.log] == [("s:a",), ("*",), ("s:c",)]
    assert "too large" in source.refused["b"]
    assert source.settled == [("a", "b"), ("c",)]


def test_a_log_that_takes_nothing_refuses_no_record(bench: Bench) -> None:
    """Where the log takes no other record either, nothing is put aside: it is the log, and not the record."""
    relay, source = bench.node("relay", relayed=True), Told("a")
    bench.broken[ops.Append] = FullError("no space")
    with pytest.raises(NotPublishedError):
        bench.run(pulse(relay, source, sift=True))
    assert (source.settled, source.refused, log_of(bench)) == ([], {}, [])
    bench.broken.clear()
    bench.run(pulse(relay, source, sift=True))
    assert source.settled == [("a",)]


def test_h19_pulses_that_read_no_source_prove_nothing_behind_a_relay(bench: Bench) -> None:
    """On a log with replicas nodes that declare no source beat: that renews their leases, not those of the others."""
    relayed, other = bench.node("relayed", relayed=True), bench.node("other")
    bench.log.pulsed = True
    bench.hear(other)
    for _ in range(8):
        bench.now += bench.run(beat(other))
        bench.hear(other)
        bench.hear(relayed)
    assert bench.log.head >= 3
    assert other.lease.proves(bench.now, other.bound_s)
    assert not relayed.lease.proves(bench.now, relayed.bound_s)
    relay = bench.node("relay", relayed=True)
    for _ in range(3):
        bench.now += 0.2
        bench.run(pulse(relay, lambda: Drained((), "t1")))
        bench.hear(relay)
        bench.hear(relayed)
    assert relayed.lease.proves(bench.now, relayed.bound_s)
    assert (relayed.timeline, relayed.counts["ended"]) == ("t1", 0), "a beat between them is no other timeline"


def test_what_was_committed_is_published_once_and_without_raising(bench: Bench) -> None:
    """The process that committed publishes all its records in one append and applies them; a failure is only told."""
    node = bench.node()
    records = (Record("a", ("s",)), Record("b", ("s",)))
    assert bench.run(publish_once(node, records)) == Stamp("g1", 2)
    assert (node.applied, bench.log.head) == (2, 2)
    bench.publish("another")
    assert bench.run(publish_once(node, (Record("c", ("s",)), Record("a", ("s",))))) == Stamp("g1", 1)
    bench.publish("one more")
    assert bench.run(publish_once(node, (Record("a", ("s",)), Record("d", ("s",))))) == Stamp("g1", 6)
    assert node.applied == 6, "with what others published between them"
    script = bench.script(publish_once(node, (Record("e", ("s",)),)))
    script.until(ops.Append)
    script.fail(UnavailableError("no log"))
    assert (script.done, script.value, node.counts["trouble:publish"]) == (True, None, 1)


def test_what_could_not_be_published_is_named(bench: Bench) -> None:
    """The error of a batch names some of its scopes and counts the others; that of a pulse says that it was one."""
    relay = bench.node("relay", relayed=True)
    bench.broken[ops.Append] = FullError("no space")
    many = Drained(tuple(Record(f"{number}", (f"s{number}",)) for number in range(8)), "t1")
    with pytest.raises(NotPublishedError, match="invalidation of s0, s1, s2, s3, s4 and 3 more could not"):
        bench.run(forward(relay, lambda: many))
    relay.timeline = "t1"
    with pytest.raises(NotPublishedError, match="a pulse could not"):
        bench.run(pulse(relay, lambda: Drained((), "t1")))
