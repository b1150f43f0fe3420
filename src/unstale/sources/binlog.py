"""Change capture from the binary log of MariaDB or MySQL, as a source of the relay.

A reading begins with a mark: a random text, written into the capture's own row of `unstale_capture` and committed. The
reading ends where the log tells that mark, and that proves two things.
- All that was committed before the reading began is told: the mark was committed after it, and the log is in the order
  of commits.
- All that is told is visible (H18). A commit is in the log before readers see it: while it is flushed, or waits for a
  replica, a record of it would be spent in vain [MySQL #120471]. But commits become visible in the order of the log
  (MariaDB always, MySQL with `binlog_order_commits`), and the commit of the mark has returned: it is visible, and so is
  all that lies before it. What is told after it waits for the next mark.

The place from which the next relay goes on is that of an earlier mark: all before it is published. It is noted beside
the mark, and the next relay begins by finding that mark there. A log that was purged, begun anew or restored has none,
or another one: then commits may have been missed, and another life begins, which ends everything (H20).
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import HeartbeatLogEvent
from pymysqlreplication.row_event import RowsEvent

from unstale.core.record import Record, encode_record
from unstale.errors import SourceError
from unstale.sources.binlog_events import EVENTS, Gatherer, Told, Trouble
from unstale.sources.binlog_tables import Tables, check_settings
from unstale.sources.capture_config import Config
from unstale.sources.connections import LOOK, TIMEOUT_S, connect
from unstale.sources.feed import Part, Row

NOTES: Final = "unstale_capture"
TABLE: Final = f"""CREATE TABLE IF NOT EXISTS {NOTES} (
  name varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
  life varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  mark varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  file varchar(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  position bigint NOT NULL,
  mark_there varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
) ENGINE = InnoDB"""
TIMELINE: Final = f"""SELECT concat_ws('/', @@server_id, database(), n.name, n.life,
  (SELECT create_time FROM information_schema.tables WHERE table_schema = database() AND table_name = '{NOTES}'))
FROM {NOTES} n WHERE n.name = ? AND n.life = ?"""
SCOPES_MAX: Final = 500
BEAT_S: Final = 0.02  # so often the server says that there is nothing new
READ_S: Final = 10.0
LOST: Final = "everything is invalidated, and captured from here on; keep the log for longer if it was purged"
NAME_CHARS_MAX: Final = 64


class BinlogFeed:
    """The changes of captured tables, as the relay reads them from the binary log.

    Args:
        url: The database, in which `unstale_capture` lies.
        cache: The cache's name.
        config: Which tables are captured, and what their rows end.
        trouble: Told what was repaired, and what can no longer be told of single rows.

    Raises:
        UsageError: The URL names no MariaDB or MySQL.
        SourceError: The database cannot be reached, its log does not tell enough, or a table cannot be captured.
    """

    def __init__(self, url: str, cache: str, config: Config, *, trouble: Trouble = lambda _what, _error: None) -> None:
        digest = blake2b(cache.encode(), digest_size=16).hexdigest()
        self._name = cache if len(cache) <= NAME_CHARS_MAX else digest
        self._config = config
        self._trouble = trouble
        self._database = connect(url)
        self._stream: Any = None
        self._queue: deque[Told] = deque()  # read, and not settled
        self._given = 0
        self._target = self._awaited = self._life = ""
        self._found: tuple[str, int, str] | None = None  # the latest mark that was read, and where it begins
        self._at: tuple[str, int] = ("", 0)  # where the latest transaction ended
        self._seen_mark = ""
        self._mine: set[str] = set()  # marks that were written here, and not read yet
        self._alone = False  # the first of them was read: from then on nobody else writes any
        self._now_s = 0.0
        try:
            check_settings(self._database)
            self._gatherer = Gatherer(Tables(self._database, config), trouble)
            self._database.rows(TABLE)
            self._begin()
        except BaseException:
            self.close()
            raise

    # Its life -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Go on from where the last relay was, or begin a life where there is none."""
        found = self._database.rows(
            f"SELECT life, file, position, mark_there FROM {NOTES} WHERE name = ?", (self._name,)
        )
        if not found:
            self._begin_anew()
            return
        self._life, file, position, self._awaited = found[0]
        self._open(file, int(position))

    def _begin_anew(self, why: str = "") -> None:
        """Begin another life. It is part of the timeline: the next pulse says first that everything is ended (H20).

        The place is taken before the mark is written: the first mark from there on is this one, or another relay's.
        """
        status = self._database.rows("SHOW MASTER STATUS")
        file, position = str(status[0][0]), int(status[0][1])
        self._life, self._awaited = uuid.uuid4().hex, uuid.uuid4().hex
        values = (self._name, self._life, self._awaited, file, position, self._awaited)
        self._database.rows(f"REPLACE INTO {NOTES} VALUES (?, ?, ?, ?, ?, ?)", values)
        if why:
            self._trouble("capture", SourceError(f"the log of {self._database.place} {why}", hint=LOST))
        self._queue.clear()
        self._found = None
        self._open(file, position)

    def _open(self, file: str, position: int) -> None:
        self._close_stream()
        to: Any = self._database.connection
        settings = {
            "host": to.host, "port": to.port, "user": to.user, "password": to.password, "unix_socket": to.unix_socket,
            "connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S,
        }  # fmt: skip
        left = 2  # one for the log, one for questions; a stream that was cut off is not to go on by itself

        def once(**how: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise pymysql.err.OperationalError(0, "the connection was cut off")
            return pymysql.connect(database=how.pop("db", None), **how)  # `db` is a name of old

        self._at = (file, position)
        self._stream = BinLogStreamReader(
            settings, server_id=int.from_bytes(os.urandom(3), "big") | 0x70000000, blocking=True, resume_stream=True,
            log_file=file, log_pos=position, only_events=EVENTS, slave_heartbeat=BEAT_S, pymysql_wrapper=once,
            enable_logging=False,
        )  # fmt: skip

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, limit: int, *, first: bool) -> Part:
        """Give the records of up to `limit` transactions that lie before the reading's mark."""
        if first:
            if self._gatherer.redefined:
                self._gatherer.tables = Tables(self._database, self._config)
                self._gatherer.redefined = False
            self._mark()
        limit_s = time.monotonic() + READ_S
        while self._seen_mark != self._target and len(self._queue) < limit:
            self._fetch()
            if time.monotonic() > limit_s:
                msg = f"the log of {self._database.place} does not tell what was committed {READ_S:g} s ago"
                raise SourceError(msg, hint=f"is {NOTES} left out of it, or sql_log_bin off for this user?")
        told = [one for _, one in zip(range(limit), self._queue, strict=False)]
        self._given = len(told)
        more = self._seen_mark != self._target or len(self._queue) > len(told)
        rows = tuple(row for one in told for row in self._rows(one))
        return Part(rows, more, max((self._now_s - one.at_s - 1 for one in told), default=0.0))  # told in whole seconds

    def _mark(self) -> None:
        """Write the mark at which this reading ends, and beside it from where the next relay goes on.

        1. a mark is read 2. all before it is settled: the queue is empty 3. the next mark notes where the former lies
        """
        settled = self._found if not self._queue else None
        mark = uuid.uuid4().hex
        place = "" if settled is None else ", file = ?, position = ?, mark_there = ?"
        try:
            self._database.rows(
                f"UPDATE {NOTES} SET mark = ?{place} WHERE name = ? AND life = ?",
                (mark, *(settled or ()), self._name, self._life),
            )
            ((life, written, now_s),) = self._database.rows(
                f"SELECT life, mark, unix_timestamp(current_timestamp(6)) FROM {NOTES} WHERE name = ?", (self._name,)
            ) or (("", "", 0.0),)
        except SourceError as error:
            raise SourceError(error.message, hint=LOOK) from error
        if life != self._life or written != mark:
            raise SourceError(f"another relay has begun a life of {self._name}", hint="one of them goes on")
        self._target, self._now_s = mark, float(now_s)
        self._mine.add(mark)

    def _fetch(self) -> bool:
        """Take in the next event: was there any?"""
        try:
            event = self._stream.fetchone()
        except (pymysql.Error, OSError) as error:
            code = error.args[0] if error.args else 0
            if code == pymysql.constants.ER.MASTER_FATAL_ERROR_READING_BINLOG:
                self._begin_anew(f"was purged or begun anew: {error.args[-1]}")
                raise SourceError("the log does not reach back to where it was read", hint=LOST) from error
            raise SourceError(f"{self._database.place}: {error}", hint=LOOK) from error
        if event is None or isinstance(event, HeartbeatLogEvent):
            return False
        if isinstance(event, RowsEvent) and event.table == NOTES:
            self._take_mark(event)
            return True
        scopes = self._gatherer.take(event)
        if scopes is not None:
            self._at = (self._stream.log_file, self._stream.log_pos)
            if scopes:
                self._queue.append(Told(f"{self._at[0]}:{self._at[1]}", event.timestamp, scopes))
        return True

    def _take_mark(self, event: Any) -> None:
        for row in event.rows:
            values = row.get("after_values", row.get("values"))
            if values.get("name") != self._name:
                continue
            mark = str(values["mark"])
            if self._awaited not in {"", mark}:
                self._begin_anew("is not the one that was read before")
                raise SourceError("the log does not hold the mark that was noted", hint=LOST)
            if self._alone and mark not in self._mine:
                # 1. another relay notes how far it has read, for another cache of this name 2. this one ends 3. the
                # next one goes on from there, and is never told what lay between.
                self._begin_anew("is read by another relay at the same time, for another cache of this name")
                raise SourceError(f"two relays write marks for {self._name}", hint="give each cache a name of its own")
            self._alone |= mark in self._mine
            self._mine.discard(mark)
            self._awaited, self._seen_mark, self._found = "", mark, (*self._at, mark)

    def _rows(self, one: Told) -> list[Row]:
        rows = []
        for start in range(0, len(one.scopes), SCOPES_MAX):
            place = f"{self._life}/{self._config.digest()}/{one.place}/{start}"
            record_id = blake2b(place.encode(), digest_size=16).hexdigest()
            scopes = one.scopes[start : start + SCOPES_MAX]
            record = Record(record_id, scopes, who=f"binlog of {self._name}", why="captured", at=one.at_s)
            rows.append(Row(record_id, encode_record(record)))
        return rows

    def settle(self, ids: Sequence[str], dead: Mapping[str, str]) -> None:  # noqa: ARG002 - all that was given
        """Forget what was given: it is published."""
        for one, why in dead.items():
            error = SourceError(f"the record {one} was refused: {why}", hint="everything was invalidated in its place")
            self._trouble("capture", error)
        for _ in range(self._given):
            self._queue.popleft()
        self._given = 0

    def timeline(self) -> str:
        """Name the life of the source: server, database, life of the capture, and what is captured.

        Raises:
            SourceError: Another life has begun.
        """
        found = self._database.rows(TIMELINE, (self._name, self._life))
        if not found:
            raise SourceError(f"another relay has begun a life of {self._name}", hint="one of them goes on")
        return f"{found[0][0]}/{self._config.digest()}"

    def dead(self) -> int:
        """Count what was put aside: nothing ever is, everything is invalidated in its place."""
        return 0

    def wait(self, seconds: float) -> bool:
        """Wait until the log tells something of the captured tables."""
        limit_s = time.monotonic() + seconds
        while not self._queue:
            if time.monotonic() > limit_s:
                return False
            self._fetch()
        return True

    def close(self) -> None:
        """Close the connections."""
        self._close_stream()
        self._database.close()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):  # what fails then does not matter
                stream.close()
