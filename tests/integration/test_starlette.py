from __future__ import annotations

import base64
import http.cookies
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection, Request
from starlette.types import Message, Receive, Scope, Send

import unstale
from tests.support.lagging import BOUND, Shop, shops
from unstale import Cache, Read, Session, starlette
from unstale.core.publish import catch_up
from unstale.drivers import run
from unstale.errors import ClosedError, UsageError
from unstale.starlette import SessionMiddleware, lifespan

SECRET = "a secret of some length"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give two nodes, of which one is late."""
    with shops(tmp_path) as one:
        yield one


def site(shop: Shop, **how: Any) -> FastAPI:
    """Give an application that writes by one node and reads by the other, as if a load balancer stood before two."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, **how)

    @app.get("/price")
    async def price() -> int:
        return await shop.aread(17)

    @app.get("/blocking-price")
    def blocking_price() -> int:
        return shop.read(17)

    @app.put("/price/{price}")
    async def change(price: int) -> int:
        shop.price = price
        await shop.writer.ainvalidate("price:17", "slow-price:17")
        return await shop.aread(17)

    @app.put("/blocking-price/{price}")
    def blocking_change(price: int) -> int:
        shop.write(price)
        return shop.read(17)

    @app.put("/later/{price}")
    def change_later(price: int, tasks: BackgroundTasks) -> None:
        tasks.add_task(shop.write, price)

    @app.put("/streamed/{price}")
    def stream(price: int) -> StreamingResponse:
        def body() -> Iterator[str]:
            shop.write(price)
            yield str(shop.read(17))

        return StreamingResponse(body())

    @app.put("/broken/{price}")
    def broken(price: int) -> None:
        shop.write(price)
        raise LookupError

    return app


def client_of(app: Any, scheme: str = "http") -> httpx.AsyncClient:
    """Give a client of its own."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"{scheme}://shop.test")


# Read your writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/price", "/blocking-price"])
async def test_h05_a_request_reads_its_own_write(shop: Shop, path: str) -> None:
    """What a request has published, its own reads show, in a coroutine and in a thread; others' need not."""
    async with client_of(site(shop)) as client, client_of(site(shop)) as other:
        assert (await other.get(path)).json() == 1
        shop.write(2)
        assert (await other.get(path)).json() == 1
        assert (await client.put(f"{path}/3")).json() == 3


