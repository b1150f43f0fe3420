"""Reading many keys: one fetch for all, and one call of the loader for all that are missing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from unstale.core.context import changed_here, surroundings, within
from unstale.core.entry import Entry, encode_entry
from unstale.core.fill import settle
from unstale.core.flights import Flight
from unstale.core.frame import Frame
from unstale.core.load import AbsentError, date_back, enclosing_frame, free_origin, land, refuse_reentry, take_off
from unstale.core.look import Unjudged, judge_by_store, judge_stored, look_l1
from unstale.core.ops import Fetch, Fetched, Item, Load, Sleep, Store
from unstale.core.reach import fresh_enough
from unstale.core.read import hides, load_or_fall_back, refresh, serve_unproven, within_grace
from unstale.core.replicas import look_back, refuse_old, view_of_replica
from unstale.core.served import Served, Want
from unstale.errors import EngineError, ValueTypeError

if TYPE_CHECKING:
    from unstale.core.node import Node

LoadMany = Callable[[list[str]], object]


async def read_many(node: Node, wants: Sequence[Want], call: LoadMany) -> dict[str, Served]:
    """Read many keys of one policy.

    Args:
        node: The node.
        wants: The reads, one a key.
        call: Loads a list of keys: it returns a mapping, in which a key that does not exist is left out.

    Returns:
        What is served, by key; keys that the loader left out are left out here too.
    """
    around = surroundings.get()
    if around is None or not around.changed:
        return await _read_many(node, wants, call)
    hidden = [want for want in wants if changed_here((want.key, *want.scopes))]
    served = await _read_many(node, [want for want in wants if want not in hidden], call)
    hidden += [want for want in wants if want.key in served and hides(served[want.key])]
    if hidden:
        served |= await _load_past_cache(node, hidden, call, node.clock())
    return served


async def _read_many(node: Node, wants: Sequence[Want], call: LoadMany) -> dict[str, Served]:
    arrived = node.clock()
    if not wants:
        return {}
    if not await fresh_enough(node, wants[0]):
        return await _load_past_cache(node, wants, call, arrived)
    for want in wants:
        want.after, want.call = wants[0].after, _one_of(call, want.key)
    served = await look_many(node, wants, arrived)
    missing = await _missing(node, wants, served, arrived)
    await _load_missing(node, missing, call, arrived, served)
    return served


async def look_many(node: Node, wants: Sequence[Want], arrived: float) -> dict[str, Served]:
    """Give what there is, fresh or stale: from L1, and by one fetch from the store."""
    found: dict[str, Served] = {}
    for want in wants:
        resident = await look_l1(node, want, arrived)
        if resident is not None:
            found[want.key] = resident
    rest = [want for want in wants if want.key not in found or found[want.key].stale]
    if not rest:
        return found
    asked = node.clock()
    fetched: Sequence[Fetched | EngineError | None]
    try:
        fetched = await Fetch(tuple(want.stored_key for want in rest))
    except EngineError as error:
        fetched = [error] * len(rest)
    failed = {id(one): one for one in fetched if isinstance(one, EngineError)}
    for lost in failed.values():  # each once, for however many keys: it is of a server, not of a key
        node.trouble("fetch", lost)
        if rest[0].policy.store_out == "refuse":
            raise lost
    for want, one in zip(rest, fetched, strict=True):
        if isinstance(one, EngineError):
            want.store_failed = True
            continue
        stored = judge_stored(node, want, arrived, one, asked)
        if isinstance(stored, Unjudged):
            stored = await judge_by_store(node, want, stored)
        if stored is not None:
            found[want.key] = stored
    return found


async def _missing(node: Node, wants: Sequence[Want], found: dict[str, Served], arrived: float) -> list[Want]:
    """Give the reads that have to load: what is stale within its grace is served while it is refreshed."""
    missing = []
    for want in wants:
        one = found.get(want.key)
        if one is None:
            one = await serve_unproven(node, want, arrived)
            if one is not None:
                found[want.key] = one
                continue
        if one is None or (one.stale and not within_grace(node, want, one)):
            missing.append(want)
        elif one.stale:
            await refresh(node, want)
    return missing


async def _load_missing(
    node: Node, missing: Sequence[Want], call: LoadMany, arrived: float, served: dict[str, Served]
) -> None:
    """Load what is missing by one call, but what others load already; something stale may stand in, as for one key."""
    mine, others = _begin(node, missing)
    if mine:
        together = functools.partial(_load_together, node, mine, call)
        if missing[0].policy.timed:
            await take_off(node, [flight for _want, flight in mine], together, f"load {len(mine)} keys")
        else:
            with suppress(Exception):  # each flight has it, and hands it to its own reader below
                await together()
    for want, flight in [*mine, *((want, None) for want in others)]:
        with suppress(AbsentError):
            served[want.key] = await load_or_fall_back(node, want, arrived, served.pop(want.key, None), flight)


async def _load_past_cache(node: Node, wants: Sequence[Want], call: LoadMany, arrived: float) -> dict[str, Served]:
    """Load all, for a ticket that this node has not reached."""
    for want in wants:
        want.after, want.anew, want.call = wants[0].after, True, _one_of(call, want.key)
    served: dict[str, Served] = {}
    await _load_missing(node, wants, call, arrived, served)
    return served


def _begin(node: Node, wants: Sequence[Want]) -> tuple[list[tuple[Want, Flight]], list[Want]]:
    """Begin a flight for each key that none is in the air for."""
    mine: list[tuple[Want, Flight]] = []
    others: list[Want] = []
    for want in wants:
        refuse_reentry(want, enclosing_frame())
    with node.lock:
        for want in wants:
            if want.stored_key in node.flights and want.policy.coalesce != "off" and not want.anew:
                others.append(want)
                continue
            flight = Flight(want.stored_key, (want.key, *want.scopes), node.here())
            node.flights.setdefault(want.stored_key, flight)
            mine.append((want, flight))
    return mine, others


async def _load_together(  # noqa: C901, PLR0912, PLR0915 - every flight lands, whatever happens
    node: Node, mine: list[tuple[Want, Flight]], call: LoadMany
) -> dict[str, Served]:
    """Load the keys of several flights by one call. A scope learnt in it ends all of them: whose it is, nobody said."""
    keys = [want.key for want, _flight in mine]
    policy = mine[0][0].policy
    after = mine[0][0].after
    lead = mine[0][1]
    for _want, flight in mine[1:]:
        flight.waits_for = lead  # whoever waits for one of them waits for the one call
    frame = Frame({want.stored_key for want, _flight in mine}, enclosing_frame(), lead, after)
    frame.origin = policy.origin
    origin = free_origin(policy.origin)
    served: dict[str, Served] = {}
    entries: list[tuple[Want, Entry, Served]] = []
    try:
        if origin is not None:
            await origin.enter()
        try:
            if after is not None and policy.lag_s:
                await Sleep(policy.lag_s)  # as for one key: a lagging replica does not answer a ticket
            wants = [want for want, _flight in mine]
            replica = None if policy.replica is None else await view_of_replica(node, wants, frame)
            begun, stamp = node.clock(), node.stamp(policy.lag_s)
            frame.log = None if stamp is None else stamp.generation
            for _want, flight in mine:
                flight.begun, flight.stamp, flight.view_from = begun, stamp, begun - policy.lag_s
            before = surroundings.set(within(frame))
            try:
                values = await Load(lambda: call(keys))
            finally:
                surroundings.reset(before)
                if replica is not None:
                    look_back(replica, frame)
                for want, flight in mine:
                    flight.scopes = (want.key, *want.scopes, *frame.scopes)
                    date_back(flight, frame)
        finally:
            if origin is not None:
                origin.leave()
        if replica is not None:
            refuse_old(replica, wants[0], frame)
        values = _mapping(values)
        for want, flight in mine:
            if want.key not in values:
                flight.error = AbsentError(want.key)
                continue
            one, entry = settle(node, want, flight, frame, values[want.key], failed=False)
            flight.served = served[want.key] = one
            if entry is not None:
                entries.append((want, entry, one))
    except Exception as error:
        for _want, flight in mine:
            if flight.served is None:
                flight.error = error
        raise
    finally:
        for _want, flight in mine:
            land(node, flight)
    await _send_all(node, entries)
    return served


def _mapping(values: object) -> Mapping[str, Any]:
    if isinstance(values, Mapping):
        return values
    msg = f"the loader of many keys returned {type(values).__name__}, not a mapping from key to value"
    raise ValueTypeError(msg, hint="write: return {key: value for ...}, and leave out what does not exist")


async def _send_all(node: Node, entries: list[tuple[Want, Entry, Served]]) -> None:
    """Send the fills in one request, but those that a record has overtaken."""
    now = node.clock()
    with node.lock:
        items = tuple(
            Item(want.stored_key, encode_entry(entry), (one.fresh_until or 0.0) + entry.kept_s - now)
            for want, entry, one in entries
            if node.admits(entry.stamp, entry.key, entry.scopes, entry.version) and (one.fresh_until or 0.0) > now
        )
    if not items:
        return
    try:
        await Store(items)
    except EngineError as error:
        node.trouble("store", error)


def _one_of(call: LoadMany, key: str) -> Callable[[], object]:
    """Give a loader of one key that asks the loader of many."""

    def pick(values: Any) -> object:
        if key not in values:
            raise AbsentError(key)
        return values[key]

    def one() -> object:
        values = call([key])
        if not hasattr(values, "__await__"):
            return pick(values)

        async def later() -> object:
            return pick(await values)

        return later()

    return one
