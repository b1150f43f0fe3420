"""Which server a key lies on: always the same one, the one that sentinels name, or the owner of its slot in a cluster.

What is known is plain state that any thread and any event loop may read; it is refreshed by whoever finds it wrong,
blocking, and one at a time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from unstale.engines.breaker import Breakers
from unstale.engines.redis_errors import DENIED, PASSING
from unstale.engines.redis_url import Address, RedisUrl
from unstale.errors import DeniedError, EngineError, UnavailableError

MAX: Final = "max number of clients"
REFRESH_S: Final = 0.05  # what was learnt so lately is not asked again


def connection_to(url: RedisUrl, address: Address) -> Connection:
    """Make a connection to one server; nothing is sent yet. There are no retries in it: they are the core's to make."""
    kind = SSLConnection if url.tls else Connection
    host, port = address
    return kind(host=host, port=port, retry=Retry(NoBackoff(), 0), **url.settings)


class Places:
    """Where the keys of one URL lie.

    Args:
        url: The URL.

    Attributes:
        breakers: Which of the servers are out; None is whoever could tell where the keys are.
        only: The one server, if there never is another.
    """

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self.breakers = Breakers()
        self.reborn()
        self.only: Address | None = url.addresses[0] if url.kind == "server" else None
        self._primary = self.only
        self._slots: dict[int, Address] = {}
        self._nodes: tuple[Address, ...] = url.addresses

    def reborn(self) -> None:
        """Start anew in a forked child, where any lock may be held for ever."""
        self._lock = threading.Lock()
        self._refreshed = float("-inf")
        self._soon = False
        self.breakers.reborn()

    @property
    def spread(self) -> bool:
        """Keys lie on several servers."""
        return self.url.kind == "cluster"

    @property
    def fixed(self) -> bool:
        """There is but the one server, whatever happens."""
        return self.url.kind == "server"

    def find(self, key: bytes) -> Address | None:
        """Give the server of a key, as far as is known."""
        return self._slots.get(key_slot(key)) if self.spread else self._primary

    def learn(self, key: bytes, address: Address) -> None:
        """Note what a server of the cluster said of a key's slot."""
        if self.spread:
            self._slots[key_slot(key)] = address

    def refresh(self) -> None:
        """Ask anew where the keys are.

        Raises:
            UnavailableError: Nobody tells.
        """
        if self.fixed:
            return
        with self._lock:
            if time.monotonic() - self._refreshed < REFRESH_S:
                return
            try:
                if self.spread:
                    self._ask_cluster()
                else:
                    self._ask_sentinels()
            except (redis.RedisError, OSError) as error:
                hint = "look whether the servers of the URL run, and whether this host reaches them"
                raise UnavailableError(f"{self.url.place} does not tell its servers: {error}", hint=hint) from error
            self._refreshed = time.monotonic()

    def refresh_soon(self) -> None:
        """Ask anew where the keys are, in a thread of its own: whoever was sent elsewhere need not wait for it."""
        if self._soon:
            return
        self._soon = True
        if not _start(self._refresh_beside, "unstale: places"):
            self._soon = False

    def _refresh_beside(self) -> None:
        self._soon = False  # a call that fails from now on may know more than the answer that comes
        with contextlib.suppress(EngineError):
            self.refresh()

    def probe(self, address: Address | None) -> None:
        """Ask a server whether it is back, in a thread of its own, and tell its breaker.

        Args:
            address: The server; None: whoever tells where the keys are.
        """
        if not _start(lambda: self._probe(address), "unstale: probe"):
            self.breakers.at(address).failed()

    def _probe(self, address: Address | None) -> None:
        breaker = self.breakers.at(address)
        try:
            with contextlib.suppress(*(() if address is None else (EngineError,))):
                self.refresh()  # what lay there may have gone elsewhere
            if address is not None:
                with opened(self.url, address) as connection:
                    connection.send_command("PING")  # type: ignore[no-untyped-call]
                    connection.read_response()
        except (EngineError, redis.RedisError, OSError):
            breaker.failed()
        else:
            breaker.succeeded()

    def _ask_sentinels(self) -> None:
        url = self.url
        settings: dict[str, Any] = {
            "socket_timeout": url.timeout_s,
            "socket_connect_timeout": url.timeout_s,
            "username": url.sentinel_user or None,
            "password": url.sentinel_password or None,
            "retry": Retry(NoBackoff(), 0),
            "ssl": url.tls,
            **({"ssl_ca_certs": url.ca} if url.ca else {}),
        }
        sentinels = Sentinel(list(self._nodes), sentinel_kwargs=settings)  # type: ignore[no-untyped-call]
        try:
            host, port = sentinels.discover_master(url.primary)  # type: ignore[no-untyped-call]
            self._primary = (str(host), int(port))
            told = sentinels.sentinels[0].get_connection_kwargs()  # who has told is put first
            first = (str(told["host"]), int(told["port"]))
        finally:
            for sentinel in sentinels.sentinels:
                sentinel.close()
        self._nodes = tuple(dict.fromkeys((first, *self._nodes)))  # one that is out is not waited for every time
        self.breakers.keep({self._primary, None})

    def _ask_cluster(self) -> None:
        failure: Exception | None = None
        known = dict.fromkeys((*self._nodes, *self.url.addresses))
        for address in sorted(known, key=self.breakers.failures):  # the last to be waited for is one that is out
            try:
                with opened(self.url, address) as connection:
                    connection.send_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
                    answer = connection.read_response()
            except (redis.RedisError, OSError) as error:
                failure = error
                if not isinstance(error, redis.ResponseError):
                    self.breakers.at(address).failed()
                continue
            slots: dict[int, Address] = {}
            for first, last, owner, *_replicas in answer:
                at = (owner[0].decode() or address[0], int(owner[1]))
                slots.update(dict.fromkeys(range(first, last + 1), at))
            self._slots = slots
            self._nodes = tuple(dict.fromkeys(slots.values()))
            self.breakers.keep({*self._nodes, *self.url.addresses, None})
            return
        raise failure or UnavailableError(f"{self.url.place} names no server")


@contextlib.contextmanager
def opened(url: RedisUrl, address: Address) -> Iterator[Connection]:
    """Open a connection to one server, for a question or two."""
    connection = connection_to(url, address)
    try:
        connection.connect()  # type: ignore[no-untyped-call]
        yield connection
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]


def _start(target: Callable[[], None], name: str) -> bool:
    """Start a thread, unless the system gives no more of them or the interpreter is at its end."""
    try:
        threading.Thread(target=target, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True


def unreached(address: Address | None, url: RedisUrl, error: BaseException) -> EngineError:
    """Give the error for a server that does not answer."""
    place = f"{address[0]}:{address[1]}" if address else url.place
    text = str(error) or type(error).__name__
    if isinstance(error, redis.AuthenticationError):
        return DeniedError(f"{place} denies what the cache asks for: {text}", hint=DENIED["WRONGPASS"])
    hint = "look whether it runs, and whether this host reaches it; the cache goes on by its policy until it does"
    return UnavailableError(f"{place} does not answer: {text}", hint=PASSING["ERR max"] if MAX in text else hint)
