from __future__ import annotations

import asyncio
import base64
import contextvars
import string
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import unstale
from tests.support.stage import Stage
from unstale import Cache
from unstale.core.context import surroundings
from unstale.core.publish import unpublished
from unstale.core.record import Record
from unstale.errors import UsageError
from unstale.session import TOKEN_CHARS_MAX, UNKNOWN_LIFE_S

SECRET = "a secret of some length"
SAFE = set(string.ascii_letters + string.digits + "-_")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Give a node whose tail stands still."""
    one = Stage(name="shop")
    yield one
    one.close()


def token_of(by_cache: object, head: bytes = b"\x01") -> str:
    """Give what a token would be."""
    return base64.urlsafe_b64encode(head + msgspec.msgpack.encode(by_cache)).rstrip(b"=").decode()


def written(name: str = "shop", secret: str | None = None) -> str:
    """Give a token of a session that has published."""
    with Cache(name=name) as cache, unstale.session(secret=secret) as session:
        cache.invalidate("k:1")
        return session.token


def products(stage: Stage) -> Any:
    """Give a cached function."""

    @stage.cache.cached("p:{number}")
    def product(number: int) -> int:
        return stage.loaded(number)

    return product


def ahead(stage: Stage) -> str:
    """Give a token of what another node has published, and this one has not applied."""
    stage.cache.ticket()
    stage.other_node_ends("other")
    return token_of({"shop": [[stage.cache.node.generation, 1]]})


# The block ----------------------------------------------------------------------------------------------------------


def test_a_session_without_a_write_has_no_token(stage: Stage) -> None:
    """As long as nothing was published and nothing came in, there is nothing to hand on."""
    with unstale.session() as session:
        stage.cache.get("k:1")
        assert (session.token, session.raised, session.life_s) == ("", False, 0.0)
        stage.cache.invalidate("k:1")
        assert session.raised
        assert session.life_s == stage.cache.node.max_staleness_s
        assert set(session.token) <= SAFE


def test_all_that_publishes_raises_the_ticket(stage: Stage) -> None:
    """Each way to publish through a cache gives another token than before."""
    cache = stage.cache

    @cache.cached("p:{number}")
    def product(number: int) -> int:
        return number

    async def asynchronous() -> None:
        await cache.ainvalidate("k:1")

    with unstale.session() as session:
        seen = {session.token}
        for publish in (
            lambda: cache.invalidate("k:1"), lambda: cache.write("k:1", lambda: 1), lambda: cache.set("k:1", 2),
            lambda: cache.delete("k:1"), lambda: product.invalidate(1), lambda: asyncio.run(asynchronous()),
        ):  # fmt: skip
            publish()
            assert session.token not in seen
            seen.add(session.token)


def test_h05_a_token_makes_a_late_node_see_the_write(stage: Stage) -> None:
    """A hit of a node that is late becomes a read that asks the log; without the token it stays a hit."""
    product = products(stage)
    stage.call(product, 1)
    stage.version = 2
    stage.cache.ticket()
    stage.other_node_ends("p:1")
    assert stage.call(product, 1) == 1
    with unstale.session(token_of({"shop": [[stage.cache.node.generation, 1]]})):
        assert stage.call(product, 1) == 2


def test_a_session_is_entered_once() -> None:
    """A session that was entered cannot be entered again."""
    with unstale.session() as session:
        pass
    with pytest.raises(UsageError, match="entered before"), session:
        pass


def test_after_a_block_nothing_is_around() -> None:
    """Reads after the block are what they were, whether it was nested, raised, or ended somewhere else."""
    with pytest.raises(LookupError), unstale.session(), unstale.session():
        raise LookupError
    assert surroundings.get() is None
    session = unstale.session()
    contextvars.copy_context().run(session.__enter__)
    session.__exit__(None, None, None)
    with unstale.observe():
        session.__exit__(None, None, None)
    assert surroundings.get() is None


def test_an_inner_session_is_part_of_the_outer_one(stage: Stage) -> None:
    """What is published within an inner block, the outer one sees, and the other way round."""
    token = ahead(stage)
    with unstale.session() as outer:
        with unstale.session(token) as inner:
            assert inner.token == outer.token == token
            assert not inner.raised
            stage.cache.invalidate("k:1")
            assert inner.raised
        assert outer.raised
        assert outer.token == inner.token != token
        with unstale.session() as last:
            assert (last.token, last.raised) == (outer.token, False)


def test_observers_and_a_session_do_not_disturb_each_other(stage: Stage) -> None:
    """An observer that begins within a session ends there, and the session goes on."""
    with unstale.session() as session:
        with unstale.observe() as reads:
            stage.cache.get("k:1")
        stage.cache.get("k:2")
        stage.cache.invalidate("k:1")
    assert [read.key for read in reads] == ["k:1"]
    assert session.raised


def test_tasks_and_threads_of_a_block_belong_to_it(stage: Stage) -> None:
    """A task that outlives the block raises its ticket, and a thread in a copy of its context; no other thread does."""

    async def main() -> unstale.Session:
        over = asyncio.Event()

        async def late() -> None:
            await over.wait()
            await stage.cache.ainvalidate("k:1")

        with unstale.session() as session:
            task = asyncio.create_task(late())
        assert not session.raised
        over.set()
        await task
        return session

    assert asyncio.run(main()).raised
    with unstale.session() as session:
        for context, raised in ((contextvars.Context(), False), (contextvars.copy_context(), True)):
            thread = threading.Thread(target=context.run, args=(stage.cache.invalidate, "k:1"))
            thread.start()
            thread.join()
            assert session.raised == raised


def test_h02_in_a_session_what_was_left_to_a_relay_is_not_a_hit(stage: Stage) -> None:
    """A cached function is called past the cache while its key's record waits for a relay."""
    product = products(stage)
    with unstale.session():
        assert [stage.source(product, 1) for _ in range(2)] == ["load", "hit"]
        unpublished(stage.cache.node, (Record("row", ("p:1",)),))
        assert [stage.source(product, 1) for _ in range(2)] == ["load", "load"]


