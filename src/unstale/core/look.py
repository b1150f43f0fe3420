"""Looking for an entry: in L1, then in the store, and judging what is found there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from unstale.core.codec import TypedCodec
from unstale.core.entry import FAILURE, Bytes, Entry, class_name, decode_entry, decode_failure
from unstale.core.marks import DEAD, FRESH, SOFT, Verdict, judge
from unstale.core.ops import Fetched, ReadMarks
from unstale.core.record import EVERYTHING, Stamp
from unstale.core.served import Served, Want
from unstale.core.table import Cell
from unstale.errors import CachedLoadError, EngineError

if TYPE_CHECKING:
    from unstale.core.node import Node

CELL_BYTES = 600  # what an entry costs in L1 beyond its value


def proves(node: Node, want: Want, arrived: float) -> bool:
    """Say whether local knowledge reaches far enough for a read that arrived then."""
    return want.consistency == "eventual" or node.lease.proves(arrived, want.bound_s)


def resident(node: Node, want: Want, arrived: float) -> tuple[Cell | None, str, bool]:
    """Give the resident entry of a key in the shape that is wanted, the generation, and whether the lease proves it.

    One locked step: records are applied, and the lease is renewed, under the same lock.
    """
    with node.lock:
        cell = node.table.cells.get(want.key)
        if cell is not None and node.clock() >= cell.until:
            node.table.drop(cell)
            cell = None
        if cell is not None and not (cell.shape == want.codec.shape and covers(want, cell.scopes)):
            cell = None
        if cell is not None:
            cell.visited = True
        return cell, node.generation or "", proves(node, want, arrived)


def covers(want: Want, scopes: tuple[str, ...]) -> bool:
    """Say whether an entry with these scopes ends with all that the reader's would; else it is not for this reader."""
    return scopes is want.scopes or want.scopes == scopes or {*scopes, want.key}.issuperset(want.scopes)


def serve(node: Node, want: Want, cell: Cell, stamp: Stamp, *, source: str, proven: float | None, why: str) -> Served:
    """Give what a reader gets of an entry."""
    value, failed, fresh_until = cell.value, cell.failed, cell.fresh_until
    if want.policy.copy and not failed:
        value = want.codec.decode(value)
    stale = cell.soft or node.clock() >= fresh_until
    return Served(
        value, source, stamp, (cell.key, *cell.scopes), proven, why, failed, stale, fresh_until, cell
    )  # by their places: the names of ten fields cost as much as the fields


async def look_l1(node: Node, want: Want, arrived: float) -> Served | None:
    """Look for an entry in L1.

    What is resident has been judged by every record applied. With a proven lease that is enough; with a lapsed one the
    store's marks are asked (`revalidate`), and only they can vouch for it (H8).
    """
    cell, generation, proven = resident(node, want, arrived)
    if cell is None:
        return None
    if proven:
        stamp = Stamp(generation, cell.position)
        return serve(node, want, cell, stamp, source="l1", proven=node.lease.proven, why="resident")
    if not want.policy.revalidate:
        return None
    entry = Entry(cell.key, Stamp(generation, cell.position), cell.scopes, b"", version=cell.version)
    asked = node.clock()
    verdict, _raised = await ask_marks(node, entry, lapsed=True)
    if verdict is None or verdict is DEAD:
        return None
    with node.lock:
        if node.generation != generation or node.table.cells.get(want.key) is not cell:
            return None
        if verdict is SOFT and not cell.soft:
            node.table.soften(cell, asked)
    return serve(node, want, cell, entry.stamp, source="l1", proven=asked, why="revalidated")


class Unjudged(NamedTuple):
    """A stored entry that this node alone cannot judge, and what it would be in L1.

    `lapsed`: nothing proves what this node knows, so the store's marks alone have to prove it fresh.
    """

    entry: Entry
    cell: Cell
    lapsed: bool
    proven: float


def judge_stored(
    node: Node, want: Want, arrived: float, fetched: Fetched | EngineError | None, asked: float
) -> Served | Unjudged | None:
    """Judge stored bytes by what this node knows, and keep the entry in L1 if it is good: one locked step.

    An entry below the floor is left to the store's marks, since this node's do not reach so far back (H13); so is one
    that is found while the lease has lapsed.

    Args:
        node: The node.
        want: The read.
        arrived: When it began.
        fetched: What the store has.
        asked: A moment before which these bytes cannot have been read.

    Returns:
        None for a miss, and a stale `Served` for a softly ended entry.
    """
    counts = node.counts
    counts["fetches"] += 1
    if fetched is None:
        return None
    assert type(fetched) is Fetched, "who could ask for nothing raises an error"
    entry = decode_entry(fetched.data, want.key)
    cell = None if entry is None else materialize(node, want, entry, fetched.remaining_s, asked)
    if entry is None or cell is None:
        counts["undecodable"] += 1
        return None
    with node.lock:
        verdict = node.judge(entry)
        if verdict is DEAD:
            return None
        proven = node.lease.proven
        lapsed = arrived >= proven + want.bound_s and want.consistency != "eventual"  # as `proves` says
        if verdict is None or lapsed:
            return Unjudged(entry, cell, lapsed, proven) if want.policy.revalidate or not lapsed else None
        if verdict is FRESH:  # as `_keep` does, for most
            node.table.put(cell)
            counts["store_hits"] += 1
        elif not _keep(node, entry, cell, verdict):
            return None
    return serve(node, want, cell, entry.stamp, source="store", proven=proven, why="judged by local marks")


