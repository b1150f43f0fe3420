"""How a cached function may be called: as its function, in every way that Python knows."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import unstale
from tests.support.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Give a node whose time and tail stand still."""
    with contextlib.closing(Stage()) as one:
        yield one


def test_calls_of_one_entry_share_it_however_they_are_written(stage: Stage) -> None:
    """Positional, keyword and default arguments lead to one entry; only the positional call is a hit."""

    @stage.cache.cached("k:{x}:{y}")
    def one(x: int, y: int = 2) -> int:
        return stage.loaded(x, y)

    assert stage.source(one, 1) == "load"
    assert stage.source(one, 1) == "hit"
    assert [stage.source(one, x=1) for _ in range(2)] == ["l1", "l1"]
    assert [stage.source(one, 1, y=2) for _ in range(2)] == ["l1", "l1"]
    assert [stage.source(one, 1, 2) for _ in range(2)] == ["l1", "hit"]
    assert [stage.source(one, 1) for _ in range(2)] == ["l1", "hit"], "an entry has one name at a time"
    assert stage.loads == [(1, 2)]


def test_a_function_of_one_argument_is_called_like_any(stage: Stage) -> None:
    """By position, by keyword or by its default: each is a hit, in either colour, and what is no call of it is told."""

    @stage.cache.cached("now:{x}")
    def now(x: int = 1) -> int:
        return stage.loaded(x)

    @stage.cache.cached("later:{x}")
    async def later(x: int = 1) -> int:
        return stage.loaded(x)

    function: Any
    for function in (now, later):
        assert [stage.source(function) for _ in range(2)] == ["load", "hit"]
        assert [stage.source(function, 1) for _ in range(2)] == ["l1", "hit"]
        assert [stage.source(function, x=1) for _ in range(2)] == ["hit", "hit"]
        assert [stage.source(function, x=2) for _ in range(2)] == ["load", "hit"]
        assert [stage.source(function) for _ in range(2)] == ["l1", "hit"], "an entry has one name at a time"
        for args, named in (((1, 2), {}), ((), {"y": 1}), ((1,), {"x": 1})):
            with pytest.raises(TypeError, match=rf"{function.__name__}\(\)"):
                stage.call(function, *args, **named)
    assert stage.loads == [1, 2] * 2


def test_a_default_that_cannot_be_hashed_is_the_functions_own(stage: Stage) -> None:
    """The function gets its own default, and a call without argument is a hit whatever that default is."""
    default: list[int] = [1]

    @stage.cache.cached("k:{x}")
    def one(x: list[int] = default) -> int:
        assert x is default
        return stage.loaded(tuple(x))

    assert [stage.source(one) for _ in range(3)] == ["load", "hit", "hit"]
    default.append(2)
    assert stage.source(one) == "hit", "as before: what is changed in place is for its owner to end"


