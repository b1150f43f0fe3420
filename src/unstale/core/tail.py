"""Following the log: joining, polling, crossing discontinuities, and pulses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from unstale.core.marks import full
from unstale.core.node import Progress
from unstale.core.ops import Append, Appended, Batch, ExtendMarks, Identity, Load, Lock, Poll, ReadHead, Sleep
from unstale.core.publish import LIMIT, append
from unstale.core.record import EVERYTHING, Logged, Record, Stamp
from unstale.errors import EngineError, NotPublishedError

if TYPE_CHECKING:
    from unstale.core.node import Node

READ_BACK = 512
RETRY_MIN_S = 0.01
RETRY_MAX_S = 0.4  # what a node knows of a log that is back; the load of a fleet's retries is spread by chance
BEAT = "pulse"  # the lock of whose turn it is
BEAT_LOCK_S = 0.05
BEAT_SHARE = (
    0.3  # of a poll's wait: a lease is renewed by the third pulse after its poll, and those are within the bound
)


async def join(node: Node) -> None:
    """Register as a member, read the head, and read back the newest records to lower the floor.

    Raises:
        EngineError: The log failed.
    """
    sent = node.clock()
    with node.lock:
        member = node.member()
    head = (await Poll(member, 0, 0, 0.0)).identity
    start = max(0, head.head - READ_BACK)
    batch = await Poll(member, start, READ_BACK, 0.0) if head.head else None
    node.reset(head, sent, member.max_staleness_s, _gapless(batch, head) if batch else ())


def _gapless(batch: Batch, head: Identity) -> tuple[Logged, ...]:
    """Give the records of a batch up to a head, if they lead there without a hole; else none."""
    known = [logged for logged in batch.records if logged.position <= head.head]
    chained = all(a.position + 1 == b.position and a.id == b.prev for a, b in pairwise(known))
    leads_there = bool(known) and (known[-1].position, known[-1].id) == (head.head, head.head_id)
    return tuple(known) if chained and leads_there and batch.identity.generation == head.generation else ()


async def follow(node: Node, wait_s: float) -> None:
    """Poll once, and apply what comes.

    Raises:
        EngineError: The log failed.
    """
    with node.lock:
        asked, asked_id = Stamp(node.generation or "", node.applied), node.applied_id
        member = node.member()
    sent = node.clock()
    batch = await Poll(member, asked.position, LIMIT, wait_s)
    if node.apply(batch, asked, asked_id, sent, member.max_staleness_s) is Progress.BROKEN:
        node.reset(batch.identity, sent, member.max_staleness_s, left=asked)
    if not node.one_engine:
        await extend_marks(node)


async def extend_marks(node: Node) -> None:
    """Write this node's newest marks to the store of a two-engine cache, whose log cannot do so itself."""
    with node.lock:
        generation, upto = node.generation, node.applied
        start = max(node.extended, node.marks.floor) + 1
        if generation is None or start > upto:
            return
        marks = {}
        for scope, mark in reversed(node.marks.by_scope.items()):
            if full(mark).last < start:
                break  # marks lie in the order of their last raise
            marks[scope] = mark
    try:
        await ExtendMarks(generation, start, upto, marks)
    except EngineError as error:
        node.trouble("extend marks", error)  # the next poll tries again, from the same start
        return
    with node.lock:
        if node.generation == generation:
            node.extended = max(node.extended, upto)


async def tail(node: Node, stopped: Callable[[], bool]) -> None:
    """Join and follow until told to stop; whatever fails is reported and tried again."""
    retry_s = RETRY_MIN_S
    while not stopped():
        try:
            if node.generation is None:
                await join(node)
            else:
                await follow(node, await beat(node))
            retry_s = RETRY_MIN_S
        except Exception as error:  # noqa: BLE001 - a tail that died would leave its node unproven for ever
            node.trouble("tail", error)
            node.joined.fire()  # readers that wait for the first answer need not wait for the next
            await Sleep(retry_s * (0.5 + node.random()))
            retry_s = min(retry_s * 2, RETRY_MAX_S)


