from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery  # type: ignore[import-untyped]

import unstale
import unstale.celery
from tests.support.lagging import BOUND
from tests.support.processes import DEADLINE_S, PATHS, ROOT
from tests.support.redis_servers import RedisServer
from unstale import Cache

pytestmark = pytest.mark.real
WORKERS = 2


class Site:
    """A site whose tasks run in forked workers: its node writes, and sends tasks."""

    def __init__(self, url: str, truth: Path, cache: Cache) -> None:
        self._app = Celery("shop", broker=url, backend=url, set_as_current=False)
        self._truth = truth
        self._cache = cache

    def write(self, price: int) -> None:
        """Change the price, and publish that."""
        self._truth.write_text(str(price), encoding="utf-8")
        self._cache.invalidate("price:17")

    def run(self, task: str, *args: Any) -> Any:
        """Send a task, and wait for what it gives."""
        return self._app.send_task(task, args).get(timeout=DEADLINE_S)

    def result(self, task_id: str) -> Any:
        """Wait for what a task gives that somebody else has sent."""
        return self._app.AsyncResult(task_id).get(timeout=DEADLINE_S)

    def prices(self) -> dict[int, int]:
        """Let all workers read: the price that each saw, by worker."""
        args = (secrets.token_hex(4), WORKERS)
        sent = [self._app.send_task("meet and read", args) for _ in range(WORKERS)]
        return dict(one.get(timeout=DEADLINE_S) for one in sent)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give a site, with two forked workers whose nodes are late."""
    truth, cache_url = tmp_path / "price", f"sqlite:///{tmp_path}/shop.cache"
    truth.write_text("1", encoding="utf-8")
    with RedisServer() as redis, Cache(cache_url, name="shop", max_staleness=BOUND) as cache:
        environment = {"PYTHONPATH": PATHS, "BROKER": redis.url, "CACHE": cache_url, "PRICE_FILE": str(truth)}
        options = ["--pool", "prefork", "--concurrency", str(WORKERS), "--prefetch-multiplier", "1", "-O", "fair"]
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.integration.celery_roles", "worker", *options],
            cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        unstale.celery.connect()
        try:
            yield Site(redis.url, truth, cache)
        finally:
            unstale.celery.disconnect()
            worker.terminate()
            try:
                worker.wait(DEADLINE_S)
            finally:
                worker.kill()


def test_h05_h23_forked_workers_read_what_the_sender_of_their_task_wrote(site: Site) -> None:
    """The application is loaded, and its cache used, before the workers are forked; each of them gets the ticket."""
    assert set(site.prices().values()) == {1}
    with unstale.session():
        site.write(2)
        assert site.run("read") == 2
    with unstale.session():
        site.write(3)
        assert set(site.prices().values()) == {3}
        assert site.result(site.run("write and read", 4)) == 4


def test_h05_without_a_session_forked_workers_are_late(site: Site) -> None:
    """The control: the workers' nodes have not heard of it, and nothing makes them look."""
    assert set(site.prices().values()) == {1}
    site.write(2)
    assert set(site.prices().values()) == {1}
