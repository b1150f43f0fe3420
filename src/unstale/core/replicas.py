"""Replicas: how old the view of a load may be, and whether a replica may answer it at all.

With `Policy.replica` the lag is measured before each load, and the loader asks `needs_primary()` where it is to read.
Who is told "the primary" has a view of now; who is not, or does not ask, has one that may be as old as the lag.

H17  1. the replica is 3 s behind, applied is 11; record 11 is 1 s old 2. a load reads the replica: v1, from before 11
     3. stamped 11 it would never be ended; dated back by 3 s its stamp is 10
H37  1. a client has written, and its ticket is 11 2. the node has applied 11, so the ticket is reached 3. the replica
     shows 10: whatever it says is no answer; it is one when what had been applied a lag ago reaches the ticket
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unstale.core.frame import Frame
from unstale.core.ops import Load
from unstale.core.record import Stamp
from unstale.core.served import Want
from unstale.errors import PolicyError, UnprovenError, UsageError

if TYPE_CHECKING:
    from unstale.core.node import Node
    from unstale.core.policy import Policy


def check_colour(policy: Policy, *, blocking: bool, name: str) -> None:
    """Refuse a replica whose lag has to be awaited, for a function that cannot await it.

    Raises:
        PolicyError: It is.
    """
    measure = policy.replica
    if blocking and any(map(inspect.iscoroutinefunction, (measure, getattr(measure, "__call__", None)))):  # noqa: B004
        msg = f"replica= is a coroutine function, and {name} is not"
        raise PolicyError(msg, hint="give a plain function, or cache a coroutine function")


class View(NamedTuple):
    """What a replica shows, at worst.

    Attributes:
        stamp: What had been applied by the moment that it shows; None when that is not known.
        shows: That moment; the begin of the load when it is not known.
        refused: Why it is no answer for this read; empty where it is one.
    """

    stamp: Stamp | None
    shows: float
    refused: str


async def view_of_replica(node: Node, wants: Sequence[Want], frame: Frame) -> View:
    """Measure how far the replica lags, and tell the loader of this frame whether it may answer.

    It may not where what it shows could be older than this read allows, or does not reach its ticket. And it had better
    not where a record that it may not show yet has named what is read: its answer would be old, and not be kept.

    Args:
        node: The node.
        wants: The reads that the load is for, of one policy.
        frame: The load's.

    Raises:
        UsageError: The measuring function has to be awaited, and nobody can.
    """
    asked = node.clock()
    lag_s = await _measured(node, wants[0].policy.replica)
    # It was so far behind at some moment since it was asked; by now it shows that moment, or a later one.
    stamp = None if lag_s is None else node.stamp(node.clock() - asked + lag_s)
    shows = asked if lag_s is None else asked - lag_s
    refused = _refused(wants, frame.after, lag_s, stamp)
    with node.lock:
        overtaken = stamp is None or not all(node.admits(stamp, want.key, want.scopes, None) for want in wants)
    frame.primary = bool(refused) or overtaken
    return View(stamp, shows, refused)


async def _measured(node: Node, measure: Any) -> float | None:
    """Give the lag in seconds; None where nobody knows it, which is reported unless that is what was answered."""
    try:
        lag_s = await Load(measure)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the lag is not known
        node.trouble("replica", error)
        return None
    if lag_s is None:
        return None
    if isinstance(lag_s, bool) or not isinstance(lag_s, int | float) or not 0 <= lag_s < math.inf:
        msg = f"the function of replica= gave {reprlib.repr(lag_s)}"
        hint = "return the seconds that the replica is behind at most, or None where that is not known"
        node.trouble("replica", PolicyError(msg, hint=hint, given=lag_s))
        return None
    return float(lag_s)


def _refused(wants: Sequence[Want], after: Stamp | None, lag_s: float | None, stamp: Stamp | None) -> str:
    """Say why what the replica shows is no answer; nothing, where it is one."""
    if after is not None and (stamp is None or stamp.generation != after.generation or stamp.position < after.position):
        return "the replica may not show yet what the ticket stands for"
    if any(want.consistency != "eventual" and (lag_s is None or lag_s >= want.bound_s) for want in wants):
        behind = (
            "nobody knows how far the replica is behind" if lag_s is None else f"the replica is {lag_s:.3g} s behind"
        )
        return f"{behind}, which max_staleness does not allow"
    return ""


def look_back(view: View, frame: Frame) -> None:
    """Date the result of a load back to what the replica shows, unless its loader was told to read the primary."""
    if not frame.told:
        frame.look_back(view.stamp, view.shows)


def refuse_old(view: View, want: Want, frame: Frame) -> None:
    """Refuse the result of a load that may have read a replica which must not answer.

    Raises:
        UnprovenError: The loader did not ask where to read.
    """
    if view.refused and not frame.told:
        msg = f"{want.key!r} was loaded without asking needs_primary(), and {view.refused}"
        hint = "in the loader: if unstale.needs_primary(), read the primary; or replica=None, if it reads no replica"
        raise UnprovenError(msg, hint=hint, key=want.key)
