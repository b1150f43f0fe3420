"""Reading a key: L1, the store, a load; and what is served when freshness cannot be proven.

A read walks through this file from top to bottom: `read` decides and looks, `load` (in its own module) loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstale.core.claim import RefreshedElsewhereError
from unstale.core.context import Read, changed_here, surroundings
from unstale.core.load import AbsentError, SlowLoadError, load
from unstale.core.look import Unjudged, judge_by_store, judge_stored, look_l1, proves
from unstale.core.ops import Fetch, Flow, Spawn
from unstale.core.reach import fresh_enough
from unstale.core.record import Stamp
from unstale.core.served import Served, Want
from unstale.errors import EngineError, UnprovenError, UsageError

if TYPE_CHECKING:
    from unstale.core.flights import Flight
    from unstale.core.node import Node
    from unstale.core.table import Cell


def read(node: Node, want: Want) -> Flow[Served | None]:
    """Read a key.

    Returns:
        What is served; None when there is no entry and `want` has no loader.

    Raises:
        UnprovenError: Freshness cannot be proven, and the policy says `refuse`.
        Exception: Whatever the loader raised.
    """
    around = surroundings.get()
    return read_plainly(node, want) if around is None or not around.changed else _read_in_transaction(node, want)


async def _read_in_transaction(node: Node, want: Want) -> Served | None:
    """Read where something was changed and not published: a transaction, or a session, sees its own changes."""
    if not changed_here((want.key, *want.scopes)):
        served = await read_plainly(node, want)
        if served is None or not hides(served):
            return served
    if want.call is None:
        return None
    return await _load_past_cache(node, want, node.clock(), "loaded past the cache: a transaction here has changed it")


def hides(served: Served) -> bool:
    """Say whether what was served was changed around this read, so that it must not see it.

    What was loaded for this very read shows what a transaction around it shows.
    """
    return served.source != "load" and changed_here(served.scopes)


async def read_plainly(node: Node, want: Want) -> Served | None:
    """Read a key where no transaction or session around the read has changed anything: see `read`."""
    arrived = asked = node.clock()
    # Whether a ticket has to be answered: most often there is none, and nothing around the read that could have one.
    asks = want.after is not None or want.consistency == "strong" or surroundings.get() is not None
    if asks and not await fresh_enough(node, want):
        # Another generation, or this node is late: neither L1 nor the store can answer (H37).
        why = "loaded past the cache: the ticket was not reached"
        return None if want.call is None else await _load_past_cache(node, want, arrived, why)
    if want.anew:
        return await load(node, want, arrived)
    # The best entry that there is: a fresh one from L1 or else from the store, or a stale one. It is looked for here
    # and in plain functions: each coroutine costs a hit in the store as much as a fifth of its judgement.
    found: Served | None = None
    if want.key in node.table.cells:  # without the lock: what comes in this very moment is found in the store
        found = await look_l1(node, want, arrived)
        asked = node.clock()
    if found is None or found.stale:
        try:
            (fetched,) = await Fetch((want.stored_key,))
        except EngineError as error:
            _fetch_failed(node, want, error)
        else:
            stored = judge_stored(node, want, arrived, fetched, asked)
            if isinstance(stored, Unjudged):
                stored = await judge_by_store(node, want, stored)
            if stored is not None:
                found = stored
    if found is None or found.stale:
        return await _beyond(node, want, arrived, found)
    cell = found.cell
    if cell is not None and cell.deadline < cell.fresh_until and due_early(node, want, cell):
        await refresh(node, want)
    return found


def _fetch_failed(node: Node, want: Want, error: EngineError) -> None:
    node.trouble("fetch", error)
    want.store_failed = True
    if want.policy.store_out == "refuse":
        raise error


async def _beyond(node: Node, want: Want, arrived: float, found: Served | None) -> Served | None:
    """Serve where nothing fresh was found: something stale within its grace, what is loaded, or nothing."""
    if want.call is None:
        return None
    if found is not None and within_grace(node, want, found):
        await refresh(node, want)
        return found
    unproven = None if found is not None else await serve_unproven(node, want, arrived)
    return unproven if unproven is not None else await load_or_fall_back(node, want, arrived, found)


async def _load_past_cache(node: Node, want: Want, arrived: float, why: str) -> Served:
    """Load for what no cache can answer: a ticket that this node has not reached, or what a transaction has changed.

    The load begins after the ticket was given, so its view shows what the ticket stands for.
    """
    want.anew = True
    served = await load(node, want, arrived)
    served.why = why
    return served


def within_grace(node: Node, want: Want, found: Served) -> bool:
    """Say whether something stale may be served while a refresh runs; the store's failure may be reason enough."""
    excused = want.store_failed and want.policy.store_out == "stale"
    kept_s = want.policy.kept_s if excused else want.policy.grace_s
    return found.fresh_until is not None and node.clock() < found.fresh_until + kept_s


