"""What the processes of a torture run have in common: how they begin, and how they are talked to."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.torture.ledger import Ledger

ROLE_ENDS_S: Final = 5.0


class Scene(msgspec.Struct, frozen=True):
    """Where a run takes place.

    Attributes:
        url: Of the caches' engine.
        database: The primary, which is the truth.
        replica: Its replica.
        ledger: The path of the ledger.
        without: The defence that is taken out, or nothing.
    """

    url: str
    database: str
    replica: str
    ledger: str
    without: str = ""


class Role:
    """One process: threads that do something over and over, and what came of it.

    Args:
        scene: Where it takes place.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.ledger = Ledger(Path(scene.ledger))
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []

    def trouble(self, what: str, error: BaseException) -> None:
        """Count what no caller sees."""
        self.done[f"trouble {what}: {type(error).__name__}"] += 1

    def repeat(self, name: str, step: Callable[[], None], pause_s: float) -> None:
        """Do something again and again in a thread of its own, after pauses of a random length."""

        def loop() -> None:
            while not self.over.wait(pause_s * (0.5 + random.random())):
                try:
                    step()
                except Exception as error:  # noqa: BLE001 - counted, and shown: a deadlock, a connection that is gone
                    self.errors[f"{name}: {type(error).__name__}"] += 1

        self._threads.append(threading.Thread(target=loop, daemon=True))

    def begin(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def seen(self) -> dict[str, Any]:
        """Tell what came of it."""
        return {"done": dict(self.done), "errors": dict(self.errors)}

    def end(self) -> dict[str, Any]:
        """Stop, and tell what came of it."""
        self.over.set()
        for thread in self._threads:
            thread.join(ROLE_ENDS_S)
        return self.seen()


def serve(make: Callable[[], Role], way: Connection) -> None:
    """Play a role until the one who started it says no more: then all of it ends.

    Args:
        make: Makes the role.
        way: Over which it is told what to do, and answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that tells it what to do
    role = make()
    way.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            way.send(getattr(role, way.recv())())
