"""The URL of a queue: which kind it is, and where."""

from __future__ import annotations

import reprlib
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from unstale.behind.writes import Durable, Queue
from unstale.errors import EngineUrlError, UsageError

EXAMPLES: Final = 'write "sqlite:///orders.queue", or "redis://host:6379/0?queue=orders"'
ROWS_MAX: Final = 100_000
NAME_CHARS_MAX: Final = 100


def open_queue(url: str, *, rows_max: int = ROWS_MAX, durable: Durable = "power", replicas: int = 0) -> Queue:
    """Open the queue that a URL names.

    Args:
        url: `sqlite:///path`, or `redis://host:port/db?queue=name` (also `rediss://`, `valkey://`).
        rows_max: So many keys it holds at most.
        durable: Against what an acknowledged write is safe.
        replicas: So many replicas of a Redis have a write before it is acknowledged.

    Raises:
        EngineUrlError: It names no queue.
        EngineError: The queue cannot be opened.
    """
    if not isinstance(url, str):
        raise UsageError(f"queue is a URL, not {reprlib.repr(url)}", hint=EXAMPLES)
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from unstale.behind.queue_sqlite import SqliteQueue

        path = unquote(urlsplit(url).path).removeprefix("/")
        if not path or urlsplit(url).netloc or urlsplit(url).query:
            raise EngineUrlError(f"{url} names no file", hint=EXAMPLES)
        if replicas:
            raise UsageError("replicas= is for a queue in Redis", hint="a file has none; leave it out")
        return SqliteQueue(path, rows_max, durable)
    if scheme in {"redis", "rediss", "valkey", "valkeys"}:
        return _open_redis(url, rows_max, durable, replicas)
    hint = EXAMPLES
    if scheme.startswith(("redis+", "rediss+", "valkey+", "valkeys+")):
        hint = "a queue lies on one server: name it by redis://, or put a proxy with a fixed address before it"
    raise EngineUrlError(f"there is no queue at {scheme}://", hint=hint)


def _open_redis(url: str, rows_max: int, durable: Durable, replicas: int) -> Queue:
    try:
        from unstale.behind.queue_redis import RedisQueue
        from unstale.engines.redis_url import parse_url
    except ImportError as error:
        msg = f"a queue in Redis needs a package: {error}"
        raise EngineUrlError(msg, hint='install it: pip install "unstale[redis]"') from error
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    name = dict(options).get("queue", "default")
    if not name or not name.isprintable() or len(name) > NAME_CHARS_MAX or set("{} ") & set(name):
        raise EngineUrlError(f"queue={name!r} is no name of a queue", hint=EXAMPLES)
    rest = urlencode([pair for pair in options if pair[0] != "queue"])
    return RedisQueue(parse_url(parts._replace(query=rest).geturl()), name, rows_max, durable, replicas)
