"""Values of Django's cache are signed; settings are checked; a Redis that is out is no error of a read."""

# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.django_project import forget, node
from tests.support.redis_servers import RedisServer
from unstale.django.values import SignedValues, opened
from unstale.errors import EngineError, UsageError

RUN: list[str] = []


class Attack:
    def __reduce__(self) -> Any:
        return RUN.append, ("run",)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    forget()


def test_h29_nothing_is_unpickled_that_is_not_signed() -> None:
    """Neither a bare pickle, nor one under another secret, nor a changed one."""
    values = SignedValues(["our secret"])
    forged = SignedValues(["their secret"]).encode(Attack())
    RUN.clear()
    for data in (b"", pickle.dumps(Attack()), forged, values.encode("x")[:-1] + b"?", b"\x00" * 100):
        with pytest.raises(msgspec.DecodeError):
            values.decode(data)
    assert RUN == []


def test_secrets_are_exchanged_without_a_miss() -> None:
    """What an older secret has signed is read while it is among the fallbacks."""
    old, both, new = SignedValues(["old"]), SignedValues([b"new", "old"]), SignedValues(["new"])
    assert opened(both.decode(old.encode(1))) == opened(new.decode(both.encode(1))) == 1
    with pytest.raises(msgspec.DecodeError):
        new.decode(old.encode(1))


def test_h28_a_class_that_is_gone_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy that takes a class away does not break who reads what was written before."""
    values = SignedValues(["secret"])
    data = values.encode({1})
    monkeypatch.setattr("pickle.loads", _fail)
    with pytest.raises(msgspec.DecodeError):
        values.decode(data)


def _fail(_data: bytes) -> Any:
    raise AttributeError("gone")


@pytest.mark.parametrize(
    ("location", "options", "says"),
    [
        ("localhost:6379", {}, "LOCATION is the URL"),
        (["redis://a"], {}, "LOCATION is the URL"),
        ("memory://", {"max_stalenes": "2s"}, "max_stalenes"),
        ("memory://", {"on_commit": "yes"}, "on_commit cannot be"),
    ],
)
def test_mistakes_in_settings_are_refused(location: Any, options: dict[str, Any], says: str) -> None:
    """At the first use, with what to write instead."""
    with pytest.raises(UsageError, match=says) as caught:
        node(location, **options)
    assert caught.value.hint


def test_culling_options_are_accepted() -> None:
    """Projects have them; what bounds this cache has names of its own."""
    cache = node("memory://", MAX_ENTRIES=3, CULL_FREQUENCY=2)
    for number in range(10):
        cache.set(f"key-{number}", number)
    assert len(cache.get_many([f"key-{number}" for number in range(10)])) == 10


def test_a_redis_that_is_out_is_a_miss_for_reads_and_an_error_for_writes() -> None:
    """A page is built without its cache; what could not be told to other processes must be known."""
    with RedisServer() as server:
        cache = node(f"{server.url}?timeout=200ms", max_staleness="0.2s", on_trouble=lambda _what, _error: None)
        cache.set("key", 1)
        server.kill()
        cache.shared.cache.node.table.clear()
        assert cache.get("key", "default") == "default"
        assert cache.get_many(["key"]) == {}
        with pytest.raises(EngineError):
            cache.add("key", 1)


def test_a_disabled_cache_keeps_nothing() -> None:
    """As with the dummy backend: see `unstale.testing.disabled`."""
    cache = node("memory://", name="disabled")
    cache.set("key", 1)
    cache.shared.cache.disabled = True
    assert (cache.get("key"), cache.get_many(["key"]), cache.add("key", 2)) == (None, {}, True)
    cache.set("key", 3)
    cache.clear()
    assert (cache.delete("key"), cache.touch("key"), cache.get_or_set("key", 5)) == (False, False, 5)
    with pytest.raises(ValueError, match="not found"):
        cache.incr("key")
