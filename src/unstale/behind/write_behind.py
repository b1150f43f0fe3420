"""What people call: puts that are acknowledged when they are durable, and reads that see them before they are flushed.

Readers and the cache. The truth of a key is its write in the queue if there is one, and the database else. So a load
asks the queue first and the database then, under the stamp that its cache had captured before both; acknowledging a
put, flushing it and putting it aside each publish a record once it can be seen. So an entry is served no longer than
any other that was invalidated: up to `max_staleness`.

1. A load under stamp 10 finds nothing in the queue. 2. v2 is put, and its record is 11. 3. The load reads v1 from the
   database, and is stamped 10: dead on arrival (H3).
1. A load finds v2 in the queue, and is cached. 2. v2 is flushed; the record of that ends the entry; the next load reads
   v2 from the database. That is a load more than needed, and the price of ending what had been made of the old row.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from unstale.behind.flusher import Flusher, Settings, Sink, check_sink
from unstale.behind.intake import Intake
from unstale.behind.urls import ROWS_MAX, open_queue
from unstale.behind.writes import Durable, Items, Queued, Status, Write
from unstale.core.context import surroundings, tickets_here
from unstale.core.durations import Duration, seconds
from unstale.core.keys import check_key
from unstale.core.record import Stamp
from unstale.errors import UsageError
from unstale.loading import tag
from unstale.requests import GivenCodec, check_limits, codec_of, function_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from unstale.cache import Cache

SCOPES_MAX: Final = 500  # of one record
LOOK_S: Final = 0.005


class WriteBehind:
    """Queues writes durably, and hands them to a sink later: merged by key, in batches, in order for each key.

    Args:
        cache: The cache whose readers see what is queued.
        sink: Takes a list of writes and stores them in one transaction; it refuses a write whose version is not newer
            than that of its key. A function, or a coroutine function.
        queue: `sqlite:///path` (one machine), or `redis://host:port/db?queue=name` (many).
        type: What the values are: as `type=` of the cache's own methods.
        batch: Writes handed to the sink at once, at most.
        max_queued: Keys in the queue at most, those put aside among them: then a put waits.
        timeout: How long a put waits for room, or for a queue that does not answer.
        linger: What is queued waits so long for more to go with it.
        tries: A write that failed alone so often, while the sink took others, is put aside.
        pause: The first pause after a failure; it doubles with each, and varies by chance.
        pause_max: The longest pause.
        durable: `power`: an acknowledged write survives a power cut. `process`: kill -9 of any process of ours.
        replicas: So many replicas of a Redis have a write before it is acknowledged.
        flush: Whether this process may flush; of those that may, one does.
        loop: Where a sink that has to be awaited runs; by default in a loop of the flusher's own thread.

    Raises:
        EngineUrlError: The URL names no queue.
        EngineError: The queue cannot be opened.
        UsageError: Another argument that cannot be.
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings with defaults
        self,
        cache: Cache,
        sink: Sink,
        queue: str,
        *,
        type: Any = Any,  # noqa: A002 - what the values are
        batch: int = 500,
        max_queued: int = ROWS_MAX,
        timeout: Duration = "5s",
        linger: Duration = "50ms",
        tries: int = 5,
        pause: Duration = "50ms",
        pause_max: Duration = "30s",
        durable: Durable = "power",
        replicas: int = 0,
        flush: bool = True,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        check_limits(batch=batch, max_queued=max_queued, tries=tries, replicas=replicas)
        if not batch or not max_queued or not tries:
            raise UsageError("batch, max_queued and tries are 1 at least", hint="leave them out for what is usual")
        if durable not in {"power", "process"}:
            raise UsageError(f"durable={durable!r} is unknown", hint='write durable="power" or durable="process"')
        self._cache = cache
        self._type = type
        self._codec = codec_of(type)
        self._timeout_s = seconds(timeout, "timeout")
        self._max_queued = max_queued
        self._sink = check_sink(sink)
        self._settings = Settings(
            batch, seconds(linger, "linger"), tries, seconds(pause, "pause"), seconds(pause_max, "pause_max"), loop
        )
        self._queue = open_queue(queue, rows_max=max_queued, durable=durable, replicas=replicas)
        self._intake = Intake(self._queue, self._tell)
        self._flushing, self._starting = flush, threading.Lock()
        self._flusher: Flusher | None = None
        self._pid = 0
        self._start()

    def _start(self) -> None:
        """Start the flusher, and in a forked child a new one (H23)."""
        if self._pid == os.getpid() or not self._flushing:
            return
        with self._starting:
            if self._pid != os.getpid():
                trouble = self._cache.node.trouble
                settings = self._settings
                self._flusher = Flusher(self._queue, self._sink, self._codec, self._tell, settings, trouble)
                self._pid = os.getpid()

    def _tell(self, keys: Iterable[str]) -> Stamp | None:
        """Publish that keys have changed: the stamp of the last record."""
        scopes = list(keys)
        stamp = None
        for start in range(0, len(scopes), SCOPES_MAX):
            stamp = self._cache.invalidate(*scopes[start : start + SCOPES_MAX], reason="write-behind").stamp
        return stamp

    # Writing ----------------------------------------------------------------------------------------------------------

    def put(self, key: str, value: Any) -> Queued:
        """Queue a write; returns when it is durable, and every node has been told.

        Args:
            key: The key.
            value: The value, whole: a later one takes its place.

        Raises:
            QueueFullError: There was no room in time; nothing was queued.
            UnavailableError: The queue does not answer: whether the write was queued is unknown.
            NotPublishedError: It is queued and will be flushed, but until then nodes may serve the old value.
            ValueTypeError: The value is not of the type; nothing was queued.
        """
        return self._seen(self._submit([(key, value)]).result())[0]

    async def aput(self, key: str, value: Any) -> Queued:
        """Queue a write: see `put`. Who is cancelled meanwhile does not know whether it was queued."""
        return self._seen(await asyncio.wrap_future(self._submit([(key, value)])))[0]

    def put_many(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[Queued]:
        """Queue many writes, all or none: see `put`; pairs of one key are queued in their order."""
        return self._seen(self._submit(items).result())

    async def aput_many(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[Queued]:
        """Queue many writes, all or none: see `put_many`."""
        return self._seen(await asyncio.wrap_future(self._submit(items)))

    def _submit(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Future[list[Queued]]:
        self._start()
        pairs = items.items() if isinstance(items, Mapping) else items
        encoded: Items = [(check_key(key), self._encode(key, value)) for key, value in pairs]
        if len(encoded) > self._max_queued:
            msg = f"{len(encoded):,} writes at once never fit into a queue of {self._max_queued:,}"
            raise UsageError(msg, hint="put fewer at once, or raise max_queued")
        return self._intake.submit(encoded, self._timeout_s)

    def _seen(self, queued: list[Queued]) -> list[Queued]:
        """Raise the ticket of the caller's session: another thread has published, which knows of none."""
        tickets = tickets_here()
        if tickets is not None and queued and queued[-1].ticket is not None:
            tickets.published(self._cache.node, queued[-1].ticket, ())
        return queued

    def _encode(self, key: str, value: Any) -> bytes:
        return GivenCodec(self._codec, self._type, "put under", key).encode(value)

    # Reading ----------------------------------------------------------------------------------------------------------

    def queued(self, key: str) -> Write | None:
        """Give the write of a key that waits, None where the database has the newest value.

        A load that asks for it does so *before* it reads the database; what is loaded then depends on the key.

        Raises:
            UnavailableError: The queue does not answer.
        """
        around = surroundings.get()
        if around is not None and around.frame is not None:
            tag(key)
        return self._newest(key)

    async def aqueued(self, key: str) -> Write | None:
        """Give the write of a key that waits: see `queued`."""
        around = surroundings.get()
        if around is not None and around.frame is not None:
            tag(key)
        return await asyncio.to_thread(self._newest, key)

    def _newest(self, key: str) -> Write | None:
        row = self._queue.newest(key)
        if row is None:
            return None
        return Write(key, self._codec.decode(row.data), row.version, self._queue.id_of(row.version))

    def get(self, key: str, load: Callable[[], Any], **how: Any) -> Any:
        """Give what is cached under a key, else what is queued, else what the loader gives, and cache it.

        Args:
            key: The key.
            load: Reads the value from the database.
            how: As for `Cache.get_or_load`.
        """
        load = function_of(load, "loader", "get")

        def overlaid() -> Any:
            write = self._newest(key)
            return load() if write is None else write.value

        return self._cache.get_or_load(key, overlaid, type=self._type, **how)

    async def aget(self, key: str, load: Callable[[], Any], **how: Any) -> Any:
        """Give what is cached under a key, else what is queued, else what is loaded: see `get`."""
        load = function_of(load, "loader")

        async def overlaid() -> Any:
            write = await asyncio.to_thread(self._newest, key)
            if write is not None:
                return write.value
            value = load()
            return await value if inspect.isawaitable(value) else value

        return await self._cache.aget_or_load(key, overlaid, type=self._type, **how)

    # Life -------------------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Count what waits, and what was put aside."""
        return self._queue.status()

    def drain(self, timeout: Duration = "30s") -> int:
        """Wait until nothing is queued, by whatever process: how many keys still are when the time is over."""
        until = time.monotonic() + seconds(timeout, "timeout")
        while True:
            if self._flusher is not None:
                self._flusher.hurry.set()
            left = self.status().queued
            if not left or time.monotonic() >= until:
                return left
            time.sleep(LOOK_S)

    def close(self, *, drain: bool = True, timeout: Duration = "30s") -> int:
        """Take no more puts, flush what is queued, and stop. What is not flushed in time stays queued for the next.

        Args:
            drain: Wait until nothing is queued.
            timeout: For all of it.

        Returns:
            How many keys are still queued.
        """
        until = time.monotonic() + seconds(timeout, "timeout")
        self._intake.close(max(0.0, until - time.monotonic()))
        if drain and self._flusher is not None:
            self.drain(max(0.0, until - time.monotonic()))
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            flusher.stop(max(LOOK_S, until - time.monotonic()))
        try:
            return self.status().queued
        finally:
            self._queue.close()

    async def aclose(self, *, drain: bool = True, timeout: Duration = "30s") -> int:  # noqa: ASYNC109 - as `close`
        """Flush what is queued, and stop, without blocking the loop: see `close`."""
        return await asyncio.to_thread(lambda: self.close(drain=drain, timeout=timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()
