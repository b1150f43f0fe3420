"""The processes of a torture run: forked from one that has imported all, so that whoever was killed is soon back."""

from __future__ import annotations

import functools
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, Final

from tests.torture.defences import take_out
from tests.torture.node import Node
from tests.torture.relay import Relaying
from tests.torture.roles import Role, Scene, serve
from tests.torture.shop import CAPTURED, TOLD
from tests.torture.writer import Doomed, Writer

DEADLINE_S: Final = 60.0
CAST: Final[dict[str, Callable[[Scene], Role]]] = {
    "node": functools.partial(Node, name=TOLD),
    "another node": functools.partial(Node, name=TOLD),
    "node of the captured": functools.partial(Node, name=CAPTURED),
    "writer": Writer,
    "another writer": Writer,
    "doomed": Doomed,
    TOLD: functools.partial(Relaying, name=TOLD),
    CAPTURED: functools.partial(Relaying, name=CAPTURED),
}
_forks: Final = multiprocessing.get_context("forkserver")


def play(name: str, scene: Scene, way: Connection) -> None:
    """Play a role."""
    take_out(scene.without)
    serve(lambda: CAST[name](scene), way)


class Player:
    """One of the processes.

    Args:
        name: Its role.
        scene: Where it plays.
    """

    def __init__(self, name: str, scene: Scene) -> None:
        self._way, theirs = _forks.Pipe()
        self._process = _forks.Process(target=play, args=(name, scene, theirs), name=name, daemon=False)
        self._process.start()
        theirs.close()

    def tell(self, what: str) -> None:
        """Tell it to do something."""
        self._way.send(what)

    def hear(self) -> Any:
        """Wait for what it says next."""
        assert self._way.poll(DEADLINE_S), f"{self._process.name} says nothing"
        return self._way.recv()

    def end(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.join(DEADLINE_S)
        self._way.close()


def prepare() -> None:
    """Start what the processes are forked from: it imports all that they need, and Ctrl-C is not for it."""
    _forks.set_forkserver_preload([__name__])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def end() -> None:
    """End what they are forked from."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
