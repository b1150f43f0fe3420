"""A node: what one process knows of the log, and the entries that it holds, changed in short locked steps."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any

from unstale.core.about import Profile
from unstale.core.entry import Entry
from unstale.core.lease import DRIFT, Lease
from unstale.core.marks import DEAD, FRESH, MARKS_MAX, SOFT, Marks, Verdict, full, judge
from unstale.core.ops import Batch, Identity, Member
from unstale.core.record import EVERYTHING, Logged, Record, Stamp, Version
from unstale.core.signal import Signal
from unstale.core.table import Cell, Table

if TYPE_CHECKING:
    from unstale.core.flights import Flight
    from unstale.core.policy import Policy
    from unstale.core.session import Arrival

HISTORY_MAX = 4096
HISTORY_STEP_S = 0.005
POLL_SHARE = 0.4  # a poll waits for less than half of the bound, so that the lease is renewed before it lapses
DEFAULT_BOUND_S = 2.0
DEFAULT_MAX_TTL_S = 7 * 24 * 3600.0


class Progress(Enum):
    """What a batch of records brought."""

    HEAD = "applied up to the head"
    MORE = "applied, and there is more"
    BROKEN = "the log is not the one that we followed"
    OUTDATED = "the node has moved on since it asked"


class Intent:
    """A write-through on its way: whether what it depends on was touched between its start and its own record (H16).

    Attributes:
        since: What had been applied before the writer began.
        key: Its key.
        scopes: The scopes of the value written.
        version: Its source version: where there is one, it decides between two records of the key.
        clean: The verdict, None until its own record is applied.
    """

    __slots__ = ("clean", "key", "scopes", "since", "version")

    def __init__(self, since: Stamp, key: str, scopes: tuple[str, ...], version: Version | None) -> None:
        self.since = since
        self.key = key
        self.scopes = scopes
        self.version = version
        self.clean: bool | None = None

    def judge(self, node: Node) -> None:
        """Judge it, under the lock, when all before its own record is applied and that record is not."""
        self.clean = node.admits(self.since, self.key, self.scopes, self.version)


class Node:
    """The state of one process that uses one cache.

    Args:
        node_id: Unique id of the process's membership.
        name: Of its cache.
        clock: Boot-time clock, in seconds.
        random: Source of numbers from 0 to 1 (1 excluded).
        new_id: Source of unique ids.
        lock: The short lock; never held across an op.
        here: Names the thread that runs.
        table: L1.
        max_staleness_s: The bound, in seconds of true time.
        max_ttl_s: No entry lives longer, in seconds.
        pulsed: Leases rest on pulses alone.
        relayed: A relay tells the log of changes: what the log and its marks know proves nothing by itself (H19).
        one_engine: Store and log are one engine: it writes the marks itself.
        marks_max: Marks kept in memory at most.
        profile: What it tells people of itself.
    """

    def __init__(  # noqa: PLR0913 - the parts of a node, wired once
        self,
        node_id: str,
        name: str = "",
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        new_id: Callable[[], str],
        lock: AbstractContextManager[Any],
        here: Callable[[], object] = lambda: None,
        table: Table | None = None,
        max_staleness_s: float = DEFAULT_BOUND_S,
        max_ttl_s: float = DEFAULT_MAX_TTL_S,
        pulsed: bool = False,
        relayed: bool = False,
        one_engine: bool = True,
        marks_max: int = MARKS_MAX,
        profile: Profile | None = None,
    ) -> None:
        self.id, self.name = node_id, name
        self.clock = clock
        self.random = random
        self.new_id = new_id
        self.lock = lock
        self.here = here
        self.table = Table() if table is None else table
        self.max_staleness_s = max_staleness_s
        self.bound_s = max_staleness_s * (1 - DRIFT)
        self.max_ttl_s = max_ttl_s
        self.one_engine = one_engine
        self.relayed = relayed
        self.marks = Marks(marks_max)
        self.profile = Profile() if profile is None else profile
        self.pulsed = pulsed or relayed
        self.lease = Lease(pulsed=self.pulsed)
        self.generation: str | None = None
        self.applied = 0
        self.applied_id = ""
        self.timeline = ""
        self.urgent = False
        self.joined = Signal()
        self.flights: dict[str, Flight] = {}
        self.refreshing: set[str] = set()
        self.intents: dict[str, list[Intent | Arrival]] = {}
        self.extended = 0
        self.pulse_at = float("-inf")  # when the latest pulse was applied
        self.published_at = float("-inf")  # when this node has published last
        self.poll_wait_s = max_staleness_s * POLL_SHARE
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.on_trouble: Callable[[str, BaseException], None] = lambda _what, _error: None
        self._history: deque[tuple[float, int]] = deque(maxlen=HISTORY_MAX)
        self._history_step_s = HISTORY_STEP_S
        self._expecting: list[tuple[int, Signal]] = []

    # Stamps ---------------------------------------------------------------------------------------------------

    def stamp(self, lag_s: float = 0.0) -> Stamp | None:
        """Capture the stamp of a load that is about to take its read view; call it before the view is taken.

        Args:
            lag_s: The view may be so many seconds old: the stamp is what had been applied by then (H17).

        Returns:
            None when no log is known, or its history does not reach back so far: such a load is not kept.
        """
        with self.lock:
            if self.generation is None:
                return None
            if not lag_s:
                return Stamp(self.generation, self.applied)
            moment = self.clock() - lag_s
            reached = [position for at, position in self._history if at <= moment]
            return Stamp(self.generation, reached[-1]) if reached else None

    def admits(self, stamp: Stamp, key: str, scopes: Iterable[str], version: Version | None) -> bool:
        """Say, under the lock, whether a load stamped so may be kept: the checks at the end of a fill.

        1. A load or a reply outlived a discontinuity: its positions mean nothing in the new generation (H33).
        2. Marks below the floor have been forgotten: nobody here knows whether a record ended it.
        3. A record named one of its scopes while it loaded, or a scope learnt only at its end (H3, H4, H6).
        """
        return (
            stamp.generation == self.generation
            and stamp.position >= self.marks.floor
            and self.marks.judge((key, *scopes), stamp.position, key, version) is FRESH
        )

    def judge(self, entry: Entry) -> Verdict | None:
        """Judge a stored entry, under the lock, by what this node knows; None when that does not reach so far back."""
        if entry.stamp.generation != self.generation:
            return DEAD  # another generation is a miss in every tier (H10, H12)
        if entry.stamp.position < self.marks.floor:
            return None
        key, marks = entry.key, self.marks.by_scope
        if key not in marks and EVERYTHING not in marks and marks.keys().isdisjoint(entry.scopes):
            return FRESH  # as is nearly all that is found
        return judge(marks, (key, *entry.scopes), entry.stamp.position, key, entry.version)

    def trouble(self, what: str, error: BaseException) -> None:
        """Count and report a failure that no caller sees."""
        self.counts[f"trouble:{what}"] += 1
        self.on_trouble(what, error)

    def softened_at(self, entry: Entry) -> float | None:
        """Give the moment at which the soft record that ended an entry was applied, under the lock; None if unknown.

        The grace of an entry begins there, and not each time that it is found in the store.
        """
        marks = (self.marks.by_scope.get(scope) for scope in (entry.key, *entry.scopes, EVERYTHING))
        soft = [full(mark).soft.last for mark in marks if mark is not None]
        first = min((position for position in soft if position > entry.stamp.position), default=0)
        return self.applied_at(first)

    def bound_of(self, policy: Policy) -> float:
        """Give the bound for reads of a policy, in seconds of this node's clock."""
        return self.bound_s if policy.bound_s is None else policy.bound_s

    def serve_bound(self, bound_s: float) -> None:
        """Let reads have another bound than the node's own.

        A larger one counts from the poll on that tells of it: until then waiting invalidations do not wait for so long,
        so the lease is dropped, and polls that were sent before do not renew it (H36).
        """
        with self.lock:
            self.poll_wait_s = min(self.poll_wait_s, bound_s * POLL_SHARE)
            if bound_s > self.max_staleness_s:
                self.max_staleness_s = bound_s
                self.lease.drop()

    def keep_history(self, lag_s: float) -> None:
        """Make sure that the history of positions reaches back by a lag, in seconds."""
        self._history_step_s = max(self._history_step_s, 2 * lag_s / HISTORY_MAX)

    def applied_at(self, position: int) -> float | None:
        """Give the moment at which a position was applied, under the lock; None when the history does not tell."""
        if not self._history or position <= self._history[0][1]:
            return None
        return next((at for at, applied in self._history if applied >= position), self.clock())

    def left_at(self, position: int) -> float | None:
        """Give the latest known moment at which nothing after a position was applied, under the lock; None if unknown.

        What a view of that position shows was still the truth then, as far as this node could know.
        """
        return next((at for at, applied in reversed(self._history) if applied <= position), None)

    # The log --------------------------------------------------------------------------------------------------

    def member(self) -> Member:
        """Give what a poll tells of this node, under the lock."""
        urgent, self.urgent = self.urgent, False
        about = self.profile.data
        return Member(self.id, self.generation or "", self.applied, self.max_staleness_s, urgent, about)

    def reset(
        self,
        identity: Identity,
        sent: float,
        told_s: float = float("inf"),
        known: Iterable[Logged] = (),
        left: Stamp | None = None,
    ) -> None:
        """Join, or cross a discontinuity: one locked step to the head of the log that answered.

        Everything resident goes, and with it every position of before; what is in flight finds another generation, or a
        floor above its stamp, when it ends.

        Args:
            identity: Who answered, and its head.
            sent: When the request was sent: as of then the node is proven.
            told_s: The bound that the request told of, in seconds.
            known: The newest records up to that head, without a hole: they lower the floor.
            left: Where the node was when it asked: if it has moved on since, another thread has crossed, or will.
        """
        with self.lock:
            if left is not None and (self.generation, self.applied) != (left.generation, left.position):
                return
            self.table.clear()
            self.generation = identity.generation
            self.applied, self.applied_id = identity.head, identity.head_id
            self.marks.reset(identity.head)
            self.lease.drop()
            for logged in known:
                self.marks.floor = min(self.marks.floor, logged.position - 1)
                self._mark(logged)
            self.extended = self.marks.floor
            self.lease.pulsed = self.pulsed or identity.pulsed
            if told_s >= self.max_staleness_s and (identity.proven or self.lease.pulsed):
                self.lease.polled(sent, identity.head)
            self._history.clear()
            self._history.append((self.clock(), identity.head))
            expecting, self._expecting = self._expecting, []
            for _position, signal in expecting:  # positions of before will never come: their waiters look again
                signal.fire()
            self.counts["discontinuities"] += 1
        self.joined.fire()

    def apply(
        self, batch: Batch, asked: Stamp, asked_id: str, sent: float | None, told_s: float = float("inf")
    ) -> Progress:
        """Apply the answer to a poll that asked, at `sent`, for what follows the position `asked`.

        The answer is judged against what was asked, not against what is applied by now: another thread may have gone
        ahead meanwhile, and an answer that is merely old is no discontinuity.

        Args:
            batch: The answer.
            asked: The stamp that the request named.
            asked_id: The id of the record there, as this node knows it.
            sent: When the request was sent; None for an answer that renewed no membership: it proves no lease (H36).
            told_s: The bound that the request told of, in seconds.
        """
        identity = batch.identity
        with self.lock:
            if self.generation != asked.generation:
                return Progress.OUTDATED
            # A generation not ours; a head below ours; another record at our position (H9, H10, H12).
            if identity.generation != asked.generation or identity.head < asked.position or batch.at_id != asked_id:
                return Progress.BROKEN
            reached, reached_id = asked.position, asked_id
            for logged in batch.records:
                if logged.position <= reached:
                    continue  # a duplicate (H7)
                if logged.position != reached + 1 or logged.prev != reached_id:
                    break  # a hole: the next poll asks for it again
                reached, reached_id = logged.position, logged.record.id
                if reached > self.applied:
                    self._apply(logged)
            self._remember()
            self._wake()
            if reached != identity.head:
                return Progress.MORE  # a full batch proves nothing
            self.lease.pulsed = self.lease.pulsed or identity.pulsed
            if sent is not None and told_s >= self.max_staleness_s and (identity.proven or self.lease.pulsed):
                self.lease.polled(sent, identity.head)
            return Progress.HEAD

    def _remember(self) -> None:
        """Note what is applied by now; not more often than needed, so that a burst does not push out the past."""
        now = self.clock()
        if now - self._history[-1][0] >= self._history_step_s:
            self._history.append((now, self.applied))

    def _apply(self, logged: Logged) -> None:
        """Raise the marks of a record's scopes, and end the resident entries that depend on them."""
        for intent in self.intents.pop(logged.record.id, ()) if self.intents else ():
            intent.judge(self)  # before its own record raises the marks
        record = self._mark(logged)
        self.applied, self.applied_id = logged.position, record.id
        self.urgent = self.urgent or record.ack
        table, careful = self.table, record.soft or record.version is not None
        for scope in record.scopes:
            if careful:
                for cell in table.find(scope):
                    self._rejudge(cell)
            elif scope in table.cells or scope in table.dependents or scope == EVERYTHING:
                self.counts["ended"] += table.end(scope)
        # Last of all: a hit takes no lock, and looks at the lease before it looks for its entry (H8).
        if record.covers is not None and record.covers.generation == self.generation:
            self.pulse_at = self.clock()
            if logged.record.timeline or not self.relayed:  # a pulse without a timeline has read no source (H19)
                self.lease.pulse(record.covers.position)

    def _mark(self, logged: Logged) -> Record:
        """Raise the marks of a record's scopes: the record, or what it means here."""
        record = logged.record
        if record.timeline and record.covers is not None and record.timeline != self.timeline:
            if self.timeline:
                # The source was restored or failed over: what was loaded from its other life proves nothing (H20).
                record = Record(record.id, (EVERYTHING,), covers=record.covers)
            self.timeline = logged.record.timeline
        self.marks.apply(logged.position, record)
        return record

    def end_here(self, record: Record) -> None:
        """End what a record names that could not be published, on this node alone: see `publish`."""
        with self.lock:
            self.marks.apply(self.applied + 1, record)
            for cell in [cell for scope in record.scopes for cell in self.table.find(scope)]:
                self._rejudge(cell)

    def _rejudge(self, cell: Cell) -> None:
        """Judge a resident entry again, after a record that need not end it: a soft one, or one with a version."""
        verdict = self.marks.judge((cell.key, *cell.scopes), cell.position, cell.key, cell.version)
        if verdict is DEAD:
            self.table.drop(cell)
            self.counts["ended"] += 1
        elif verdict is SOFT and not cell.soft:
            self.table.soften(cell, self.clock())

    # Waiting for a position -----------------------------------------------------------------------------------

    def expect(self, position: int) -> Signal:
        """Give a signal that fires when `position` is applied, or the generation changes; call it under the lock."""
        signal = Signal()
        self._expecting.append((position, signal))
        return signal

    @property
    def expected(self) -> int:
        """How many waiters there are."""
        return len(self._expecting)

    def forget(self, signal: Signal) -> None:
        """Expect it no more: its waiter has given up, or it has fired."""
        self._expecting = [(position, other) for position, other in self._expecting if other is not signal]

    def _wake(self) -> None:
        if not self._expecting:
            return
        due = [signal for position, signal in self._expecting if position <= self.applied]
        self._expecting = [(position, signal) for position, signal in self._expecting if position > self.applied]
        for signal in due:
            signal.fire()
