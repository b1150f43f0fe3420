"""What a strict first user tried: each mistake is told at once, with what to write instead, and nothing is lost."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import unstale
from unstale import Cache, Origin, Policy, SignedPickle, Ticket, errors
from unstale.core.keys import Template
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.engines.ports import Ports
from unstale.plans import Templates
from unstale.testing.disabled import disabled


@pytest.fixture(name="cache")
def fresh_cache() -> Iterator[Cache]:
    """Give a cache of its own."""
    with Cache(f"memory://{uuid.uuid4()}") as cache:
        yield cache


def refusal(kind: type[errors.UnstaleError], attempt: Callable[[], object]) -> str:
    """Give the text of the error that an attempt is refused with; it has a hint."""
    with pytest.raises(kind) as refused:
        attempt()
    assert type(refused.value) is kind
    assert refused.value.hint
    return str(refused.value)


def appended(cache: Cache) -> int:
    """Give the number of records in the log."""
    return cache.ports.log.read_head().head


# Versions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [True, 1.0, "1", 2**63, -(2**63) - 1, 2**70])
def test_versions_are_integers_of_64_bits(cache: Cache, version: Any) -> None:
    """What the log could not carry as a version is refused before the writer runs and anything is appended."""
    ran: list[int] = []
    for attempt in (
        lambda: cache.invalidate("k", version=version),
        lambda: cache.set("k", 1, version=version),
        lambda: cache.write("k", lambda: ran.append(1), version=version),
        lambda: asyncio.run(cache.ainvalidate("k", version=version)),
        lambda: asyncio.run(cache.aset("k", 1, version=version)),
        lambda: cache.get_or_load("k", lambda: unstale.version(version)),
    ):
        assert "version" in refusal(errors.ValueTypeError, attempt)
    assert (ran, appended(cache)) == ([], 0)


def test_the_largest_versions_are_kept(cache: Cache) -> None:
    """The smallest and the largest integer of 64 bits are versions."""
    cache.set("k", "old", version=-(2**63))
    cache.set("k", "new", version=2**63 - 1)
    assert cache.get("k") == "new"


# Disabled -----------------------------------------------------------------------------------------------------------


def test_a_disabled_cache_only_loads(cache: Cache) -> None:
    """While a cache is disabled every read loads, loaders may say what they like, and no engine is asked."""
    loads: list[int] = []

    @cache.cached("n:{n}")
    def load(n: int) -> int:
        loads.append(n)
        unstale.tag("t")
        unstale.ttl("1m")
        unstale.version(1)
        unstale.skip() if n else None
        return n

    assert load(0) == load(0) == 0
    engine, cache.ports = cache.ports, Ports(None, None)  # type: ignore[arg-type]  # whoever asks it, fails
    with disabled(cache) as same, unstale.observe() as reads:
        assert (same, cache.disabled) == (cache, True)
        assert [load(0), load(0), load.refresh(0), load.reading(consistency="strong")(0)] == [0] * 4
        assert (load.peek(0), cache.get("n:0"), cache.get("n:0", "default")) == (None, None, "default")
        assert cache.get_or_load("k", lambda: load(1)) == cache.write("k", lambda: load(1)) == 1
        assert cache.get_or_load_many(["a", "b"], lambda keys: {keys[0]: load(1)}) == {"a": 1}
        cache.set("k", 19)
        receipt = cache.invalidate("k", wait=True)
        assert (receipt.stamp.generation, receipt.complete, receipt.nodes) == ("disabled", True, ())
        assert cache.delete("k").scopes == ("k",)
        assert load.invalidate(0).stamp == receipt.stamp
        assert cache.get("k", after=str(receipt.stamp)) is None
        assert cache.ticket() is None
        assert "disabled" in cache.explain("k").why
        assert "disabled" in load.explain(0).why
    cache.ports = engine
    assert loads == [0] * 5 + [1] * 3
    assert {(read.why, read.stamp) for read in reads} == {("the cache is disabled", None)}
    assert (load(0), load(0), len(loads)) == (0, 0, 8)  # the entry in the store was not touched


async def test_a_disabled_cache_only_loads_for_coroutines(cache: Cache) -> None:
    """The same holds for coroutines; one cached function within another hands its tags on to those around."""

    @cache.cached("inner:{n}")
    async def inner(n: int) -> int:
        unstale.tag("t")
        return n

    @cache.cached("outer:{n}")
    async def outer(n: int) -> int:
        return await inner(n)

    with disabled(cache), disabled(cache), unstale.observe() as reads:
        assert await outer(1) == await outer.refresh(1) == 1
        assert await outer.peek(1) is None
        assert await cache.aget_or_load("k", lambda: inner(2)) == 2
        assert (await outer.invalidate(1)).stamp == Ticket("disabled", 0)
    assert reads[1].scopes == ("outer:1", "outer", "inner:1", "inner", "t")
    with disabled(cache):
        assert (await outer(1), cache.get_or_load_many([], lambda keys: dict.fromkeys(keys, 1))) == (1, {})
    assert cache.runtime.tail is None  # nothing was ever started


# Keys and names -----------------------------------------------------------------------------------------------------


def test_an_argument_of_another_type_is_refused(cache: Cache) -> None:
    """A text for a parameter declared `int` would have an entry that `invalidate("product:17")` does not end."""

    @cache.cached("product:{product_id}")
    def product(product_id: int) -> int:
        return product_id

    for call in (product, product.peek, product.refresh, product.invalidate, product.key):
        assert "pass int(product_id)" in refusal(errors.KeyArgumentError, lambda call=call: call("17"))  # type: ignore[misc]
    assert product(17) == 17


def test_escape_writes_a_scope_as_a_key_does(cache: Cache) -> None:
    """`unstale.escape` gives a text from outside the form that it has in a key."""

    @cache.cached("tenant:{name}")
    def tenant(name: str) -> str:
        return name

    assert f"tenant:{unstale.escape('a:b c')}" == tenant.key("a:b c") == "tenant:a%3Ab%20c"


def by_id(user_id: int) -> int:
    """Give a user by id."""
    return user_id


def me() -> str:
    """Give the user."""
    return "me"


def page(name: str, number: int) -> str:
    """Give a page of a user."""
    return f"{name}{number}"


def test_functions_do_not_share_entries_by_mistake(cache: Cache) -> None:
    """A function is refused if a key of its template could be a key of another function, whatever their results."""
    cache.cached("user:{name}:{number}")(page)
    for template, function in (("user:me:17", me), ("user:{user_id}:17", by_id)):
        told = refusal(errors.KeyTemplateError, lambda: cache.cached(template)(function))  # noqa: B023
        assert f"of {function.__name__} could give a key of 'user:{{name}}:{{number}}' of page" in told
        assert "shared=True" in told
    cache.cached("user:me")(me)
    Cache(f"memory://{uuid.uuid4()}").cached("user:me:17")(me)  # another cache is another matter


def test_functions_share_entries_where_both_say_so(cache: Cache) -> None:
    """A function and its async twin share entries if both say `shared=True`; a third one does not get in by that."""

    @cache.cached("n:{n}", shared=True)
    def one(n: int) -> str:
        return "one"

    @cache.cached("n:{n}", shared=True)
    async def twin(n: int) -> str:
        return "twin"

    assert one(1) == asyncio.run(twin(1)) == "one"
    assert "shared" in refusal(errors.KeyTemplateError, lambda: cache.cached("n:{user_id}")(by_id))


def test_a_function_may_be_made_anew() -> None:
    """A module that is loaded again, or under another name, is no other function; one more closure is."""
    source = "def make(z):\n    def row(n): return z\n    return row\ndef plain(n): ..."
    templates = Templates()

    def add(text: str, function: Any) -> None:
        template = Template.compile(text, inspect.signature(function), {})
        templates.add(template, function, shared=False)

    for module, file in (("app", "/app.py"), ("app", "/app.py"), ("__main__", "/app.py"), ("__main__", "/new.py")):
        names: dict[str, Any] = {"__name__": module}
        exec(compile(source, file, "exec"), names)
        row = names["make"](1)
        for function in (row, row, names["plain"]):
            add(f"{function.__name__}:{{n}}", function)
        assert "made twice" in refusal(errors.KeyTemplateError, lambda: add("row:{n}", names["make"](2)))  # noqa: B023
    assert [len(known) for known in templates._known.values()] == [2]


# What is no function, no list, no policy ----------------------------------------------------------------------------


def numbers() -> Iterator[int]:
    """Yield numbers."""
    yield 1


async def later_numbers() -> AsyncIterator[int]:
    """Yield numbers."""
    yield 1


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (functools.partial(by_id, 17), "a partial"),
        (Template, "a class"),
        (numbers, "a generator function"),
        (later_numbers, "a generator function"),
        (property(by_id), "a property"),
        (len, "a builtin_function_or_method"),
    ],
)
def test_only_functions_are_cached(cache: Cache, function: Any, problem: str) -> None:
    """What is no plain function, or gives its values only once, is refused when it is decorated."""
    assert problem in refusal(errors.UsageError, lambda: cache.cached("x")(function))


def test_cached_needs_its_template(cache: Cache) -> None:
    """`@cache.cached` without a call is answered with the call."""
    told = refusal(errors.KeyTemplateError, lambda: cache.cached(page))  # type: ignore[arg-type]
    assert 'write @cache.cached("page:{name}:{number}")' in told


async def one_later() -> int:
    """Give one, later."""
    return 1


MISTAKES: list[tuple[Any, Callable[[Any], object], str]] = [
    (errors.UsageError, lambda c: c.get_or_load("k", one_later), "as its loader\n  hint: write: await cache.aget_or"),
    (errors.UsageError, lambda c: c.get_or_load_many(["k"], one_later), "await cache.aget_or_load_many(...)"),
    (errors.UsageError, lambda c: c.write("k", one_later), "as its writer\n  hint: write: await cache.awrite(...)"),
    (errors.UsageError, lambda c: c.get_or_load("k", 17), "the loader is int, not a function"),
    (errors.UsageError, lambda c: c.write("k", None), "the writer is NoneType, not a function"),
    (errors.UsageError, lambda c: asyncio.run(c.aget_or_load("k", one_later())), "the loader is coroutine"),
    (errors.UsageError, lambda c: c.get_or_load_many("p:1", dict), "write keys=['p:1']"),
    (errors.UsageError, lambda c: c.get("k", tags="t"), "write tags=['t']"),
    (errors.ScopeError, lambda c: c.get("k", tags=[3]), "must be a str, not int"),
    (errors.KeyTemplateError, lambda c: c.cached("k", tags=[3])(me), "must be a str, not int"),
    (errors.UsageError, lambda c: c.invalidate("k", reason=3), 'write reason="..."'),
    (errors.TicketError, lambda c: c.get("k", after=17), "pass cache.ticket()"),
    (errors.TicketError, lambda c: c.cached("k")(me).reading(after=17), "pass cache.ticket()"),
    (errors.PolicyError, lambda c: c.cached("k", consistency="bound")(me), '"bounded", "eventual" or "strong"'),
    (errors.PolicyError, lambda c: c.get("k", policy="derived"), "write policy=Policy.derived()"),
    (errors.PolicyError, lambda c: c.cached("k", policy="5m"), 'write policy=Policy(ttl="5m")'),
    (errors.ValueTypeError, lambda c: c.cached("k", codec=SignedPickle)(me), "write codec=SignedPickle(secret)"),
    (errors.ValueTypeError, lambda c: c.cached("k", codec="json")(me), "shape, encode and decode, not 'json'"),
    (errors.ValueTypeError, lambda c: c.get("k", type=17), "values of type=17 cannot be cached"),
    (errors.UsageError, lambda _: Cache(name=3), "name is a text, not 3"),  # type: ignore[arg-type]
    (errors.UsageError, lambda _: Cache(entries_max=-1), "entries_max is a number, not -1"),
    (errors.PolicyError, lambda _: Cache(max_ttl="1m"), "than the cache's max_ttl=1m\n  hint: shorten it, as policy="),
    (errors.PolicyError, lambda c: c.get("k", ttl="6d", grace="2d"), "6d with 2d of grace is longer"),
    (errors.PolicyError, lambda _: Policy(not_found=KeyError), "write not_found=(KeyError,)"),  # type: ignore[arg-type]
    (errors.PolicyError, lambda _: Policy(errors=[KeyError]), "write errors={"),  # type: ignore[arg-type]
    (errors.PolicyError, lambda _: Policy(early="yes"), "write early=1.0"),  # type: ignore[arg-type]
    (errors.PolicyError, lambda _: Policy(copy="yes"), "write copy=True"),  # type: ignore[arg-type]
    (errors.PolicyError, lambda _: Origin("3"), "write Origin(limit=20)"),  # type: ignore[arg-type]
    (errors.PolicyError, lambda _: Origin(3, name=3), 'name="orders"'),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("kind", "attempt", "told"), MISTAKES, ids=range(len(MISTAKES)))
def test_what_cannot_be_is_told(cache: Cache, kind: Any, attempt: Callable[[Cache], object], told: str) -> None:
    """An argument of the wrong kind is refused by the error of its subject, with what to write instead."""
    assert told in refusal(kind, lambda: attempt(cache))
    assert appended(cache) == 0


def test_a_value_of_another_type_is_named_with_its_key(cache: Cache) -> None:
    """A value that its `type=` does not fit is refused in the words of the call; `set` then does nothing at all."""
    for attempt, told in (
        (lambda: cache.set("k", "x", type=int), "the value given for 'k' is str, but type=int: Expected"),
        (lambda: asyncio.run(cache.aset("k", (1,))), "the value given for 'k' is tuple that the store would change"),
        (lambda: cache.get_or_load("k", str, type=int), "that the loader returned for 'k' is str, but type=int"),
    ):
        assert told in refusal(errors.ValueTypeError, attempt)
    assert appended(cache) == 0
    told = refusal(errors.ValueTypeError, lambda: cache.write("k", str, type=int))
    assert told.startswith("the value that the writer returned for 'k' is str, but type=int")
    assert appended(cache) == 1  # it is committed, whatever it returned


# Reads as fresh as they have to be ----------------------------------------------------------------------------------


def test_one_read_can_ask_for_more() -> None:
    """`reading` gives the function for a read that sees a ticket, or any consistency, in either colour."""
    place = f"memory://{uuid.uuid4()}"
    with Cache(place) as here, Cache(place) as there:

        class Shop:
            @here.cached("price:{n}", ttl="1h")
            def price(self, n: int) -> str:
                """Give a price."""
                return state

            @here.cached("stock:{n}", ttl="1h")
            async def stock(self, n: int) -> str:
                return state

        state = "old"
        shop: Any = Shop()
        reading = shop.price.reading(consistency="strong")
        assert (reading(1), shop.price(1), asyncio.run(shop.stock(1))) == ("old", "old", "old")
        assert reading.__doc__ == "Give a price."
        state = "new"
        receipt = there.invalidate("price:1", "stock:1")
        asynchronous = shop.stock.reading(after=str(receipt.stamp))
        assert inspect.iscoroutinefunction(asynchronous)
        assert asyncio.run(asynchronous(1)) == "new"
        assert (reading(1), shop.price.reading(after=receipt)(1)) == ("new", "new")
        assert shop.price.reading(consistency="eventual")(1) == "new"


# What no caller sees ------------------------------------------------------------------------------------------------


class Broken(MemoryEngine):
    def fetch(self, keys: tuple[str, ...]) -> Any:
        raise self.error("it fails")

    error: type[errors.EngineError] = errors.UnavailableError


def test_the_first_trouble_of_each_kind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Without `on_trouble`, the logger `unstale` warns once a minute of what fails and how."""
    now_s = 1000.0
    engine = Broken(MemoryServer(lambda: now_s, "g"))
    with Cache(ports=Ports(engine, engine), name="shop", clock=lambda: now_s) as cache:
        for seconds, error in ((0, errors.UnavailableError), (59, errors.BusyError), (2, errors.UnavailableError)):
            now_s += seconds
            engine.error = error
            for _ in range(3):
                assert cache.get("k") is None
    told = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert told == [("unstale", logging.WARNING, "cache 'shop': fetch failed: it fails")] * 3


def test_a_mistake_in_the_url_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing directory, a text file and another program's database are refused; a locked file is only reported."""
    (tmp_path / "text").write_text("text\n" * 1000)
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE shop (id)")
    db.close()
    missing = f"sqlite:///{tmp_path}/missing/x.cache"
    assert "existing directory" in refusal(errors.UnavailableError, lambda: Cache(missing))
    for name in ("text", "other"):
        assert "name another path" in refusal(errors.CorruptError, lambda: Cache(f"sqlite:///{tmp_path}/{name}"))  # noqa: B023
    told: list[tuple[str, BaseException]] = []
    busy = errors.BusyError("locked")
    monkeypatch.setattr(
        "unstale.engines.sqlite.SQLiteEngine.read_head", lambda _self: exec("raise busy", {"busy": busy})
    )
    with Cache(f"sqlite:///{tmp_path}/x.cache", on_trouble=lambda *trouble: told.append(trouble)) as cache:
        assert cache.get_or_load("k", lambda: 17) == 17
    assert told[0] == ("open", busy)
