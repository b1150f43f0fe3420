"""The same as JSON, under `/api`."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field

from shop import changes, queries
from shop.asked import Category, Page, ProductId, Tenant, new_visitor, remember, visitor_of

WORKER = {"X-Worker": str(os.getpid())}
router = APIRouter(prefix="/api/{tenant}")


class Price(BaseModel):
    price: int = Field(gt=0, le=100_000_00)


class Move(BaseModel):
    by: int = Field(ge=-1000, le=1000)


class NewProduct(BaseModel):
    name: str = Field(min_length=1, max_length=80)
    category: str = Field(min_length=1, max_length=40)
    price: int = Field(gt=0, le=100_000_00)


def answer(value: Any) -> Response:
    """Write what a query gave. Its dataclasses are what they should be: there is nothing to validate once more."""
    if value is None:
        raise HTTPException(404, "there is no such product, or too little of it")
    return Response(msgspec.json.encode(value), media_type="application/json", headers=WORKER)


@router.get("/products")
async def products(tenant: Tenant, category: Category = "", page: Page = 1) -> Response:
    return answer(await queries.listing(tenant, category, page))


@router.get("/search")
async def search(tenant: Tenant, q: str = "") -> Response:
    return answer(await queries.search(tenant, queries.normal(q)))


@router.get("/products/{product_id}")
async def product(tenant: Tenant, product_id: ProductId) -> Response:
    return answer(await queries.details(tenant, product_id))


@router.get("/cart")
async def cart(tenant: Tenant, request: Request) -> Response:
    return answer(await queries.cart(tenant, visitor_of(request)))


@router.post("/products")
async def add_product(tenant: Tenant, new: NewProduct) -> Response:
    return answer(await changes.add_product(tenant, new.category, new.name, new.price))


@router.post("/products/{product_id}/price")
async def set_price(tenant: Tenant, product_id: ProductId, new: Price) -> Response:
    return answer(await changes.set_price(tenant, product_id, new.price))


@router.post("/products/{product_id}/stock")
async def move_stock(tenant: Tenant, product_id: ProductId, move: Move) -> Response:
    return answer(await changes.move_stock(tenant, product_id, move.by))


@router.post("/products/{product_id}/cart")
async def put_in_cart(tenant: Tenant, product_id: ProductId, request: Request) -> Response:
    visitor = visitor_of(request) or new_visitor()
    if await queries.details(tenant, product_id) is None:
        return answer(None)
    await changes.put_in_cart(tenant, visitor, product_id)
    return remember(answer(await queries.cart(tenant, visitor)), visitor)
