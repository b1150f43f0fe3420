"""Functions that write through: `@product.writer`."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import unstale
from tests.support.waiting import until
from unstale import Cache, Policy, SignedPickle
from unstale.errors import UsageError, ValueTypeError
from unstale.testing.disabled import disabled


@pytest.fixture(name="cache")
def fresh_cache() -> Iterator[Cache]:
    """Give a cache of its own."""
    with Cache(f"memory://{uuid.uuid4()}") as cache:
        yield cache


@dataclass
class Product:
    name: str
    price: int


class Shop:
    """Prices by tenant and number, and how often they were loaded."""

    def __init__(self, cache: Cache, **how: Any) -> None:
        self.prices: dict[tuple[str, int], int] = {("acme", 17): 39}
        self.loads = self.writes = 0
        settings: dict[str, Any] = {"policy": Policy.owned(ttl="7m"), "tags": ["tenant:{tenant}"], "shared": True} | how

        @cache.cached("price:{tenant}:{number}", **settings)
        def price(tenant: str, number: int, note: str = "") -> int:
            self.loads += 1
            return self.prices[tenant, number]

        @cache.cached("price:{tenant}:{number}", **settings)
        async def price_later(tenant: str, number: int, note: str = "") -> int:
            self.loads += 1
            return self.prices[tenant, number]

        @price.writer
        def save(value: int, number: int, *, tenant: str = "acme") -> int:
            """Save a price."""
            unstale.tag("written")
            self.writes += 1
            unstale.version(self.writes)
            self.prices[tenant, number] = value
            return value

        @price_later.writer
        async def save_later(value: int, number: int, *, tenant: str = "acme") -> int:
            return save.__wrapped__(value, number, tenant=tenant)  # type: ignore[attr-defined,no-any-return]

        self.price, self.price_later = price, price_later
        self.save, self.save_later = save, save_later


@pytest.fixture(name="shop")
def open_shop(cache: Cache) -> Shop:
    """Give a shop."""
    return Shop(cache, ignore=["note"])


def test_what_is_written_is_what_the_next_read_gets(cache: Cache, shop: Shop) -> None:
    """A write commits, returns the value, and caches it under the key, policy and tags of the function that reads."""
    assert shop.price("acme", 17) == 39
    assert shop.save(35, 17) == 35
    assert shop.price("acme", 17) == 35
    told = shop.price.explain("acme", 17)
    assert (told.version.value if told.version else None, shop.loads) == (1, 1)
    assert 0.9 * 420 < (told.remaining_s or 0) <= 420
    assert asyncio.run(shop.save_later(34, 17)) == 34
    assert asyncio.run(shop.price_later("acme", 17)) == shop.price("acme", 17) == 34
    assert shop.loads == 1


@pytest.mark.parametrize("scope", ["tenant:acme", "written", "price"])
def test_h06_tags_told_or_learnt_end_what_was_written(cache: Cache, shop: Shop, scope: str) -> None:
    """The tags of the function, those that the writer has learnt, and the namespace end a written value."""
    shop.save(35, 17)
    cache.invalidate(scope)
    assert shop.price("acme", 17) == 35
    assert shop.loads == 1


def test_other_nodes_find_what_was_written(cache: Cache) -> None:
    """It lies in the store as if it had been loaded: another node's read needs no load."""
    url = f"memory://{uuid.uuid4()}"
    with Cache(url) as one, Cache(url) as two:
        here, there = Shop(one, ignore=["note"]), Shop(two, ignore=["note"])
        assert there.price("acme", 17) == 39
        here.save(35, 17)
        until(lambda: there.price("acme", 17) == 35)
        assert there.loads == 1


def test_a_writer_that_raises_ends_the_entry_all_the_same(shop: Shop, cache: Cache) -> None:
    """Its commit may have been made: the value is loaded anew, and the error goes on."""

    @shop.price.writer
    def fail(tenant: str, number: int) -> int:
        shop.prices[tenant, number] = 1
        raise ConnectionError("committed?")

    assert shop.price("acme", 17) == 39
    with pytest.raises(ConnectionError):
        fail("acme", 17)
    assert shop.price("acme", 17) == 1


def test_the_policy_is_the_functions(cache: Cache) -> None:
    """Where each caller gets a copy of its own, of a written value too."""

    @cache.cached("list:{number}", copy=True)
    def listed(number: int) -> list[int]:
        return []

    @listed.writer
    def extend(number: int, item: int) -> list[int]:
        return [item]

    extend(1, 5).append(6)
    assert listed(1) == [5]


def test_a_codec_of_its_own(cache: Cache) -> None:
    """What the function encodes in a way of its own, its writer encodes so too."""

    @cache.cached("set:{number}", codec=SignedPickle("secret" * 4))
    def pickled(number: int) -> object:
        return {1}

    @pickled.writer
    def save(number: int, item: complex) -> object:
        return {item}

    assert save(1, 2j) == pickled(1) == {2j}


