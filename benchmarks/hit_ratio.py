"""Hit ratios of L1 on real traces, next to other ways of choosing what has to go.

Ours is `core.table.Table` as it stands in production: a hit sets the entry's bit, a miss puts a new entry in. In the
cloudphysics trace a `set` changes the truth: it ends the resident entry of its key, for every policy alike.
"""

from __future__ import annotations

import csv
import io
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from benchmarks.figures import Figure, Options, failed, figure
from unstale.core.table import Cell, Table

GROUP = "hit ratio"
SHARES = (0.01, 0.05, 0.20)
TRACES = ("cloudphysics", "orm", "web07")
NO_SCOPES: tuple[str, ...] = ()

Request = tuple[bool, str]
"""Is it a `set`, and its key."""


class Cached(Protocol):
    """A policy under test."""

    def read(self, key: str) -> bool:
        """Read a key, and keep it: was it there?"""

    def end(self, key: str) -> None:
        """End what is kept under a key."""


class Ours:
    """The resident table of a node."""

    def __init__(self, entries_max: int) -> None:
        self._table = Table(entries_max)

    def read(self, key: str) -> bool:
        cell = self._table.cells.get(key)
        if cell is not None:
            cell.visited = True
            return True
        self._table.put(Cell(key, "", NO_SCOPES, None, position=1, deadline=1.0, fresh_until=1.0, until=1.0, size=1))
        return False

    def end(self, key: str) -> None:
        self._table.end(key)


class Lru:
    """The least recently used goes: cachetools."""

    def __init__(self, entries_max: int) -> None:
        from cachetools import LRUCache

        self._cache: Any = LRUCache(entries_max)

    def read(self, key: str) -> bool:
        cache = self._cache
        try:
            return bool(cache[key])
        except KeyError:
            cache[key] = True
            return False

    def end(self, key: str) -> None:
        self._cache.pop(key, None)


class Fifo:
    """The oldest goes."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._keys: dict[str, None] = {}

    def read(self, key: str) -> bool:
        if key in self._keys:
            return True
        if len(self._keys) >= self._entries_max:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None
        return False

    def end(self, key: str) -> None:
        self._keys.pop(key, None)


class Theine:
    """W-TinyLFU goes by how often and how lately: theine."""

    def __init__(self, entries_max: int) -> None:
        from theine import Cache

        self._cache: Any = Cache(entries_max)

    def read(self, key: str) -> bool:
        _value, found = self._cache.get(key)
        if not found:
            self._cache.set(key, key)
        return bool(found)

    def end(self, key: str) -> None:
        self._cache.delete(key)


POLICIES: dict[str, Callable[[int], Cached]] = {"LRU": Lru, "theine": Theine, "FIFO": Fifo}


def requests(file: Path) -> Iterator[Request]:
    """Read a trace."""
    with lzma.open(file) as data, io.TextIOWrapper(data, encoding="utf-8", newline="") as text:
        rows = csv.reader(text)
        header = next(rows)
        op, key = header.index("op"), header.index("key")
        for row in rows:
            yield row[op] == "set", row[key]


def replay(trace: Iterable[Request], policy: Cached) -> float:
    """Give the share of reads that found their key, in percent."""
    reads = hits = 0
    for is_set, key in trace:
        if is_set:
            policy.end(key)
        else:
            reads += 1
            hits += policy.read(key)
    return hits / reads * 100


def compare(name: str, trace: list[Request], *, bound: bool = True) -> list[Figure]:
    """Replay one trace at each size under each policy; ours has to reach at least LRU's ratio if it is bound to."""
    figures = []
    distinct = len({key for _is_set, key in trace})
    for share in SHARES:
        size = max(1, round(distinct * share))
        ratio = replay(trace, Ours(size))
        others = {other: replay(trace, make(size)) for other, make in POLICIES.items()}
        target = others["LRU"] if bound else None
        note = ", ".join(f"{other} {value:.2f}" for other, value in others.items())
        figures.append(
            figure(GROUP, f"{name}, {share:.0%} of its keys", [ratio], "%", target=target, sense=">=", note=note)
        )
    return figures


def measure(options: Options) -> list[Figure]:
    """Replay the three traces, and the reads of the one that has writes."""
    figures = []
    for name in TRACES:
        file = options.traces / f"{name}.csv.xz"
        if not file.exists():
            figures.append(failed(GROUP, f"{file.name} is not there: name its folder by --traces"))
            continue
        trace = list(requests(file))
        figures += compare(name, trace)
        reads = [request for request in trace if not request[0]]
        if len(reads) < len(trace):
            figures += compare(f"{name}, its reads alone", reads, bound=False)
    return figures
