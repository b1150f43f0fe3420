"""The pages that people open: each asks the same cached functions as the API does."""

from __future__ import annotations

import os
import time
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from shop import changes, html, queries
from shop.asked import Category, Page, ProductId, Tenant, new_visitor, remember, visitor_of
from shop.caching import cache
from unstale import Read, observe

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
# Browsers keep their connection, and with it their worker. Without one, each click may be answered by another worker.
NEW_CONNECTION = {"Connection": "close"}


async def shown(title: str, tenant: str, body: str, began: float, reads: list[Read]) -> HTMLResponse:
    """Put a page together."""
    tenants = await queries.tenants()
    answered = html.Answered(os.getpid(), time.perf_counter() - began, tuple(reads), cached=not cache.disabled)
    text = html.layout(tenant, tenants, title, body, answered)
    return HTMLResponse(text, headers=NEW_CONNECTION)


@router.get("/")
async def home() -> Response:
    return RedirectResponse(f"/{quote(next(iter(await queries.tenants())))}", headers=NEW_CONNECTION)


@router.get("/{tenant}")
async def listing(tenant: Tenant, category: Category = "", page: Page = 1) -> Response:
    began = time.perf_counter()
    with observe() as reads:  # what is read in this block is shown at the foot of the page
        found = await queries.listing(tenant, category, page)
    title = category.capitalize() or (await queries.tenants())[tenant]
    return await shown(title, tenant, html.listing_body(title, tenant, found, category, page), began, reads)


@router.get("/{tenant}/search")
async def search(tenant: Tenant, q: str = "") -> Response:
    began = time.perf_counter()
    words = queries.normal(q)
    with observe() as reads:
        found = await queries.search(tenant, words)
    return await shown(f"Search: {words}", tenant, html.search_body(tenant, words, found), began, reads)


@router.get("/{tenant}/cart")
async def cart(tenant: Tenant, request: Request) -> Response:
    began = time.perf_counter()
    with observe() as reads:
        found = await queries.cart(tenant, visitor_of(request))
    return await shown("Cart", tenant, html.cart_body(tenant, found), began, reads)


@router.get("/{tenant}/product/{product_id}")
async def product(tenant: Tenant, product_id: ProductId) -> Response:
    began = time.perf_counter()
    with observe() as reads:
        found = await queries.details(tenant, product_id)
    if found is None:
        raise HTTPException(404, "there is no such product")
    return await shown(found.product.name, tenant, html.product_body(tenant, found), began, reads)


# What the buttons do ----------------------------------------------------------------------------------------------


@router.post("/{tenant}/product/{product_id}/price")
async def set_price(tenant: Tenant, product_id: ProductId, request: Request) -> Response:
    cents = round(await number(request, "price") * 100)
    if not 0 < cents <= 100_000_00:
        raise HTTPException(422, "a price is more than 0, and 100,000 at most")
    await changes.set_price(tenant, product_id, cents)
    return back(f"/{quote(tenant)}/product/{product_id}")


@router.post("/{tenant}/product/{product_id}/stock")
async def move_stock(tenant: Tenant, product_id: ProductId, request: Request) -> Response:
    await changes.move_stock(tenant, product_id, round(await number(request, "by")))
    return back(f"/{quote(tenant)}/product/{product_id}")


@router.post("/{tenant}/product/{product_id}/cart")
async def put_in_cart(tenant: Tenant, product_id: ProductId, request: Request) -> Response:
    visitor = visitor_of(request) or new_visitor()
    if await queries.details(tenant, product_id) is not None:
        await changes.put_in_cart(tenant, visitor, product_id)
    return remember(back(f"/{quote(tenant)}/cart"), visitor)


async def number(request: Request, name: str) -> float:
    """One number of a form."""
    form = parse_qs((await request.body()).decode("ascii", "replace"))
    try:
        return float(form[name][0])
    except (KeyError, ValueError):
        raise HTTPException(422, f"{name} is to be a number") from None


def back(to: str) -> Response:
    return RedirectResponse(to, status_code=303, headers=NEW_CONNECTION)
