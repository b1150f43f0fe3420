"""Loading: one flight per key, its stamp captured before the read view, its result checked before it is kept.

The interleavings that this file defeats, by hazard number:

H3  reader captures stamp 10, loads v1; writer commits v2, record 11; reader fills: 11 > 10, so it is not kept here, and
    no other node takes an entry stamped 10 once it has applied 11.
H5  a reader arrives after record 11 and finds the flight of H3 in the air: it may not have its result.
H6  the loader names a tag only at its end, and the tag's record was applied while it ran: checked at the end.
H24 the leader is cancelled, or its loader asks for the same key, or two loaders wait for each other in a circle.
H33 the whole log is replaced while the loader runs: another generation at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from unstale.core.claim import RefreshedElsewhereError, claim, unlock
from unstale.core.context import changed_here, surroundings, within
from unstale.core.entry import Entry
from unstale.core.fill import lowered, send, settle
from unstale.core.flights import Flight
from unstale.core.frame import Frame
from unstale.core.look import covers, look_l1, proves
from unstale.core.marks import DEAD
from unstale.core.ops import Load, Sleep, Spawn, Wait
from unstale.core.origin import Origin
from unstale.core.replicas import look_back, refuse_old, view_of_replica
from unstale.core.served import Served, Want
from unstale.errors import LoadTimeoutError, ReentrantLoadError, UsageError

if TYPE_CHECKING:
    from unstale.core.node import Node


class SlowLoadError(Exception):
    """The soft timeout has passed; the load goes on. Never leaves the core."""


class AbsentError(LookupError):
    """The loader of many keys left this one out: it does not exist. Never leaves the core."""


def enclosing_frame() -> Frame | None:
    """Give the load that the running code is part of."""
    around = surroundings.get()
    return None if around is None else around.frame


def free_origin(origin: Origin | None) -> Origin | None:
    """Give the origin of which a load needs a place: none, if the load that it runs in holds one already.

    Else a few views, each waiting for a place for a part of itself, would hold all places for ever.
    """
    frame = enclosing_frame()
    return None if frame is not None and frame.holds(origin) else origin


async def load(node: Node, want: Want, arrived: float, own: Flight | None = None) -> Served:
    """Load a key, or share the load of another reader of this node.

    Returns as soon as a flight has landed whose result this reader may have. It ends: a flight that begins after the
    reader's arrival always has such a result, so at most one flight in the air is waited for in vain.

    Args:
        node: The node.
        want: The read.
        arrived: When it began.
        own: A flight that was begun for this very read.
    """
    frame = enclosing_frame()
    refuse_reentry(want, frame)
    while True:
        flight, leads = (own, True) if own is not None else _board_or_begin(node, want, frame)
        if leads and own is None:
            if not want.policy.timed:
                return await fly(node, want, flight)
            alone = functools.partial(fly, node, want, flight)
            await take_off(node, (flight,), alone, f"load {want.key}")
        if not flight.signal.fired:
            await _wait_for(node, want, flight, frame, arrived)
        if flight.has_outcome and (leads or acceptable(node, want, flight, arrived)):
            if flight.served is None:
                raise flight.error or LookupError(want.key)
            return msgspec.structs.replace(flight.served, source=flight.served.source if leads else "flight")
        own = None
        kept = None if want.anew else await look_l1(node, want, arrived)
        if kept is not None and not kept.stale:
            return kept  # of all who waited in vain another was quicker, and has loaded it


def _board_or_begin(node: Node, want: Want, frame: Frame | None) -> tuple[Flight, bool]:
    """Give the flight that brings a reader its value, and whether the reader leads it."""
    with node.lock:
        flight = _board(node, want, frame)
        if flight is not None:
            return flight, False
        flight = Flight(want.stored_key, (want.key, *want.scopes), node.here())
        node.flights.setdefault(want.stored_key, flight)
        return flight, True


def refuse_reentry(want: Want, frame: Frame | None) -> None:
    """Refuse to load what is being loaded around this read.

    Raises:
        ReentrantLoadError: It would wait for itself (H24).
    """
    while frame is not None:
        if want.stored_key in frame.keys:
            msg = f"the loader of {want.key!r} needs {want.key!r} itself"
            raise ReentrantLoadError(msg, hint="read the source directly there, or use another key", key=want.key)
        frame = frame.outer


def _board(node: Node, want: Want, frame: Frame | None) -> Flight | None:
    """Give a flight in the air that this reader can wait for, under the lock; None to begin one."""
    flight = node.flights.get(want.stored_key)
    if flight is None or want.policy.coalesce == "off" or want.anew:
        return None
    if not covers(want, flight.scopes):
        return None
    if frame is not None and flight.begun is None and frame.holds(want.policy.origin):
        return None  # it may wait for the place that this reader's own load holds
    if want.blocking and flight.home == node.here():
        return None  # it is carried by this very thread, which would never get to it while it waits
    inside = frame.flight if frame is not None and isinstance(frame.flight, Flight) else None
    if flight.circles_back_to(inside):
        return None
    if (
        flight.stamp is not None
        and node.generation == flight.stamp.generation
        and node.marks.judge((want.key, *want.scopes), flight.stamp.position, want.key, None) is DEAD
    ):
        del node.flights[want.stored_key]  # its result is of no use to whoever comes now (H5): let it land alone
        return None
    if inside is not None:
        inside.waits_for = flight
    return flight


async def _wait_for(node: Node, want: Want, flight: Flight, frame: Frame | None, arrived: float) -> None:
    """Wait until a flight has landed, or until this reader's patience ends."""
    policy = want.policy
    soft, hard = policy.soft_timeout_s, policy.hard_timeout_s
    try:
        if soft is not None and want.has_stale:
            if await Wait(flight.signal, max(0.0, arrived + soft - node.clock())):
                return
            raise SlowLoadError
        if await Wait(flight.signal, None if hard is None else max(0.0, arrived + hard - node.clock())):
            return
    finally:
        if frame is not None and isinstance(frame.flight, Flight):
            frame.flight.waits_for = None
    with node.lock:
        if node.flights.get(flight.key) is flight:
            del node.flights[flight.key]  # whoever comes now begins a new one
    msg = f"loading {want.key!r} took longer than {hard:g} s"
    raise LoadTimeoutError(msg, hint="raise hard_timeout, or add a grace so that a stale value can be served")


