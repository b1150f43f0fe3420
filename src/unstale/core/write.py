"""Writing: appending records, waiting for the members, and write-through.

The order of a write is commit, append, apply, keep: a record is published only after its commit is visible (H1), and
always unless the rollback is certain (H2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from unstale.core.context import changed_here, surroundings, within
from unstale.core.entry import VALUE, Entry
from unstale.core.fill import lives, lowered, send
from unstale.core.frame import Frame
from unstale.core.lease import DRIFT
from unstale.core.load import enclosing_frame
from unstale.core.look import CELL_BYTES, shared_scopes
from unstale.core.node import Intent
from unstale.core.ops import Load, ReadMembers, Sleep, Wait
from unstale.core.publish import publish
from unstale.core.record import Record, Stamp, Version
from unstale.core.served import Served, Want
from unstale.core.table import Cell
from unstale.errors import EngineError, NotPublishedError

if TYPE_CHECKING:
    from unstale.core.node import Node

BARRIER_MIN_S = 0.001
BARRIER_MAX_S = 0.05


class Receipt(msgspec.Struct, frozen=True):
    """What became of an invalidation.

    Attributes:
        stamp: Where its record lies; as a ticket it makes any later read see what was invalidated.
        scopes: What was invalidated.
        nodes: The nodes that are known to have applied it (only if it was waited for).
        complete: No node can serve what it ended: all members have applied it, or their leases have lapsed.
        took_s: Seconds from the call to this receipt.
    """

    stamp: Stamp
    scopes: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    complete: bool = False
    took_s: float = 0.0


async def invalidate(node: Node, record: Record, *, wait: bool) -> Receipt:
    """Publish a record, and wait until no node can serve what it ended if `wait` is set.

    Raises:
        NotPublishedError: The log failed.
    """
    began = node.clock()
    stamp = await publish(node, record)
    if not wait:
        return Receipt(stamp, record.scopes, took_s=node.clock() - began)
    nodes, complete = await barrier(node, stamp)
    return Receipt(stamp, record.scopes, nodes, complete, took_s=node.clock() - began)


async def barrier(node: Node, stamp: Stamp) -> tuple[tuple[str, ...], bool]:
    """Wait until every member has applied a position, or until every lease from before it has lapsed.

    Returns the nodes that have applied it, and whether it is certain that no lease from before is left: not if the list
    could never be read, since a member with a larger bound than this node's may be on it.

    No failure detector: a member that cannot answer has no lease either once the largest bound of any member is over. A
    list younger than that may lack nodes that hold a lease from before it was made: then only time tells (H36).
    """
    acknowledged = node.clock()
    wait_s = BARRIER_MIN_S
    bound_s = node.max_staleness_s
    nodes: tuple[str, ...] = ()
    known = False
    while True:
        try:
            members = await ReadMembers()
        except EngineError as error:
            node.trouble("members", error)
        else:
            known = True
            bound_s = max(bound_s, members.bound_s)
            ours = members.identity.generation == stamp.generation
            there = [m for m in members.members if m.generation == stamp.generation and m.applied >= stamp.position]
            nodes = tuple(member.node for member in there)
            if ours and len(there) == len(members.members) and members.age_s > bound_s * (1 + DRIFT):
                return nodes, True
        left_s = acknowledged + bound_s * (1 + DRIFT) - node.clock()
        if left_s <= 0:
            return nodes, known
        await Sleep(min(wait_s, left_s))
        wait_s = min(wait_s * 2, BARRIER_MAX_S)


async def write(node: Node, want: Want, writer: Callable[[], object | Awaitable[object]], record: Record) -> Served:
    """Write through: run the writer, publish, and keep what it returned if nothing came between.

    1. p0 is captured, then the writer commits.
    2. The record is appended, at p, whatever the writer did unless it raised: then the outcome may be unknown, and an
       invalidation too many costs a load, one too few a stale read.
    3. All up to p is applied. If a record in (p0, p] touched the value's scopes, another commit may lie on either side
       of ours: v1 commits, v2 commits, v2's record at 10, v1's at 11: v1 must not be kept at 11 (H16). Versions of the
       source order such a pair; positions cannot.

    Raises:
        NotPublishedError: The write is committed, and not announced; its field `value` holds what the writer returned.
        Exception: Whatever the writer raised.
    """
    since = node.stamp()
    began = node.clock()
    outer = enclosing_frame()
    # No key: a writer may read what it replaces. The flight of the load around it: what it waits for, that waits for.
    frame = Frame((), outer, None if outer is None else outer.flight, None if outer is None else outer.after)
    # What is in force is what the primary says.
    frame.log, frame.primary = None if since is None else since.generation, True
    before = surroundings.set(within(frame))
    try:
        value: Any = await Load(writer)
    except BaseException:
        await publish(node, record)
        raise
    finally:
        # Its own transaction is open still, and may be rolled back: what it wrote is not the truth yet (H1).
        uncommitted = changed_here((want.key, *want.scopes, *frame.scopes))
        surroundings.reset(before)
    since = lowered(since, frame)  # a view from before the write began hides the records since then (H16, H17)
    scopes = tuple(scope for scope in dict.fromkeys((*want.scopes, *frame.scopes)) if scope != want.key)
    scopes = shared_scopes(want, scopes)
    version = record.version
    if frame.version is not None:
        version = Version(frame.version, node.timeline) if isinstance(frame.version, int) else frame.version
        record = msgspec.structs.replace(record, version=version)
    intent = Intent(since, want.key, scopes, version) if since is not None else None
    if intent is not None:
        with node.lock:
            node.intents[record.id] = [intent]
    try:
        stamp = await publish(node, record)
        await _reach(node, stamp, node.bound_s)
    except NotPublishedError as error:
        error.fields["value"] = value
        raise
    finally:
        with node.lock:
            node.intents.pop(record.id, None)
    life_s, kept_s = lives(node, want, frame, value, failed=False)
    served = Served(
        value=value, source="write", stamp=stamp, scopes=(want.key, *scopes), proven=began, why="written",
        fresh_until=began + life_s,
    )  # fmt: skip
    unclean = intent is None or not intent.clean or intent.since.generation != stamp.generation
    if frame.skipped or uncommitted or unclean:
        # The last of what is unclean: a deposed leader had shown us our record, where nothing came between; the one
        # that counts lies in another generation, whose records before it we have not judged.
        return served
    data = want.codec.encode(value)
    fresh_until = began + life_s
    cell = Cell(
        want.key, want.codec.shape, scopes, data if want.policy.copy else value, position=stamp.position,
        deadline=fresh_until, fresh_until=fresh_until, until=fresh_until + kept_s if kept_s else fresh_until,
        size=CELL_BYTES + len(data), version=version,
    )  # fmt: skip
    with node.lock:
        if not node.admits(stamp, want.key, scopes, version):
            return served
        if node.table.put(cell):
            served.cell = cell
    entry = Entry(want.key, stamp, scopes, data, VALUE, kept_s, 0.0, version)
    await send(node, want, entry, served)
    return served


async def _reach(node: Node, stamp: Stamp, wait_s: float) -> None:
    with node.lock:
        if node.generation != stamp.generation or node.applied >= stamp.position:
            return
        signal = node.expect(stamp.position)
    try:
        await Wait(signal, wait_s)
    finally:
        with node.lock:
            node.forget(signal)
