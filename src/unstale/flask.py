"""Flask: a session around each request, whose token comes and goes by a header and a cookie.

app = Flask(__name__)
Unstale(app, cache)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unstale.cache import Cache
from unstale.carrier import COOKIE, HEADER, Carrier
from unstale.core.durations import Duration
from unstale.errors import UsageError
from unstale.session import Session

try:
    from flask import Flask, Response, current_app, g, request
except ImportError as error:
    msg = "unstale.flask needs Flask 3"
    raise UsageError(msg, hint='pip install "unstale[flask]"') from error

__all__ = ["Unstale"]

PLACE: Final = "unstale"  # of the cache among the application's extensions
SESSION: Final = "_unstale_session"  # of the session among what a request has


class Unstale:
    """The extension: give it the application at once, or later by `init_app`; one serves several applications.

    Args:
        app: The application.
        cache: Its cache, which `cache` gives within its requests.
        header: The name of the header.
        cookie: The name of the cookie; None for no cookie.
        secret: Tokens are signed with it: see `unstale.session`.
        max_age: How long the cookie lives; None for as long as it is of use, by the bounds of the caches published to.
        path: The path of the cookie.
        secure: The cookie is sent by HTTPS only; None: if the request came by HTTPS.

    Raises:
        UsageError: A name, path or secret that cannot be one, or a cache without an application.
        DurationError: A duration that cannot be read.
    """

    def __init__(
        self,
        app: Flask | None = None,
        cache: Cache | None = None,
        *,
        header: str = HEADER,
        cookie: str | None = COOKIE,
        secret: str | bytes | Sequence[str | bytes] | None = None,
        max_age: Duration | None = None,
        path: str = "/",
        secure: bool | None = None,
    ) -> None:
        self._carrier = Carrier(header=header, cookie=cookie, secret=secret, max_age=max_age, path=path, secure=secure)
        if app is not None:
            self.init_app(app, cache)
        elif cache is not None:
            raise UsageError("a cache was given without an application", hint="write init_app(app, cache)")

    def init_app(self, app: Flask, cache: Cache | None = None) -> None:
        """Give each request of an application a session.

        Args:
            app: The application.
            cache: Its cache.

        Raises:
            UsageError: The application has this extension.
        """
        if PLACE in app.extensions:
            raise UsageError("this application has the extension", hint="write Unstale(app, cache) once")
        app.extensions[PLACE] = cache
        # The first to begin: another function that runs before requests may read, or answer in their place.
        app.before_request_funcs.setdefault(None, []).insert(0, self._begin)
        app.after_request(self._carry)
        app.teardown_request(self._end)

    @property
    def cache(self) -> Cache:
        """The cache of the application whose request or command runs.

        Raises:
            UsageError: It was given none.
        """
        found = current_app.extensions.get(PLACE)
        if not isinstance(found, Cache):
            raise UsageError("this application was given no cache", hint="write init_app(app, cache)")
        return found

    @property
    def session(self) -> Session:
        """The session of the request.

        Raises:
            UsageError: It has none.
        """
        found = g.get(SESSION)
        if not isinstance(found, Session):
            raise UsageError("this request has no session", hint="write init_app(app, cache)")
        return found

    def _begin(self) -> None:
        carrier = self._carrier
        cookie = None if carrier.cookie is None else request.cookies.get(carrier.cookie)
        begun = carrier.begin(request.headers.getlist(carrier.header), cookie)
        setattr(g, SESSION, begun.__enter__())

    def _carry(self, response: Response) -> Response:
        begun = g.get(SESSION)
        if begun is not None:
            for name, value in self._carrier.outgoing(begun, secure=request.is_secure):
                response.headers.add(name, value)
        return response

    def _end(self, _error: BaseException | None) -> None:
        """Leave the session, whatever became of the request: its thread serves other clients next."""
        begun = g.pop(SESSION, None)
        if begun is not None:
            begun.__exit__(None, None, None)
