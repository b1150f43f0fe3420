"""Tickets: which one a read has to answer, and whether its node has reached it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstale.core.context import tickets_here
from unstale.core.load import enclosing_frame
from unstale.core.ops import ReadHead, Wait
from unstale.core.publish import catch_up
from unstale.core.record import Stamp
from unstale.core.session import NOWHERE, Tickets, one_for
from unstale.errors import EngineError

if TYPE_CHECKING:
    from unstale.core.node import Node
    from unstale.core.served import Want


async def fresh_enough(node: Node, want: Want) -> bool:
    """Settle which ticket a read has to answer, if any, and say whether this node has reached it.

    Its own, or that of the session around it; a strong read asks for all that is published, and needs neither.

    A read inside a load has to be as fresh as that load: else a strong read of a view would be made of bounded ones.
    """
    tickets = tickets_here()
    left: tuple[Stamp, ...] = ()
    if want.consistency == "strong":
        want.after = await proven_head(node)
    elif tickets is not None and want.after is None:
        left = tickets.by_cache.get(node.name, ())
        want.after = one_for(left)
    frame = enclosing_frame()
    if frame is not None and frame.after is not None:
        want.after = frame.after if want.after is None else later(want.after, frame.after)
    if want.after is None or await reach(node, want.after, want.policy.ticket_wait_s):
        return True
    if tickets is not None and left:
        await _take_over(node, tickets, left)
    return False


async def _take_over(node: Node, tickets: Tickets, left: tuple[Stamp, ...]) -> None:
    """Let a session ask for what is there after a failover, in place of a ticket that no node reaches any more (H10).

    Args:
        node: The node.
        tickets: Of the session.
        left: What this read was to reach, and did not.
    """
    with node.lock:
        here = node.generation
    if here is None or all(stamp.generation == here for stamp in left):
        return  # this node is late, or has not joined: the ticket will be reached
    await catch_up(node)  # a node that is late itself crosses now
    head = await proven_head(node)
    with node.lock:
        settled = node.generation == head.generation
    if settled and any(stamp.generation != head.generation for stamp in left):
        tickets.take_over(node.name, left, head)


def later(one: Stamp, other: Stamp) -> Stamp:
    """Give the ticket that stands for both; of two generations none does, and nothing reaches it."""
    if one.generation != other.generation:
        return NOWHERE
    return max(one, other, key=lambda stamp: stamp.position)


async def reach(node: Node, ticket: Stamp, wait_s: float) -> bool:
    """Wait until this node has applied what a ticket stands for; False when it is late, or of another generation."""
    with node.lock:
        behind = node.generation == ticket.generation and node.applied < ticket.position
    if behind:
        await catch_up(node)
    with node.lock:
        if node.generation != ticket.generation or node.applied >= ticket.position:
            return node.generation == ticket.generation
        signal = node.expect(ticket.position)
    try:
        await Wait(signal, wait_s)
    finally:
        with node.lock:
            node.forget(signal)
    with node.lock:
        return node.generation == ticket.generation and node.applied >= ticket.position


async def proven_head(node: Node) -> Stamp:
    """Give the ticket of a strong read: the head of the log, or one that nothing reaches if it cannot be proven."""
    try:
        head = await ReadHead()
    except EngineError as error:
        node.trouble("head", error)
        return NOWHERE
    return Stamp(head.generation if head.proven else "", head.head)
