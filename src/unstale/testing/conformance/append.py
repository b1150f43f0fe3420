"""The conformance of logs: positions, the chain of ids, records, clause by clause of the port's contract."""

from __future__ import annotations

import unittest
from unittest import mock

from unstale.core import record as wire
from unstale.core.ops import Batch
from unstale.core.record import EVERYTHING, FORMAT, Logged, Record, Stamp, Version
from unstale.engines.ports import LogPort
from unstale.testing.conformance.suite import (
    FOR_EVER_S,
    TRICKY_NAMES,
    InThread,
    Suite,
    assert_chained,
    eventually,
    poll,
    read_all,
    record,
)

FULL = Record(
    "full", TRICKY_NAMES, soft=True, version=Version(2**63 - 1, "tl-2"), covers=Stamp("g", 41), timeline="tl-1",
    ack=True, who="shop@host:1", why="price list import \u8336",
    trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", at=1_700_000_000.25,
)  # fmt: skip
RECORDS = (
    FULL,
    Record("pulse", (), covers=Stamp("g", 0), timeline="tl-1"),
    Record("negative", ("a",), version=Version(-(2**63))),
    Record("everything", (EVERYTHING,)),
    Record("twice", ("a", "a")),
    Record("many", tuple(f"scope:{number}" for number in range(2000))),
    Record("long", ("a",), why="x" * 100_000),
    *(Record(f"id {name[:100]}", ("a",)) for name in TRICKY_NAMES),
)


