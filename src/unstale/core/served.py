"""What a read was asked for, and what it served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from unstale.core.codec import Codec
    from unstale.core.policy import Consistency, Policy
    from unstale.core.record import Stamp
    from unstale.core.table import Cell


def stored_key(shape: str, key: str) -> str:
    """Give the key in the store: the shape of the value's type stands before it, so no deploy reads another's bytes."""
    return f"{shape}|{key}"


class Want(msgspec.Struct, eq=False):
    """One read of one key.

    Attributes:
        key: The key, which is also its own scope.
        stored_key: The key in the store, by `stored_key`.
        scopes: The scopes known beforehand: tags and namespace.
        policy: How it is kept.
        codec: How its value is encoded.
        bound_s: How stale it may be at most, in seconds; infinity for `eventual`.
        consistency: `bounded`, `eventual` or `strong`.
        after: A ticket: nothing older than it will do.
        call: The loader; None for a plain look.
        blocking: The reader blocks its thread while it waits.
        anew: Load, whatever there is (a refresh).
        refreshing: A refresh in the background, of which one in the cluster is enough.
        store_failed: The store failed during this read.
        has_stale: The reader has something stale to fall back on when the load is slow.
    """

    key: str
    stored_key: str
    scopes: tuple[str, ...]
    policy: Policy
    codec: Codec
    bound_s: float
    consistency: Consistency = "bounded"
    after: Stamp | None = None
    call: Callable[[], object | Awaitable[object]] | None = None
    blocking: bool = False
    anew: bool = False
    refreshing: bool = False
    store_failed: bool = False
    has_stale: bool = False

    def again(self) -> Want:
        """Give the same read as a refresh in the background."""
        return msgspec.structs.replace(self, after=None, consistency="bounded", anew=False, refreshing=True)


class Served(msgspec.Struct, eq=False):
    """The answer to a read.

    Attributes:
        value: The value, or the exception to be raised.
        source: `l1`, `store`, `load` or `flight`.
        stamp: The stamp of the entry, None when it has none.
        scopes: All that would end it, its own key first.
        proven: The moment as of which it was proven fresh; None when nothing proved it.
        why: The reason, in a few words.
        failed: The value is an exception.
        stale: It is served although it is no longer fresh.
        fresh_until: The moment at which its life ends; None when it is not kept.
        cell: The resident entry, if it is one.
        view_from: The earliest moment that its view may show, if it was loaded.
    """

    value: Any
    source: str
    stamp: Stamp | None
    scopes: tuple[str, ...]
    proven: float | None
    why: str
    failed: bool = False
    stale: bool = False
    fresh_until: float | None = None
    cell: Cell | None = None
    view_from: float | None = None
