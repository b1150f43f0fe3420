"""Keys whose truth is the cache itself: the value in force is the one that was written last, by the order of the log.

A cached value of a database is kept only if nothing came between its load and its record, since another commit may lie
on either side of it (H16). Here there is no other truth: two writes of one key are in the order of their records, so
each value is good at the position of its own record, until the next one. Where the engine can, record and value are
written in one atomic step (`Put`), which also needs but one round trip:

1. the writer knows the log up to h, so its record will be at h + 1, and the value is stamped with that
2. the engine appends the record and puts the value if the head is h; else it does nothing, and tells the head
3. the same again from there; a change that depends on the old value looks at that again first

So a change (`change`) is linearizable: the old value was judged by all records up to h, and nothing came between. An
engine that cannot do so takes the store's lock for a change, which holds as long as no holder stops for longer than the
lock lives; and of two plain writes at once it may keep neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from unstale.core.calls import ready
from unstale.core.entry import Entry, encode_entry
from unstale.core.look import CELL_BYTES
from unstale.core.many import look_many
from unstale.core.ops import Appended, Identity, Item, Lock, Put, Sleep, Store, Unlock
from unstale.core.publish import (
    APPEND_PATIENCE_S,
    RETRY_MAX_S,
    RETRY_MIN_S,
    acknowledged,
    applied,
    catch_up,
    not_published,
    publish,
    unpublished,
)
from unstale.core.reach import proven_head, reach
from unstale.core.record import Record, Stamp
from unstale.core.register_reads import overtaken
from unstale.core.served import Served, Want
from unstale.core.table import Cell
from unstale.errors import BusyError, EngineError, UnavailableError

if TYPE_CHECKING:
    from unstale.core.node import Node

PUTS_MAX: Final = 100  # of a write that depends on nothing: then it is written in two steps
CHANGES_MAX: Final = 100  # looks of a change at the value that it changes
LOCK_S: Final = 10.0


class Written(msgspec.Struct, frozen=True):
    """What is written under a key.

    Attributes:
        want: The key, its scopes and codec.
        value: The value as L1 holds it.
        data: The same, encoded.
        life_s: Seconds that it lives; with none it is dropped.
    """

    want: Want
    value: Any
    data: bytes
    life_s: float


Decide = Callable[[Served | None], Written | None]
"""Given what is under the key, gives what is to be written: None for nothing. May raise."""


async def write_all(node: Node, writes: Sequence[Written], record: Record, *, atomic: bool) -> Stamp:
    """Write keys, whatever is there: the last record wins.

    Args:
        node: The node.
        writes: What is written.
        record: Names all their keys.
        atomic: The engine has `Put`.

    Raises:
        NotPublishedError: The log failed.
    """
    await ready(node)
    began = node.clock()
    head = node.stamp() if atomic else None
    for _ in range(PUTS_MAX):
        if head is None:
            break
        try:
            answer = await _put(node, writes, record, head)
        except BaseException:  # as `publish` does: nobody knows whether the log has it
            node.end_here(record)
            unpublished(node, (record,))
            raise
        if isinstance(answer, Appended):
            stamp = await applied(node, answer)
            _keep(node, writes, stamp, began)
            return stamp
        head = Stamp(answer.generation, answer.head)
        await Sleep(RETRY_MIN_S * node.random())  # writers that meet once part
    stamp = await publish(node, record)
    _keep(node, writes, stamp, began)
    await _send(node, writes, stamp, began)
    return stamp


async def change(node: Node, want: Want, decide: Decide, record: Record, *, atomic: bool) -> bool:
    """Write a key depending on what is there, as if nobody else wrote meanwhile.

    Args:
        node: The node.
        want: The key.
        decide: Decides, once for each look.
        record: Names the key.
        atomic: The engine has `Put`.

    Returns:
        Whether anything was written.

    Raises:
        BusyError: Others wrote between each look and its write.
        EngineError: The log or the store failed.
        Exception: Whatever `decide` raised, after what it was told was proven to be no older than this call.
    """
    await ready(node)
    if not atomic:
        return await _change_locked(node, want, decide, record)
    confirmed = False
    for _ in range(CHANGES_MAX):
        head = node.stamp()
        began = node.clock()
        found = None if head is None else await _found(node, want, began)
        try:
            written = decide(found)
        except Exception:
            if confirmed and not overtaken(node, want, head):
                raise
            written = None
        if written is None or head is None:
            # Nothing is written, so nothing proves that this is still so: it may have been ended by a record that this
            # node has not applied. A second look is no older than this call.
            if confirmed and not overtaken(node, want, head):
                return False
            await _confirm(node)
            confirmed = True
            continue
        answer = await _put(node, (written,), record, head)
        if isinstance(answer, Appended):
            _keep(node, (written,), await applied(node, answer), began)
            return True
        if answer.generation != head.generation:
            await catch_up(node)  # crosses to it
        await reach(node, Stamp(answer.generation, answer.head), node.bound_s)  # and look again at what is there then
        await Sleep(RETRY_MIN_S * node.random())  # writers that meet once part
    msg = f"{want.key!r} could not be changed: others wrote to the log between each look and its write"
    raise BusyError(msg, hint="try again; a counter of many writers belongs into a database")


async def end(node: Node, written: Written, record: Record, *, atomic: bool) -> bool:
    """Drop a key on every node: was there something under it, as far as this node knew?

    The record is published whatever was there: a load may be under way whose result it must end (H3).
    """
    await ready(node)
    found = await _found(node, written.want, node.clock())
    await write_all(node, (written,), record, atomic=atomic)
    return found is not None


async def fill(node: Node, written: Written, since: Stamp, began: float) -> None:
    """Keep what was loaded by the caller, if nothing has named its scopes since: like any fill, it publishes nothing.

    Args:
        node: The node.
        written: What was loaded.
        since: What had been applied before its view was taken.
        began: The moment of that.
    """
    with node.lock:
        good = node.admits(since, written.want.key, written.want.scopes, None)
    if good:
        _keep(node, (written,), since, began)
        await _send(node, (written,), since, began)


async def _change_locked(node: Node, want: Want, decide: Decide, record: Record) -> bool:
    """Do the same under the store's lock."""
    name = f"change|{want.key}"
    began, wait_s = node.clock(), RETRY_MIN_S
    while (token := await Lock(name, LOCK_S)) is None:
        if node.clock() - began > LOCK_S:
            raise BusyError(f"{want.key!r} is being changed by others", hint="try again")
        await Sleep(wait_s * (0.5 + node.random()))
        wait_s = min(wait_s * 2, RETRY_MAX_S)
    try:
        await _confirm(node)
        began = node.clock()
        written = decide(await _found(node, want, began))
        if written is None:
            return False
        stamp = await publish(node, record)
        _keep(node, (written,), stamp, began)
        await _send(node, (written,), stamp, began)
        return True
    finally:
        try:
            await Unlock(name, token)
        except EngineError as error:
            node.trouble("unlock", error)


