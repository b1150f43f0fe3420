"""The defences, and how each is taken out of a process: a torture run without one of them has to show stale reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from unstale.core import fill, load
from unstale.core.lease import Lease
from unstale.core.node import Intent, Node
from unstale.core.record import Record, Stamp
from unstale.sources.feed import Part, Row
from unstale.sources.outbox import OutboxFeed
from unstale.sources.slot import SlotFeed
from unstale.sources.transaction import Transaction, publish_now


class Defence(NamedTuple):
    """A defence.

    Attributes:
        hazard: What it defeats.
        without: What is done without it.
        take_out: Takes it out of this process; what whoever sets the scene leaves out needs none.
    """

    hazard: str
    without: str
    take_out: Callable[[], None]


def _publish_early() -> None:
    note = Transaction._note

    def published(self: Transaction, record: Record) -> None:
        note(self, record)
        publish_now(self._cache, (record,))

    Transaction._note = published  # type: ignore[method-assign]


def _write_no_row() -> None:
    Transaction._write = lambda _self, _record: None  # type: ignore[method-assign,assignment]


def _keep_whatever_was_written() -> None:
    def judge(self: Intent, node: Node) -> None:
        self.clean = True

    Intent.judge = judge  # type: ignore[method-assign]


def _stamp_at_the_end() -> None:
    settle = fill.settle

    def stamped(node: Node, want: Any, flight: Any, frame: Any, value: Any, **how: Any) -> Any:
        flight.stamp = node.stamp()
        return settle(node, want, flight, frame, value, **how)

    load.settle = stamped  # type: ignore[attr-defined]


def _ignore_the_replicas_lag() -> None:
    stamp = Node.stamp

    def undated(self: Node, lag_s: float = 0.0) -> Stamp | None:
        return stamp(self)

    Node.stamp = undated  # type: ignore[method-assign]


def _publish_what_is_not_visible() -> None:
    SlotFeed._visible = lambda _self, told: told  # type: ignore[method-assign,assignment]


def _prove_by_polls() -> None:
    def polled(self: Lease, sent: float, head: int) -> None:
        self.proven = max(self.proven, sent)

    Lease.polled = polled  # type: ignore[method-assign]


def _know_no_timeline() -> None:
    SlotFeed.timeline = lambda _self: "one for ever"  # type: ignore[method-assign,assignment]


def _read_by_number() -> None:
    passed: dict[OutboxFeed, int] = {}

    def read(self: OutboxFeed, limit: int, *, first: bool) -> Part:
        after = passed.get(self, 0)
        found = self._database.rows(
            f"SELECT id, data, seq FROM {self._table} WHERE cache = ? AND seq > ? ORDER BY seq LIMIT ?",
            (self._cache, after, limit),
        )
        passed[self] = max((seq for _id, _data, seq in found), default=after)
        return Part(tuple(Row(one, bytes(data)) for one, data, _seq in found), len(found) == limit)

    OutboxFeed.read = read  # type: ignore[method-assign]


def _nothing_here() -> None:
    """The scene is set without it."""


DEFENCES: Final[dict[str, Defence]] = {
    "commit": Defence("H1", "records are published before the commit", _publish_early),
    "outbox": Defence("H2", "no row is written into the outbox", _write_no_row),
    "order": Defence("H16", "what was written through is kept, whatever came between", _keep_whatever_was_written),
    "begin": Defence("H17", "a load is stamped at its end", _stamp_at_the_end),
    "lag": Defence("H17", "the replica's lag is ignored", _ignore_the_replicas_lag),
    "visible": Defence("H18", "what the slot tells is published before it is visible", _publish_what_is_not_visible),
    "pulses": Defence("H19", "polls of the log prove leases", _prove_by_polls),
    "timeline": Defence("H20", "a slot that was made anew counts as the same", _know_no_timeline),
    "drain": Defence("H21", "the outbox is read by number", _read_by_number),
    "triggers": Defence("H31", "no trigger captures what goes round the application", _nothing_here),
}


def take_out(name: str) -> None:
    """Take a defence out of this process; nothing, for no name."""
    if name:
        DEFENCES[name].take_out()
