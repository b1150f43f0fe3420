"""Explaining a key: what is stored, its stamp, its scopes and their marks, and whether and why it may be served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from unstale.core.entry import decode_entry
from unstale.core.look import proves
from unstale.core.marks import Mark, full, judge
from unstale.core.ops import Fetch, Identity, ReadMarks
from unstale.core.record import EVERYTHING, Stamp, Version
from unstale.core.served import Want
from unstale.errors import EngineError

if TYPE_CHECKING:
    from unstale.core.node import Node


class Explanation(msgspec.Struct, frozen=True):
    """What is known of one key.

    Attributes:
        key: The key.
        servable: A bounded read would be served from the cache.
        why: The reason, as one sentence.
        log: The log that the marks belong to, and its head.
        stored: An entry is in the store.
        resident: An entry is in this process's L1.
        stamp: The stored entry's stamp.
        version: Its source version.
        remaining_s: Seconds of life that are left to it; negative within its grace.
        size: Bytes stored.
        marks: For each scope, the positions of its last hard and last soft invalidation (0: never).
        proven_s: Seconds ago as of which this node is proven; None when it is not.
    """

    key: str
    servable: bool
    why: str
    log: Identity
    stored: bool = False
    resident: bool = False
    stamp: Stamp | None = None
    version: Version | None = None
    remaining_s: float | None = None
    size: int = 0
    marks: dict[str, tuple[int, int]] = {}
    proven_s: float | None = None


async def explain(node: Node, want: Want) -> Explanation:
    """Tell what is cached under a key.

    Raises:
        EngineError: The store failed.
    """
    now = node.clock()
    asked = node.clock()
    (fetched,) = await Fetch((want.stored_key,))
    assert not isinstance(fetched, EngineError), "who could ask for nothing raises it"
    entry = decode_entry(fetched.data, want.key) if fetched else None
    reply = await ReadMarks((want.key, *(entry.scopes if entry else want.scopes), EVERYTHING))
    with node.lock:
        resident = want.key in node.table.cells
        proven = node.lease.proven if proves(node, want, now) else None
    marks = {scope: _positions(mark) for scope, mark in reply.marks.items()}
    known = Explanation(
        want.key,
        servable=False,
        why="nothing is stored" if fetched is None else "what is stored cannot be read: it counts as a miss",
        log=reply.identity,
        resident=resident,
        marks={scope: marks.get(scope, (0, 0)) for scope in (want.key, *(entry.scopes if entry else ()), EVERYTHING)},
        proven_s=None if proven is None else now - proven,
    )
    if fetched is None or entry is None:
        return known
    remaining_s = fetched.remaining_s - entry.kept_s - (node.clock() - asked)
    verdict = judge(reply.marks, (entry.key, *entry.scopes), entry.stamp.position, entry.key, entry.version)
    servable = False
    if entry.stamp.generation != reply.identity.generation:
        why = "its stamp is of another generation: a miss"
    elif reply.start > entry.stamp.position + 1:
        why = "the marks do not reach back to its stamp: a miss"
    elif verdict:
        ending = [scope for scope in marks if max(marks[scope]) > entry.stamp.position]
        how = ("", "softly ", "")[verdict]
        why = f"{how}ended by {', '.join(ending) or want.key} after its stamp"
    elif remaining_s <= 0:
        why = "its life is over; it may be served stale within its grace"
    else:
        servable, why = True, "no scope of it was invalidated after its stamp"
    return msgspec.structs.replace(
        known, servable=servable, why=why, stored=True, stamp=entry.stamp, version=entry.version,
        remaining_s=remaining_s, size=len(fetched.data),
    )  # fmt: skip


def _positions(mark: int | Mark) -> tuple[int, int]:
    whole = full(mark)
    return whole.hard.last, whole.soft.last