def acceptable(node: Node, want: Want, flight: Flight, arrived: float) -> bool:
    """Say whether a reader may have the outcome of a flight that it did not lead, be it a value or an exception.

    It may if the view was taken after it arrived. Of an earlier one only if its lease is proven, so that all that it
    has to see is applied (its ticket too: else it would load past the cache), and none of that has ended the result.
    """
    if flight.view_from is not None and flight.view_from >= arrived:
        return True
    if want.anew or flight.stamp is None:
        return False
    key, *scopes = flight.scopes
    with node.lock:
        return proves(node, want, arrived) and node.admits(flight.stamp, key, scopes, None)


def date_back(flight: Flight, frame: Frame) -> None:
    """Date a flight back to the oldest view that its loader read, before anybody may have its outcome.

    H17  1. a transaction begins, stamp 10, and takes its view 2. another one commits v2, record 11 3. a cached function
         is called in the first: its load would be stamped 11, and shows v1
    H5   the same for whoever waits for that load: it began after they arrived, and its view did not; nor did what it
         read through the cache, if that is an entry: it is judged by all that was applied when they come to have it
    H33  what was made of a part of another generation, or another cache, cannot be judged so: they load for themselves
    H1   what the loader reads may be what its own transaction has written: nobody else may have that before the commit
    """
    if changed_here(flight.scopes):
        frame.keep_apart()
    if frame.alone:
        flight.stamp = flight.view_from = None
        return
    flight.stamp = None if frame.foreign else lowered(flight.stamp, frame)
    moments = [at for at in (flight.view_from, frame.view_from) if at is not None]
    flight.view_from = min(*moments, frame.seen_from) if moments else None


