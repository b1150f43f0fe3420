"""How a session's token travels over HTTP: in by a cookie and a header, out by both, for the modules of each framework.

A cookie is for browsers, a header for services that call each other. Of both the higher ticket counts, cache by cache.
Neither goes out unless the request itself has published something: a response that a CDN or a browser keeps and hands
to others must not carry somebody's cookie, and a client that holds a token has it already.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Final

from unstale.core.durations import Duration, seconds
from unstale.core.lease import DRIFT
from unstale.errors import UsageError
from unstale.session import Session, session

HEADER: Final = "unstale-ticket"
COOKIE: Final = "unstale_ticket"
NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, as names of headers and cookies are
PATH: Final = re.compile(r"/[\x21-\x3a\x3c-\x7e]*")  # RFC 6265: no control character, no semicolon
TOKENS_MAX: Final = 8  # of one header
DELIVERY_S: Final = 1.0  # for the response on its way: the age of a cookie counts from its arrival, in whole seconds


class Carrier:
    """Reads tokens from requests, and writes them to responses.

    Args:
        header: The name of the header.
        cookie: The name of the cookie; None for no cookie.
        secret: As for `unstale.session`.
        max_age: How long the cookie lives; None for as long as it is of use.
        path: The path of the cookie.
        secure: The cookie is sent by HTTPS only; None: if it was set by HTTPS.

    Raises:
        UsageError: A name, path or secret that cannot be one.
        DurationError: A duration that cannot be read.
    """

    def __init__(
        self,
        *,
        header: str = HEADER,
        cookie: str | None = COOKIE,
        secret: str | bytes | Sequence[str | bytes] | None = None,
        max_age: Duration | None = None,
        path: str = "/",
        secure: bool | None = None,
    ) -> None:
        for what, name, pattern in (("header", header, NAME), ("cookie", cookie, NAME), ("path", path, PATH)):
            if not (what == "cookie" and name is None) and not (isinstance(name, str) and pattern.fullmatch(name)):
                raise UsageError(f"{reprlib.repr(name)} cannot be a {what}", hint=f'leave out {what}=, or write "/..."')
        self.header = header.lower()
        self.cookie = cookie
        self._secret = secret
        self._max_age_s = None if max_age is None else seconds(max_age, "max_age")
        self._path = path
        self._secure = secure
        session(secret=secret)  # what cannot be a secret is refused here, and not with the first request

    def begin(self, headers: Iterable[str], cookie: str | None) -> Session:
        """Give the session of a request.

        Args:
            headers: The values of its headers of that name.
            cookie: The value of its cookie.
        """
        begun = session(cookie, secret=self._secret)
        for value in headers:
            for token in value.split(",", TOKENS_MAX)[:TOKENS_MAX]:  # proxies may join several lines to one
                begun.take(token.strip())
        return begun

    def outgoing(self, ended: Session, *, secure: bool) -> list[tuple[str, str]]:
        """Give the headers that a response gets: none, unless the request has published something.

        Args:
            ended: The session of the request.
            secure: The request came by HTTPS.
        """
        token = ended.token if ended.raised else ""
        if not token:
            return []
        headers = [(self.header, token)]
        if self.cookie is not None:
            flags = "; HttpOnly; SameSite=Lax" + (
                "; Secure" if (secure if self._secure is None else self._secure) else ""
            )
            age = f"; Max-Age={self._age(ended)}; Path={self._path}"
            headers.append(("set-cookie", f"{self.cookie}={token}{age}{flags}"))
        return headers

    def _age(self, ended: Session) -> int:
        """Give the seconds for which the cookie is of use.

        After the bound, every node has applied what was published here, or has no lease and proves what it serves.
        """
        if self._max_age_s is not None:
            return math.ceil(self._max_age_s)
        return math.ceil(ended.life_s * (1 + DRIFT) + DELIVERY_S)