class Branch:
    """Functions of a class, with writers beside them."""

    cache = Cache(f"memory://{uuid.uuid4()}")
    stock: dict[int, int] = {}  # noqa: RUF012 - the truth

    @cache.cached("own:{number}")
    def own(self, number: int) -> int:
        return self.stock[number]

    @own.writer
    def save_own(self, number: int, items: int) -> int:
        self.stock[number] = items
        return items

    @cache.cached("later:{number}")
    async def later(self, number: int) -> int:
        return self.stock[number]

    @later.writer
    async def save_later(self, number: int, items: int) -> int:
        return items

    @cache.cached("of-class:{number}")
    @classmethod
    def of_class(cls, number: int) -> int:
        return cls.stock[number]

    @of_class.writer
    @classmethod
    def save_of_class(cls, number: int, items: int) -> int:
        return items * bool(cls.stock is not None)

    @cache.cached("static:{number}")
    @staticmethod
    def static(number: int) -> int:
        return Branch.stock[number]

    @static.writer
    @staticmethod
    def save_static(number: int, items: int) -> int:
        return items


def test_methods_of_all_kinds() -> None:
    """Methods, class methods and static methods write through, bound or not; no instance is part of a key."""
    with Branch.cache:
        branch: Any = Branch()
        assert branch.save_own(1, 5) == branch.own(1) == Branch.own(Branch(), 1) == 5
        assert Branch.save_own(branch, 1, 6) == branch.own(1) == 6
        assert asyncio.run(branch.save_later(1, 7)) == asyncio.run(branch.later(1)) == 7
        assert branch.save_of_class(1, 8) == branch.of_class(1) == Branch.of_class(1) == 8
        assert branch.save_static(1, 9) == branch.static(1) == Branch.static(1) == 9

        def elsewhere(number: int) -> int:
            return 10

        assert branch.own.writer(elsewhere)(1) == branch.own(1) == 10


def test_several_keys_by_one_argument(cache: Cache) -> None:
    """Arguments that are gathered in the function are gathered in its writer."""

    @cache.cached("sum:{numbers}")
    def total(*numbers: int) -> int:
        return sum(numbers)

    @total.writer
    def save(*numbers: int, value: int) -> int:
        return value

    assert save(1, 2, value=9) == total(1, 2) == 9
    refuse("several arguments", lambda: total.writer(lambda numbers: 1))


# What is refused ----------------------------------------------------------------------------------------------------


def refuse(problem: str, attempt: Callable[[], object], kind: type[Exception] = UsageError) -> str:
    """Check that an attempt is refused with what to write instead: the hint."""
    with pytest.raises(kind, match=problem) as refused:
        attempt()
    hint = getattr(refused.value, "hint", "")
    assert hint
    return str(hint)


def test_what_lacks_an_argument_of_the_key_is_refused(shop: Shop) -> None:
    """At decoration the missing argument is named, and the line to be written."""

    def save(number: int, value: int) -> int:
        return value

    hint = refuse("has no tenant, which the key 'price:{tenant}:{number}' needs", lambda: shop.price.writer(save))
    assert hint.startswith("write: def save(tenant, number, value); or cache.write(")


def test_the_other_colour_is_refused(shop: Shop) -> None:
    """A coroutine function takes coroutine functions, a blocking one blocking ones."""

    async def later(tenant: str, number: int) -> int:
        return 1

    def blocking(tenant: str, number: int) -> int:
        return 1

    wrong: Any = blocking
    assert "def later" in refuse("later is a coroutine function", lambda: shop.price.writer(later))
    assert "async def blocking" in refuse("price_later is a cor", lambda: shop.price_later.writer(wrong))


def test_what_is_no_function_is_refused(shop: Shop) -> None:
    """So are classes, and what yields."""

    def several(tenant: str, number: int) -> Iterator[int]:
        yield 1

    wrong: Any
    problem: str
    for wrong, problem in ((Product, "a class"), (several, "a generator"), (3, "writer takes a function, not a int")):
        refuse(problem, functools.partial(shop.price.writer, wrong))


def test_who_returns_nothing_is_refused(cache: Cache, shop: Shop) -> None:
    """A writer that forgets to return is told when it is decorated, or when it is called, by its own name."""

    def save(tenant: str, number: int) -> None: ...

    refuse("save returns None, which .*price never does", lambda: shop.price.writer(save))

    @shop.price.writer
    def forgets(tenant: str, number: int):  # type: ignore[no-untyped-def]  # noqa: ANN202 - that is the point
        shop.prices[tenant, number] = 2

    assert shop.price("acme", 17) == 39
    refuse("forgets returned NoneType", lambda: forgets("acme", 17), ValueTypeError)
    assert shop.price("acme", 17) == 2

    @cache.cached("found:{number}")
    def found(number: int) -> Product | None:
        return Product("kettle", 39)

    @found.writer
    def remove(number: int) -> None: ...

    assert found(17) == Product("kettle", 39)
    assert remove(17) is found(17) is None


def test_calls_that_python_refuses(shop: Shop) -> None:
    """A call that the writer cannot take is Python's own error, before anything is written."""
    wrong: Any = shop.save
    with pytest.raises(TypeError, match=r"save\(\) missing a required argument: 'number'"):
        wrong(35)
    assert shop.prices == {("acme", 17): 39}


def test_a_disabled_cache_writes_and_keeps_nothing(cache: Cache, shop: Shop) -> None:
    """Where the cache is disabled the writer runs, and the next read loads."""
    with disabled(cache):
        assert shop.save(35, 17) == shop.price("acme", 17) == 35
    assert shop.loads == 1
