"""L1: the entries resident in this process, with S3-FIFO eviction and an index from scopes to entries.

S3-FIFO (Yang, Zhang, Qiu, Yue, Vigfusson, Rashmi: "FIFO Queues are All You Need for Cache Eviction", SOSP 2023), with
one bit an entry: new entries go through a small queue, and move to the main one if they were hit there; a ghost queue
remembers what left the small one unhit, and lets it straight into the main one when it comes back. A hit only sets the
bit: it writes one attribute and needs no lock. SIEVE, as simple, lost to LRU on traces that come back to what they have
used lately.

The index may name entries that a scope has ended: to take each out of its other scopes at once would cost several times
what all the rest of its end costs. They are taken out by the entries that are put in later, so that resident and ended
ones together are never more than the table may hold, and no step is long.

All methods but the reading of `cells` are called under the node's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from unstale.core.record import EVERYTHING, Version

ENTRIES_MAX = 100_000
BYTES_MAX = 256 * 1024 * 1024
GHOSTS_SHARE = 2  # half as many as there are entries are remembered: more cost memory, and gained nothing on the traces
GHOSTS_STEP = 32  # of the entries, the share that the oldest of those remembered are forgotten by at a time
SMALL_SHARE = 5  # the small queue has a fifth of the entries: with the tenth of the paper it lost to LRU on one trace


class Queue:
    """A queue of entries, linked through the entries themselves."""

    __slots__ = ("count", "newest", "oldest")

    def __init__(self) -> None:
        self.count = 0
        self.newest: Cell | None = None
        self.oldest: Cell | None = None

    def push(self, cell: Cell) -> None:
        """Put an entry in as the newest."""
        cell.queue = self
        cell.older, self.newest = self.newest, cell
        if cell.older is None:
            self.oldest = cell
        else:
            cell.older.newer = cell
        self.count += 1

    def replace(self, old: Cell, cell: Cell) -> None:
        """Put an entry where another stands, which leaves."""
        newer, older = old.newer, old.older
        old.newer = old.older = None
        cell.queue, cell.newer, cell.older = self, newer, older
        if newer is None:
            self.newest = cell
        else:
            newer.older = cell
        if older is None:
            self.oldest = cell
        else:
            older.newer = cell

    def unlink(self, cell: Cell) -> None:
        """Take an entry out, wherever it stands."""
        newer, older = cell.newer, cell.older
        cell.newer = cell.older = None  # else one that is still held keeps a chain of others alive
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        self.count -= 1


class NoAliases(dict[Any, Any]):
    """Where an entry stands under no name: one for all of them, and always empty."""


NO_ALIASES = NoAliases()


class Cell(msgspec.Struct, eq=False):
    """One resident entry.

    The three moments are mostly one: whoever makes an entry gives one number for those that are equal.

    Attributes:
        key: The key, which is also the scope of its own.
        shape: The shape of the value's type: a call that wants another one misses.
        scopes: The other scopes that it depends on: tags, namespace. Entries of one function share the tuple.
        value: What the loader returned, or the error that is remembered.
        deadline: Moment on the node's clock up to which a hit may return it without a further thought.
        fresh_until: Moment at which its time to live ends (`deadline` may lie earlier: early refresh, soft record).
        until: Moment at which its grace ends and it is dropped.
        position: Position of its stamp.
        version: Source version, if the loader gave one.
        failed: The value is an exception to be raised.
        soft: A soft record has ended it.
        size: Bytes that it counts for.
        visited: The bit that a hit sets.
        queue: The queue that it stands in.
        alias: The argument under which a cached function finds it in its own `aliases`, and the type of it.
    """

    key: str
    shape: str
    scopes: tuple[str, ...]
    value: Any
    position: int
    deadline: float
    fresh_until: float
    until: float
    size: int
    version: Version | None = None
    failed: bool = False
    soft: bool = False
    visited: bool = False
    newer: Cell | None = None
    older: Cell | None = None
    queue: Queue | None = None
    aliases: dict[Any, Cell] = NO_ALIASES
    alias: Any = None
    kind: Any = None

    def __repr__(self) -> str:
        """Name it: all its neighbours in the queue are not meant."""
        return f"Cell({self.key!r})"


class Table:
    """The resident entries of one node, bounded by number and by bytes.

    Args:
        entries_max: At most so many entries.
        bytes_max: At most so many bytes, as counted by the entries' sizes.
    """

    __slots__ = (
        "_bytes_max", "_ended", "_entries_max", "_ghosts", "_main", "_small", "bytes", "cells", "dependents",
        "evicted",
    )  # fmt: skip

    def __init__(self, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self.cells: dict[str, Cell] = {}
        # Keys by scope. Most scopes have one key, which stands there itself: a dictionary would cost 200 bytes more.
        self.dependents: dict[str, str | dict[str, None]] = {}
        self._ended: dict[str, tuple[str, ...]] = {}  # ended entries that the index may still name, and under what
        self.bytes = 0
        self.evicted = 0
        self._small = Queue()
        self._main = Queue()
        self._ghosts: dict[int, None] = {}  # hashes of keys, the oldest first

    def __len__(self) -> int:
        return len(self.cells)

    def put(self, cell: Cell) -> bool:
        """Take an entry in, in place of one with the same key; False when it found no room.

        It takes the place of the one before it in the queues, with its bit: what is refreshed is no newcomer.
        """
        old = self.cells.get(cell.key)
        if cell.size > self._bytes_max or self._entries_max == 0:
            if old is not None:
                self.drop(old)
            return False
        if old is None:
            while self.cells and (len(self.cells) >= self._entries_max or self.bytes + cell.size > self._bytes_max):
                self._evict()
            (self._main if self._returns(cell.key) else self._small).push(cell)
        else:
            self._succeed(old, cell)
        self.cells[cell.key] = cell
        self.bytes += cell.size
        self._index(cell.key, cell.scopes)
        while self.bytes > self._bytes_max:  # one that is larger than the one before it may be the first to go
            self._evict()
        return cell.key in self.cells

    def name(self, cell: Cell, aliases: dict[Any, Cell], alias: Any, kind: Any) -> None:
        """Let a cached function find a resident entry by its argument; an entry has one such name at a time."""
        if self.cells.get(cell.key) is not cell or cell.failed:
            return
        if cell.aliases is not aliases or cell.alias != alias or cell.kind is not kind:
            self._unname(cell)
            taken = aliases.get(alias)
            if taken is not None:  # 1 and True are one dict key and two entries: the later call has the place
                self._unname(taken)
            cell.aliases, cell.alias, cell.kind = aliases, alias, kind
        aliases[alias] = cell

    def drop(self, cell: Cell) -> None:
        """Forget one entry."""
        del self.cells[cell.key]
        self.bytes -= cell.size
        cell.aliases.pop(cell.alias, None)
        assert cell.queue is not None, "a resident entry stands in a queue"
        cell.queue.unlink(cell)
        self._unindex(cell.key, cell.scopes)

    def soften(self, cell: Cell, now: float) -> None:
        """Expire an entry at once: no hit returns it any more, but it may be served stale within its grace."""
        kept_s = cell.until - cell.fresh_until
        cell.soft = True
        cell.deadline = float("-inf")
        cell.fresh_until = min(cell.fresh_until, now)
        cell.until = cell.fresh_until + kept_s
        self._unname(cell)

    def find(self, scope: str) -> Iterator[Cell]:
        """Give the resident entries that depend on `scope`."""
        if scope == EVERYTHING:
            yield from tuple(self.cells.values())
            return
        cells = self.cells
        for key in (scope, *self._named(scope)):
            if key in cells:
                yield cells[key]

    def end(self, scope: str) -> int:
        """Forget all entries that depend on `scope`: their number.

        When it returns, none of them can be found any more; only the index may still name their keys.
        """
        if scope == EVERYTHING:
            return self.clear()
        before = len(self.cells)
        own = self.cells.get(scope)
        if own is not None:
            self.drop(own)
        named = self._named(scope)
        self.dependents.pop(scope, None)
        self._forget(named)
        count = before - len(self.cells)
        if not self.cells:
            self.clear()  # nobody may come who would take out what the index still names
        return count

    def clear(self) -> int:
        """Forget everything at once: how many entries that were."""
        count = len(self.cells)
        for aliases in {id(cell.aliases): cell.aliases for cell in self.cells.values()}.values():
            aliases.clear()
        self.cells.clear()
        self.dependents.clear()
        self._ended.clear()
        self.bytes = 0
        self._small, self._main = Queue(), Queue()
        return count

    def _evict(self) -> None:
        """Make room for one: by the oldest of the small queue while that has its share, else by the oldest of main."""
        small, main = self._small, self._main
        while True:
            first = small.oldest
            if first is not None and (small.count * SMALL_SHARE >= len(self.cells) or main.oldest is None):
                if not first.visited:
                    self._remember(first.key)
                    break
            else:
                first = main.oldest
                if first is None:
                    return
                if not first.visited:
                    break
            first.visited = False
            queue = small if first.queue is small else main
            queue.unlink(first)
            main.push(first)
        self.drop(first)
        self.evicted += 1

    def _remember(self, key: str) -> None:
        """Remember what leaves the small queue unhit: at most half as many as there are resident entries."""
        ghosts = self._ghosts
        ghosts[hash(key)] = None
        if len(ghosts) * GHOSTS_SHARE > len(self.cells):
            # Many at once: to find the first of a dictionary means to pass over all that was taken out before it.
            for oldest in list(islice(ghosts, 1 + len(self.cells) // GHOSTS_STEP)):
                del ghosts[oldest]

    def _returns(self, key: str) -> bool:
        """Say whether a key comes back that was remembered, and forget it."""
        return self._ghosts.pop(hash(key), False) is None

    def _unname(self, cell: Cell) -> None:
        """Take an entry's name back. Whoever has got it meanwhile is found by its key, and gets it again then."""
        cell.aliases.pop(cell.alias, None)
        cell.aliases, cell.alias = NO_ALIASES, None

    def _succeed(self, old: Cell, cell: Cell) -> None:
        """Let a new entry stand where the resident one of its key stands, which goes."""
        assert old.queue is not None, "a resident entry stands in a queue"
        old.queue.replace(old, cell)
        cell.key = old.key  # one string for both, which `cells` has already
        cell.visited = old.visited
        self.bytes -= old.size
        old.aliases.pop(old.alias, None)
        self._unindex(old.key, old.scopes)

    def _named(self, scope: str) -> tuple[str, ...]:
        """Give the keys that the index names under a scope, those of ended entries among them."""
        named = self.dependents.get(scope, ())
        return (named,) if isinstance(named, str) else tuple(named)

    def _forget(self, keys: tuple[str, ...]) -> None:
        """Forget the entries of many keys, and leave their other scopes for later: the loop has no call to spare."""
        cells, ended = self.cells, self._ended
        bytes_ended = 0
        for key in keys:
            cell = cells.pop(key, None)
            if cell is None:
                continue
            bytes_ended += cell.size
            cell.aliases.pop(cell.alias, None)
            cell.queue.unlink(cell)  # type: ignore[union-attr]  # a resident entry stands in a queue
            if len(cell.scopes) > 1:
                ended[key] = cell.scopes
        self.bytes -= bytes_ended

    def _index(self, key: str, scopes: tuple[str, ...]) -> None:
        """Name a key under its scopes; before that, take out what they still name it under, and another ended one."""
        if self._ended:
            self._unindex(key, self._ended.pop(key, ()))
        if self._ended:
            self._unindex(*self._ended.popitem())
        dependents = self.dependents
        for scope in scopes:
            named = dependents.get(scope)
            if named is None:
                dependents[scope] = key
            elif isinstance(named, str):
                dependents[scope] = {named: None, key: None}
            else:
                named[key] = None

    def _unindex(self, key: str, scopes: tuple[str, ...]) -> None:
        """Take a key out of its scopes, as far as they name it."""
        dependents = self.dependents
        for scope in scopes:
            named = dependents.get(scope)
            if isinstance(named, dict):
                named.pop(key, None)
            if not named or named == key:
                dependents.pop(scope, None)