# Tokens -------------------------------------------------------------------------------------------------------------


def test_a_token_carries_what_this_process_does_not_know() -> None:
    """Tickets of caches that are not here go on unchanged, beside what is published here."""
    foreign = token_of({"elsewhere": [["g7", 41], ["g8", 3]]})
    assert unstale.session(foreign).token == foreign
    with Cache(name="shop") as cache, unstale.session(foreign) as session:
        cache.invalidate("k:1")
        assert set(decoded(session.token)) == {"elsewhere", "shop"}
        assert decoded(session.token)["elsewhere"] == [["g7", 41], ["g8", 3]]


def test_h05_a_token_lives_as_long_as_any_of_its_tickets() -> None:
    """1. a client writes to a cache whose nodes may be late for long 2. then to another one: it keeps both tickets."""
    with Cache(name="shop", max_staleness="2s") as cache, unstale.session() as session:
        cache.invalidate("k:1")
        assert session.life_s == 2.0
        session.take(token_of({"elsewhere": [["g7", 41]]}))
        assert session.life_s == UNKNOWN_LIFE_S


def decoded(token: str) -> dict[str, Any]:
    """Give what a token holds."""
    data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return dict(msgspec.msgpack.decode(data[1:]))


def test_of_two_tokens_the_higher_ticket_counts() -> None:
    """A cookie and a header may both bring a ticket of one cache."""
    session = unstale.session(token_of({"a": [["g", 3]], "b": [["g", 9]]}))
    session.take(token_of({"a": [["g", 5]], "b": [["g", 2]], "c": [["g", 1]]}))
    session.take("")
    assert decoded(session.token) == {"a": [["g", 5]], "b": [["g", 9]], "c": [["g", 1]]}


@pytest.mark.parametrize(
    "token",
    [
        "!", "a", "AYGk", "ä", "A" * (TOKEN_CHARS_MAX + 1), token_of({}), token_of({"shop": []}), token_of([]),
        token_of({"shop": [["g", -1]]}), token_of({"shop": [["", 1]]}), token_of({"shop": [["g", 2**63]]}),
        token_of({"shop": [["g", "1"]]}), token_of({1: [["g", 1]]}), token_of({"shop": [["g", 1]]}, b"\x02"),
        " " + token_of({"shop": [["g", 1]]}), "\ud800",
    ],
)  # fmt: skip
def test_h29_a_token_that_cannot_be_read_counts_as_none(token: str) -> None:
    """Nothing that a client sends is an error, and nothing of it is kept."""
    with unstale.session(token) as session:
        assert session.token == ""


@pytest.mark.parametrize("token", [1, b"bytes", ["a"]])
def test_a_token_is_a_text(token: Any) -> None:
    """What is no text is a mistake of the calling code."""
    with pytest.raises(UsageError, match="a token is a text"):
        unstale.session(token)


def test_h29_a_token_without_a_valid_signature_counts_as_none() -> None:
    """With a secret, what is forged, changed or unsigned is none; the old secret is believed beside the new."""
    token = written(secret=SECRET)
    other = "B" if token[-8] == "A" else "A"
    assert unstale.session(token, secret=SECRET).token == token
    assert unstale.session(token, secret=["the new secret, as long", SECRET]).token
    for forged, secret in (
        (token, "another secret, as long"), (written(), SECRET), (token[:-8] + other + token[-7:], SECRET),
        (token, None), ("A" * 100, SECRET),
    ):  # fmt: skip
        assert unstale.session(forged, secret=secret).token == ""
    with pytest.raises(UsageError, match="can be guessed"):
        unstale.session(secret="short")


def test_h27_a_token_is_bounded() -> None:
    """A token that grows too long leaves out what was raised longest ago."""
    session = unstale.session()
    for number in range(100):
        session.take(token_of({f"cache number {number:02d}": [["generation", number]]}))
    session.take(token_of({"cache number 00": [["generation", 1000]]}))
    kept = list(decoded(session.token))
    assert len(session.token) <= TOKEN_CHARS_MAX
    assert kept == [*(f"cache number {number:02d}" for number in range(100 - len(kept) + 1, 100)), "cache number 00"]
    session = unstale.session()
    with Cache(name="n" * TOKEN_CHARS_MAX) as cache, session:
        cache.invalidate("k:1")
        assert session.raised
        assert session.token == ""