async def serve_unproven(node: Node, want: Want, arrived: float) -> Served | None:
    """Give what the policy prefers to a load with a lapsed lease, and refresh it; None to load.

    Raises:
        UnprovenError: The policy says `refuse`.
    """
    with node.lock:
        if proves(node, want, arrived):
            return None
    if want.policy.unproven == "refuse":
        msg = f"{want.key!r} cannot be proven fresh: nothing was heard from the log within max_staleness"
        raise UnprovenError(msg, hint='write unproven="load" (the default) or unproven="stale"', key=want.key)
    unproven = _unproven(node, want) if want.policy.unproven == "stale" else None
    if unproven is not None:
        await refresh(node, want)
    return unproven


async def load_or_fall_back(
    node: Node, want: Want, arrived: float, fallback: Served | None, own: Flight | None = None
) -> Served:
    """Load, or wait for a flight of one's own; serve something stale instead if that fails or is slow."""
    want.has_stale = fallback is not None
    try:
        return await load(node, want, arrived, own)
    except SlowLoadError:
        reason = "stale: the load is slow"
    except (UsageError, AbsentError):
        raise
    except Exception as error:
        if fallback is None or not within_error_grace(node, want, fallback):
            raise
        node.trouble("load", error)
        reason = "stale: the load failed"
    assert fallback is not None, "only a reader with something stale is told that a load is slow"
    fallback.why = reason
    return fallback


def within_error_grace(node: Node, want: Want, found: Served) -> bool:
    """Say whether something stale may be served because its load failed."""
    return found.fresh_until is not None and node.clock() < found.fresh_until + want.policy.error_grace_s


def _unproven(node: Node, want: Want) -> Served | None:
    """Give what is resident although nothing proves it, for the policy that prefers that; never what was ended hard."""
    with node.lock:
        cell = node.table.cells.get(want.key)
        now = node.clock()
        if cell is None or cell.shape != want.codec.shape or now >= cell.fresh_until + want.policy.kept_s:
            return None
        stamp = Stamp(node.generation or "", cell.position)
    value = want.codec.decode(cell.value) if want.policy.copy and not cell.failed else cell.value
    return Served(
        value=value, failed=cell.failed, source="l1", stamp=stamp, scopes=(cell.key, *cell.scopes), proven=None,
        stale=True, why="stale: unproven", fresh_until=cell.fresh_until,
    )  # fmt: skip


def due_early(node: Node, want: Want, cell: Cell) -> bool:
    """Say whether a refresh is to start because the moment that was drawn for it (XFetch) has come; once an entry."""
    due = want.call is not None and cell.deadline <= node.clock() < cell.fresh_until
    if due:
        cell.deadline = cell.fresh_until
    return due


async def refresh(node: Node, want: Want) -> None:
    """Start to load a key anew in the background, unless that is under way."""
    with node.lock:
        if want.key in node.refreshing:
            return
        node.refreshing.add(want.key)
    try:
        await Spawn(lambda: _refresh(node, want), f"refresh {want.key}")
    except BaseException:
        node.refreshing.discard(want.key)
        raise


async def _refresh(node: Node, want: Want) -> None:
    before = surroundings.set(None)  # the load that this read was part of has nothing to do with it
    try:
        await load(node, want.again(), node.clock())
    except RefreshedElsewhereError:
        node.counts["refreshed elsewhere"] += 1
    except Exception as error:  # noqa: BLE001 - nobody waits for it: the stale value stays until its grace ends
        node.trouble("refresh", error)
    finally:
        node.refreshing.discard(want.key)
        surroundings.reset(before)


def note(node: Node, want: Want, served: Served | None) -> None:
    """Tell the load that this read is part of, and the observers around it, what was served."""
    around = surroundings.get()
    if around is None:
        return
    if served is None:
        nothing = Read(want.key, "none", None, None, stale=False, why="no entry", scopes=(), remaining_s=None)
        around.note(nothing, node.generation)
        return
    now = node.clock()
    shows = served.view_from if served.source in {"load", "flight"} else served.proven
    around.note(
        Read(
            want.key,
            served.source,
            served.stamp,
            None if served.proven is None else now - served.proven,
            served.stale,
            served.why,
            served.scopes,
            None if served.fresh_until is None else served.fresh_until - now,
        ),
        None if served.stamp is None else served.stamp.generation,
        float("-inf") if shows is None else shows,
    )
