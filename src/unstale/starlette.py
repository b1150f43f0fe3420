"""Starlette and FastAPI: a session around each request, caches that live as long as the application, dependencies.

    app = FastAPI(lifespan=lifespan(cache))
    app.add_middleware(SessionMiddleware)

The middleware is plain ASGI: it rests on no other one, and runs beneath any ASGI server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import unstale
from unstale.cache import Cache
from unstale.carrier import COOKIE, HEADER, Carrier
from unstale.core.context import Read
from unstale.core.durations import Duration
from unstale.errors import UsageError
from unstale.session import Session

try:
    from starlette.requests import HTTPConnection
except ImportError as error:
    msg = "unstale.starlette needs Starlette"
    raise UsageError(msg, hint='pip install "unstale[fastapi]"') from error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SessionMiddleware", "cache", "lifespan", "reads", "session"]

PLACE: Final = "unstale.session"  # of the session in the scope of a request
STATE: Final = "unstale"  # of the caches in the state of an application's life
SECURE: Final = frozenset({"https", "wss"})
# The messages that begin a response, and so may have headers: a body, or what is sent later, has none.
BEGINNINGS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
OwnLifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class SessionMiddleware:
    """Gives each request and each websocket a session, whose token comes and goes by a header and a cookie.

    What is published after the response has begun, by a streamed body or a background task, is not in its headers.

    Args:
        app: The application.
        header: The name of the header.
        cookie: The name of the cookie; None for no cookie.
        secret: Tokens are signed with it: see `unstale.session`.
        max_age: How long the cookie lives; None for as long as it is of use, by the bounds of the caches published to.
        path: The path of the cookie.
        secure: The cookie is sent by HTTPS only; None: if the request came by HTTPS.

    Raises:
        UsageError: A name, path or secret that cannot be one.
        DurationError: A duration that cannot be read.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        header: str = HEADER,
        cookie: str | None = COOKIE,
        secret: str | bytes | Sequence[str | bytes] | None = None,
        max_age: Duration | None = None,
        path: str = "/",
        secure: bool | None = None,
    ) -> None:
        self._app = app
        self._carrier = Carrier(header=header, cookie=cookie, secret=secret, max_age=max_age, path=path, secure=secure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        carrier, connection = self._carrier, HTTPConnection(scope)
        cookie = None if carrier.cookie is None else connection.cookies.get(carrier.cookie)
        begun = carrier.begin(connection.headers.getlist(carrier.header), cookie)

        async def carry(message: Message) -> None:
            if message["type"] in BEGINNINGS:
                added = carrier.outgoing(begun, secure=scope.get("scheme", "http") in SECURE)
                if added:
                    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in added]
                    message = {**message, "headers": [*message.get("headers", ()), *encoded]}
            await send(message)

        with begun:
            await self._app({**scope, PLACE: begun}, receive, carry)


def lifespan(*caches: Cache, within: OwnLifespan | None = None) -> Lifespan:
    """Give a lifespan that opens caches with an application, and closes them with it, for good.

    Opened, a node follows the log before the first request comes; a log that is away does not keep the application from
    starting. Closed, it leaves the list of members, so that no waiting invalidation waits for it.

    Args:
        caches: The caches.
        within: A lifespan of one's own: it begins after the caches, and ends before them.

    Raises:
        UsageError: What was given is no cache, or two of them have one name.
    """
    for one in caches:
        if not isinstance(one, Cache):
            raise UsageError(f"{type(one).__name__} is no cache", hint="write lifespan(cache, within=own_lifespan)")
    by_name = {one.name: one for one in caches}
    if len(by_name) < len(caches):
        raise UsageError("two of these caches have one name", hint='write Cache(..., name="shop")')

    @asynccontextmanager
    async def around(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with AsyncExitStack() as stack:
            for one in caches:
                stack.push_async_callback(one.aclose)
            for one in caches:
                await one.aticket()
            inner = None if within is None else await stack.enter_async_context(within(app))
            yield {**(inner or {}), STATE: by_name}

    return around


# Dependencies -------------------------------------------------------------------------------------------------------


def session(connection: HTTPConnection) -> Session:
    """Give the session of a request or websocket: `Annotated[Session, Depends(session)]`.

    Raises:
        UsageError: No middleware has made one.
    """
    found = connection.scope.get(PLACE)
    if not isinstance(found, Session):
        raise UsageError("this request has no session", hint="write app.add_middleware(SessionMiddleware)")
    return found


async def reads() -> AsyncIterator[list[Read]]:
    """Give what the request has read so far, as `unstale.observe` does: `Annotated[list[Read], Depends(reads)]`."""
    with unstale.observe() as seen:
        yield seen


def cache(name: str = "default") -> Callable[[HTTPConnection], Cache]:
    """Give a dependency that gives a cache of the lifespan: `Shop = Annotated[Cache, Depends(cache("shop"))]`.

    Args:
        name: The cache's.
    """

    def given(connection: HTTPConnection) -> Cache:
        known: Mapping[str, Cache] = getattr(connection.state, STATE, {})
        if name not in known:
            msg = f"the application's lifespan has no cache {name!r}"
            raise UsageError(msg, hint=f'write FastAPI(lifespan=lifespan(Cache(..., name="{name}")))')
        return known[name]

    return given
