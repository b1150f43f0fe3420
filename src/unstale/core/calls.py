"""The flows behind the public methods, each one call from its start to its answer.

Each is given the node, or None where the cache is disabled: then loaders and writers run as they always do, nobody
keeps what they return, and no engine is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from unstale.core.context import Read, surroundings, within
from unstale.core.explain import Explanation, explain
from unstale.core.frame import Frame
from unstale.core.many import LoadMany, read_many
from unstale.core.ops import Delete, Flow, Identity, Load, Wait
from unstale.core.read import note, read, read_plainly
from unstale.core.record import Record, Stamp
from unstale.core.served import Served, Want
from unstale.core.write import Receipt, invalidate, write
from unstale.errors import EngineError

if TYPE_CHECKING:
    from unstale.core.node import Node

FIRST_ANSWER_S = 1.0
DISABLED: Final = "disabled"
"""The generation in the receipts of a disabled cache, which no log ever has."""


async def ready(node: Node) -> None:
    """Wait for the tail's first answer from the log, once: without it nothing can be served or kept."""
    if not node.joined.fired:
        await Wait(node.joined, FIRST_ANSWER_S)


async def read_served(node: Node | None, want: Want) -> Served | None:
    """Read a key, and tell those around of it; a failure that is remembered is raised."""
    if node is None:
        return await _read_disabled(want)
    if not node.joined.fired:
        await ready(node)
    served = await read(node, want)
    if surroundings.get() is not None:
        note(node, want, served)
    if served is not None and served.failed:
        raise served.value.with_traceback(None)
    return served


def read_alone(node: Node | None, want: Want) -> Flow[Served | None]:
    """Read a key as `read_served` does, by fewer steps where nothing is around that has to be told of the read.

    It is for those who run it at once, in the context in which they call this; a failure is theirs to raise.
    """
    if node is None or not node.joined.fired or surroundings.get() is not None:
        return read_served(node, want)
    return read_plainly(node, want)


async def read_value(node: Node | None, want: Want, default: object) -> Any:
    """Read a key: its value, or the default."""
    served = await read_served(node, want)
    return default if served is None else served.value


async def read_values(node: Node | None, wants: Sequence[Want], call: LoadMany) -> dict[str, Any]:
    """Read many keys: their values by key, in the order asked for."""
    if node is None:
        return await _read_many_disabled(wants, call)
    await ready(node)
    served = await read_many(node, wants, call)
    values = {}
    for want in wants:
        one = served.get(want.key)
        if one is None:
            continue
        note(node, want, one)
        if one.failed:
            raise one.value.with_traceback(None)
        values[want.key] = one.value
    return values


async def publish_record(node: Node | None, record: Record, *, wait: bool) -> Receipt:
    """Invalidate."""
    if node is None:
        return _unpublished(record)
    if not node.joined.fired:
        await ready(node)
    return await invalidate(node, record, wait=wait)


async def write_value(
    node: Node | None, want: Want, writer: Callable[[], object | Awaitable[object]], record: Record
) -> Any:
    """Write through."""
    if node is None:
        return (await _call_disabled({want.stored_key}, writer))[0]
    await ready(node)
    served = await write(node, want, writer, record)
    return served.value


async def delete_key(node: Node | None, want: Want, record: Record) -> Receipt:
    """End an entry on every node, then free its space in the store."""
    if node is None:
        return _unpublished(record)
    await ready(node)
    receipt = await invalidate(node, record, wait=False)
    try:
        await Delete((want.stored_key,))
    except EngineError as error:
        node.trouble("delete", error)
    return receipt


async def ticket(node: Node | None) -> Stamp | None:
    """Give a ticket for all that this node has applied, its own writes among it."""
    if node is None:
        return None
    await ready(node)
    return node.stamp()


async def explain_key(node: Node | None, want: Want) -> Explanation:
    """Tell what is cached under a key."""
    if node is None:
        why = "the cache is disabled: every read loads"
        return Explanation(want.key, servable=False, why=why, log=Identity(DISABLED, 0, ""))
    return await explain(node, want)


# Disabled ---------------------------------------------------------------------------------------------------------


async def _call_disabled(keys: set[str], call: Callable[[], object | Awaitable[object]]) -> tuple[Any, Frame]:
    """Call a loader or writer: its value, and what it said of it."""
    around = surroundings.get()
    frame = Frame(keys, None if around is None else around.frame)
    frame.primary = True  # nobody knows what its replicas show, or what its readers have seen
    before = surroundings.set(within(frame))
    try:
        return await Load(call), frame
    finally:
        surroundings.reset(before)


async def _read_disabled(want: Want) -> Served | None:
    if want.call is None:
        _note_disabled(want, "none", None)
        return None
    value, frame = await _call_disabled({want.stored_key}, want.call)
    _note_disabled(want, "load", frame)
    return Served(value=value, source="load", stamp=None, scopes=(want.key, *want.scopes), proven=None, why=DISABLED)


async def _read_many_disabled(wants: Sequence[Want], call: LoadMany) -> dict[str, Any]:
    if not wants:
        return {}
    found, frame = await _call_disabled({want.stored_key for want in wants}, lambda: call([w.key for w in wants]))
    found = dict(found)
    values = {want.key: found[want.key] for want in wants if want.key in found}
    for want in wants:
        if want.key in values:
            _note_disabled(want, "load", frame)
    return values


def _note_disabled(want: Want, source: str, frame: Frame | None) -> None:
    around = surroundings.get()
    if around is None:
        return
    scopes = () if frame is None else tuple(dict.fromkeys((want.key, *want.scopes, *frame.scopes)))
    around.note(
        Read(
            want.key, source, None, None if frame is None else 0.0, stale=frame is not None and frame.stale,
            why="the cache is disabled", scopes=scopes, remaining_s=None,
        ),
        DISABLED,
    )  # fmt: skip


def _unpublished(record: Record) -> Receipt:
    return Receipt(Stamp(DISABLED, 0), record.scopes, complete=True)
