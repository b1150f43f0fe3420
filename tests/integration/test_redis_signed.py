from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale import Cache

pytestmark = pytest.mark.real
OLD, NEW = "the old secret of the shop", "the new secret of the shop"


class Shop:
    """Caches of one name upon one server, with secrets or without, and what was reported to them."""

    def __init__(self, server: RedisServer, name: str, stack: ExitStack) -> None:
        self.server = server
        self.name = name
        self.stack = stack
        self.told: list[str] = []

    def cache(self, secret: Any) -> Cache:
        """Open one."""
        cache = Cache(
            self.server.url, name=self.name, secret=secret, on_trouble=lambda what, _error: self.told.append(what)
        )
        return self.stack.enter_context(cache)


@pytest.fixture
def shop(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """Give a shop of its own."""
    with ExitStack() as stack:
        yield Shop(redis_server, request.node.name, stack)


def test_one_secret_follows_another(shop: Shop) -> None:
    """Nodes with the new and the old secret believe those with the old one alone, and the other way round."""
    old, both, new = shop.cache(OLD), shop.cache([NEW, OLD]), shop.cache(NEW)
    old.set("k:1", "by the old")
    both.set("k:2", "by both")
    assert both.get("k:1") == "by the old"
    assert new.get("k:2") == "by both"
    assert new.get("k:1") is None
    new.set("k:3", 3)
    assert both.get("k:3") == 3
    both.invalidate("k:3")
    until(lambda: new.get("k:3") is None)

    async def later() -> list[Any]:
        return [await both.aget("k:1"), await new.aget("k:2"), await new.aget("k:1")]

    assert asyncio.run(later()) == ["by the old", "by both", None]


def test_h29_an_entry_without_a_valid_signature_is_a_miss(shop: Shop) -> None:
    """Bytes that a stranger put, moved from another key, or signed with another secret: loaded anew, and reported."""
    reader, writer = shop.cache(NEW), shop.cache(NEW)
    stranger = shop.cache(OLD)
    writer.set("price:1", 10)
    writer.set("price:2", 20)
    client = shop.server.client()
    keys = sorted(client.keys(f"unstale:{shop.name}:e:*"))
    assert len(keys) == 2
    client.set(keys[0], client.get(keys[1]) or b"", ex=60)
    assert reader.get_or_load("price:1", lambda: 11) == 11
    assert reader.get("price:2") == 20
    stranger.set("price:3", 0)
    assert reader.get_or_load("price:3", lambda: 33) == 33
    assert "forged entry" in shop.told


def test_h29_a_record_without_a_valid_signature_is_skipped(shop: Shop) -> None:
    """It ends nothing, hides nothing that follows, and is reported; the log goes on."""
    reader, writer = shop.cache(NEW), shop.cache(NEW)
    stranger = shop.cache(None)
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return len(loads)

    def price() -> Any:
        return reader.get_or_load("price:1", load)

    assert [price(), price()] == [1, 1]
    stranger.invalidate("*")
    until(lambda: "forged record" in shop.told)
    assert [price(), price()] == [1, 1]
    writer.invalidate("price:1")
    until(lambda: price() == 2)
    assert reader.stats()["discontinuities"] == 1
