"""The relay: publishes what a source tells, and writes the pulses from which leases are proven.

Any number of relays may run; one leads, as long as it holds a lock in the store. The lock spares work, nothing rests on
it: two that lead at once publish the same records under the same ids, and each deletes only what the log has
acknowledged to it. So a leader that was stopped, and goes on when another has taken over, does no harm.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from unstale.core.calls import ready
from unstale.core.durations import Duration, seconds
from unstale.core.publish import catch_up
from unstale.core.record import EVERYTHING, Record, read_record
from unstale.core.tail import BEAT_SHARE, Drained, forward, pulse
from unstale.errors import ClosedError, EngineError, PolicyError, UnavailableError, UnstaleError, UsageError
from unstale.sources.capture import CaptureError
from unstale.sources.capture_change import read_change
from unstale.sources.dialects import TABLE, checked
from unstale.sources.feed import Feed, Part
from unstale.sources.outbox import OutboxFeed

if TYPE_CHECKING:
    from unstale.cache import Cache

BATCH: Final = 500  # records a call: the round trip, not the record, is what a small one pays for
LOCK: Final = "relay"
TERM_S: Final = 0.6  # who leads says so anew in half of it; whoever waits takes over within a second
RETRY_MIN_S: Final = 0.02
RETRY_MAX_S: Final = 0.5
LINGER_S: Final = 0.01  # what is committed meanwhile goes along, and most of it its own process has published by then
TRIES: Final = 3  # of a part, before each of its records is tried for itself
DEAD_EVERY_S: Final = 10.0
STOP_S: Final = 2.0
UNREADABLE: Final = "its bytes are no record that this version can read"
_live: weakref.WeakSet[Relay] = weakref.WeakSet()


class DeadLettersError(UnstaleError):
    """Records of an outbox were put aside: in place of each of them everything was invalidated."""

    culprit = "origin"


class Relay:
    """Publishes what the outbox of a database tells for one cache, and pulses.

    Args:
        cache: The cache; made with `truth="outbox"`.
        database: The database's URL, or a function that opens another kind of source.
        table: The name of the outbox's table.
        interval: How often it pulses; by default often enough for the cache's `max_staleness`.
        batch: Records a call, at most.

    Attributes:
        lag_s: How old the oldest record was when the source was last read, in seconds by the database's clock.
        published: How many records it has published.
        pulses: How many pulses it has written.
        leads: It holds the lock.

    Raises:
        PolicyError: The interval is too long for the cache's bound.
        UsageError: The cache does not wait for a relay, or the table's name is none.
    """

    def __init__(
        self,
        cache: Cache,
        database: str | Callable[[], Feed],
        *,
        table: str = TABLE,
        interval: Duration | None = None,
        batch: int = BATCH,
    ) -> None:
        if not cache.node.relayed:
            msg = "the cache of a relay proves its freshness without it"
            raise UsageError(msg, hint='say so on all nodes, and here too: Cache(..., truth="outbox")')
        checked(table)
        self.cache = cache
        self._interval_s = None if interval is None else seconds(interval, "interval")
        if not 0 < self.interval_s <= cache.node.poll_wait_s / 2:
            msg = f"interval={interval!r} leaves reads unproven within max_staleness={cache.node.max_staleness_s:g} s"
            own_ms = cache.node.poll_wait_s * BEAT_SHARE * 1000
            raise PolicyError(msg, hint=f'leave it out, or write interval="{own_ms:.0f}ms"')
        self.batch = batch
        self._open: Callable[[], Feed]
        self._open = (lambda: OutboxFeed(database, cache.name, table=table)) if isinstance(database, str) else database
        self.lag_s = 0.0
        self.published = 0
        self.pulses = 0
        self.leads = False
        self._feed: Feed | None = None
        self._parents: Feed | None = None
        self._token: int | None = None
        self._renew_at = self._pulse_at = self._dead_at = float("-inf")
        self._failures = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        _live.add(self)

    @property
    def interval_s(self) -> float:
        """How often it pulses, in seconds; by default as the smallest bound of the cache's functions asks for."""
        return self.cache.node.poll_wait_s * BEAT_SHARE if self._interval_s is None else self._interval_s

    # Its life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Relay in a thread of this process, and in one of each forked child, until `stop`; a second time, nothing."""
        if self._thread is not None:
            return
        self._stopped = threading.Event()
        name = f"unstale: relay of {self.cache.name}"
        self._thread = threading.Thread(target=self.run, args=(self._stopped,), name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; another relay takes over at once. Idempotent."""
        thread, self._thread = self._thread, None
        self._stopped.set()
        if thread is not None:
            thread.join(STOP_S)

    def reborn(self) -> None:
        """Start anew in a forked child, if it ran: the connection is the parent's, and is neither used nor closed."""
        ran, self._thread = self._thread is not None, None
        self._parents = self._feed  # kept: a driver may close what is thrown away
        self._feed, self._token, self.leads = None, None, False
        if ran:
            self.start()

    def once(self) -> int:
        """Publish all that the source tells, and one pulse, whoever leads: how many records that were.

        Raises:
            SourceError: The source cannot be read.
            EngineError: The log failed.
        """
        before = self.published
        try:
            self._join()
            self._pulse()
        finally:
            self._close()
        return self.published - before

    def run(self, stopped: threading.Event) -> None:
        """Relay in this thread until told to stop, or the cache is closed; what fails is reported and tried again."""
        retry_s = RETRY_MIN_S
        while not stopped.is_set():
            try:
                self._turn(stopped)
                retry_s = RETRY_MIN_S
            except ClosedError:
                break
            except Exception as error:  # noqa: BLE001 - a relay that died would leave all nodes unproven for ever
                self._failures += isinstance(error, EngineError)
                self.cache.node.trouble("relay", error)
                if not isinstance(error, EngineError | CaptureError):
                    self._close()
                stopped.wait(retry_s * (0.5 + self.cache.node.random()))
                retry_s = min(retry_s * 2, RETRY_MAX_S)
        self._close()
        self._resign()

    # One turn of it -------------------------------------------------------------------------------------------------

    def _turn(self, stopped: threading.Event) -> None:
        """Pulse, when it is time; else wait for something to read, and publish it."""
        node = self.cache.node
        self._join()
        if not self._lead():
            self._close()  # one connection to the database is enough for all relays
            stopped.wait(TERM_S / 3)
            return
        now = node.clock()
        if now >= self._pulse_at:
            self._pulse_at = now + self.interval_s
            self._pulse()
        else:  # also where nothing was announced: its process may have died, or a pooler keeps it back
            if self._source().wait(min(self._pulse_at - now, TERM_S / 2)):
                stopped.wait(LINGER_S)
            self.cache.run(forward(node, self._drain(), sift=self._failures >= TRIES))
            self._failures = 0

    def _join(self) -> None:
        """Make sure that this node knows the log: without that it would not know the timeline of the last pulse."""
        node = self.cache.node
        if node.generation is None:
            self.cache.run(ready(node))
        if node.generation is None:
            raise UnavailableError("the log has not answered yet", hint="the relay waits for it")

    def _lead(self) -> bool:
        """Take the lock, or keep it."""
        clock, store = self.cache.node.clock, self.cache.ports.store
        if self.leads and clock() < self._renew_at:
            return True
        try:
            if self._token is not None:
                store.unlock(LOCK, self._token)
            self._token = store.lock(LOCK, TERM_S)
            self.leads = self._token is not None
        except EngineError as error:
            self.cache.node.trouble("relay lock", error)
            self._token, self.leads = None, True  # nobody can say who leads, and two that do are harmless
        self._renew_at = clock() + TERM_S / 2
        return self.leads

    def _resign(self) -> None:
        token, self._token, self.leads = self._token, None, False
        if token is not None:
            try:
                self.cache.ports.store.unlock(LOCK, token)
            except EngineError as error:
                self.cache.node.trouble("relay lock", error)

    def _pulse(self) -> None:
        """Publish all that there is, and a pulse; and look whether anything was put aside."""
        node = self.cache.node
        try:
            appended = self.cache.run(pulse(node, self._drain(pulsing=True), sift=self._failures >= TRIES))
        except CaptureError:  # what is told is published all the same, and proves nothing
            self.cache.run(forward(node, self._drain(), sift=self._failures >= TRIES))
            raise
        self._failures = 0
        self.pulses += 1
        if appended.records[-1].record.timeline != node.timeline:
            self.cache.run(catch_up(node))  # or the next pulse would say once more that the timeline is another one
        if node.clock() >= self._dead_at:
            self._dead_at = node.clock() + DEAD_EVERY_S
            dead = self._source().dead()
            if dead:
                msg = f"{dead:,} records of the outbox were put aside, and everything was invalidated in their place"
                hint = "see `unstale outbox dead`, then `unstale outbox replay` or `discard`"
                node.trouble("relaying all records", DeadLettersError(msg, hint=hint))

    def _drain(self, *, pulsing: bool = False) -> Callable[[], Drained]:
        """Give what reads the source to its end, from now on, part by part; its timeline is for pulses alone."""
        feed = self._source()
        first = True

        def drain() -> Drained:
            nonlocal first
            part, first = feed.read(self.batch, first=first), False
            self.lag_s = part.lag_s
            records, unreadable = records_of(part)

            def settle(refused: Mapping[str, str]) -> None:
                dead = {**refused, **unreadable}
                if dead:
                    self._dead_at = float("-inf")  # with the next pulse it is told
                feed.settle([row.id for row in part.rows], dead)
                self.published += len(part.rows)

            return Drained(records, feed.timeline() if pulsing and not part.more else "", part.more, settle)

        return drain

    def _source(self) -> Feed:
        if self._feed is None:
            self._feed = self._open()
        return self._feed

    def _close(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()


def records_of(part: Part) -> tuple[tuple[Record, ...], dict[str, str]]:
    """Give the records that rows hold; for one that cannot be read, by its id, why, and a record that ends everything.

    That has another id: the row may be readable to another version, and is then to be published as what it is (H28).
    """
    unreadable: dict[str, str] = {}
    records = []
    for row in part.rows:
        record = read_record(row.data, row.id) or read_change(row.data, row.id)
        if record is None or record.covers is not None:
            unreadable[row.id] = UNREADABLE
            record = Record(f"{row.id}.unreadable", (EVERYTHING,), why="unreadable record of the outbox")
        records.append(record)
    return tuple(records), unreadable


def _after_fork_in_child() -> None:
    for relay in list(_live):
        relay.reborn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