async def take_off(
    node: Node, flights: Sequence[Flight], flow: Callable[[], Coroutine[Any, Any, object]], name: str
) -> None:
    """Let flights fly in the background, where their readers wait no longer than they like.

    If the background refuses the flow, the flights land at once, or whoever waits for them would wait for ever.
    """

    async def alone() -> None:
        try:
            await flow()
        except Exception as error:  # noqa: BLE001 - it has been handed to the waiters by the flights
            node.counts[f"failed:{type(error).__name__}"] += 1

    try:
        await Spawn(alone, name)
    except BaseException:
        for flight in flights:
            land(node, flight)
        raise


async def fly(node: Node, want: Want, flight: Flight) -> Served:
    """Carry out one flight, under the cluster's lock if the policy says so. Whatever happens to it, it lands (H24)."""
    token: int | None = None
    try:
        if want.policy.coalesce == "cluster" and not want.anew and want.after is None:
            token, found = await claim(node, want)
            if found is not None:
                flight.stamp, flight.scopes, flight.served = found.stamp, found.scopes, found
                return found
        origin = free_origin(want.policy.origin)
        if origin is None:
            served, entry = await _load_and_keep(node, want, flight)
        else:
            await origin.enter()
            try:
                served, entry = await _load_and_keep(node, want, flight)
            finally:
                origin.leave()
        flight.served = served
        if entry is not None:
            # Readers of this node need not wait for the store; other processes wait for the lock, which comes after.
            land(node, flight)
            await send(node, want, entry, served)
    except RefreshedElsewhereError:
        raise  # no outcome: a reader that waits for this flight leads one of its own
    except Exception as error:
        flight.error = error
        raise
    finally:
        # Cancelled, or killed by a BaseException: neither result nor error, so that a waiter takes over.
        if not flight.signal.fired:
            land(node, flight)
        if token is not None:
            await unlock(node, want, token)
    return served


def land(node: Node, flight: Flight) -> None:
    """Take a flight out of the air and wake its waiters."""
    with node.lock:
        if node.flights.get(flight.key) is flight:
            del node.flights[flight.key]
    flight.signal.fire()


async def _load_and_keep(node: Node, want: Want, flight: Flight) -> tuple[Served, Entry | None]:
    """Capture the stamp, then load, then keep the result if the checks at the end allow it."""
    call = want.call
    assert call is not None, "a read without a loader does not fly"
    frame = Frame((want.stored_key,), enclosing_frame(), flight, want.after)
    frame.origin = want.policy.origin
    if want.after is not None and want.policy.lag_s:
        # A lagging replica does not answer a ticket: by then the slowest has caught up with it (H37).
        await Sleep(want.policy.lag_s)
    replica = None if want.policy.replica is None else await view_of_replica(node, (want,), frame)
    flight.begun = node.clock()
    flight.stamp = node.stamp(want.policy.lag_s)
    frame.log = flight.stamp.generation if flight.stamp is not None else None
    flight.view_from = flight.begun - want.policy.lag_s
    before = surroundings.set(within(frame))
    failed = False
    try:
        value: Any = await Load(call)
    except Exception as error:
        if isinstance(error, UsageError | AbsentError) or want.policy.failure_ttl_s(error) is None:
            raise
        value, failed = error, True
    finally:
        surroundings.reset(before)
        flight.scopes = (want.key, *want.scopes, *frame.scopes)
        if replica is not None:
            look_back(replica, frame)
        date_back(flight, frame)
    if replica is not None:
        refuse_old(replica, want, frame)
    return settle(node, want, flight, frame, value, failed=failed)
