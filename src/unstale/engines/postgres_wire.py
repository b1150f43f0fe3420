"""One connection to PostgreSQL, as libpq makes it: its waits are ours, so that each of them can come to an end.

psycopg's own connections wait for an answer as long as it takes, and a frozen server never gives one. So the wrapper of
libpq that comes with psycopg is driven here: what is asked is a generator that says whenever it has to wait for its
socket, and whoever runs it, a thread or an event loop, waits for no longer than the time for an answer.
"""

from __future__ import annotations

import contextlib
import select
import struct
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Final, TypeAlias

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGcancelConn, PGconn, PGresult

from unstale.engines.postgres_errors import ServerError

Row: TypeAlias = tuple[bytes | None, ...]
Param: TypeAlias = bytes | str | int | float | bool | None
Moves: TypeAlias = Generator[bool, None, list[Row]]

BINARY: Final = 1
PREPARE_AT: Final = 3  # so many uses on one connection, and a statement is prepared there
BYTEA_OID: Final = 17
ARRAY: Final = struct.Struct(">iiiii")
INT: Final = struct.Struct(">i")
DONE: Final = frozenset({pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY})
BREAKS: Final = (OSError, psycopg.Error)
UNACKNOWLEDGED: Final = b"SyncRepWaitForLSN"  # the server's function that warns: its texts are translated
MS: Final = 1000
# Functions of ours rely on seeing, after they have waited for a lock, what its last holder wrote (H21).
SETUP: Final = """SELECT set_config('statement_timeout', $1, false), set_config('search_path', 'pg_catalog', false),
    set_config('default_transaction_isolation', 'read committed', false)"""


