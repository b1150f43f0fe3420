"""The lock of a key across processes: one of them loads, the others wait for what it stores.

It only saves loads. Who holds it too long, or cannot have it because the store is out, loads beside the others, and the
stamps keep that correct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstale.core.look import Unjudged, judge_by_store, judge_stored
from unstale.core.ops import Fetch, Lock, Sleep, Unlock
from unstale.core.served import Served, Want
from unstale.errors import EngineError

if TYPE_CHECKING:
    from unstale.core.node import Node

BACKOFF_MIN_S = 0.002
BACKOFF_MAX_S = 0.1


class RefreshedElsewhereError(Exception):
    """Another process holds the key's lock and refreshes it already. Never leaves the core."""


async def claim(node: Node, want: Want) -> tuple[int | None, Served | None]:
    """Take the lock of a key across processes, or wait until its holder has stored the entry.

    Returns the fencing token, or the entry, or neither: the holder is late, or the store is out, and this process loads
    without the lock. Stamps keep that correct; the lock only saves loads.
    """
    arrived = node.clock()
    wait_s = BACKOFF_MIN_S
    while True:
        token: int | None = None
        try:
            token = await Lock(want.stored_key, want.policy.lock_ttl_s)
            if want.refreshing:
                return _refresher(token), None  # the entry that is there is the one to be replaced
            asked = node.clock()
            (fetched,) = await Fetch((want.stored_key,))
            stored = judge_stored(node, want, asked, fetched, asked)
            found = await judge_by_store(node, want, stored) if isinstance(stored, Unjudged) else stored
        except EngineError as error:
            node.trouble("lock", error)
            return token, None
        except BaseException:
            await unlock(node, want, token)
            raise
        if found is not None and not found.stale:
            await unlock(node, want, token)
            return None, found
        if token is not None or node.clock() - arrived >= want.policy.lock_ttl_s:
            return token, None
        await Sleep(wait_s * (0.5 + node.random()))
        wait_s = min(wait_s * 2, BACKOFF_MAX_S)


def _refresher(token: int | None) -> int:
    """Give the token of the one that refreshes; the others leave it to that one."""
    if token is None:
        raise RefreshedElsewhereError
    return token


async def unlock(node: Node, want: Want, token: int | None) -> None:
    """Give the lock of a key back, if it is held; the store's failure is reported: the lock ends by itself."""
    if token is None:
        return
    try:
        await Unlock(want.stored_key, token)
    except EngineError as error:
        node.trouble("unlock", error)