@pytest.mark.parametrize("carried", ["cookie", "header", "both", "nothing"])
async def test_h05_the_next_request_reaches_a_late_node(shop: Shop, carried: str) -> None:
    """A write on one node, and a read on another that is late: the ticket alone makes the difference."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware)

    @app.put("/price/{price}")
    def change(price: int) -> None:
        shop.write(price)

    @app.get("/price")
    def price() -> int:
        return shop.read(17)

    async with client_of(app) as client:
        assert (await client.get("/price")).json() == 1
        written = await client.put("/price/2")
        token = written.headers["unstale-ticket"]
        assert client.cookies["unstale_ticket"] == token
        if carried in {"header", "nothing"}:
            client.cookies.clear()
        headers = {"unstale-ticket": token} if carried in {"header", "both"} else {}
        answer = await client.get("/price", headers=headers)
        assert answer.json() == (1 if carried == "nothing" else 2)
        assert "unstale-ticket" not in answer.headers
        assert "set-cookie" not in answer.headers


async def test_a_hit_is_a_hit_once_the_node_has_caught_up(shop: Shop) -> None:
    """A client that holds a ticket loads nothing that is resident and new enough."""
    async with client_of(site(shop)) as client:
        await client.put("/blocking-price/2")
        loads = shop.loads
        assert [(await client.get("/blocking-price")).json() for _ in range(3)] == [2, 2, 2]
        assert shop.loads == loads


@pytest.mark.parametrize("higher", ["cookie", "header"])
async def test_of_a_cookie_and_a_header_the_higher_ticket_counts(shop: Shop, higher: str) -> None:
    """A service that is called with the header of another, and the cookie of a browser, answers both."""
    tokens = []
    for price in (2, 3):
        with unstale.session() as session:
            shop.write(price)
        tokens.append(session.token)
        if price == 2:
            run(catch_up(shop.late.node), shop.late.ports)
            shop.read(17)
    cookie, header = tokens if higher == "header" else reversed(tokens)
    async with client_of(site(shop)) as client:
        assert (await client.get("/blocking-price", headers={"unstale-ticket": tokens[0]})).json() == 2
        both = {"unstale-ticket": header, "cookie": f"unstale_ticket={cookie}"}
        assert (await client.get("/blocking-price", headers=both)).json() == 3


# What goes out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_cookie_is_closed_to_scripts_and_short_lived(shop: Shop, scheme: str) -> None:
    """The cookie lives for the bound, travels to its own site only, and by HTTPS only if it came so."""
    async with client_of(site(shop), scheme) as client:
        (line,) = (await client.put("/price/2")).headers.get_list("set-cookie")
    (morsel,) = http.cookies.SimpleCookie(line).values()
    assert (morsel["path"], morsel["samesite"], morsel["httponly"]) == ("/", "Lax", True)
    assert bool(morsel["secure"]) == (scheme == "https")
    assert int(BOUND[:-1]) < int(morsel["max-age"]) <= int(BOUND[:-1]) + 3


async def test_the_cookie_is_as_it_was_set(shop: Shop) -> None:
    """Names, age, path and flags can be given, and there need be no cookie."""
    how: dict[str, Any] = {"header": "X-Ticket", "cookie": "seen", "max_age": "90s", "path": "/shop", "secure": True}
    async with client_of(site(shop, **how)) as client:
        written = await client.put("/price/2")
    token = written.headers["x-ticket"]
    assert written.headers["set-cookie"] == f"seen={token}; Max-Age=90; Path=/shop; HttpOnly; SameSite=Lax; Secure"
    async with client_of(site(shop, cookie=None, secure=False)) as client:
        written = await client.put("/price/3")
        client.cookies["unstale_ticket"] = written.headers["unstale-ticket"]
        assert "set-cookie" not in written.headers
        assert (await client.get("/price")).json() == 3


@pytest.mark.parametrize("path", ["/later/2", "/streamed/2"])
async def test_what_is_published_after_the_response_began_is_not_carried(shop: Shop, path: str) -> None:
    """Headers go out before a streamed body and a background task: their writes are not in them."""
    async with client_of(site(shop)) as client:
        await client.get("/blocking-price")
        written = await client.put(path)
        assert shop.price == 2
        assert "unstale-ticket" not in written.headers
        if path.startswith("/streamed"):
            assert written.text == "2"  # within the body the session goes on


async def test_a_request_that_fails_after_its_write(shop: Shop) -> None:
    """The answer of an error's handler carries the ticket: the write has come about."""
    app = site(shop)

    @app.exception_handler(LookupError)
    async def handle(_request: Request, _error: Exception) -> StreamingResponse:
        return StreamingResponse(iter(["broken"]), status_code=409)

    async with client_of(app) as client:
        assert "unstale-ticket" in (await client.put("/broken/2")).headers


@pytest.mark.parametrize("secret", [SECRET, None])
async def test_h29_a_forged_cookie_counts_as_none(shop: Shop, secret: str | None) -> None:
    """With a secret, a token that somebody made up costs no load; without one it does."""
    shop.read(17)
    made_up = {"shop": [[shop.late.node.generation, 10**6]]}
    data = base64.urlsafe_b64encode(b"\x01" + msgspec.msgpack.encode(made_up)).rstrip(b"=").decode()
    async with client_of(site(shop, secret=secret)) as client:
        answer = await client.get("/blocking-price", headers={"cookie": f"other=a=b; =;; unstale_ticket={data}"})
        assert answer.json() == 1
    assert shop.loads == (1 if secret else 2)


async def test_h24_requests_do_not_share_a_session(shop: Shop) -> None:
    """A client without a token gets none, after another client's write, and reads what the node has."""
    app = site(shop)
    async with client_of(app) as client, client_of(app) as other:
        await other.get("/blocking-price")
        shop.write(2)
        answer = await other.get("/blocking-price")
        assert answer.json() == 1
        await client.put("/price/3")
        shop.price = 4
        assert "set-cookie" not in (await other.get("/price")).headers


@pytest.mark.parametrize("how", [{"header": "a b"}, {"cookie": ""}, {"path": "x"}, {"path": "/;"}, {"secret": "short"}])
def test_what_cannot_be_is_refused_at_once(how: dict[str, Any]) -> None:
    """A wrong name, path or secret is an error where the middleware is made."""
    with pytest.raises(UsageError):
        SessionMiddleware(FastAPI(), **how)


# Other kinds of connections -----------------------------------------------------------------------------------------