async def judge_by_store(node: Node, want: Want, unjudged: Unjudged) -> Served | None:
    """Judge a stored entry by the store's marks, and keep it in L1 if it is good."""
    entry, cell, lapsed, proven = unjudged
    proven = node.clock() if lapsed else proven
    verdict, raised = await ask_marks(node, entry, lapsed=lapsed, refuse=want.policy.store_out == "refuse")
    if verdict is None or verdict is DEAD:
        return None
    cell.position = raised
    with node.lock:
        # The reply may have outlived a discontinuity, or a record may have been applied while it travelled (H33).
        if node.generation != entry.stamp.generation or cell.position < node.marks.floor:
            return None
        local = node.marks.judge((entry.key, *entry.scopes), entry.stamp.position, entry.key, entry.version)
        if not _keep(node, entry, cell, max(local, verdict)):
            return None
    stamp = Stamp(entry.stamp.generation, cell.position)
    return serve(node, want, cell, stamp, source="store", proven=proven, why="judged by the store's marks")


def _keep(node: Node, entry: Entry, cell: Cell, verdict: Verdict) -> bool:
    """Take a judged entry into L1, under the lock; False for what may not be served."""
    if verdict is DEAD:
        return False
    if verdict is SOFT:
        softened = node.softened_at(entry)
        if softened is None:
            return False  # its grace began before this node can tell
        node.table.soften(cell, softened)
    node.table.put(cell)
    node.counts["store_hits"] += 1
    return True


async def ask_marks(node: Node, entry: Entry, *, lapsed: bool, refuse: bool = False) -> tuple[Verdict | None, int]:
    """Judge an entry by the store's marks.

    Args:
        node: The node.
        entry: What is to be judged.
        lapsed: The marks alone have to prove its freshness, so they must come from a server that proves itself.
        refuse: Marks that cannot be read are an error: what they would have judged must not be taken for absent.

    Returns:
        The verdict, None when the marks cannot tell; and the position to which the entry's stamp may be raised, which
        is what had been applied *before* the marks were asked.
    """
    if lapsed and node.relayed:
        return None, 0  # the marks know what the relay has told, and whether it tells anything is the question (H19)
    with node.lock:
        before = node.applied
    scopes = (entry.key, *entry.scopes, EVERYTHING)
    try:
        reply = await ReadMarks(scopes)
    except EngineError as error:
        node.trouble("marks", error)
        if refuse:
            raise
        return None, before
    if reply.identity.generation != entry.stamp.generation:
        return DEAD, before
    if lapsed and not (reply.identity.proven and reply.upto >= reply.identity.head):
        return None, before  # an isolated old leader would answer just as well (H11)
    if reply.start > entry.stamp.position + 1 or reply.upto < before:
        return None, before  # outside of the range that these marks cover, nothing is known
    if not reply.certain and any(scope not in reply.marks for scope in scopes):
        return None, before  # it may have been evicted: "never invalidated" is not what its absence means (H14)
    return judge(reply.marks, scopes, entry.stamp.position, entry.key, entry.version), before


def materialize(node: Node, want: Want, entry: Entry, remaining_s: float, asked: float) -> Cell | None:
    """Make a resident entry of a stored one; None for a value that cannot be read.

    Its life is what the store says remains of it, counted from before the store was asked: no clock of another machine
    has a part in it (H22).
    """
    scopes = want.scopes  # entries of a function share one tuple, where they have no scopes beyond it
    if entry.scopes != scopes:
        scopes = entry.scopes
        if not covers(want, scopes):
            return None
    value: object
    try:
        if entry.kind == FAILURE:
            value = rebuild_failure(want, entry.data)
        elif type(want.codec) is TypedCodec and not want.policy.copy:
            value = want.codec.decode(entry.data)
        else:  # other codecs were promised bytes; and what is kept must not keep all that was fetched
            data = bytes(entry.data)
            value = want.codec.decode(data)
            value = data if want.policy.copy else value
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None
    until = asked + min(remaining_s, node.max_ttl_s)
    fresh_until = until - entry.kept_s if entry.kept_s else until
    return Cell(
        entry.key,
        want.codec.shape,
        scopes,
        value,
        entry.stamp.position,
        early_deadline(node, want, fresh_until, entry.cost_s) if want.policy.early else fresh_until,
        fresh_until,
        until,
        CELL_BYTES + len(entry.data),
        entry.version,
        entry.kind == FAILURE,
    )


def shared_scopes(want: Want, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Give the one tuple that the entries of a function share, where an entry has no scopes beyond it."""
    return want.scopes if scopes == want.scopes else scopes


def early_deadline(node: Node, want: Want, fresh_until: float, cost_s: float) -> float:
    """Give the moment from which a hit starts an early refresh.

    XFetch (Vattani, Chierichetti, Lowenstein: "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015): refresh
    when `now - cost * beta * ln(u) >= expiry`. Here u is drawn once an entry and node, not once a read: the moments of
    many nodes are spread by the same distribution, and a hit pays nothing for it.
    """
    if not want.policy.early or not cost_s:
        return fresh_until
    return fresh_until + cost_s * want.policy.early * math.log(1.0 - node.random())


def _family(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def rebuild_failure(want: Want, data: Bytes) -> Exception:
    """Make an exception of a remembered failure: of a class that the policy names, never of one that bytes name."""
    failure = decode_failure(data)
    for kind, _ttl in want.policy.failures:
        for known in _family(kind):
            if class_name(known) == failure.kind:
                return known(*failure.args)
    msg = f"{failure.kind}: {', '.join(map(str, failure.args))}"
    return CachedLoadError(msg, hint="name this class in the policy to have it raised as itself", kind=failure.kind)
