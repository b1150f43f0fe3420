"""Reading keys whose truth is the cache itself (`core/register.py`): nothing is missed that is replaced meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from unstale.core.calls import read_value, ready
from unstale.core.context import changed_here, surroundings
from unstale.core.many import look_many
from unstale.core.reach import fresh_enough
from unstale.core.read import hides, note
from unstale.core.record import Stamp
from unstale.core.served import Served, Want

if TYPE_CHECKING:
    from unstale.core.node import Node

LOOKS_MAX: Final = 4  # of a read at a key that others write at the same time


def overtaken(node: Node, want: Want, head: Stamp | None) -> bool:
    """Say whether a record of the key was applied since a look at it began, which may have found nothing for that.

    1. a node looks, and the store sends the value of position 5 2. another node replaces it at 6 3. this node applies 6
    4. the value of 5 is dead: nothing is found, although there was a value all the time. It looks again.
    """
    with node.lock:
        return head is not None and not node.admits(head, want.key, want.scopes, None)


async def read_one(node: Node | None, want: Want, default: object) -> Any:
    """Read a key without loading it: its value, or the default."""
    for _ in range(LOOKS_MAX - 1):
        head = None if node is None else node.stamp()
        value = await read_value(node, want, default)
        if value is not default or node is None or not overtaken(node, want, head):
            return value
    return await read_value(node, want, default)


async def read_all(node: Node, wants: Sequence[Want]) -> dict[str, Served]:
    """Read keys without loading any: what is fresh."""
    await ready(node)
    found: dict[str, Served] = {}
    rest = wants
    for _ in range(LOOKS_MAX):
        head = node.stamp()
        looked = await look_many(node, [want for want in rest if await _may_look(node, want)], node.clock())
        found |= {key: served for key, served in looked.items() if not (served.stale or hides(served))}
        rest = [want for want in rest if want.key not in found and overtaken(node, want, head)]
        if not rest:
            break
    for want in wants:
        note(node, want, found.get(want.key))
    return found


async def _may_look(node: Node, want: Want) -> bool:
    """Say whether what is cached can answer a read here: no ticket asks for more, and no change is unpublished."""
    return surroundings.get() is None or (not changed_here((want.key, *want.scopes)) and await fresh_enough(node, want))
