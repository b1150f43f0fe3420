"""What a type checker knows of cached functions: the lines of `check` are read by mypy, and run as well."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar, assert_type

import pytest

from unstale import Cache, Explanation, Receipt

ROOT = Path(__file__).resolve().parents[2]
CACHE = Cache(f"memory://{uuid.uuid4()}")
T = TypeVar("T")
Later = Coroutine[Any, Any, T]


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    """Close the cache of this module."""
    with CACHE:
        yield


@CACHE.cached("name:{number}")
def name(number: int) -> str:
    """Give a name."""
    return str(number)


@CACHE.cached("later:{number}:{currency}")
async def later(number: int, currency: str = "EUR") -> str:
    """Give a name, later."""
    return f"{number} {currency}"


class Shop:
    @CACHE.cached("price:{number}")
    def price(self, number: int) -> str:
        return str(number)

    @CACHE.cached("stock:{number}")
    async def stock(self, number: int) -> int:
        return number

    @CACHE.cached("size")
    def size(self) -> int:
        return 3

    @classmethod
    @CACHE.cached("currency:{country}")
    def currency(cls, country: str) -> str:
        return country

    @classmethod
    @CACHE.cached("rate:{country}")
    async def rate(cls, country: str) -> float:
        return 1.0

    @staticmethod
    @CACHE.cached("tax:{country}")
    def tax(country: str) -> int:
        return 19

    @staticmethod
    @CACHE.cached("duty:{country}")
    async def duty(country: str) -> int:
        return 4

    @staticmethod
    @CACHE.cached("tariff")
    def tariff() -> int:
        return 5

    def both(self) -> str:
        return assert_type(self.price(1), str) + assert_type(self.currency("DE"), str)


class Branch(Shop):
    pass


class Rows(Generic[T]):
    def __init__(self, row: T) -> None:
        self.row = row

    @CACHE.cached("row:{number}")
    def get(self, number: int) -> T:
        return self.row


def test_functions() -> None:
    """A cached function has the arguments and the result of its function, and so have its methods."""
    assert assert_type(name(1), str) == assert_type(name(number=1), str) == "1"
    assert assert_type(name.peek(1), str | None) == assert_type(name.refresh(number=1), str)
    assert assert_type(name.key(1), str) == "name:1"
    assert_type(name.explain(1), Explanation)
    assert_type(name.invalidate(1), Receipt)
    plain: Callable[[int], str] = name.reading(consistency="strong")
    assert plain(1) == "1"


async def test_coroutine_functions() -> None:
    """Whatever a cached coroutine function and its methods give is awaited, but a key."""
    assert assert_type(await later(1), str) == assert_type(await later(1, currency="EUR"), str)
    assert assert_type(await later.peek(1), str | None) == assert_type(await later.refresh(1), str)
    assert assert_type(later.key(1), str) == "later:1:EUR"
    assert_type(await later.invalidate(1), Receipt)
    assert assert_type(await later.reading(consistency="strong")(1), str) == "1 EUR"


async def test_methods() -> None:
    """A method is called with its instance and without it, through its class and one derived from it."""
    shop = Shop()
    assert assert_type(shop.price(1), str) == assert_type(Shop.price(shop, 1), str) == "1"
    assert assert_type(Branch().price(number=1), str) == assert_type(shop.price.refresh(1), str)
    assert assert_type(shop.price.key(1), str) == Shop.price.key(shop, 1) == "price:1"
    assert (assert_type(shop.size(), int), shop.both()) == (3, "1DE")
    assert assert_type(await shop.stock(1), int) == assert_type(await Shop.stock(shop, 1), int) == 1
    assert assert_type(await Branch().stock.peek(1), int | None) == 1
    assert assert_type(Rows("x").get(1), str) == "x"


async def test_class_methods() -> None:
    """A class method is called without its class, whether through the class or an instance."""
    assert assert_type(Shop.currency("DE"), str) == assert_type(Shop().currency("DE"), str) == "DE"
    assert assert_type(Branch.currency(country="DE"), str) == "DE"
    assert assert_type(await Shop.rate("DE"), float) == assert_type(await Branch().rate("DE"), float) == 1.0


async def test_static_methods() -> None:
    """A static method has all its arguments, whether through the class or an instance."""
    assert assert_type(Shop.tax("DE"), int) == assert_type(Shop().tax(country="DE"), int) == 19
    assert assert_type(Shop.tax.key("DE"), str) == assert_type(Shop().tax.key("DE"), str) == "tax:DE"
    assert assert_type(await Shop.duty("DE"), int) == assert_type(await Shop().duty("DE"), int) == 4
    assert assert_type(Shop.tariff(), int) == assert_type(Shop().tariff(), int) == 5


async def mistakes(shop: Shop) -> None:
    """Make the mistakes that a type checker finds: each `type: ignore` that hides none is an error itself."""
    name("1")  # type: ignore[arg-type]
    name(nummer=1)  # type: ignore[call-arg]
    name.key("1")  # type: ignore[arg-type]
    later(1)  # type: ignore[unused-coroutine]
    await later("1")  # type: ignore[arg-type]
    shop.price("1")  # type: ignore[arg-type]
    shop.price()  # type: ignore[call-arg]
    shop.price.key("1")  # type: ignore[arg-type]
    Shop.price(1)  # type: ignore[call-arg, arg-type]
    await shop.stock("1")  # type: ignore[arg-type]
    Shop.currency(1)  # type: ignore[arg-type]
    shop.currency("DE", "FR")  # type: ignore[call-arg]
    await Shop.rate(1)  # type: ignore[arg-type]
    Shop.tax(1)  # type: ignore[arg-type]
    shop.tax()  # type: ignore[call-arg]
    await shop.duty(1)  # type: ignore[arg-type]


def test_mypy_agrees() -> None:
    """The type checker finds every type above as it stands there, and every mistake."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(Path(__file__))]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert (found.stdout + found.stderr, found.returncode) == ("", 0)
