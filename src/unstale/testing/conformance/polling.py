"""The conformance of logs: what a poll gives, when it returns, and whose membership it renews."""

from __future__ import annotations

import msgspec

from unstale.core.ops import Batch
from unstale.core.record import Logged, Record
from unstale.testing.conformance.suite import (
    EVERY_BYTE,
    FOR_EVER_S,
    TRICKY_NAMES,
    InThread,
    Suite,
    assert_chained,
    eventually,
    member,
    poll,
    read_all,
    record,
)


class PollTests(Suite):
    """What a poll gives after a position, and when it returns."""

    def fill(self, count: int) -> list[Logged]:
        """Append records one by one."""
        return [logged for _ in range(count) for logged in self.log.append((record(),)).records]

    def test_what_follows_every_position(self) -> None:
        """After each position from 0 to the head come the records above it, with the id of the record at it."""
        logged = self.fill(6)
        ids = ["", *(one.id for one in logged)]
        for position in range(7):
            batch = poll(self.other_log, position)
            assert batch == Batch(self.log.read_head(), ids[position], tuple(logged[position:]))

    def test_the_empty_log_has_position_0(self) -> None:
        """At position 0 lies the id "" that the first record names as the one before it."""
        batch = poll(self.log, 0)
        assert (batch.at_id, batch.records) == ("", ())

    def test_h10_beyond_the_head_there_is_no_id(self) -> None:
        """Whoever follows a log that is longer than this one is told that it knows nothing of that position."""
        self.fill(3)
        for position in (4, 5, 1000):
            batch = poll(self.log, position)
            assert (batch.at_id, batch.records, batch.identity) == (None, (), self.log.read_head())

    def test_a_limit_is_kept(self) -> None:
        """Not more records than asked for come, the first ones after the position."""
        logged = self.fill(6)
        for position in range(7):
            for limit in (0, 1, 2, 6, 100):
                batch = poll(self.log, position, limit)
                assert batch.records == tuple(logged[position : position + limit])
                assert batch.at_id == (logged[position - 1].id if position else "")
                assert batch.identity.head == 6

    def test_h09_a_trimmed_position_has_no_id(self) -> None:
        """Of a position whose successor was trimmed away the log says so; the ones above it are as before."""
        logged = self.fill(9)
        self.trim(4)
        for position in range(5):
            assert poll(self.other_log, position).at_id is None
        for position in range(5, 10):
            batch = poll(self.other_log, position)
            assert batch == Batch(self.log.read_head(), logged[position - 1].id, tuple(logged[position:]))
        head = self.log.read_head()
        assert (head.head, head.head_id) == (9, logged[-1].id)

    def test_h09_positions_are_not_used_again_after_trimming(self) -> None:
        """A log trimmed to nothing knows its head, and goes on from it."""
        logged = self.fill(3)
        self.trim(0)
        assert [poll(self.log, position).at_id for position in range(5)] == [None, None, None, logged[-1].id, None]
        assert all(poll(self.log, position).records == () for position in (3, 4))
        self.fill(2)
        batch = poll(self.other_log, 3)
        assert batch.at_id == logged[-1].id
        assert_chained(list(batch.records), position=3, prev=logged[-1].id)

    def test_a_wait_ends_without_a_record(self) -> None:
        """When nothing comes, a poll returns empty after its wait."""
        self.fill(2)
        head = self.log.read_head()
        for wait_s in (0.0, 0.001, 0.05):
            assert poll(self.log, 2, wait_s=wait_s) == Batch(head, head.head_id, ())

    def test_what_is_there_is_not_waited_for(self) -> None:
        """A poll that has records to give gives them at once."""
        logged = self.fill(2)
        call = InThread(lambda: poll(self.log, 1, wait_s=FOR_EVER_S))
        assert call.result(Batch).records == (logged[1],)

    def test_a_waiting_poll_gets_the_next_record(self) -> None:
        """An append from another thread, through this handle or another, ends the wait."""
        assert self.other_log.read_head() == self.log.read_head()
        for number, writer in enumerate((self.log, self.other_log)):
            for reader in (self.log, self.other_log):
                node = f"{number}{reader is self.log}"
                head = self.log.read_head()
                call = InThread(lambda r=reader, h=head.head, n=node: poll(r, h, wait_s=FOR_EVER_S, node=n))  # type: ignore[misc]
                # Membership is renewed before the wait: once it is there, the poll waits, or soon will.
                eventually(lambda n=node: n in {one.node for one in self.log.read_members().members})  # type: ignore[misc]
                appended = writer.append((record(),))
                batch = call.result(Batch)
                assert (batch.at_id, batch.records) == (head.head_id, appended.records)
                assert batch.identity == appended.identity

    def test_h10_a_stranger_is_not_kept_waiting(self) -> None:
        """To a member of another generation, whatever its position, the log answers at once."""
        self.fill(3)
        for position in (2, 3, 7):
            stranger = member("n", "another", position)
            call = InThread(lambda m=stranger: self.log.poll(m, m.applied, 100, FOR_EVER_S))  # type: ignore[misc]
            assert call.result(Batch).identity == self.log.read_head()

    def test_h10_who_is_ahead_is_not_kept_waiting(self) -> None:
        """To a member that has applied more than the log has, the log answers at once."""
        self.fill(3)
        for position in (4, 9):
            batch = InThread(lambda p=position: poll(self.log, p, wait_s=FOR_EVER_S)).result(Batch)  # type: ignore[misc]
            assert (batch.at_id, batch.records, batch.identity.head) == (None, (), 3)

    def test_every_reply_has_the_same_identity(self) -> None:
        """Appends, polls, heads and member lists tell the same generation, head and id."""
        self.fill(3)
        head = self.log.read_head()
        assert (head.head, head.head_id) == (3, read_all(self.log)[-1].id)
        for log in (self.log, self.other_log):
            assert (
                log.read_head()
                == poll(log, 1).identity
                == log.read_members().identity
                == log.append(()).identity
                == head
            )

    def test_no_reply_is_older_than_its_records(self) -> None:
        """While others append: no batch has a hole, or a record above the head that it tells."""

        def write() -> int:
            for _ in range(100):
                self.log.append((record(), record()))
            return 0

        reader, call, logged = self.other_log, InThread(write), [Logged(0, "", Record("", ()))]
        while logged[-1].position < 200:
            assert call.running or self.log.read_head().head == 200
            batch = poll(reader, logged[-1].position, limit=7, wait_s=0.05)
            assert batch.at_id == logged[-1].id
            assert_chained(list(batch.records), position=logged[-1].position, prev=logged[-1].id)
            logged.extend(batch.records)
            assert batch.identity.head >= logged[-1].position
            if batch.identity.head == logged[-1].position:
                assert batch.identity.head_id == logged[-1].id
        call.result(int)


