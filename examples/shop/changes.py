"""What is changed, each change in a transaction of its own. No cache is told anything: the sessions are tracked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.caching import changes
from shop.database import sessions
from shop.models import CartLine, Change, Product
from shop.queries import assortment, kept_cart


@dataclass(frozen=True)
class State:
    """A product after a change."""

    id: int
    version: int
    price: int
    stock: int


async def set_price(tenant: str, product_id: int, price: int) -> State | None:
    """Change a price: the product as it is then; None, if there is no such product."""
    async with sessions.begin() as session:
        return await _change(session, tenant, product_id, price=price)


async def move_stock(tenant: str, product_id: int, by: int) -> State | None:
    """Sell some (`by` below 0) or put some into stock; None, if there is no such product, or too little of it."""
    async with sessions.begin() as session:
        return await _change(session, tenant, product_id, by=by)


async def add_product(tenant: str, category: str, name: str, price: int) -> State:
    """Take a product into the assortment."""
    async with sessions.begin() as session:
        product = Product(tenant=tenant, category=category, name=name, description="", price=price, stock=0, version=1)
        session.add(product)
        await session.flush()
        session.add(Change(product_id=product.id, version=1, price=price, stock=0))
        # Lists do not depend on all products, but on the assortment, see `narrowed` in queries.py: so here is said that
        # it changes, and it is published with the rest if and when this transaction commits.
        changes(session, assortment(tenant))
        return State(product.id, 1, price, 0)


async def put_in_cart(tenant: str, cart_id: str, product_id: int, quantity: int = 1) -> None:
    """Put something into a cart."""
    try:
        await _put(tenant, cart_id, product_id, quantity)
    except IntegrityError:  # another request of this visitor made the line at the same moment: now there is one
        await _put(tenant, cart_id, product_id, quantity)


async def _put(tenant: str, cart_id: str, product_id: int, quantity: int) -> None:
    async with sessions.begin() as session:
        line: Any = (CartLine.cart_id == cart_id, CartLine.product_id == product_id)
        more = update(CartLine).where(*line).values(quantity=CartLine.quantity + quantity).returning(CartLine.quantity)
        if (await session.execute(more)).first() is None:
            new = {"cart_id": cart_id, "product_id": product_id, "tenant": tenant, "quantity": quantity}
            await session.execute(insert(CartLine).values(new))
        changes(session, kept_cart.key(tenant, cart_id))


async def _change(
    session: AsyncSession, tenant: str, product_id: int, *, price: int | None = None, by: int = 0
) -> State | None:
    """Change a product by one statement, so that two who do it at once lose nothing, and write down what it was."""
    changed = (
        update(Product)
        .where(Product.id == product_id, Product.tenant == tenant, Product.stock + by >= 0)
        .values(price=Product.price if price is None else price, stock=Product.stock + by, version=Product.version + 1)
        .returning(Product.id, Product.version, Product.price, Product.stock)
    )
    row = (await session.execute(changed)).one_or_none()
    if row is None:
        return None
    state = State(*row)
    session.add(Change(product_id=state.id, version=state.version, price=state.price, stock=state.stock))
    return state
