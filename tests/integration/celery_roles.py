"""An application of Celery as a worker loads it: tasks that read and write by a node that hears late of others."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import celery  # type: ignore[import-untyped]

import unstale.celery
from tests.support.lagging import late_node
from tests.support.waiting import until

TRUTH = Path(os.environ["PRICE_FILE"])
app = celery.Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
stack = contextlib.ExitStack()
cache = stack.enter_context(late_node(os.environ["CACHE"], name="shop"))  # in the parent, before the workers are forked
unstale.celery.connect()


@cache.cached("price:{product}")
def price(product: int) -> int:
    """Load a price."""
    return int(TRUTH.read_text(encoding="utf-8"))


@app.task(name="read")  # type: ignore[untyped-decorator]
def read() -> int:
    """Give the price."""
    return price(17)


@app.task(name="meet and read")  # type: ignore[untyped-decorator]
def meet_and_read(name: str, count: int) -> tuple[int, int]:
    """Wait until so many workers are at it: give who this one is, and the price."""
    (TRUTH.parent / f"{name}.{os.getpid()}").touch()
    until(lambda: len(list(TRUTH.parent.glob(f"{name}.*"))) == count)
    return os.getpid(), price(17)


@app.task(name="write and read")  # type: ignore[untyped-decorator]
def write_and_read(new: int) -> str:
    """Change the price, and let another worker read it: give the id of that task."""
    TRUTH.write_text(str(new), encoding="utf-8")
    cache.invalidate("price:17")
    return str(read.delay().id)
