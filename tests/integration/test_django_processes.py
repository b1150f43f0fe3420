"""Several processes use one cache of Django: what one writes, the others see; none loses what another counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.django_project import forget, node
from tests.support.processes import Process
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.real

ROLES = Path(__file__).with_name("django_roles.py")
BOUND = "30s"  # so long that only what is told of a write ends what is held in memory

Start = Callable[[], Process]


@pytest.fixture(params=("sqlite", "redis"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a URL that processes can share."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    return f"sqlite:///{tmp_path}/django.cache"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Name a cache that no other test has."""
    return f"p{abs(hash(request.node.name))}"


@pytest.fixture
def start(url: str, name: str) -> Iterator[Start]:
    """Start processes that answer what they are asked; none outlives its test."""
    started: list[Process] = []

    def one() -> Process:
        started.append(Process(ROLES, url, name, BOUND))
        assert started[-1].hear() == "ready"
        return started[-1]

    yield one
    for process in started:
        process.end()


@pytest.fixture
def here(url: str, name: str) -> Iterator[Any]:
    """Give the node of this process."""
    yield node(url, name=name, max_staleness=BOUND)
    forget()


def test_h08_a_write_ends_what_other_processes_hold(start: Start, here: Any) -> None:
    """Whatever method wrote, the memory of another process does not go on giving what was there."""
    other = start()
    writes: list[tuple[str, tuple[Any, ...]]] = [
        ("set", ("key", 2)), ("set_many", ({"key": 2},)), ("delete", ("key",)), ("delete_many", (["key"],)),
        ("clear", ()), ("incr", ("key",)), ("touch", ("key", 0)), ("incr_version", ("key",)),
    ]  # fmt: skip
    for method, args in writes:
        here.set("key", 1)
        until(lambda: other.ask("get", "key") == 1)
        getattr(here, method)(*args)
        value = here.get("key")  # one's own next read sees it
        assert value in {2, None}
        until(lambda value=value: other.ask("get", "key") == value)  # type: ignore[misc]


def test_what_is_set_is_found_by_a_process_that_comes_later(start: Start, here: Any) -> None:
    """It lies in the store, signed with the SECRET_KEY that all processes have."""
    here.set("key", {"a": [1, 2]})
    assert start().ask("get", "key") == {"a": [1, 2]}


def test_h16_no_increment_of_any_process_is_lost(start: Start, here: Any) -> None:
    """Counting is atomic among processes, and so is adding: one of all who try is told that it did."""
    others = [start(), start()]
    here.set("n", 0)
    for other in others:
        other.tell(["many", 30, "incr", "n"])
    for _ in range(30):
        here.incr("n")
    answers = [answer for other in others for answer in other.hear()]
    assert len(set(answers)) == 60  # no two were told the same
    assert here.incr("n", 0) == 90
    for number in range(5):
        for other in others:
            other.tell(["add", f"lock {number}".replace(" ", "-"), 1])
        won = [here.add(f"lock-{number}", 1), *(other.hear() for other in others)]
        assert won.count(True) == 1


def test_an_answer_of_nothing_there_is_no_older_than_the_call(start: Start, here: Any) -> None:
    """`add` after another process's `delete` has returned finds nothing, although the memory here may not know yet."""
    other = start()
    for _ in range(10):
        assert here.add("lock", 1) is True
        assert other.ask("add", "lock", 2) is False
        assert other.ask("delete", "lock") is True
        assert here.add("lock", 3) is True
        assert other.ask("get", "lock") is not None
        other.ask("delete", "lock")
        with pytest.raises(ValueError, match="not found"):
            here.incr("lock")