class AppendTests(Suite):
    """Appending, and reading back."""

    def test_it_declares_to_be_a_log(self) -> None:
        """An engine with this port says so, and says something of each guarantee."""
        guarantees = self.log.guarantees
        assert guarantees.log
        assert guarantees.name
        assert all((guarantees.processes, guarantees.durable, guarantees.replay, guarantees.survives_failover))
        assert guarantees.proves_leadership
        assert all(hasattr(self.log, name) for name in guarantees.quick)

    def test_an_empty_log_has_an_identity(self) -> None:
        """A log without records has a generation, the same for all, and its head is 0."""
        head = self.log.read_head()
        assert (head.head, head.head_id) == (0, "")
        assert head.generation
        assert self.log.read_head() == self.other_log.read_head() == head

    def test_each_life_of_a_log_has_a_generation_of_its_own(self) -> None:
        """Two logs are never taken for one."""
        first = self.log.read_head().generation
        assert self.begin_anew().read_head().generation != first

    def test_positions_are_dense(self) -> None:
        """Each record has the position after the one before it, across batches, and the answer names them in order."""
        position, head_id = 0, ""
        for size in (1, 3, 1, 7):
            records = tuple(record() for _ in range(size))
            appended = self.log.append(records)
            assert tuple(logged.record for logged in appended.records) == records
            assert_chained(list(appended.records), position=position, prev=head_id)
            position, head_id = position + size, records[-1].id
            assert (appended.identity.head, appended.identity.head_id) == (position, head_id)

    def test_an_append_of_nothing_changes_nothing(self) -> None:
        """No records are appended at no position; the identity is told all the same."""
        self.log.append((record(),))
        appended = self.log.append(())
        assert (appended.records, appended.identity) == ((), self.log.read_head())

    def test_what_was_appended_is_read_back(self) -> None:
        """The answers to appends are what polls give."""
        appended = [logged for _ in range(5) for logged in self.log.append((record(), record("b", soft=True))).records]
        assert read_all(self.log) == read_all(self.other_log) == appended

    def test_every_field_survives(self) -> None:
        """All that a record says comes back: names of any sort, versions, pulses, traces, long reasons."""
        self.log.append(RECORDS)
        for found, expected in zip(read_all(self.other_log), RECORDS, strict=True):
            assert found.record == expected

    def test_many_records_at_once(self) -> None:
        """Thousands of records are appended in one step, and read in batches of any size."""
        records = tuple(record(f"scope:{number}") for number in range(3000))
        self.log.append(records)
        for limit in (7000, 3000, 999):
            read = read_all(self.other_log, limit)
            assert tuple(logged.record for logged in read) == records
            assert_chained(read)

    def test_repeating_an_append_changes_nothing(self) -> None:
        """A record whose id is there already keeps its position, also when others came after it."""
        first, second = record("a"), record("b")
        appended = self.log.append((first, second))
        assert self.log.append((first, second)) == appended
        third = self.log.append((record("c"),))
        assert self.other_log.append((second, first)).records == appended.records[::-1]
        assert self.log.read_head() == third.identity

    def test_an_id_counts_once_within_a_batch(self) -> None:
        """A record named twice in one batch has one position."""
        first, second = record(), record()
        appended = self.log.append((first, second, first, second))
        assert [logged.position for logged in appended.records] == [1, 2, 1, 2]
        assert len(read_all(self.log)) == 2

    def test_known_and_new_records_in_one_batch(self) -> None:
        """Of a batch that is partly known, the new records alone are appended, and the answer keeps the order."""
        known = [record() for _ in range(3)]
        self.log.append(tuple(known))
        new = [record() for _ in range(2)]
        appended = self.log.append((new[0], known[2], known[0], new[1], new[0]))
        assert [logged.position for logged in appended.records] == [4, 3, 1, 5, 4]
        assert appended.identity == self.log.read_head()
        assert_chained(read_all(self.log))

    def test_h21_appends_at_once_are_serialised(self) -> None:
        """Records appended by several threads and handles lie without a hole, each writer's in its own order."""
        logs = (self.log, self.other_log) * 2
        batches = [[tuple(record() for _ in range(1 + number % 3)) for number in range(30)] for _ in logs]

        def write(log: LogPort, mine: list[tuple[Record, ...]]) -> list[Logged]:
            return [logged for batch in mine for logged in log.append(batch).records]

        calls = [InThread(lambda o=log, m=mine: write(o, m)) for log, mine in zip(logs, batches, strict=True)]  # type: ignore[misc]
        answers = [call.result(list) for call in calls]
        read = read_all(self.log)
        assert_chained(read)
        assert sorted(logged.position for answer in answers for logged in answer) == list(range(1, len(read) + 1))
        for answer, mine in zip(answers, batches, strict=True):
            assert [logged.record for logged in answer] == [one for batch in mine for one in batch]
            assert [read[logged.position - 1] for logged in answer] == answer

    def test_h28_records_of_another_version_are_everything(self) -> None:
        """A record in a format that this version cannot read keeps its place, and invalidates everything."""
        if not self.keeps_bytes:
            raise unittest.SkipTest("this log keeps no bytes")
        first, strange, last = record("a"), record("b", soft=True), record("c")
        self.log.append((first,))
        with mock.patch.object(wire, "FORMAT", FORMAT + 1):
            self.log.append((strange,))
        self.log.append((last,))
        read = read_all(self.other_log)
        assert_chained(read)
        assert [logged.id for logged in read] == [first.id, strange.id, last.id]
        assert [(logged.record.scopes, logged.record.soft) for logged in read] == [
            (("a",), False),
            ((EVERYTHING,), False),
            (("c",), False),
        ]

    def test_closing_a_log_twice_is_no_error(self) -> None:
        """An engine may be closed again, and another handle works on."""
        self.log.append((record(),))
        other = self.other_log
        self.log.close()
        self.log.close()
        if other is not self.log:
            assert len(read_all(other)) == 1

    def test_who_applies_its_own_records_is_told_of_others(self) -> None:
        """What a node appends and applies itself ends the polls of others; its own gives it too, when it ends."""
        head = self.log.read_head().head
        node, other = (InThread(lambda n=name: poll(self.other_log, head, wait_s=FOR_EVER_S, node=n)) for name in "no")  # type: ignore[misc]
        eventually(lambda: {"n", "o"} <= {one.node for one in self.log.read_members().members})
        own = self.log.append((record(),), "n").records
        assert other.result(Batch).records == own
        foreign = self.log.append((record(),), "o").records
        assert node.result(Batch).records in {own, own + foreign}  # an engine may end it for its own
        assert poll(self.log, head, node="n").records == own + foreign
        assert InThread(lambda: poll(self.log, head, wait_s=FOR_EVER_S, node="n")).result(Batch).records[:1] == own

    def test_a_poll_ends_in_time_with_what_its_node_appended(self) -> None:
        """Should the node be kept from applying it, it learns of its own record as late as its poll lasts."""
        head = self.log.read_head().head
        call = InThread(lambda: poll(self.other_log, head, wait_s=0.2, node="n"))
        eventually(lambda: "n" in {one.node for one in self.log.read_members().members})
        own = self.log.append((record(),), "n").records
        assert call.result(Batch).records == own
