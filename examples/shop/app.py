"""The application, as each worker has it: `uvicorn shop.app:app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from shop import api, pages
from shop.caching import cache, relay
from shop.database import engine
from shop.settings import settings
from unstale.starlette import SessionMiddleware, lifespan


@asynccontextmanager
async def own_lifespan(_app: FastAPI) -> AsyncIterator[None]:
    if relay is not None:
        relay.start()
    yield
    if relay is not None:
        relay.stop()
    await engine.dispose()


# Without its pages of documentation: their scripts would come from elsewhere. `/openapi.json` describes the API.
app = FastAPI(title="The shop", lifespan=lifespan(cache, within=own_lifespan), docs_url=None, redoc_url=None)
# Who has changed something reads it with the next request, whichever worker answers: a cookie carries the ticket. With
# a secret nobody can forge one, and so make workers load past the cache.
app.add_middleware(SessionMiddleware, secret=settings.secret)
app.include_router(api.router)
app.include_router(pages.router)
