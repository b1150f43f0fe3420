"""What is read, and cached: each function tells by its name and its arguments what it gives.

Nobody names what ends an entry. It depends on the rows and tables that were read while it was loaded, and on those of
the cached functions that it called: a page of the list ends when one of the products on it changes, and is put together
anew from ids that are still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import load_only

from shop.caching import cache
from shop.database import sessions
from shop.models import CartLine, Change, Product, Review, Tenant
from unstale.sqlalchemy import narrowed

PAGE = 24
RELATED = 4
SHOWN = 5  # reviews and changes of a product


# Frozen, and with tuples: all requests of a worker share what is in its memory.
@dataclass(frozen=True)
class Card:
    """A product as lists show it."""

    id: int
    name: str
    category: str
    price: int
    stock: int
    version: int
    stars: float
    reviews: int


@dataclass(frozen=True)
class Ids:
    total: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    total: int
    categories: dict[str, int]
    products: tuple[Card, ...]


@dataclass(frozen=True)
class Details:
    """A product as its own page shows it."""

    product: Card
    description: str
    reviews: tuple[tuple[int, str], ...]
    changes: tuple[tuple[int, int, int], ...]  # version, price, stock
    related: tuple[Card, ...]


@dataclass(frozen=True)
class Cart:
    lines: tuple[tuple[int, Card], ...]
    total: int


def assortment(tenant: str) -> str:
    """The scope of which products a tenant has, and how they are called. `changes.py` says when that changes."""
    return f"assortment:{tenant}"


# Lists ------------------------------------------------------------------------------------------------------------


@cache.cached("listing:{tenant}:{category}:{page}")
async def listing(tenant: str, category: str = "", page: int = 1) -> Listing:
    """One page of a tenant's products, of all categories or of one."""
    counts = await categories(tenant)
    ids = await listed(tenant, category, page)
    total = counts.get(category, 0) if category else sum(counts.values())
    return Listing(total, counts, await cards(ids))


@cache.cached("categories:{tenant}")
async def categories(tenant: str) -> dict[str, int]:
    """How many products there are of each category."""
    counted = select(Product.category, func.count()).where(Product.tenant == tenant)
    # A query depends on its whole table, and would end whenever any tenant sells anything. This one is ended by the
    # assortment of its tenant alone.
    async with sessions() as session:
        with narrowed(assortment(tenant)):
            counted = counted.group_by(Product.category).order_by(Product.category)
            return dict((await session.execute(counted)).tuples().all())


@cache.cached("listed:{tenant}:{category}:{page}")
async def listed(tenant: str, category: str, page: int) -> tuple[int, ...]:
    """Which products are on a page of a list: their ids stay the same when their prices change."""
    query = select(Product.id).where(Product.tenant == tenant)
    if category:
        query = query.where(Product.category == category)
    query = query.order_by(Product.category, Product.name, Product.id).limit(PAGE).offset((page - 1) * PAGE)
    async with sessions() as session:
        with narrowed(assortment(tenant)):
            return tuple(await session.scalars(query))


async def cards(ids: Sequence[int]) -> tuple[Card, ...]:
    """Products in the order of their ids. It is not cached itself: what calls it depends on each of these rows."""
    if not ids:
        return ()
    rated = (
        select(Product, func.avg(Review.stars), func.count(Review.id))
        .options(load_only(Product.name, Product.category, Product.price, Product.stock, Product.version))
        .outerjoin(Review, Review.product_id == Product.id)
        .where(Product.id.in_(ids))
        .group_by(Product.id)
    )
    async with sessions() as session:
        found = await session.execute(rated)
        by_id = {
            one.id: Card(
                one.id, one.name, one.category, one.price, one.stock, one.version, round(float(stars or 0), 1), count
            )
            for one, stars, count in found
        }
    return tuple(by_id[one] for one in ids if one in by_id)


# Search -----------------------------------------------------------------------------------------------------------


# When its time is over, what is there is served once more while it is refreshed behind (stale-while-revalidate). What
# was really changed ends it at once, grace or not.
@cache.cached("search:{tenant}:{words}", ttl="5m", grace="1h")
async def search(tenant: str, words: str) -> Listing:
    """The first products whose name or description has these words."""
    ids = await found(tenant, words)
    return Listing(ids.total, {}, await cards(ids.ids))


@cache.cached("found:{tenant}:{words}")
async def found(tenant: str, words: str) -> Ids:
    """Which products a search finds, and how many there are. This is the dear part: it reads all of its tenant's."""
    query = (
        select(Product.id, func.count().over())
        .where(
            Product.tenant == tenant,
            Product.name.icontains(words, autoescape=True) | Product.description.icontains(words, autoescape=True),
        )
        .order_by(Product.name, Product.id)
        .limit(PAGE)
    )
    async with sessions() as session:
        with narrowed(assortment(tenant)):
            rows = (await session.execute(query)).all()
    return Ids(rows[0][1] if rows else 0, tuple(row[0] for row in rows))


def normal(words: str) -> str:
    """Give one spelling to all that would find the same."""
    return " ".join(words.lower().split())[:60]


# A product --------------------------------------------------------------------------------------------------------


@cache.cached("details:{tenant}:{product_id}")
async def details(tenant: str, product_id: int) -> Details | None:
    """All that the page of a product shows; None, if this tenant has no such product."""
    async with sessions() as session:
        product = await session.get(Product, product_id)
        if product is None or product.tenant != tenant:
            return None
        # Each change of a product changes its row too: there is no need to depend on everybody's changes.
        with narrowed(f"product:{product_id}"):
            past = select(Change.version, Change.price, Change.stock).where(Change.product_id == product_id)
            changes = (await session.execute(past.order_by(Change.version.desc()).limit(SHOWN))).all()
        said = select(Review.stars, Review.text).where(Review.product_id == product_id)
        reviews = (await session.execute(said.order_by(Review.id.desc()).limit(SHOWN))).all()
        with narrowed(assortment(tenant)):
            like = select(Product.id).where(Product.tenant == tenant, Product.category == product.category)
            near = tuple(await session.scalars(like.where(Product.id > product_id).order_by(Product.id).limit(RELATED)))
    shown = await cards((product_id, *near))
    return Details(shown[0], product.description, tuple(map(tuple, reviews)), tuple(map(tuple, changes)), shown[1:])


# Carts ------------------------------------------------------------------------------------------------------------


async def cart(tenant: str, visitor: str) -> Cart:
    """What a visitor is about to buy: nothing, for one who has no name yet."""
    return await kept_cart(tenant, visitor) if visitor else Cart((), 0)


@cache.cached("cart:{tenant}:{cart_id}", ttl="1m")
async def kept_cart(tenant: str, cart_id: str) -> Cart:
    """What somebody is about to buy, at the prices of now."""
    lines = select(CartLine.product_id, CartLine.quantity).where(CartLine.cart_id == cart_id, CartLine.tenant == tenant)
    async with sessions() as session:
        with narrowed(kept_cart.key(tenant, cart_id)):
            quantities = dict((await session.execute(lines.order_by(CartLine.product_id))).tuples().all())
    found = tuple((quantities[card.id], card) for card in await cards(tuple(quantities)))
    return Cart(found, sum(quantity * card.price for quantity, card in found))


# Tenants ----------------------------------------------------------------------------------------------------------


@cache.cached("tenants")
async def tenants() -> dict[str, str]:
    """All tenants, and what they are called."""
    async with sessions() as session:
        return {one.id: one.title for one in await session.scalars(select(Tenant).order_by(Tenant.id))}