class MemberTests(Suite):
    """The members that may hold a lease."""

    def nodes(self) -> set[str]:
        """Give the names of the members."""
        names = [one.node for one in self.other_log.read_members().members]
        assert len(names) == len(set(names))
        return set(names)

    def poll(self, node: str, applied: int = 0, max_staleness_s: float = 2.0, *, urgent: bool = True) -> None:
        """Poll as a node."""
        self.log.poll(member(node, "g", applied, max_staleness_s, urgent=urgent), 0, 0, 0.0)

    def test_at_first_there_are_none(self) -> None:
        """A new log has no members."""
        assert self.nodes() == set()

    def test_h36_the_first_poll_makes_a_member(self) -> None:
        """Whoever polls, for however many records and in whatever haste, is a member before it has the answer."""
        self.poll("first", urgent=False)
        assert self.nodes() == {"first"}
        self.log.poll(member("second", self.log.read_head().generation), 0, 100, 0.0)
        assert self.nodes() == {"first", "second"}

    def test_h36_a_waiting_poll_has_renewed_its_membership(self) -> None:
        """Membership is renewed before the wait, not after it."""
        waiting = member("waiting", self.log.read_head().generation)
        call = InThread(lambda: self.log.poll(waiting, 0, 100, FOR_EVER_S))
        eventually(lambda: self.nodes() == {"waiting"})
        self.other_log.append((record(),))
        call.result(Batch)

    def test_a_member_tells_of_itself(self) -> None:
        """What a member told in haste is there at once: its generation, what it has applied, and its bound."""
        for applied in (0, 7, 8, 2**40):
            self.poll("n", applied, 2.5)
            (found,) = self.other_log.read_members().members
            assert msgspec.structs.replace(found, urgent=False) == member("n", "g", applied, 2.5)

    def tell(self, node: str, about: bytes) -> None:
        """Poll as a node that tells about itself."""
        self.log.poll(member(node, "g", about=about), 0, 0, 0.0)

    def test_members_tell_about_themselves(self) -> None:
        """What a member tells about itself is there with its poll, byte by byte, until it tells something else."""
        assert self.other_log.read_about(("a",)) == (b"",)
        for about in (EVERY_BYTE, b"short", b"x" * 20_000):
            self.tell("a", about)
            self.tell("b", b"b" + about)
            self.tell("silent about itself", b"")
            for _ in range(3):
                assert self.other_log.read_about(("b", "stranger", "a")) == (b"b" + about, b"", about)
                self.tell("a", about)
        assert self.other_log.read_about(("silent about itself",)) == (b"",)
        assert self.other_log.read_about(()) == ()
        assert {one.about for one in self.other_log.read_members().members} == {b""}  # waiters read that, and need none

    def test_what_a_member_told_goes_with_it(self) -> None:
        """Of who has left nothing is told any more; it tells again when it comes back."""
        self.tell("stays", b"one")
        self.tell("goes", b"two")
        self.log.leave("goes")
        assert self.other_log.read_about(("stays", "goes")) == (b"one", b"")
        self.tell("goes", b"two")
        assert self.other_log.read_about(("stays", "goes")) == (b"one", b"two")

    def test_what_a_member_told_expires_with_it(self) -> None:
        """Of who is not heard of any more nothing is told; it tells again when it goes on."""
        self.tell("stopped", b"one")
        self.advance(400.0)
        assert self.other_log.read_about(("stopped",)) == (b"",)
        self.tell("other", b"two")
        self.tell("stopped", b"one")
        assert self.other_log.read_about(("other", "stopped")) == (b"two", b"one")

    def test_h12_what_members_told_comes_back_after_a_wipe(self) -> None:
        """Who finds itself off the list tells about itself once more, by the next poll at the latest."""
        for about in (b"one", b"two"):
            for node in ("a", "b"):
                self.tell(node, about)
            self.wipe()
            for _ in range(2):
                self.tell("a", about)
            assert self.other_log.read_about(("a",)) == (about,)
            assert "b" not in self.nodes()

    def test_names_of_nodes_are_compared_exactly(self) -> None:
        """Nodes whose names look alike are different members."""
        for name in TRICKY_NAMES:
            self.poll(name)
        assert self.nodes() == set(TRICKY_NAMES)

    def test_who_leaves_is_gone(self) -> None:
        """A node that leaves is no member; it may leave twice, and come back."""
        self.poll("stays")
        self.poll("goes")
        self.log.leave("goes")
        self.log.leave("goes")
        self.log.leave("never came")
        assert self.nodes() == {"stays"}
        self.poll("goes", 5)
        assert self.nodes() == {"stays", "goes"}

    def test_h36_a_member_is_kept_as_long_as_its_lease(self) -> None:
        """A node that polls now and then stays a member, also if it has nothing new to tell."""
        self.poll("late", 1, 10.0)
        for _ in range(20):
            self.advance(9.9)
            assert self.nodes() == {"late"}
            self.poll("late", 1, 10.0, urgent=False)

    def test_who_is_not_heard_of_is_gone_at_last(self) -> None:
        """A node that died does not stay on the list for ever; the others do."""
        self.poll("dead", max_staleness_s=1.0)
        self.poll("alive", max_staleness_s=500.0)
        self.advance(400.0)
        assert self.nodes() == {"alive"}

    def test_h36_the_bound_is_the_largest(self) -> None:
        """The list tells the largest bound of its members, also that of one which has just lowered it."""
        self.poll("a", max_staleness_s=2.0)
        assert self.other_log.read_members().bound_s == 2.0
        self.poll("b", max_staleness_s=30.0)
        assert self.other_log.read_members().bound_s == 30.0
        self.poll("b", max_staleness_s=1.0)
        assert self.other_log.read_members().bound_s >= 30.0  # it may hold a lease of before

    def test_h36_the_age_of_the_list_grows(self) -> None:
        """The list tells for how long it has been kept."""
        self.poll("a")
        before = self.other_log.read_members().age_s
        assert before >= 0
        self.advance(100.0)
        assert abs(self.other_log.read_members().age_s - before - 100.0) <= self.slack_s
