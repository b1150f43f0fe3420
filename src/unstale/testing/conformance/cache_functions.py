"""The conformance of a cache: cached functions of either colour."""

from __future__ import annotations

import inspect
from typing import Any

from unstale.errors import KeyArgumentError, KeyTemplateError, ValueTypeError
from unstale.loading import observe, tag
from unstale.testing.conformance.colours import raised, settled
from unstale.testing.conformance.scene import CacheSuite, Scene, scenario


async def sources(*calls: Any) -> list[str]:
    """Say where each call of cached functions got its value from; a call is given as a function to be called."""
    with observe() as reads:
        for call in calls:
            await settled(call())
    return [read.source for read in reads]


class FunctionTests(CacheSuite):
    """Cached functions."""

    @scenario
    async def test_a_function_keeps_its_colour_and_looks(self, scene: Scene) -> None:
        """The cached form has the colour, the name, the signature and the docstring of the function."""
        shop = scene.shop()

        @shop.cached("product:{product_id}", ttl="1m")
        async def product(product_id: int, /) -> str:
            """Give a product."""
            return f"p{product_id}"

        assert inspect.iscoroutinefunction(product) is bool(shop.colour.prefix)
        assert (product.__name__, product.__doc__) == ("product", "Give a product.")
        assert list(inspect.signature(product).parameters) == ["product_id"]
        assert (product.cache, product.policy.ttl) == (shop.cache, "1m")
        assert await settled(product(17)) == "p17"

    @scenario
    async def test_calls_share_an_entry_however_they_are_written(self, scene: Scene) -> None:
        """Positional and keyword arguments and defaults lead to one entry, in this process and in others."""
        here, there = scene.pair()
        loads: list[tuple[object, ...]] = []

        async def price(product_id: int, currency: str = "EUR", *, net: bool = False) -> str:
            loads.append((product_id, currency, net))
            return f"{product_id} {currency} {net}"

        prices = [shop.cached("price:{product_id}:{currency}:{net}")(price) for shop in (here, there)]
        for one in prices:
            for _ in range(2):
                assert await settled(one(1)) == "1 EUR False"
                assert await settled(one(1, "EUR")) == "1 EUR False"
                assert await settled(one(product_id=1)) == "1 EUR False"
                assert await settled(one(net=False, currency="EUR", product_id=1)) == "1 EUR False"
                assert await settled(one(1, "USD")) == "1 USD False"
                assert await settled(one(1, net=True)) == "1 EUR True"
        assert loads == [(1, "EUR", False), (1, "USD", False), (1, "EUR", True)]

    @scenario
    async def test_a_call_that_cannot_be_made_is_pythons_error(self, scene: Scene) -> None:
        """Arguments that the function does not take raise what Python raises, and nothing is loaded."""
        shop = scene.shop()

        @shop.cached("f:{a}:{b}")
        async def two(a: int, b: int = 1) -> int:
            raise AssertionError((a, b))

        for args, named in (((), {}), ((1, 2, 3), {}), ((1,), {"c": 1}), ((1,), {"a": 1})):

            async def call(args: Any = args, named: Any = named) -> None:
                await settled(two(*args, **named))

            await raised(TypeError, call())

    @scenario
    async def test_h29_arguments_of_other_types_are_other_entries(self, scene: Scene) -> None:
        """1, True, 1.0, "1" and "True" are five arguments, whatever is resident; a forged colon crosses nothing."""
        here, there = scene.pair()

        async def kind(x: Any, y: Any = "") -> Any:
            return f"{type(x).__name__} {x} {y}"

        for cached in (here.cached("kind:{x}:{y}")(kind), there.cached("kind:{x}:{y}")(kind)):
            for _ in range(3):
                for x in (1, True, 1.0, "1", "True", "1.0", 0, False, None, "None", "", b"1"):
                    assert await settled(cached(x)) == await kind(x)
                for x, y in (("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a", "b"), ("a:", "b")):
                    assert await settled(cached(x, y)) == f"str {x} {y}"

    @scenario
    async def test_an_argument_that_names_nothing_is_refused(self, scene: Scene) -> None:
        """Objects without a lasting name cannot be part of a key, and the error names the argument."""
        shop = scene.shop()

        @shop.cached("f:{x}")
        async def one(x: object) -> int:
            raise AssertionError(x)

        for x in (object(), [object()], {}, float("nan"), "\ud800", "x" * 2000):

            async def call(x: object = x) -> None:
                await settled(one(x))

            error = await raised(KeyArgumentError, call())
            assert error.fields["argument"] == "x"

    @scenario
    async def test_methods_share_entries_between_instances(self, scene: Scene) -> None:
        """`self` and `cls` are no part of a key; class and static methods may be decorated on either side."""
        shop = scene.shop()
        loads: list[str] = []

        class Service:
            @shop.cached("stock:{product_id}")
            async def stock(self, product_id: int) -> str:
                loads.append("stock")
                return f"stock {product_id}"

            @classmethod
            @shop.cached("currency:{country}")
            async def currency(cls, country: str) -> str:
                loads.append(cls.__name__)
                return f"currency {country}"

            @staticmethod
            @shop.cached("tax:{country}")
            async def tax(country: str) -> str:
                loads.append("tax")
                return f"tax {country}"

            @shop.cached("name:{country}")
            @classmethod
            async def name(cls, country: str) -> str:
                loads.append(cls.__name__)
                return f"name {country}"

            @shop.cached("code:{country}")
            @staticmethod
            async def code(country: str) -> str:
                loads.append("code")
                return f"code {country}"

        service: Any = Service()
        for one in (service, Service(), Service):
            for name in ("currency", "tax", "name", "code"):
                method = getattr(one, name)
                assert await settled(method("DE")) == f"{name} DE"
                assert await settled(method(country="DE")) == f"{name} DE"
                assert method.key("DE") == f"{name}:DE"
        assert await settled(service.stock(1)) == await settled(Service.stock(service, 1)) == "stock 1"
        assert await settled(Service().stock(product_id=1)) == "stock 1"
        assert loads == ["Service", "tax", "Service", "code", "stock"]
        await settled(service.stock.invalidate(1))
        await settled(Service.currency.invalidate("DE"))
        assert await settled(service.stock.peek(1)) is None
        assert await settled(Service.stock.peek(service, 1)) is None
        assert await settled(service.stock.refresh(1)) == "stock 1"
        assert await settled(Service.currency("DE")) == "currency DE"
        assert loads[5:] == ["stock", "Service"]

    @scenario
    async def test_the_methods_of_a_function(self, scene: Scene) -> None:
        """`key` names the entry, `peek` looks, `refresh` loads anew, `invalidate` ends, `explain` tells."""
        here, there = scene.pair()
        source = scene.source(**{"17": "old"})

        async def product(product_id: int) -> str | None:
            row: str | None = await source.read(str(product_id))
            return row

        one, two = (shop.cached("product:{product_id}", tags=["catalog"])(product) for shop in (here, there))
        assert one.key(17) == one.key(product_id=17) == "product:17"
        assert await settled(one.peek(17)) is None
        assert source.loads == []
        assert await settled(one(17)) == await settled(two.peek(17)) == "old"
        source.rows["17"] = "new"
        assert await settled(one(17)) == "old"
        assert await settled(one.refresh(17)) == "new"
        assert await settled(one(17)) == await settled(one.peek(product_id=17)) == "new"
        receipt = await settled(one.invalidate(17))
        assert receipt.scopes == ("product:17",)
        assert await settled(one.peek(17)) is None
        assert await there.get("product:17", after=receipt, type=str | None) is None
        assert await settled(two(17)) == "new"
        known = await settled(two.explain(17))
        assert (known.key, known.servable) == ("product:17", True)
        assert set(known.marks) == {"product:17", "product", "catalog", "*"}

    @scenario
    async def test_its_entries_are_those_of_its_key(self, scene: Scene) -> None:
        """A function's entry can be read, ended and written by its key, where the types agree."""
        shop, source = scene.shop(), scene.source(**{"1": "loaded"})

        @shop.cached("k:{x}", tags=["t:{x}", "all"])
        async def one(x: str) -> str:
            row: str = await source.read(x)
            return row

        assert await settled(one("1")) == await shop.get("k:1", type=str) == "loaded"
        for scope in ("k:1", "t:1", "all", "k", "*"):
            await shop.invalidate("t:2", "k:2")
            assert await sources(lambda: one("1")) == ["l1"]
            await shop.invalidate(scope)
            assert await sources(lambda: one("1")) == ["load"], scope
        await shop.set("k:1", "set", type=str, tags=["t:1", "all"])
        assert await settled(one("1")) == "set"
        await shop.invalidate("t:1")
        assert await settled(one("1")) == "loaded"

    @scenario
    async def test_a_namespace_can_be_given(self, scene: Scene) -> None:
        """`namespace=` takes the place of the text before the first placeholder; `ignore=` leaves out an argument."""
        shop = scene.shop()

        @shop.cached("v2:{x}", namespace="prices", ignore=["session"])
        async def one(session: object, x: int) -> tuple[str, int]:
            return type(session).__name__, x

        assert await settled(one(object(), 1)) == ("object", 1)
        await shop.invalidate("v2")
        assert await sources(lambda: one([], 1)) == ["l1"]
        await shop.invalidate("prices")
        assert await sources(lambda: one([], 1)) == ["load"]

    @scenario
    async def test_h29_a_template_that_forgets_an_argument_is_refused(self, scene: Scene) -> None:
        """Two tenants never share an entry by omission; a type that would not come back is refused as early."""
        shop = scene.shop()

        async def one(tenant: str, x: int) -> str:
            return f"{tenant} {x}"

        async def typed(x: int) -> type:
            return type(x)

        for template, function, kind in (
            ("k:{x}", one, KeyTemplateError), ("k:{tenant}{x}", one, KeyTemplateError),
            ("k:{tenant}:{x}:{y}", one, KeyTemplateError), ("{tenant}:{x}", one, KeyTemplateError),
            ("k:{x}", typed, ValueTypeError),
        ):  # fmt: skip

            async def decorate(template: str = template, function: Any = function) -> None:
                shop.cached(template)(function)

            assert (await raised(kind, decorate())).hint

    @scenario
    async def test_a_function_without_arguments(self, scene: Scene) -> None:
        """A function of no arguments has one entry."""
        here, there = scene.pair()
        source = scene.source(flags={"a": True})

        async def flags() -> dict[str, bool]:
            row: dict[str, bool] = await source.read("flags")
            return row

        one, two = (shop.cached("config:flags")(flags) for shop in (here, there))
        for _ in range(3):
            assert await settled(one()) == await settled(two()) == {"a": True}
        assert source.loads == ["flags"]
        receipt = await here.invalidate("config")
        assert await settled(one()) == {"a": True}
        assert await there.get("config:flags", type=dict[str, bool], after=receipt) == {"a": True}
        assert source.loads == ["flags"] * 2

    @scenario
    async def test_strong_and_eventual_functions(self, scene: Scene) -> None:
        """A strong function sees what another node published just before; an eventual one needs no lease."""
        here, there = scene.pair()
        loads: list[int] = []

        @there.cached("k:{x}", consistency="strong")
        async def strong(x: int) -> int:
            loads.append(x)
            return len(loads)

        for number in range(1, 20):
            assert await settled(strong(1)) == number
            assert await settled(strong(1)) == number
            await here.invalidate("k:1")

    @scenario
    async def test_h30_copies_are_given_to_those_who_ask(self, scene: Scene) -> None:
        """By default callers share one value; with `copy=True` each has its own, and none sees another's changes."""
        here, there = scene.pair()

        async def rows(x: int) -> list[int]:
            tag("t")
            return [x]

        shared, own = here.cached("shared:{x}")(rows), here.cached("own:{x}", copy=True)(rows)
        elsewhere = there.cached("own:{x}", copy=True)(rows)
        assert await settled(shared(1)) is await settled(shared(1))
        for function in (own, own, own, elsewhere, elsewhere):
            value = await settled(function(1))
            assert value == [1]
            value.append(2)
