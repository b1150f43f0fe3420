"""What a request may ask for, and who asks: what comes from outside is bounded here, before it gets as far as a key."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from fastapi import Depends, HTTPException, Path, Query, Request, Response

from shop import queries

COOKIE = "visitor"
GIVEN = re.compile(r"[0-9a-f]{16}")  # a name that we gave: nothing else gets as far as a key
YEAR_S = 365 * 24 * 3600


async def known_tenant(tenant: str) -> str:
    """Refuse tenants that do not exist, before anything is cached for them."""
    if tenant not in await queries.tenants():
        raise HTTPException(404, "there is no such tenant")
    return tenant


Tenant = Annotated[str, Depends(known_tenant)]
ProductId = Annotated[int, Path(ge=1, lt=2**31)]
Category = Annotated[str, Query(max_length=40)]
Page = Annotated[int, Query(ge=1, le=1000)]


def visitor_of(request: Request) -> str:
    """The name of who asks, "" for one who has none yet."""
    name = request.cookies.get(COOKIE, "")
    return name if GIVEN.fullmatch(name) else ""


def new_visitor() -> str:
    """A name, under which a cart can be kept."""
    return secrets.token_hex(8)


def remember(response: Response, visitor: str) -> Response:
    """Let the visitor keep the name."""
    response.set_cookie(COOKIE, visitor, max_age=YEAR_S, httponly=True, samesite="lax")
    return response
