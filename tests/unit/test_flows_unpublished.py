"""What is left of a write whose record could not be published: on the node that wrote, nothing old."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.scripted import Bench
from unstale.core import ops
from unstale.core.read import read
from unstale.core.record import Record
from unstale.core.write import invalidate, write
from unstale.errors import FullError, NotPublishedError

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


@pytest.mark.parametrize("scope", [KEY, "tag", "*"])
def test_h02_the_node_that_cannot_publish_serves_nothing_old(bench: Bench, scope: str) -> None:
    """Its own reads load, from either tier, although its lease is proven; once records come again, loads are kept."""
    node = bench.node()
    want: dict[str, Any] = {"scopes": ("tag",)}
    assert bench.run(read(node, bench.want(KEY, lambda: "old", **want))).value == "old"
    assert bench.run(read(node, bench.want("other", lambda: "old"))).value == "old"
    bench.broken[ops.Append] = FullError("full")
    with pytest.raises(NotPublishedError):
        bench.run(invalidate(node, Record("r", (scope,)), wait=False))
    bench.hear(node)
    for _ in range(2):
        served = bench.run(read(node, bench.want(KEY, lambda: "new", **want)))
        assert (served.value, served.why) == ("new", "loaded, not kept: overtaken by a record")
    assert bench.run(read(node, bench.want("other", lambda: "new"))).value == ("new" if scope == "*" else "old")
    bench.publish("another")
    bench.hear(node)
    assert bench.run(read(node, bench.want(KEY, lambda: "new", **want))).why == "loaded"
    assert bench.run(read(node, bench.want(KEY, **want))).value == "new"


def test_h02_a_write_that_is_cancelled_at_its_record_ends_the_old_value_here(bench: Bench) -> None:
    """Nobody knows whether the record was appended: this node does not serve what is committed no more."""
    node = bench.node()
    assert bench.run(read(node, bench.want(KEY, lambda: "old"))).value == "old"
    script = bench.script(write(node, bench.want(KEY), lambda: "new", Record("r", (KEY,))))
    script.until(ops.Append)
    script.kill()
    assert bench.run(read(node, bench.want(KEY))) is None
