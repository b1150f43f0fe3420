"""Publishing: appending records to the log until the outcome is known, and applying them to the writing node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstale.core.node import Progress
from unstale.core.ops import Append, Appended, Batch, Poll, Sleep
from unstale.core.record import Record, Stamp
from unstale.errors import BusyError, EngineError, NotPublishedError, UnavailableError

if TYPE_CHECKING:
    from unstale.core.node import Node

LIMIT = 512  # records a poll: the network's round trip, not the applying, is what a small batch pays for
RETRY_MIN_S = 0.005
RETRY_MAX_S = 0.25
APPEND_PATIENCE_S = 5.0
SHOWN_MAX = 5  # scopes in the message of an error


async def append(node: Node, records: tuple[Record, ...]) -> Appended:
    """Append records; one of unknown outcome is repeated with the same ids, so it is never published twice.

    Raises:
        NotPublishedError: The log failed for longer than anyone should wait; nodes serve the old value up to its TTL.
    """
    began = node.clock()
    retry_s = RETRY_MIN_S
    while True:
        try:
            return await Append(records)
        except (UnavailableError, BusyError) as error:
            node.trouble("append", error)
            if node.clock() - began > APPEND_PATIENCE_S:
                raise _not_published(records, error) from error
        except EngineError as error:
            raise _not_published(records, error) from error
        await Sleep(retry_s * (0.5 + node.random()))
        retry_s = min(retry_s * 2, RETRY_MAX_S)


def _not_published(records: tuple[Record, ...], error: EngineError) -> NotPublishedError:
    scopes = [scope for record in records for scope in record.scopes]
    more = f" and {len(scopes) - SHOWN_MAX:,} more" if len(scopes) > SHOWN_MAX else ""
    what = f"the invalidation of {', '.join(scopes[:SHOWN_MAX])}{more}" if scopes else "a pulse"
    return NotPublishedError(
        f"{what} could not be published: {error.message}",
        hint=f"nodes may serve the old value up to its ttl: repeat the invalidation. {error.hint}".strip(),
        scopes=", ".join(scopes),
    )


async def publish(node: Node, record: Record) -> Stamp:
    """Append a record and apply it to this node, so that its own next read sees it.

    Raises:
        NotPublishedError: The log failed.
    """
    return await _applied(node, await append(node, (record,)))


async def publish_once(node: Node, records: tuple[Record, ...]) -> Stamp | None:
    """Append records that a relay will append if this fails, and apply them to this node; a failure is reported only.

    The caller has committed and goes on: it does not wait for a log that is away.
    """
    try:
        return await _applied(node, await Append(records))
    except EngineError as error:
        node.trouble("publish", error)
        return None


async def _applied(node: Node, appended: Appended) -> Stamp:
    """Apply what was appended, or what is there up to it: where the last of it lies."""
    stamp = Stamp(appended.identity.generation, appended.records[-1].position)
    first = appended.records[0]
    with node.lock:
        asked, asked_id = Stamp(node.generation or "", node.applied), node.applied_id
    if asked.generation == stamp.generation and asked.position >= stamp.position:
        return stamp  # the tail was quicker than the reply
    # Most often it is the very next record, and there is nothing to fetch. This reply renewed no membership: no lease.
    batch = Batch(appended.identity, first.prev, appended.records)
    if (
        first.position != asked.position + 1
        or node.apply(batch, asked, asked_id, None) is Progress.BROKEN
        or node.applied < stamp.position  # others' records lie between ours
    ):
        await catch_up(node)
    return stamp


async def catch_up(node: Node) -> None:
    """Poll from a reader's or writer's own thread, without waiting for the tail; failing is the tail's to report."""
    with node.lock:
        if node.generation is None:
            return
        asked, asked_id = Stamp(node.generation, node.applied), node.applied_id
        member = node.member()
    sent = node.clock()
    try:
        batch = await Poll(member, asked.position, LIMIT, 0.0)
    except EngineError as error:
        node.trouble("catch up", error)
        return
    if node.apply(batch, asked, asked_id, sent, member.max_staleness_s) is Progress.BROKEN:
        # 1. the log was wiped 2. a writer's record is the first of the new one 3. its own next read must not be served
        # what was before, and the tail may sleep for as long as a poll waits.
        node.reset(batch.identity, sent, member.max_staleness_s, left=asked)
