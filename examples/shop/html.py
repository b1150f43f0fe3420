"""The pages, as text: a template language would be one more thing to learn here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote, urlencode

from shop.queries import PAGE, Card, Cart, Details, Listing
from unstale import Read

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
FROM = {
    "l1": "memory of this worker",
    "store": "store that all workers share",
    "load": "loaded from the database",
    "flight": "loaded by another request just now",
}


@dataclass(frozen=True)
class Answered:
    """Who answered, how long it took, and what was read for it: what the strip at the foot of each page shows."""

    worker: int
    took_s: float
    reads: Sequence[Read]
    cached: bool


def money(cents: int) -> str:
    return f"€ {cents // 100:,}.{cents % 100:02}"


def layout(tenant: str, tenants: Mapping[str, str], title: str, body: str, answered: Answered) -> str:
    links = "".join(
        f'<a href="/{quote(one)}"{" class=here" if one == tenant else ""}>{escape(name)}</a>'
        for one, name in tenants.items()
    )
    return f"""<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>{escape(title)}</title><style>{STYLE}</style>
<header><nav>{links}</nav>
<form action="/{quote(tenant)}/search"><input type=search name=q
 placeholder="Search {escape(tenants.get(tenant, ""))}" aria-label=Search></form>
<a href="/{quote(tenant)}/cart">Cart</a></header>
<main>{body}</main>
<footer>{strip(answered)}</footer></html>"""


def strip(answered: Answered) -> str:
    """Where each part of this page came from, and how old it is at most."""
    took = f"worker <b>{answered.worker}</b> in {answered.took_s * 1000:.1f} ms"
    if not answered.cached:
        return f"<details open><summary>{took}, without a cache</summary></details>"
    rows = "".join(map(line, answered.reads))
    oldest = max((read.proven_s or 0.0 for read in answered.reads), default=0.0)
    return f"""<details open><summary>{took}; nothing on this page is older than <b>{oldest:.2f} s</b></summary>
<table><tr><th>read<th>from<th>stamp<th>proven as of</tr>{rows}</table></details>"""


def line(read: Read) -> str:
    stamp = "" if read.stamp is None else f"{read.stamp.position}"
    proven = "now" if read.proven_s is None or read.source == "load" else f"{read.proven_s:.2f} s ago"
    stale = ", refreshed behind" if read.stale else ""
    source = f'<span class="tag {read.source}">{read.source}</span> {FROM.get(read.source, "")}{stale}'
    return f"<tr><td><code>{escape(read.key)}</code><td>{source}<td>{stamp}<td>{proven}</tr>"


def card(tenant: str, one: Card) -> str:
    stock = f"{one.stock} in stock" if one.stock else "<span class=out>sold out</span>"
    stars = f"{one.stars} of 5, {one.reviews} reviews" if one.reviews else "no reviews yet"
    return f"""<a class=card href="/{quote(tenant)}/product/{one.id}"><b>{escape(one.name)}</b>
<span class=soft>{stars}</span><span class=price><strong>{money(one.price)}</strong><span>{stock}</span></span></a>"""


def grid(tenant: str, cards: Iterable[Card]) -> str:
    return f"<div class=grid>{''.join(card(tenant, one) for one in cards)}</div>"


def listed(tenant: str, category: str, page: int = 1) -> str:
    """Where a page of the list is, as an attribute has it."""
    return escape(f"/{quote(tenant)}?{urlencode({'category': category, 'page': page})}")


def listing_body(title: str, tenant: str, found: Listing, category: str, page: int) -> str:
    chips = "".join(
        f'<a href="{listed(tenant, name)}"{" class=here" if name == category else ""}>'
        f"{escape(name)} <span class=soft>{count}</span></a>"
        for name, count in found.categories.items()
    )
    last = max(1, -(-found.total // PAGE))
    pages = [
        f'<a href="{listed(tenant, category, number)}">{text}</a>'
        for number, text in ((page - 1, "Previous"), (page + 1, "Next"))
        if 1 <= number <= last
    ]
    return f"""<h1>{escape(title)}</h1><div class=chips>{chips}</div>{grid(tenant, found.products)}
<p class=soft>Page {page} of {last}. {" ".join(pages)}</p>"""


def search_body(tenant: str, words: str, found: Listing) -> str:
    more = f", the first {len(found.products)}" if found.total > len(found.products) else ""
    return f"<h1>{found.total} found for “{escape(words)}”{more}</h1>{grid(tenant, found.products)}"


def product_body(tenant: str, found: Details) -> str:
    one = found.product
    where = f"/{quote(tenant)}/product/{one.id}"
    stock = f"{one.stock} in stock" if one.stock else "<span class=out>sold out</span>"
    history = "".join(
        f"<tr><td>{version}<td>{money(price)}<td>{stock_then}</tr>" for version, price, stock_then in found.changes
    )
    said = "".join(f"<tr><td>{'★' * stars}<td>{escape(text)}</tr>" for stars, text in found.reviews)
    return f"""<h1>{escape(one.name)}</h1><p class=soft>{escape(found.description)}</p>
<div class=big>{money(one.price)}</div><p>{stock}</p>
<div class=actions>
<form method=post action="{where}/price"><input type=number name=price min=0.01 step=0.01 aria-label="New price"
 value="{one.price / 100:.2f}"><button>Change the price</button></form>
<form method=post action="{where}/stock"><input type=hidden name=by value=-1><button>Sell one</button></form>
<form method=post action="{where}/stock"><input type=hidden name=by value=10><button>Put 10 into stock</button></form>
<form method=post action="{where}/cart"><button>Into the cart</button></form>
</div>
<h2>Last changes</h2><table><tr><th>version<th>price<th>stock</tr>{history}</table>
<h2>Reviews</h2><table>{said or "<tr><td class=soft>None yet.</tr>"}</table>
<h2>More of the kind</h2>{grid(tenant, found.related)}"""


def cart_body(tenant: str, cart: Cart) -> str:
    rows = "".join(
        f'<tr><td>{quantity} of<td><a href="/{quote(tenant)}/product/{one.id}">{escape(one.name)}</a>'
        f"<td>{money(quantity * one.price)}</tr>"
        for quantity, one in cart.lines
    )
    if not rows:
        return "<h1>Your cart is empty</h1>"
    return f"<h1>Your cart</h1><table>{rows}<tr><th><th>Together<th>{money(cart.total)}</tr></table>"
