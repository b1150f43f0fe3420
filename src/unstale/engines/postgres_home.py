"""The server of one engine: whether it is out, what makes its tables, and what is done about its errors.

What an engine does is a generator of statements; here each of them becomes moves that a thread or an event loop makes,
the same for both: ask the server, and where a table is missing make it, where the cache is another one adopt it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Final, TypeAlias, TypeVar

from unstale.engines.breaker import Breaker
from unstale.engines.postgres_errors import AGAIN, MISSING, ServerError, server_error, unreached
from unstale.engines.postgres_schema import make
from unstale.engines.postgres_store import TRUE, Ask, Steps
from unstale.engines.postgres_url import PostgresUrl
from unstale.engines.postgres_wire import BREAKS, ConnectError, Row, Statement, Wire
from unstale.errors import EngineError, UnavailableError

T = TypeVar("T")
Moves: TypeAlias = Generator[Ask, list[Row], T]
TRIES: Final = 5  # of one statement: its tables are made, its cache adopted, a deadlock resolved
PROBE: Final = Statement("probe", "SELECT 1")


class Home:
    """The server of one URL, as one engine sees it.

    Args:
        url: The URL.
        adopt: Gives what finds the cache, or begins its first generation.
        making: It may make what is missing; else whoever finds nothing is told so.

    Attributes:
        breaker: Whether it is out.
    """

    def __init__(self, url: PostgresUrl, adopt: Callable[[], Ask], *, making: bool = True) -> None:
        self.url = url
        self.breaker = Breaker()
        self._conninfos = url.conninfos
        self._first = 0  # of the servers, the one to try first
        self._adopt = adopt
        self._make = Ask(make(url.schema, unlogged=url.unlogged), (), proof=False)
        self._making = making
        self._adopted = not making

    def follow(self, steps: Steps[T], *, through: bool = False) -> Moves[T]:
        """Give the moves of a method.

        Args:
            steps: What it asks.
            through: It asks even a server that is known to be out: the tail, for which no reader waits.

        Raises:
            EngineError: One of its statements failed.
        """
        if not through and not self.breaker.admits():
            if self.breaker.due(4 * self.url.timeout_s):
                self.probe()
            hint = "the cache goes on by its policy until it is back"
            raise UnavailableError(f"{self.url.place} is out: it was not asked", hint=hint, refused=True)
        if not self._adopted:  # tells at once that the tables are another version's
            yield from self._ensure(self._adopt())
            self._adopted = True
        rows: list[Row] | None = None
        try:
            while True:
                ask = next(steps) if rows is None else steps.send(rows)
                rows = yield from self._ensure(ask)
        except StopIteration as done:
            answer: T = done.value
            return answer

    def _ensure(self, ask: Ask) -> Moves[list[Row]]:
        """Ask, and see to what is missing for an answer."""
        failure: ServerError | None = None
        for _ in range(TRIES):
            try:
                rows = yield ask
            except ServerError as error:
                failure = error
                if not error.broken:
                    self.breaker.succeeded()  # who answers, be it with an error, costs nobody a timeout
                if error.code in MISSING:
                    if not self._making:
                        raise self._unused() from error
                    yield from self._mend(self._make)
                elif error.code not in AGAIN:
                    raise self.told(error) from error
                continue
            self.breaker.succeeded()
            if not ask.proof or (rows and rows[0][0] == TRUE):
                return rows
            if not self._making:
                if rows:
                    return rows  # an older generation's: whoever only looks sees what is there
                raise self._unused()
            yield from self._mend(self._adopt())
        if failure is None:
            raise UnavailableError(f"the tables in {self.url.place} are emptied all the time", hint="see who does so")
        raise self.told(failure) from failure

    def _unused(self) -> UnavailableError:
        """Give the error for who only looks, and finds no cache."""
        msg = f"{self.url.place} holds no such cache in the schema {self.url.schema}"
        hint = "no process has used it yet, or it is another one: choose by --name, and by ?schema= in the URL"
        return UnavailableError(msg, hint=hint, unused=True)

    def _mend(self, ask: Ask) -> Moves[None]:
        try:
            yield ask
        except ServerError as error:
            if error.code not in MISSING | AGAIN:
                raise self.told(error) from error

    def told(self, error: ServerError) -> EngineError:
        """Give our error for one that the server told; one that answers nobody now is out."""
        told = server_error(error, self.url.place, self.url.schema)
        if isinstance(told, UnavailableError):
            self.breaker.failed()
        return told

    def lost(self, error: BaseException) -> EngineError:
        """Give our error for a server that cannot be reached, which is out then."""
        text = " ".join(str(error).split()) or type(error).__name__
        lost = unreached(self.url.place, text, password=isinstance(error, ConnectError) and error.password)
        self.breaker.failed()
        return lost

    def connected(self) -> Wire:
        """Give a new connection: of several servers, to the one that takes writes, the last one known first.

        They are tried here, not by libpq, which would give all the time there is to the first one if that is frozen.

        Raises:
            OSError: The server does not answer in time.
            psycopg.Error: It cannot be reached, or refuses.
        """
        conninfos = self._conninfos
        for turn in range(len(conninfos)):
            number = (self._first + turn) % len(conninfos)
            try:
                wire = Wire(conninfos[number], self.url.timeout_s, self.url.timeout_s / len(conninfos))
            except (ServerError, *BREAKS):
                if turn == len(conninfos) - 1:
                    raise
            else:
                self._first = number
                return wire
        raise AssertionError("a URL names at least one server")

    def reborn(self) -> None:
        """Start anew in a forked child."""
        self.breaker.reborn()

    def probe(self) -> None:
        """Ask the server whether it is back, in a thread of its own, and tell the breaker."""
        try:
            threading.Thread(target=self._probe, name="unstale: probe", daemon=True).start()
        except RuntimeError:  # the system gives no more threads, or the interpreter is at its end
            self.breaker.failed()

    def _probe(self) -> None:
        try:
            wire = self.connected()
            try:
                wire.ask(PROBE, ())
            finally:
                wire.close()
        except (ServerError, *BREAKS):
            self.breaker.failed()
        else:
            self.breaker.succeeded()
