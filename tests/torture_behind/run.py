"""One run: producers and flushers that are killed at random moments and start anew, and a Redis that is too."""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.support.processes import Process
from tests.support.redis_servers import RedisServer
from tests.torture_behind.check import Verdict, check
from tests.torture_behind.roles import Truth
from unstale import Cache
from unstale.behind import WriteBehind

SCRIPT = Path(__file__).with_name("roles.py")
PRODUCERS, FLUSHERS = 2, 2
PAUSE_S = 1.2  # between two kills, at most
DRAIN = "60s"


class Cast:
    """Who plays in a run.

    Args:
        url: The queue.
        folder: Where all is noted.
        without: A defence to leave out.
    """

    def __init__(self, url: str, folder: Path, without: str) -> None:
        self.url, self.folder, self.without = url, folder, without
        self.lives: Counter[str] = Counter()
        self.there: dict[str, Process] = {}
        self.begun: set[str] = set()

    def start(self, name: str) -> None:
        """Let one live, again."""
        self.lives[name] += 1
        role = name.rstrip("0123456789")
        more = (name, self.lives[name]) if role == "producer" else ()
        self.there[name] = Process(SCRIPT, role, self.url, self.folder, *more, self.without or "-")

    def ready(self) -> None:
        """Wait until all have begun."""
        for name in self.there.keys() - self.begun:
            assert self.there[name].hear() == "ready"
            self.begun.add(name)

    def kill(self, name: str) -> None:
        """Kill one, and let it live again."""
        self.there.pop(name).end()
        self.begun.discard(name)
        self.start(name)

    def stop(self, role: str) -> None:
        """Let all of a role come to their end."""
        for name, process in list(self.there.items()):
            if name.startswith(role):
                process.tell("stop")
                assert process.hear() == "done"
                self.there.pop(name).end()

    def end(self) -> None:
        """Kill all that are left."""
        while self.there:
            self.there.popitem()[1].end()


def torture(
    kills: int, *, redis: bool, without: str = "", say: Callable[[str], None] = print, seed: int | None = None
) -> tuple[Verdict, Counter[str]]:
    """Kill so often, let the queue be drained, and judge.

    Args:
        kills: How often.
        redis: The queue is in a Redis, which syncs before it answers, and is killed too; else in a file.
        without: A defence to leave out.
        say: Is told how it goes.
        seed: Of who is killed when.
    """
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unstale-behind-")))
        server = stack.enter_context(RedisServer(appendonly=True, appendfsync="always")) if redis else None
        url = f"{server.url}?queue=torture" if server else f"sqlite:///{folder}/writes.queue"
        cast = Cast(url, folder, without)
        stack.callback(cast.end)
        for number in range(PRODUCERS):
            cast.start(f"producer{number}")
        for number in range(FLUSHERS):
            cast.start(f"flusher{number}")
        cast.ready()
        while killed.total() < kills:
            threading.Event().wait(chance.random() * PAUSE_S)  # some have only just begun, which is a moment too
            name = chance.choice([*cast.there, *(["redis"] if server else [])])
            if name == "redis" and server:
                server.restart()
            else:
                cast.kill(name)
            killed[name.rstrip("0123456789")] += 1
            if killed.total() % 25 == 0:
                say(f"{killed.total()} kills")
        cast.ready()
        cast.stop("producer")
        cast.stop("flusher")
        truth = Truth(folder, flaky=False, blind=without == "version")
        with Cache("memory://") as cache:
            left = WriteBehind(cache, truth.save, url, type=str).close(timeout=DRAIN)
        assert not left, f"{left} keys are still queued"
        return check(folder), killed
