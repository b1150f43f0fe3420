"""How far a physical replica of PostgreSQL is behind its primary, at most, by this process's own clock.

The position of the primary's write-ahead log is noted with the moment before it was asked for. All that was visible
there at that moment lies before that position, since a commit writes its record before anybody sees it. A replica that
has replayed that far therefore shows all of it:

    1. 10.00 s: the primary's log ends at 700     2. 10.05 s: it ends at 900
    3. 10.06 s: the replica has replayed 800: it shows what the primary showed at 10.00 s, so it is 60 ms behind at most

No clock of another machine takes part, and no time that the replica waits for anything is left out: with
`recovery_min_apply_delay`, a conflict or a slow network, the position that it has replayed stays behind as it does.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from unstale.clock import boottime
from unstale.core.durations import Duration, seconds
from unstale.errors import SourceError, UsageError
from unstale.sources.connections import Database, connect

NOTES_MAX: Final = 4096
AGAIN_S: Final = 0.5  # after a failure
SHORT_HEADER: Final = 24  # bytes before the first record of a page of the log
LONG_HEADER: Final = 40  # and of a segment

# The position up to which records are inserted: one that is not flushed yet may be of a commit that is visible.
PRIMARY: Final = """
SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system())::text,
  CASE WHEN NOT pg_is_in_recovery() THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
  CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint END,
  (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
  (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_block_size')
"""
# The timeline that it follows; who may not see what it receives is told the one of its last restart point.
REPLICA: Final = """
SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system())::text,
  coalesce((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint())),
  pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint
"""


class Life(NamedTuple):
    """Within one of these, positions of the log compare: a promoted server begins another timeline."""

    system: str
    timeline: int


class Shown:
    """The moment that a replica shows, from positions noted at the primary and those that it has replayed."""

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int]] = deque(maxlen=NOTES_MAX)
        self._life: Life | None = None
        self.moment: float | None = None

    def forget(self) -> None:
        """Know nothing of the replica any more: after a restart it may show less than before, for a moment."""
        self.moment = None

    def note(self, moment: float, life: Life, position: int) -> None:
        """Take in that all that the primary showed at a moment lies before a position."""
        if life != self._life:
            self._notes.clear()
            self._life, self.moment = life, None
        if self._notes and self._notes[-1][1] == position:
            self._notes.pop()  # nothing was written since: the later moment is as well covered
        self._notes.append((moment, position))

    def replayed(self, life: Life, position: int) -> None:
        """Take in how far the replica has come."""
        if life != self._life:
            self.moment = None
            return
        while self._notes and self._notes[0][1] <= position:
            self.moment = self._notes.popleft()[0]


def end_of_records(position: int, segment: int, block: int) -> int:
    """Give the end of the last record before a position at which the next one would begin.

    At the start of a page these differ by its header, and a replica that has replayed all would never be there.
    """
    for header, size in ((LONG_HEADER, segment), (SHORT_HEADER, block)):
        if position % size == header:
            return position - header
    return position


class PostgresReplica:
    """Tells how many seconds a replica is behind, at most: `Policy(replica=PostgresReplica(primary_url, replica_url))`.

    A thread of this process, started by the first call, asks both servers every `every`. A call reads memory only. The
    answer is None until both have answered, and it grows while one of them does not.

    Args:
        primary: URL of the primary. It needs no rights beyond being let in.
        replica: URL of the one server from which loaders read: behind a balancer, two would be taken for one.
        every: How often they are asked; what is told is larger than the true lag by about so much.

    Raises:
        UsageError: A URL that names no PostgreSQL.
        DurationError: A duration that cannot be read.
    """

    def __init__(self, primary: str, replica: str, *, every: Duration = "50ms") -> None:
        for url in (primary, replica):
            if not isinstance(url, str) or url.partition("://")[0].partition("+")[0] not in {"postgresql", "postgres"}:
                msg = "a replica is measured between two servers of PostgreSQL"
                raise UsageError(
                    msg, hint='write PostgresReplica("postgresql://primary/shop", "postgresql://replica/shop")'
                )
        self._primary, self._replica = primary, replica
        self._every_s = seconds(every, "every")
        if self._every_s <= 0:
            raise UsageError("every= must be longer than nothing", hint='write every="50ms"')
        self._starting = threading.Lock()
        self._pid = 0
        self._begin()

    def _begin(self) -> None:
        self._stop = threading.Event()
        self._shown = Shown()
        self._trouble: tuple[str, str] = ("", "")

    def __call__(self) -> float | None:
        """Give the lag at most, in seconds; None where nothing is known yet.

        Raises:
            SourceError: Nothing is known, for a server cannot be reached, or is not what it should be.
        """
        if self._pid != os.getpid():
            self._start()
        shown = self._shown.moment
        if shown is not None:
            return max(0.0, boottime() - shown)
        message, hint = self._trouble
        if message:
            raise SourceError(message, hint=hint)
        return None

    def _start(self) -> None:
        """Start the thread, once a process: a forked child has none."""
        with self._starting:
            if self._pid == os.getpid():
                return
            self._begin()
            self._pid = os.getpid()
            work = threading.Thread(
                target=self._work, args=(self._stop,), name="unstale: lag of a replica", daemon=True
            )
            work.start()

    def _work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with _connected(self._primary) as primary, _connected(self._replica) as replica:
                    while not stop.wait(self._every_s):
                        self._ask(primary, replica)
                        self._trouble = ("", "")
            except Exception as error:  # noqa: BLE001 - whatever a driver raises: the next load tells of it
                self._shown.forget()
                self._trouble = (f"the lag of a replica is not known: {error}", getattr(error, "hint", ""))
                stop.wait(AGAIN_S)

    def _ask(self, primary: Database, replica: Database) -> None:
        """Ask both servers once: the primary first.

        Raises:
            SourceError: One does not answer, or is not what it should be.
        """
        moment = boottime()
        ((recovers, system, timeline, inserted, segment, block),) = primary.rows(PRIMARY)
        if recovers:
            raise SourceError(f"{primary.place} is no primary", hint="give the URL of the server that is written to")
        ours = Life(str(system), int(timeline))
        self._shown.note(moment, ours, end_of_records(int(inserted), int(segment), int(block)))
        ((recovers, system, timeline, replayed),) = replica.rows(REPLICA)
        if not recovers or str(system) != ours.system or replayed is None:
            msg = f"{replica.place} is no physical replica of {primary.place}"
            raise SourceError(msg, hint="give the URL of one that streams from it; to it nothing but loads may go")
        self._shown.replayed(Life(str(system), int(timeline)), int(replayed))

    def close(self) -> None:
        """Stop asking; a later call begins anew."""
        with self._starting:
            self._stop.set()
            self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def _connected(url: str) -> Iterator[Database]:
    database = connect(url)
    try:
        yield database
    finally:
        database.close()