class Statement:
    """A statement, with $1, $2, ... for what is given.

    Args:
        name: Of the prepared statement.
        text: Its text.
    """

    __slots__ = ("name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name.encode()
        self.text = text.encode()


class Wire:
    """One connection, connected and set up.

    Args:
        conninfo: What libpq connects by.
        timeout_s: What any answer may take, in seconds.
        connect_s: What connecting may take, in seconds.

    Attributes:
        used: It has answered before: should it break now, a new one may well answer.

    Raises:
        OSError: It does not answer in time.
        psycopg.Error: It cannot be reached, or refuses.
    """

    def __init__(self, conninfo: str, timeout_s: float, connect_s: float) -> None:
        self.used = False
        self._timeout_s = timeout_s
        self._uses: dict[bytes, int] = {}
        self._alone = False
        self._pgconn: PGconn = pq.PGconn.connect_start(conninfo.encode())
        pgconn = self._pgconn
        try:
            self._connect(pgconn, time.monotonic() + connect_s)
            pgconn.nonblocking = 1
            pgconn.notice_handler = self._noticed
            patience_ms = int(timeout_s * MS * 0.9)  # the server gives up first, and says that nothing was done
            self.ask(Statement("setup", SETUP), (str(patience_ms),))
            self.used = False
        except BaseException:
            pgconn.finish()
            raise

    @staticmethod
    def _connect(pgconn: PGconn, until: float) -> None:
        state: int = pq.PollingStatus.WRITING
        while state != pq.PollingStatus.OK:
            if state == pq.PollingStatus.FAILED or pgconn.status == pq.ConnStatus.BAD:
                raise ConnectError(pgconn)
            # The socket may be another one by now: libpq tries the addresses of a host in turn.
            _wait(pgconn.socket, until, write=state == pq.PollingStatus.WRITING)
            state = pgconn.connect_poll()

    def _noticed(self, notice: PGresult) -> None:
        """Hear that a wait for the synchronous standby was cancelled: its commit is told as done all the same."""
        if notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION) == UNACKNOWLEDGED:
            self._alone = True

    @property
    def socket(self) -> int:
        """The file descriptor to wait on."""
        return self._pgconn.socket

    def ask(self, statement: Statement, params: Sequence[Param]) -> list[Row]:
        """Run a statement, and wait for its answer in this thread."""
        until = time.monotonic() + self._timeout_s
        moves = self.moves(statement, params)
        try:
            while True:
                _wait(self._pgconn.socket, until, write=next(moves))
        except StopIteration as done:
            rows: list[Row] = done.value
            return rows

    def moves(self, statement: Statement, params: Sequence[Param]) -> Moves:
        """Run a statement: each step says whether it has to wait until more can be sent, or only received.

        Raises:
            ServerError: The server answered with an error.
            psycopg.Error: The connection is broken.
        """
        pgconn = self._pgconn
        values = [_encoded(param) for param in params]
        formats = [BINARY if isinstance(param, bytes) else 0 for param in params]
        uses = self._uses[statement.name] = self._uses.get(statement.name, 0) + 1
        if uses == PREPARE_AT:
            pgconn.send_prepare(statement.name, statement.text)
            yield from self._answer()
        if uses < PREPARE_AT:
            pgconn.send_query_params(statement.text, values, param_formats=formats, result_format=BINARY)
        else:
            pgconn.send_query_prepared(statement.name, values, param_formats=formats, result_format=BINARY)
        self._alone = False
        result = yield from self._answer()
        self.used = True
        if self._alone:
            raise ServerError("57000", "it has committed, but no synchronous standby has acknowledged that")
        columns = range(result.nfields)
        return [tuple([result.get_value(row, column) for column in columns]) for row in range(result.ntuples)]

    def _answer(self) -> Generator[bool, None, PGresult]:
        pgconn = self._pgconn
        while pgconn.flush():
            yield True
            pgconn.consume_input()
        last: PGresult | None = None
        while True:
            while pgconn.is_busy():
                yield False
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            last = result
        if last is None:
            raise psycopg.OperationalError("the server has closed the connection")
        if last.status not in DONE:
            code = last.error_field(pq.DiagnosticField.SQLSTATE)
            text = (last.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
            if code is None:  # libpq's own, not the server's
                raise psycopg.OperationalError(last.get_error_message())
            raise ServerError(code.decode(), text)
        return last

    def forget_notices(self) -> None:
        """Forget what was notified by now."""
        while self._pgconn.notifies():
            pass

    def hears(self) -> bool:
        """Take in what has arrived: was there a notification?"""
        self._pgconn.consume_input()
        heard = self._pgconn.notifies() is not None
        self.forget_notices()
        return heard

    def abandon(self) -> None:
        """Close it, with an answer still on its way, and ask the server to give up what it does.

        It gives up by itself what takes too long, but not a commit that waits for a synchronous standby: 1. the standby
        is out 2. each append waits, and is given up by us 3. their sessions wait on, until there is room for no other.
        """
        cancel = getattr(self._pgconn, "cancel_conn", None)
        try:
            if cancel is not None and psycopg.capabilities.has_cancel_safe():
                asked = cancel()
                threading.Thread(
                    target=_cancel, args=(asked, self._timeout_s), name="unstale: cancel", daemon=True
                ).start()
        except (RuntimeError, *BREAKS):  # no more threads, or the connection is none
            pass
        self.close()

    def close(self) -> None:
        """Close it; never in a forked child, where it is the parent's."""
        self.used = False
        self._pgconn.finish()


class ConnectError(psycopg.OperationalError):
    """There is no connection."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(" ".join(pgconn.get_error_message().split()) or "no connection")
        self.password = bool(pgconn.used_password or pgconn.needs_password)


def _cancel(asked: PGcancelConn, timeout_s: float) -> None:
    """Ask the server to give up a statement."""
    until = time.monotonic() + timeout_s
    with contextlib.suppress(*BREAKS):
        asked.start()
        while (state := asked.poll()) not in {pq.PollingStatus.OK, pq.PollingStatus.FAILED}:
            _wait(asked.socket, until, write=state == pq.PollingStatus.WRITING)
    asked.finish()


def _wait(socket: int, until: float, *, write: bool) -> None:
    """Wait until a socket can be read, or written to."""
    poll = select.poll()
    poll.register(socket, select.POLLIN | (select.POLLOUT if write else 0))
    left_s = until - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * MS):
        raise TimeoutError("no answer in time")


def _encoded(param: Param) -> bytes | None:
    if param is None or isinstance(param, bytes):
        return param
    if isinstance(param, bool):
        return b"t" if param else b"f"
    return param.encode() if isinstance(param, str) else repr(param).encode()


def array(values: Iterable[bytes]) -> bytes:
    """Give the wire form of an array of `bytea`."""
    parts = [INT.pack(len(value)) + value for value in values]
    if not parts:
        return INT.pack(0) + INT.pack(0) + INT.pack(BYTEA_OID)
    return ARRAY.pack(1, 0, BYTEA_OID, len(parts), 1) + b"".join(parts)


def numbers(values: Iterable[float | None]) -> str:
    """Give the text form of an array of numbers."""
    return "{" + ",".join("NULL" if value is None else repr(value) for value in values) + "}"


def items(data: bytes | None) -> list[bytes]:
    """Read an array in its wire form: the bytes of its items."""
    if not data or INT.unpack_from(data)[0] == 0:
        return []
    (count,), at = INT.unpack_from(data, 12), 20
    found = []
    for _ in range(count):
        (size,) = INT.unpack_from(data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def number(data: bytes | None) -> int:
    """Read an integer in its wire form; nothing is 0."""
    return int.from_bytes(data or b"", "big", signed=True)
