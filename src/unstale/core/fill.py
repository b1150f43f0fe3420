"""Fills: the checks at the end of a load that decide whether its result is kept, for how long, under which stamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unstale.core.entry import FAILURE, VALUE, Entry, encode_entry, encode_failure
from unstale.core.flights import Flight
from unstale.core.frame import Frame
from unstale.core.look import CELL_BYTES, early_deadline, shared_scopes
from unstale.core.ops import Item, Store
from unstale.core.record import Stamp, Version
from unstale.core.served import Served, Want
from unstale.core.table import Cell
from unstale.errors import EngineError

if TYPE_CHECKING:
    from unstale.core.node import Node


def settle(
    node: Node,
    want: Want,
    flight: Flight,
    frame: Frame,
    value: Any,
    *,
    failed: bool,
) -> tuple[Served, Entry | None]:
    """Decide, in one locked step at the end of a load, whether its result is kept; and give it to its reader.

    Returns the entry to be stored, None when it must not be: a fill that fails the checks would only be thrown away by
    every reader (H35).
    """
    now, begun = node.clock(), flight.begun or 0.0
    cost_s = now - begun
    if frame.view_from is not None:
        begun = min(begun, frame.view_from)  # its life begins with its stamp (H35)
    scopes = want.scopes
    if frame.scopes:
        scopes = tuple(scope for scope in dict.fromkeys((*scopes, *frame.scopes)) if scope != want.key)
        scopes = shared_scopes(want, scopes)
    stamp = flight.stamp
    flight.scopes = (want.key, *scopes)
    life_s, kept_s = lives(node, want, frame, value, failed=failed)
    version = _version(node, frame)
    served = Served(
        value=value, failed=failed, source="load", stamp=stamp, scopes=(want.key, *scopes),
        proven=None if frame.unproven else begun, stale=frame.stale,
        why="loaded from stale parts" if frame.stale else "loaded", fresh_until=begun + life_s,
        view_from=flight.view_from,
    )  # fmt: skip
    if frame.skipped or stamp is None or begun + life_s <= now:
        reason = "not committed" if frame.alone else "no stamp" if stamp is None else "no life"
        served.why = "loaded, not kept: " + ("skipped" if frame.skipped else reason)
        return served, None
    data = encode_failure(value) if failed else want.codec.encode(value)
    fresh_until = begun + life_s
    cell = Cell(
        want.key, want.codec.shape, scopes, data if want.policy.copy and not failed else value,
        position=stamp.position, deadline=early_deadline(node, want, fresh_until, cost_s), fresh_until=fresh_until,
        until=fresh_until + kept_s if kept_s else fresh_until, size=CELL_BYTES + len(data),
        version=version, failed=failed,
    )  # fmt: skip
    with node.lock:
        if not node.admits(stamp, want.key, scopes, version):
            served.why = "loaded, not kept: overtaken by a record"
            node.counts["overtaken"] += 1
            return served, None
        if node.table.put(cell):
            served.cell = cell
    kind = FAILURE if failed else VALUE
    return served, Entry(want.key, stamp, scopes, data, kind, kept_s, cost_s, version)


def lives(node: Node, want: Want, frame: Frame, value: object, *, failed: bool) -> tuple[float, float]:
    """Give the seconds of a result's life, and those beyond it during which it is kept to be served stale.

    A life is shortened at random so that entries made together do not end together (H26), and bounded by the lives of
    the entries that the result was made of. Life and grace together never exceed the node's `max_ttl` (H35).
    """
    policy = want.policy
    if failed:
        life_s, kept_s = policy.failure_ttl_s(value) or 0.0, 0.0  # type: ignore[arg-type]
    else:
        life_s, kept_s = policy.none_ttl_s if value is None else policy.ttl_s, policy.kept_s
    if frame.ttl_s is not None:
        life_s = frame.ttl_s
    life_s *= 1.0 - policy.jitter * node.random()
    if frame.life_s is not None:
        life_s = min(life_s, frame.life_s)
    life_s = min(life_s, node.max_ttl_s)
    return life_s, min(kept_s, node.max_ttl_s - life_s)


def lowered(stamp: Stamp | None, frame: Frame) -> Stamp | None:
    """Give a load's stamp, lowered to that of the oldest stale entry that went into its result."""
    if stamp is None or frame.oldest is None:
        return stamp
    if frame.oldest.generation != stamp.generation:
        return None
    return min(stamp, frame.oldest, key=lambda one: one.position)


def _version(node: Node, frame: Frame) -> Version | None:
    return Version(frame.version, node.timeline) if isinstance(frame.version, int) else frame.version


async def send(node: Node, want: Want, entry: Entry, served: Served) -> None:
    """Send a fill that has just passed its checks to the store; the store's failure is reported, never raised.

    It is sent with the life that is left of it, and one that is dead already is not (H35).
    """
    left_s = (served.fresh_until or 0.0) + entry.kept_s - node.clock()
    if left_s - entry.kept_s <= 0:
        return
    try:
        await Store((Item(want.stored_key, encode_entry(entry), left_s),))
    except EngineError as error:
        node.trouble("store", error)