async def converse(app: Any, scope: dict[str, Any], *messages: Message) -> list[Message]:
    """Talk to an application by hand: what it sent."""
    waiting, sent = list(messages), list[Message]()

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_websocket_has_one_session_as_long_as_it_lives(shop: Shop) -> None:
    """Its token comes with the request that opens it; what it writes it reads; what came before its accept is told."""
    read: list[int] = []

    async def talk(scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        read.append(shop.read(17))
        shop.write(3)
        read.append(shop.read(17))
        assert starlette.session(HTTPConnection(scope)).raised

    shop.read(17)
    with unstale.session() as session:
        shop.write(2)
    headers = [(b"unstale-ticket", session.token.encode())]
    sent = await converse(SessionMiddleware(talk), {"type": "websocket", "headers": headers})
    assert read == [2, 3]
    assert sent == [{"type": "websocket.accept"}]

    async def write_first(_scope: Scope, _receive: Receive, send: Send) -> None:
        shop.write(4)
        await send({"type": "websocket.accept"})

    (accepted,) = await converse(SessionMiddleware(write_first), {"type": "websocket", "scheme": "wss", "headers": []})
    names = dict(accepted["headers"])
    assert set(names) == {b"unstale-ticket", b"set-cookie"}
    assert names[b"set-cookie"].endswith(b"Secure")


# The life of an application -----------------------------------------------------------------------------------------


async def live(app: Any) -> list[str]:
    """Start and stop an application: what it answered."""
    scope = {"type": "lifespan", "state": {}}
    sent = await converse(app, scope, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    return [message["type"].removeprefix("lifespan.") for message in sent]


async def test_a_lifespan_opens_and_closes_caches(tmp_path: Path) -> None:
    """The caches follow the log before one's own lifespan begins, and are closed after it ended."""
    cache, seen = Cache(f"sqlite:///{tmp_path}/a"), list[str]()

    @asynccontextmanager
    async def own(_app: Any) -> AsyncIterator[dict[str, Any]]:
        assert cache.node.joined.fired
        yield {"own": 1}
        cache.invalidate("k:1")
        seen.append("ended")

    app = FastAPI(lifespan=lifespan(cache, within=own))
    assert await live(SessionMiddleware(app)) == ["startup.complete", "shutdown.complete"]
    assert seen == ["ended"]
    with pytest.raises(ClosedError):
        cache.get("k:1")


async def test_a_lifespan_that_fails_closes_its_caches(tmp_path: Path) -> None:
    """A start that fails leaves no node behind."""
    cache = Cache(f"sqlite:///{tmp_path}/a")

    @asynccontextmanager
    async def own(_app: Any) -> AsyncIterator[None]:
        raise LookupError
        yield

    with pytest.raises(LookupError):
        async with lifespan(cache, within=own)(None):
            pass
    with pytest.raises(ClosedError):
        cache.get("k:1")


def test_a_lifespan_of_what_is_no_cache() -> None:
    """A lifespan in place of a cache, and two caches of one name, are refused at once."""
    with pytest.raises(UsageError, match="no cache"):
        lifespan(lifespan())  # type: ignore[arg-type]
    with Cache() as one, Cache() as two, pytest.raises(UsageError, match="one name"):
        lifespan(one, two)


# Dependencies -------------------------------------------------------------------------------------------------------


async def test_dependencies_give_the_session_the_reads_and_the_cache(shop: Shop) -> None:
    """A function names what it needs, and gets that of its own request."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware)

    @app.put("/price")
    def change(
        session: Annotated[Session, Depends(starlette.session)],
        reads: Annotated[list[Read], Depends(starlette.reads)],
        cache: Annotated[Cache, Depends(starlette.cache("shop"))],
    ) -> list[str]:
        cache.invalidate("price:17")
        shop.read(17)
        return [session.token, *(read.key for read in reads)]

    async with lifespan(shop.late)(app) as state:

        async def served(scope: Scope, receive: Receive, send: Send) -> None:  # as a server does after the start
            await app({**scope, "state": dict(state)}, receive, send)

        async with client_of(served) as client:
            answer = await client.put("/price")
    assert answer.json() == [answer.headers["unstale-ticket"], "price:17"]


def test_dependencies_say_what_is_missing() -> None:
    """Without the middleware, or the cache in the lifespan, the error says what to write."""
    connection = HTTPConnection({"type": "http", "headers": [], "state": {}})
    with pytest.raises(UsageError, match="add_middleware"):
        starlette.session(connection)
    with pytest.raises(UsageError, match=r"lifespan\("):
        starlette.cache("shop")(connection)