async def beat(node: Node) -> float:
    """Write a pulse, if none but the nodes themselves write them and it is this one's turn.

    Who has not heard one for as long as its own bound allows takes the lock and writes the next: so the node with the
    smallest bound sets the beat. The lock is short, or one with a large bound would keep it from doing so; and polls
    last for a random while, or a thousand nodes would all ask for it at once. The source has been read to its end at
    any moment: without a relay, each writer publishes by itself what it has committed.

    Returns:
        How long the next poll may wait, in seconds.

    Raises:
        EngineError: The log failed.
    """
    if node.pulsed or not node.lease.pulsed:
        return node.poll_wait_s
    every_s = node.poll_wait_s * BEAT_SHARE
    if node.clock() - node.pulse_at >= every_s and await Lock(BEAT, min(every_s, BEAT_LOCK_S)) is not None:
        head = await ReadHead()
        if head.proven and head.generation == node.generation:
            covers = Stamp(head.generation, head.head)
            # No source was read, so no timeline. 1. a node that declares none beats 2. the relay of others is dead
            # 3. if this pulse were like the relay's, it would prove the leases of those others too (H19).
            await Append((Record(node.new_id(), (), covers=covers),))
    return every_s * (1 + node.random() / 2)


class Drained(msgspec.Struct, frozen=True):
    """Changes that a source had not told yet, and the timeline of the source that they belong to.

    Attributes:
        records: All of them, or a part.
        timeline: The timeline, never empty; only that of the last part counts.
        more: This is not all yet: read again.
        settle: Called when all of `records` are acknowledged, so that the source need not tell them again; it is given,
            by their ids, the reasons why single ones were refused.
    """

    records: tuple[Record, ...]
    timeline: str
    more: bool = False
    settle: Callable[[Mapping[str, str]], object] | None = None


Drain = Callable[[], object]


async def pulse(node: Node, drain: Drain, *, sift: bool = False) -> Appended:
    """Read the source to its end and publish all that it tells, then a pulse that says up to where that proves.

    The order is the proof: the head h is acknowledged before the source is read, so whoever polled before h existed
    polled before everything that this pulse has published was committed (DESIGN: pulse). A source that tells much does
    so in parts; each is published, and then settled, before the next is read, and the pulse comes with the last.

    Args:
        node: The node of the relay.
        drain: Reads the source to its end as of now, or the next part of that: it returns `Drained`.
        sift: See `forward`.

    Raises:
        EngineError: The log failed: there was no pulse.
    """
    head = await ReadHead()
    drained = await _read(drain)
    while drained.more:
        await _publish(node, drained, (), sift=sift)
        drained = await _read(drain)
    last = []
    if drained.timeline != node.timeline:
        # Another life of the source (H20). A relay that cannot know the last one says so too: a cold start is right.
        last.append(Record(node.new_id(), (EVERYTHING,), why="the source's timeline changed"))
    covers = Stamp(head.generation, head.head)
    last.append(Record(node.new_id(), (), covers=covers, timeline=drained.timeline))
    appended = await _publish(node, drained, tuple(last), sift=sift)
    assert appended is not None, "a pulse was among it"
    return appended


async def forward(node: Node, drain: Drain, *, sift: bool = False) -> int:
    """Read the source to its end and publish all that it tells, without a pulse.

    Args:
        node: The node of the relay.
        drain: As for `pulse`.
        sift: Publish each record for itself; one that the log refuses while it takes others is given to `settle`, and
            in its place all entries end: nobody can say any more which ones it would have ended.

    Returns:
        How many records the source told.

    Raises:
        EngineError: The log failed.
    """
    told = 0
    more = True
    while more:
        drained = await _read(drain)
        told, more = told + len(drained.records), drained.more
        await _publish(node, drained, (), sift=sift)
    return told


async def _read(drain: Drain) -> Drained:
    drained = await Load(drain)
    assert isinstance(drained, Drained), "a source tells its changes as Drained"
    return drained


async def _publish(node: Node, drained: Drained, last: tuple[Record, ...], *, sift: bool) -> Appended | None:
    """Publish what a source told, and what comes last, and settle the former: never in another order (H2)."""
    refused: dict[str, str] = {}
    records = drained.records
    if sift:
        for record in records:
            await _sift(node, record, refused)
        records = ()
    appended = await append(node, (*records, *last)) if records or last else None
    settle = drained.settle
    if settle is not None and drained.records:
        await Load(lambda: settle(refused))
    return appended


async def _sift(node: Node, record: Record, refused: dict[str, str]) -> None:
    try:
        await append(node, (record,))
    except NotPublishedError as error:
        # Is it the record, or the log? The log is well if it takes another one.
        why = f"the log refused {record.id}"
        await append(node, (Record(node.new_id(), (EVERYTHING,), why=why),))
        refused[record.id] = str(error.__cause__)
