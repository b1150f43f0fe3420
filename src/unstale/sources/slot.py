"""Change capture from PostgreSQL's own log: a replication slot, read by SQL functions, as a source of the relay.

What a reading proves. Its end is noted first: all that is written by then, flushed or not, since with
`synchronous_commit = off` readers see a commit before it is flushed, and the slot tells what is flushed only. Then the
slot is read up to there. One that tells nothing was read to its end all the same: the server decodes all that is
flushed before it answers.

What is published. A commit is in the log before it is seen: while it waits for a standby, readers see the old row, and
a record of it would be spent in vain (H18):
1. the commit is written to the log, and waits 2. it is decoded, its record published and applied 3. a node loads the
old row, and stamps it later than the record 4. the standby answers: the new row is seen, and nothing ends what is kept.
So a transaction is published when a snapshot that was taken after it was read sees it; until then there is no pulse.

The slot advances when the log has acknowledged. The ids of records follow from the place of their transaction in the
log of one life of the slot: what is read again is known as a repetition.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeVar

import msgspec

from unstale.core.record import Record, encode_record
from unstale.errors import SourceError
from unstale.sources.capture_config import Config
from unstale.sources.connections import connect
from unstale.sources.feed import Part, Row
from unstale.sources.pgoutput import Snapshot, lsn_of, lsn_text
from unstale.sources.slot_admin import CREATE, NOTES, PLUGIN, begin_life, checked_slot, require_postgres, slot_of
from unstale.sources.slot_changes import Gatherer, Told, Trouble
from unstale.sources.slot_sql import MOVE, NOTE, PEEK, STATE, TIMELINE
from unstale.sources.slot_tables import SETTINGS, captured

SCOPES_MAX: Final = 500  # of one record; a transaction that changes more rows gives several
LOOK_S: Final = 0.01
VISIBLE_S: Final = 0.5  # longer, and the relay is told why nothing is proven
IDLE_BYTES: Final = 1 << 20  # a slot that tells nothing is moved on when so much was written
LOST: Final = (
    "everything is invalidated, and captured from here on; give max_slot_wal_keep_size more room if it was lost"
)
ANEW: Final = "the relay looks at it anew"
T = TypeVar("T")


class State(msgspec.Struct, frozen=True):
    """How the slot is found: what is written and flushed, the server's time, the slot's life, and its position.

    Attributes:
        why: Why it is not the one it was.
        lost: It can tell nothing more.
    """

    insert: int = 0
    flush: int = 0
    now_s: float = 0.0
    life: str = ""
    confirmed: int = 0
    why: str = ""
    lost: bool = False


class SlotFeed:
    """The changes of captured tables, as the relay reads them from a replication slot.

    Args:
        url: The database.
        cache: The cache's name.
        config: Which tables are captured, and what their rows end.
        slot: The slot's name, and its publication's; by default that of the cache.
        trouble: Told what was repaired, and what can no longer be told of single rows.

    Raises:
        UsageError: The URL names no PostgreSQL, or the slot's name is none.
        SourceError: The database cannot be reached, or a table cannot be captured.
    """

    def __init__(
        self, url: str, cache: str, config: Config, *, slot: str = "", trouble: Trouble = lambda *_: None
    ) -> None:
        self._slot = checked_slot(slot or slot_of(cache))
        self._trouble = trouble
        self._database = connect(url)
        self._digest = config.digest()
        self._now_s = 0.0
        self._end = self._seen = self._confirmed = self._upto = 0
        self._life = ""
        try:
            require_postgres(self._database)
            for setting in SETTINGS:
                self._database.rows(setting)
            tables = captured(self._database, config)
        except BaseException:
            self._database.close()
            raise
        self._tables = tables
        self._gatherer = Gatherer(tables, trouble)

    def read(self, limit: int, *, first: bool) -> Part:
        """Give the records of transactions that are visible: of `limit` changes, or of one transaction with more."""
        if first:
            self._note_end()
        told, complete = self._peek(limit)
        seen = self._visible(told)
        complete = complete and len(seen) == len(told)
        reached = seen[-1].end_lsn if seen else 0
        self._upto = max(reached, self._end) if complete else reached
        more = not complete and (len(seen) < len(told) or reached < self._end)
        rows = tuple(row for one in seen for row in self._rows(one))
        if not rows and (more or self._upto - self._confirmed > IDLE_BYTES):
            self._advance()  # nothing of it will be settled
        return Part(rows, more, max((self._now_s - one.at_s for one in seen), default=0.0))

    def _note_end(self) -> None:
        """Note up to where this reading goes, and make sure that the slot is the one it was."""
        insert, flush = self._state()
        if flush < insert:  # flushes what lies before it: a commit that does not wait for that is seen already
            self._ask("SELECT pg_logical_emit_message(true, 'unstale', '')")
        self._end = self._seen = insert

    def _state(self) -> tuple[int, int]:
        """Give up to where is written and flushed; a slot that is not the one it was begins another life."""
        state = self._look()
        if state.why:
            self._begin_anew(state)
            state = self._look()
        self._now_s, self._life, self._confirmed = state.now_s, state.life, state.confirmed
        return state.insert, state.flush

    def _look(self, tries: int = 3) -> State:
        ((insert, flush, now_s, life, position, confirmed, status, plugin, ours),) = self._ask(STATE, (self._slot,) * 2)
        if life is None:
            raise SourceError(f"{self._slot} was never made", hint=CREATE)
        if confirmed is None:
            return State(why="is gone")
        if plugin != PLUGIN or not ours:
            msg = f"the slot {self._slot} is another one's: of {plugin}, or of another database"
            raise SourceError(msg, hint="name another one with --slot")
        if status == "lost":
            return State(why="was lost: what it had not told was removed", lost=True)
        if lsn_of(confirmed) > lsn_of(position):  # or another relay moves it on just now: then it shows in a moment
            return self._look(tries - 1) if tries else State(why="was made anew, or moved on by others")
        if self._confirmed and lsn_of(confirmed) > self._confirmed:
            # Who leads reads alone: what others have read, for another cache of this name, it will never be told.
            return State(why="was moved on by others")
        return State(lsn_of(insert), lsn_of(flush), now_s, life, lsn_of(confirmed))

    def _begin_anew(self, state: State) -> None:
        """Begin another life. It is part of the timeline: the next pulse says first that everything is ended (H20).

        1. commits are missed 2. the slot is made: from here on all is told 3. the life is noted: no pulse bears the old
        one any more 4. the pulse of the new one comes after a record that ends everything. A relay that dies at 2 finds
        the slot beyond what was noted, and begins once more.
        """
        if state.lost:
            self._ask("SELECT pg_drop_replication_slot(?)", (self._slot,))
        self._mapped(lambda: begin_life(self._database, self._slot))
        self._confirmed = 0
        self._trouble("capture", SourceError(f"the slot {self._slot} {state.why}", hint=LOST))

    def _peek(self, limit: int) -> tuple[list[Told], bool]:
        """Read transactions without consuming them: was that all that the slot can tell now?"""
        messages = self._stream(PEEK, (self._slot, limit, self._slot))
        told, count = self._gatherer.gather(bytes(data) for (data,) in messages)
        return told, count < limit

    def _visible(self, told: Sequence[Told]) -> Sequence[Told]:
        """Give those from the first on that a fresh read sees; wait a little if that is none (H18)."""
        limit_s = time.monotonic() + VISIBLE_S
        while told:
            snapshot = Snapshot.parse(self._ask("SELECT pg_current_snapshot()::text")[0][0])
            count = next((place for place, one in enumerate(told) if not snapshot.sees(one.xid)), len(told))
            if count:
                return told[:count]
            if time.monotonic() > limit_s:
                msg = f"transaction {told[0].xid} is in the log, and not visible yet"
                raise SourceError(
                    msg, hint="it waits for a standby: see pg_stat_replication; nothing is proven until then"
                )
            time.sleep(LOOK_S)
        return ()

    def _rows(self, one: Told) -> Iterator[Row]:
        for start in range(0, len(one.scopes), SCOPES_MAX):
            place = f"{self._life}/{self._digest}/{one.commit_lsn}/{start}"
            record_id = blake2b(place.encode(), digest_size=16).hexdigest()
            scopes = one.scopes[start : start + SCOPES_MAX]
            record = Record(record_id, scopes, who=self._slot, why="captured", at=one.at_s)
            yield Row(record_id, encode_record(record))

    def settle(self, ids: Sequence[str], dead: Mapping[str, str]) -> None:  # noqa: ARG002 - all that was read
        """Move the slot on: these are published."""
        for one, why in dead.items():
            error = SourceError(f"the record {one} was refused: {why}", hint="everything was invalidated in its place")
            self._trouble("capture", error)
        self._advance()

    def _advance(self) -> None:
        """Move the slot on. Its position is noted before: one beyond what is noted is not the slot that was read."""
        if self._upto <= self._confirmed:
            return
        upto = lsn_text(self._upto)
        if not self._ask(NOTE, (upto, self._slot, self._life)):
            raise SourceError(f"the slot {self._slot} is not the one that was read", hint=ANEW)
        moved = self._ask(MOVE, (upto, self._slot, upto))
        self._confirmed = max([self._upto, *(lsn_of(reached) for (reached,) in moved)])

    def timeline(self) -> str:
        """Name the life of the source: server, timeline, database, slot, and the tables as they are captured.

        Raises:
            SourceError: The slot is not the one that was read, or a table is no longer told.
        """
        found = self._ask(TIMELINE, (self._slot,))
        if not found or not found[0][1]:
            raise SourceError(f"the slot {self._slot} is not the one that was read", hint=ANEW)
        place, _sound, published, _waited = found[0]
        missing = [one.rule.name for one in self._tables if one.number not in published]
        if missing:
            msg = (
                f"{', '.join(missing)}: not in the publication {self._slot}, or only some of its changes, or made anew"
            )
            raise SourceError(msg, hint=f"ALTER PUBLICATION {self._slot} ADD TABLE ..., then restart the relay")
        numbers = sorted(one.number for one in self._tables)
        return f"{place}/{self._digest}/{'.'.join(map(str, numbers))}"

    def dead(self) -> int:
        """Count what was put aside: nothing ever is, everything is invalidated in its place."""
        return 0

    def wait(self, seconds: float) -> bool:
        """Wait until something was written to the log."""
        limit_s = time.monotonic() + seconds
        while True:
            written = lsn_of(self._ask("SELECT pg_current_wal_insert_lsn()::text")[0][0])
            if written != self._seen:
                self._seen = written
                return True
            left_s = limit_s - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(left_s, LOOK_S))

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _ask(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._mapped(lambda: self._database.rows(statement, parameters))

    def _stream(self, statement: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.stream(statement, parameters)
        except SourceError as error:
            raise SourceError(error.message, hint=_hint(error)) from error

    def _mapped(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except SourceError as error:
            raise SourceError(error.message, hint=_hint(error)) from error


def _hint(error: SourceError) -> str:
    if f'"{NOTES}" does not exist' in error.message:
        return CREATE
    if "publication" in error.message:
        return "the publication was dropped: unstale capture slot drop, then create; everything is invalidated once"
    return error.hint