async def _found(node: Node, want: Want, arrived: float) -> Served | None:
    """Give what is there by all that this node has applied: who asks puts at that head, or has confirmed it before.

    So no lease has to prove it. With a lapsed one a value that is there would be missing, and be taken for absent.
    """
    want.consistency = "eventual"
    found = (await look_many(node, (want,), arrived)).get(want.key)
    return None if found is None or found.stale else found


async def _confirm(node: Node) -> None:
    """Apply all that is in the log by now.

    Raises:
        UnavailableError: That cannot be known.
    """
    if not await reach(node, await proven_head(node), node.bound_s):
        msg = "the log does not tell what was written last"
        raise UnavailableError(msg, hint="a change needs the log: look whether it answers, with `unstale doctor`")


async def _put(node: Node, writes: Sequence[Written], record: Record, after: Stamp) -> Appended | Identity:
    """Put after a position; of unknown outcome, the very same is put again: once there, it is not put twice."""
    stamp = Stamp(after.generation, after.position + 1)
    items = tuple(_item(one, stamp, one.life_s) for one in writes)
    began, retry_s = node.clock(), RETRY_MIN_S
    while True:
        try:
            answer = await Put(record, items, after)
            return acknowledged(node, answer) if isinstance(answer, Appended) else answer
        except (UnavailableError, BusyError) as error:
            node.trouble("put", error)
            if node.clock() - began > APPEND_PATIENCE_S:
                raise not_published((record,), error) from error
        except EngineError as error:
            raise not_published((record,), error) from error
        await Sleep(retry_s * (0.5 + node.random()))
        retry_s = min(retry_s * 2, RETRY_MAX_S)


def _item(one: Written, stamp: Stamp, life_s: float) -> Item:
    if life_s <= 0:
        return Item(one.want.stored_key, b"", 0.0)
    return Item(one.want.stored_key, encode_entry(Entry(one.want.key, stamp, one.want.scopes, one.data)), life_s)


def _keep(node: Node, writes: Sequence[Written], stamp: Stamp, began: float) -> None:
    """Keep in L1 what was written, unless a later record has ended it already."""
    with node.lock:
        for one in writes:
            want, until = one.want, began + one.life_s
            if one.life_s > 0 and node.admits(stamp, want.key, want.scopes, None):
                size = CELL_BYTES + len(one.data)
                shape = want.codec.shape
                node.table.put(Cell(want.key, shape, want.scopes, one.value, stamp.position, until, until, until, size))


async def _send(node: Node, writes: Sequence[Written], stamp: Stamp, began: float) -> None:
    """Store what was written; that the store fails is reported, never raised: it is announced already."""
    left_s = [one.life_s + began - node.clock() for one in writes]
    items = [_item(one, stamp, left) for one, left in zip(writes, left_s, strict=True)]
    # What is dropped its record has ended; to delete it could take away what somebody has put since.
    kept = tuple(item for item in items if item.ttl_s > 0)
    try:
        if kept:
            await Store(kept)
    except EngineError as error:
        node.trouble("store", error)
