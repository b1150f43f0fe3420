"""Publishing: appending records to the log until the outcome is known, and applying them to the writing node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstale.core.context import tickets_here
from unstale.core.node import Progress
from unstale.core.ops import Append, Appended, Batch, Poll, Sleep
from unstale.core.record import Record, Stamp
from unstale.core.session import expect
from unstale.errors import BusyError, EngineError, NotPublishedError, UnavailableError

if TYPE_CHECKING:
    from unstale.core.node import Node

LIMIT = 512  # records a poll: the network's round trip, not the applying, is what a small batch pays for
RETRY_MIN_S = 0.005
RETRY_MAX_S = 0.25
APPEND_PATIENCE_S = 5.0
SHOWN_MAX = 5  # scopes in the message of an error


async def append(node: Node, records: tuple[Record, ...], applier: str = "") -> Appended:
    """Append records; one of unknown outcome is repeated with the same ids, so it is never published twice.

    Args:
        node: The node.
        records: The records.
        applier: Who will apply them, as for `Append`.

    Raises:
        NotPublishedError: The log failed for longer than anyone should wait; nodes serve the old value up to its TTL.
    """
    try:
        return acknowledged(node, await _insist(node, records, applier))
    except BaseException:  # it failed, or its task was cancelled: the log may have it, or not
        unpublished(node, records)
        raise


async def _insist(node: Node, records: tuple[Record, ...], applier: str) -> Appended:
    began = node.clock()
    retry_s = RETRY_MIN_S
    while True:
        try:
            return await Append(records, applier)
        except (UnavailableError, BusyError) as error:
            node.trouble("append", error)
            if node.clock() - began > APPEND_PATIENCE_S:
                raise not_published(records, error) from error
        except EngineError as error:
            raise not_published(records, error) from error
        await Sleep(retry_s * (0.5 + node.random()))
        retry_s = min(retry_s * 2, RETRY_MAX_S)


def not_published(records: tuple[Record, ...], error: EngineError) -> NotPublishedError:
    """Give the error for records that the log did not take."""
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

    If that fails, this node at least acts as if the record were the next one. What it names is committed, and:

    1. applied is 10, and v1 is cached at 10; v2 is committed, and the log is full: record 11 is refused
    2. the lease is renewed by polls, which succeed, and nothing that they bring ends v1: it is served until its ttl
    3. so the scopes are marked at 11 here: v1 at 10 is dead in both tiers, for this node; loads are not kept before
       another record has come, at 11 or later, and then they are stamped so (H2)

    Raises:
        NotPublishedError: The log failed.
    """
    try:
        # Who waits for all members to have applied it waits for this one to tell that, by its next poll.
        appended = await append(node, (record,), "" if record.ack else node.id)
    except BaseException:  # cancelled while the outcome was unknown, too
        node.end_here(record)
        raise
    return await applied(node, appended)


async def publish_once(node: Node, records: tuple[Record, ...]) -> Stamp | None:
    """Append records that a relay will append if this fails, and apply them to this node; a failure is reported only.

    The caller has committed and goes on: it does not wait for a log that is away. Nobody waits for these records to be
    applied by all members.
    """
    try:
        try:
            appended = acknowledged(node, await Append(records, node.id))
        except BaseException:
            unpublished(node, records)
            raise
        return await applied(node, appended)
    except EngineError as error:
        node.trouble("publish", error)
        return None


def acknowledged(node: Node, appended: Appended) -> Appended:
    """Raise the ticket of the session around the code that has published, if there is one: its reads have to see it."""
    tickets = tickets_here()
    if tickets is not None:
        logged = appended.records
        stamp = Stamp(appended.identity.generation, logged[-1].position)
        tickets.published(node, stamp, [one.record for one in logged])
    return appended


def unpublished(node: Node, records: tuple[Record, ...], *, failed: bool = True) -> None:
    """Let the reads of the session around the running code go past the cache, where records would end what they find.

    The records have been committed, or will be, and somebody else publishes them, or nobody knows whether it was done.
    """
    tickets = tickets_here()
    if tickets is not None:
        for record in records:
            expect(node, tickets, record, failed=failed)


async def applied(node: Node, appended: Appended) -> Stamp:
    """Apply what was appended, or what is there up to it: where the last of it lies."""
    stamp = Stamp(appended.identity.generation, appended.records[-1].position)
    first = appended.records[0]
    with node.lock:
        asked, asked_id = Stamp(node.generation or "", node.applied), node.applied_id
        node.published_at = node.clock()
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
