"""What a process runs for one cache: its node, its engines, the thread that follows the log, reports of troubles."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, TypeVar

from unstale.core.ops import Flow
from unstale.core.signal import Signal
from unstale.core.tail import tail
from unstale.drivers import BACKGROUND, TailThread
from unstale.errors import BusyError, ClosedError, EngineError, FullError, UnstaleError

if TYPE_CHECKING:
    from unstale.core.node import Node
    from unstale.engines.ports import Ports

T = TypeVar("T")
CLOSE_S = 2.0
REPORT_EVERY_S = 60.0
LOGGER = logging.getLogger("unstale")
OnTrouble = Callable[[str, BaseException], None]
_live: weakref.WeakSet[Runtime] = weakref.WeakSet()


class Runtime:
    """Runs flows for one node, and its tail from the first of them on.

    Args:
        node: The node.
        ports: Its engines.
        name: For the thread's name and messages.
    """

    def __init__(self, node: Node, ports: Ports, name: str) -> None:
        self.node = node
        self.ports = ports
        self.name = name
        self.closed = False
        self.tail: TailThread | None = None
        self._starting = threading.Lock()
        _live.add(self)

    def start(self) -> None:
        """Start the tail, unless it runs.

        Raises:
            ClosedError: The cache is closed.
        """
        with self._starting:
            if self.closed:
                msg = f"the cache {self.name!r} is closed"
                raise ClosedError(msg, hint="make a new Cache, or close it later")
            if self.tail is None:
                node = self.node
                self.tail = TailThread(lambda stopped: tail(node, stopped), self.ports, self.name)

    def start_for(self, flow: Flow[T]) -> None:
        """Start the tail, which the first flow needs; where that cannot be, the flow ends unrun.

        Raises:
            ClosedError: The cache is closed.
        """
        try:
            self.start()
        except BaseException:  # Ctrl-C among them
            flow.close()
            raise

    def stats(self) -> dict[str, float]:
        """Give counters of this process."""
        node = self.node
        with node.lock:
            proven_s = node.clock() - node.lease.proven
            state = {
                "entries": len(node.table),
                "bytes": node.table.bytes,
                "evicted": node.table.evicted,
                "marks": len(node.marks.by_scope),
                "applied": node.applied,
                "floor": node.marks.floor,
                "proven_s": proven_s,
            }
        return state | dict(node.counts)

    def close(self) -> None:
        """Leave the member list, drop L1 and stop the tail. Idempotent."""
        with self._starting:
            thread, self.tail, self.closed = self.tail, None, True
        if thread is None:
            return
        thread.stop()
        with self.node.lock:
            self.node.generation = None
            self.node.table.clear()
            self.node.lease.drop()
        self._leave()  # this ends the poll that is under way,
        if thread.join(CLOSE_S):
            self._leave()  # and that may have put the node on the list again
            self.ports.log.close()
            if not self.ports.one_engine:
                self.ports.store.close()

    def _leave(self) -> None:
        try:
            self.ports.log.leave(self.node.id)
        except EngineError as error:
            self.node.trouble("leave", error)

    def reborn(self) -> None:
        """Start anew in a forked child: no thread of the parent lives here, and any lock may be held for ever (H23)."""
        self.ports.reborn()
        node = self.node
        node.lock = threading.Lock()
        node.id = secrets.token_hex(8)
        node.profile.forget_place()
        node.random = Random().random
        node.generation = None
        node.flights.clear()
        node.refreshing.clear()
        node.intents.clear()
        node.joined = Signal()
        node.table.clear()
        node.lease.drop()
        self._starting = threading.Lock()
        self.tail = None


def reporter(name: str, clock: Callable[[], float]) -> OnTrouble:
    """Give what reports troubles where nothing else was asked for: a warning in the program's log.

    Args:
        name: Of the cache.
        clock: Seconds: of what fails and how, the first is reported, and then one a minute.
    """
    told: dict[tuple[str, type], float] = {}

    def report(what: str, error: BaseException) -> None:
        kind, now = (what, type(error)), clock()
        if kind in told and now - told[kind] < REPORT_EVERY_S:
            return
        told[kind] = now
        ours = isinstance(error, UnstaleError)
        LOGGER.warning(
            "cache %r: %s failed: %s", name, what, error if ours else repr(error), exc_info=None if ours else error
        )

    return report


def shielded(on_trouble: OnTrouble) -> OnTrouble:
    """Give the same, but that it never raises: the thread that follows the log would die of it."""

    def report(what: str, error: BaseException) -> None:
        try:
            on_trouble(what, error)
        except Exception:
            LOGGER.exception("on_trouble failed when it was told of %s: %r", what, error)

    return report


def try_engine(ports: Ports, on_trouble: OnTrouble) -> None:
    """Ask an engine of this machine for its head, to tell a mistake in its URL at once.

    A file that is locked or full may be so no longer in a minute, and a server may be back by then: with these a cache
    starts, and its reads load. A file that is another program's, or lies in a directory that is not there, stays so.

    Raises:
        EngineError: What will not pass.
    """
    if "read_head" not in ports.log.guarantees.quick:
        return
    try:
        ports.log.read_head()
    except (BusyError, FullError) as error:
        on_trouble("open", error)


def _before_fork() -> None:
    for runtime in list(_live):
        runtime.node.lock.__enter__()


def _after_fork_in_parent() -> None:
    for runtime in list(_live):
        runtime.node.lock.__exit__(None, None, None)


def _after_fork_in_child() -> None:
    BACKGROUND.reborn()
    for runtime in list(_live):
        runtime.reborn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
