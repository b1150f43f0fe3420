"""What Django documents for cache backends, in words of our own, upon each engine."""

# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import asyncio
import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.django_project import forget, node
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until

ENGINES = ("memory", "sqlite", "redis")


@dataclass
class Basket:
    items: list[str] = field(default_factory=list)


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a URL of each engine."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/django.cache"


@pytest.fixture
def make(url: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Make nodes of one cache, which no other test has."""
    yield lambda **options: node(url, **{"name": f"t{abs(hash(request.node.name))}", **options})
    forget()


@pytest.fixture
def cache(make: Callable[..., Any]) -> Any:
    """Give a node."""
    return make()


@pytest.mark.parametrize(
    "value",
    [None, 0, True, 2**70, 1.5, "", "text", b"\x00\xff", [1, {"a": (2, 3)}], {1, 2}, Basket(["kettle"]), ...],
)
def test_what_can_be_pickled_comes_back_equal_and_of_its_type(cache: Any, value: object) -> None:
    """A value of any type comes back, from memory and from the store alike."""
    cache.set("key", value)
    for found in (cache.get("key"), cache.get_many(["key"])["key"]):
        assert found == value
        assert type(found) is type(value)


def test_a_missing_key_gives_the_default_and_a_none_does_not(cache: Any) -> None:
    """None is a value; only where there is none the default is given."""
    assert cache.get("none") is None
    assert cache.get("none", "default") == "default"
    cache.set("none", None)
    assert cache.get("none", "default") is None
    assert "none" in cache


def test_h30_callers_do_not_share_what_they_get(cache: Any) -> None:
    """Who changes what he got, or what he gave, changes nothing for others."""
    given = Basket(["kettle"])
    cache.set("basket", given)
    given.items.append("changed")
    cache.get("basket").items.append("changed")
    cache.get_or_set("basket", None).items.append("changed")
    assert cache.get("basket") == Basket(["kettle"])


def test_add_writes_only_where_nothing_is(cache: Any) -> None:
    """`add` tells whether it wrote, and leaves what is there."""
    assert cache.add("key", 1) is True
    assert cache.add("key", 2) is False
    assert cache.get("key") == 1
    assert cache.delete("key") is True
    assert cache.delete("key") is False
    assert cache.add("key", 3) is True


def test_incr_and_decr_change_integers_and_refuse_what_is_not_there(cache: Any) -> None:
    """The new value is given; a key that is not there is a ValueError, a text a TypeError."""
    cache.set("n", 41)
    assert (cache.incr("n"), cache.incr("n", 10), cache.decr("n"), cache.decr("n", 10)) == (42, 52, 51, 41)
    assert cache.get("n") == 41
    cache.set("text", "x")
    with pytest.raises(TypeError):
        cache.incr("text")
    for change in (cache.incr, cache.decr, cache.incr_version, cache.decr_version):
        with pytest.raises(ValueError, match="not found"):
            change("nothing")


def test_incr_keeps_the_timeout(cache: Any) -> None:
    """A counter that lives for a moment does not live on by being counted."""
    cache.set("n", 1, timeout=0.4)
    assert cache.incr("n") == 2
    until(lambda: cache.get("n") is None)


def test_many_keys_are_read_written_and_deleted_at_once(cache: Any) -> None:
    """Keys that are not there are left out."""
    assert cache.set_many({"a": 1, "b": None, "c": [3]}) == []
    assert cache.get_many(iter(["a", "b", "c", "d"])) == {"a": 1, "b": None, "c": [3]}
    cache.delete_many(iter(["a", "c"]))
    assert cache.get_many(["a", "b", "c"]) == {"b": None}
    assert cache.set_many({}) == []
    cache.delete_many([])


def test_timeouts_end_lives_and_none_lives_long(cache: Any) -> None:
    """None is as long as there is, 0 and less are over at once, and a short one ends."""
    cache.set_many({"short": 1, "shorter": 1}, timeout=0.3)
    cache.set("long", 1, timeout=None)
    for timeout in (0, -1, -100):
        cache.set("over", 1, timeout=timeout)
        assert cache.get("over") is None
        assert cache.add("added", 1, timeout=timeout) is True
        assert "added" not in cache
    cache.set("ended", 1)
    cache.set("ended", 2, timeout=0)
    assert cache.get("ended") is None
    until(lambda: "short" not in cache)
    assert cache.get("long") == 1


def test_touch_gives_a_key_another_life(cache: Any) -> None:
    """It tells whether the key was there; 0 ends it."""
    cache.set("key", [1], timeout=0.4)
    assert cache.touch("key", 60) is True
    cache.set("reference", 1, timeout=0.5)
    until(lambda: "reference" not in cache)
    assert cache.get("key") == [1]
    assert cache.touch("key", 0) is True
    assert cache.touch("key") is False
    assert "key" not in cache


def test_a_far_timeout_is_cut_to_max_ttl(make: Callable[..., Any]) -> None:
    """Nothing lives longer than `max_ttl`, whatever was asked for."""
    cache = make(max_ttl="0.5s")
    cache.set_many({"none": 1, "far": 1}, timeout=None)
    cache.set("far", 1, timeout=10**9)
    until(lambda: not cache.get_many(["none", "far"]))


def test_versions_and_prefixes_keep_keys_apart(make: Callable[..., Any]) -> None:
    """A version of a key is another key, and so is that of another prefix; `clear` ends those of its own prefix."""
    one, two = make(prefix="one"), make(prefix="one:1")
    one.set("key", 1)
    one.set("key", 2, version=2)
    two.set("key", 3)
    assert (one.get("key"), one.get("key", version=2), two.get("key")) == (1, 2, 3)
    assert one.incr_version("key", version=2) == 3
    assert (one.get("key", version=2), one.get("key", version=3)) == (None, 2)
    assert one.decr_version("key", version=3) == 2
    one.clear()
    assert (one.get("key"), one.get("key", version=2), two.get("key")) == (None, None, 3)


def test_get_or_set_computes_once(cache: Any) -> None:
    """A value or a function may be given; what is there is not computed, None not excepted."""
    calls: list[int] = []
    assert cache.get_or_set("plain", 5) == 5
    for _ in range(2):
        assert cache.get_or_set("lazy", lambda: calls.append(1)) is None
    assert len(calls) == 1
    assert cache.get_or_set("none", lambda: None) is None
    assert cache.get("none", "default") is None
    assert cache.get_or_set("gone", 5, timeout=0) == 5
    assert cache.get("gone") is None
    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("fails", lambda: 1 // 0)
    assert "fails" not in cache


def test_odd_keys_are_kept_apart_with_a_warning(cache: Any) -> None:
    """What memcached would not take is warned of, and works."""
    from django.core.cache.backends.base import CacheKeyWarning

    keys = ["with space", "with\nline", "x" * 300, "x" * 301, "*", "\udc80", "a%b", "ключ"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheKeyWarning)
        cache.set_many({key: key for key in keys})
        assert cache.get_many(keys) == {key: key for key in keys}
    with pytest.warns(CacheKeyWarning):
        cache.set("with space", 1)


def test_what_cannot_be_pickled_is_refused_with_pickles_own_error(cache: Any) -> None:
    """And what was there before stays."""
    cache.set("key", 1)
    for method in (cache.set, cache.add):
        with pytest.raises((pickle.PicklingError, AttributeError)):
            method("key", lambda: None)
    assert cache.get("key") == 1


def test_each_method_has_a_coroutine_that_does_the_same(cache: Any) -> None:
    """Nothing of them runs in Django's thread for synchronous code."""

    async def use() -> None:
        await cache.aset("key", [1])
        assert await cache.aget("key") == [1]
        assert await cache.aadd("key", 2) is False
        assert await cache.aadd("n", 1) is True
        assert (await cache.aincr("n", 2), await cache.adecr("n")) == (3, 2)
        assert await cache.atouch("n", 60) is True
        assert await cache.atouch("nothing") is False
        assert await cache.aset_many({"a": 1, "b": 2}) == []
        assert await cache.aget_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        await cache.adelete_many(["a"])
        assert await cache.ahas_key("a") is False
        assert await cache.adelete("b") is True
        assert await cache.aget_or_set("lazy", lambda: 5) == 5
        assert await cache.aget_or_set("later", answer) == 6
        assert await cache.aget_or_set("gone", answer, timeout=0) == 6
        assert await cache.aincr_version("lazy") == 2
        with pytest.raises(ValueError, match="not found"):
            await cache.aincr("nothing")
        await cache.aclear()
        assert await cache.aget("n", "default") == "default"
        await cache.aclose()

    async def answer() -> int:
        return 6

    asyncio.run(use())


def test_threads_lose_no_increment_and_one_of_them_adds(cache: Any) -> None:
    """Counting and adding are atomic among threads."""
    cache.set("n", 0)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: cache.incr("n"), range(40)))
        added = list(threads.map(lambda _: cache.add("lock", 1), range(8)))
    assert cache.get("n") == 40
    assert added.count(True) == 1


def test_close_keeps_the_cache(cache: Any) -> None:
    """Django closes its caches after each request: the memory of the process stays."""
    from django.core.signals import request_finished

    cache.set("key", 1)
    cache.close()
    request_finished.send(sender=None)
    assert cache.get("key") == 1