def test_an_argument_for_positions_only(stage: Stage) -> None:
    """A parameter that is only for positions, or only for keywords, stays so."""

    @stage.cache.cached("place:{x}")
    def place(x: int, /) -> int:
        return stage.loaded(x)

    @stage.cache.cached("word:{x}")
    def word(*, x: int) -> int:
        return stage.loaded(x)

    @stage.cache.cached("all:{x}")
    def every(*x: int) -> int:
        return stage.loaded(x)

    assert [stage.source(place, 1) for _ in range(2)] == ["load", "hit"]
    assert [stage.source(word, x=1) for _ in range(2)] == ["load", "l1"]
    assert [stage.source(every, 1, 2) for _ in range(2)] == ["load", "hit"]
    assert [stage.source(every, 1) for _ in range(2)] == ["load", "hit"]
    with pytest.raises(TypeError):
        place(x=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        word(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["arg", "now", "cell", "lease", "find", "clock", "plan", "slow"])
def test_an_argument_may_have_any_name(stage: Stage, name: str) -> None:
    """A parameter that has a name of the path itself keeps its value; a debugger writes them back by name."""
    scope: dict[str, Any] = {}
    exec(f"def one({name}):\n    return {name}", scope)
    one: Any = stage.cache.cached(f"k:{{{name}}}")(scope["one"])

    def trace(frame: Any, _event: str, _arg: object) -> Any:
        assert frame.f_locals is not None
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert [one(**{name: x}) for x in (1, 2, 1, 2)] == [1, 2, 1, 2]
        assert [one(x) for x in (1, 2)] == [1, 2]
    finally:
        sys.settrace(before)


def test_a_cached_function_looks_like_its_function(stage: Stage) -> None:
    """Signatures, tracebacks and profiles show the function, and two functions of one form stay two."""

    @stage.cache.cached("one:{x}")
    def one(x: int = 1) -> int:
        """Give one."""
        return stage.loaded(x)

    @stage.cache.cached("two:{y}")
    async def two(y: int) -> int:
        return stage.loaded(y)

    assert one.__doc__ == "Give one."
    assert (inspect.iscoroutinefunction(one), inspect.iscoroutinefunction(two)) == (False, True)
    function: Any
    for function, name, parameter in ((one, "one", "x"), (two, "two", "y")):
        code = function.__code__
        assert (code.co_name, code.co_qualname) == (name, function.__qualname__)
        assert list(inspect.signature(function).parameters) == [parameter]


def test_functions_without_arguments(stage: Stage) -> None:
    """A function of no arguments has hits, in either colour; one argument too many is Python's error."""

    @stage.cache.cached("flags")
    def flags() -> int:
        return stage.loaded("flags")

    @stage.cache.cached("more-flags")
    async def more_flags() -> int:
        return stage.loaded("more")

    for function in (flags, more_flags):
        assert [stage.source(function) for _ in range(3)] == ["load", "hit", "hit"]
        with pytest.raises(TypeError):
            stage.call(function, 1)
        assert stage.source(function) == "hit"


def test_a_wrong_call_names_the_function(stage: Stage) -> None:
    """A call without its argument is Python's own error, and names the function, however many arguments it has."""

    @stage.cache.cached("n:{n}")
    def product(n: int) -> int:
        return n

    @stage.cache.cached("pair:{n}:{m}")
    def pair(n: int, m: int = 1) -> int:
        return n + m

    call: Any
    for function, name in ((product, "product"), (pair, "pair")):
        for call in (function, function.key, function.invalidate):
            with pytest.raises(TypeError, match=rf"{name}\(\) missing .*argument: 'n'"):
                call()


def test_methods(stage: Stage) -> None:
    """Instances share hits, of one argument, of several, and of none; class and static methods have them too."""

    class Shop:
        @stage.cache.cached("stock:{x}")
        def stock(self, x: int) -> int:
            return stage.loaded(x)

        @stage.cache.cached("sum:{x}:{y}")
        async def add(self, x: int, y: int) -> int:
            return stage.loaded(x, y)

        @stage.cache.cached("size")
        def size(self) -> int:
            return stage.loaded("size")

        @classmethod
        @stage.cache.cached("currency:{country}")
        def currency(cls, country: str) -> int:
            return stage.loaded(country)

        @staticmethod
        @stage.cache.cached("tax:{country}")
        async def tax(country: str) -> int:
            return stage.loaded(country)

    one, two = Shop(), Shop()
    for name, args in (("stock", (1,)), ("add", (1, 2)), ("size", ()), ("currency", ("DE",)), ("tax", ("DE",))):
        calls = [getattr(shop, name) for shop in (one, one, two)]
        assert [stage.source(call, *args) for call in calls] == ["load", "hit", "hit"], name
    assert stage.source(Shop.stock, two, 1) == "hit"
    assert stage.source(one.stock, x=1) == "l1"
    assert one.stock.key(1) == Shop.stock.key(one, 1) == "stock:1"


def test_a_class_method_knows_its_class(stage: Stage) -> None:
    """Decorated on either side its methods know it too; only what loads may have to be told, and says so."""

    class Shop:
        @stage.cache.cached("above:{x}")
        @classmethod
        def above(cls, x: int) -> str:
            return cls.__name__

        @classmethod
        @stage.cache.cached("below:{x}")
        def below(cls, x: int) -> str:
            return cls.__name__

    for shop in (Shop, Shop()):
        assert [shop.above(1), shop.above.refresh(1), shop.above.reading()(1)] == ["Shop"] * 3
        assert [shop.above.peek(1), shop.below(1), shop.below.peek(1)] == ["Shop"] * 3
        assert (shop.above.key(1), shop.below.key(1)) == ("above:1", "below:1")
        for method in (shop.above, shop.below):
            method.invalidate(1)
            assert method.peek(1) is None
    held: Any = vars(Shop)["below"].__func__  # all that a classmethod gives from Python 3.13 on
    assert (held.key(1), held.key(Shop, 1), held.refresh(Shop, 1)) == ("below:1", "below:1", "Shop")
    for loads in (held.refresh, held.reading()):
        with pytest.raises(unstale.errors.UsageError, match="above @classmethod"):
            loads(1)
