"""A load on the shop: clients that read by a Zipf-like choice, and now and then write; each keeps its cookies."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from tests.shop.checker import Served
from tests.shop.http import Answer, Connection, Cookies, connect, write_request

WORDS: Final = (
    *(
        "copper",
        "kettle",
        "teapot",
        "lantern",
        "tent",
        "brass",
        "rug",
        "linen",
        "cushion",
        "notebook",
        "glass",
        "amber",
    ),
    *("chisel", "oak", "hammock", "blanket", "torch", "towel", "compass", "enamel", "indigo", "clamp", "flask", "moss"),
    *("planner", "wool", "zinc", "mallet", "carafe", "steel", "whisk", "jade", "tarp", "sand", "ochre", "every day"),
)
CATEGORIES: Final = ("", "kitchen", "light", "outdoor", "paper", "textile", "workshop")
PAGES: Final = 4
READS: Final[Mapping[str, float]] = {"product": 50, "list": 25, "search": 20, "cart": 5}
WRITES: Final[Mapping[str, float]] = {"cart": 50, "stock": 35, "price": 15}
REFUSED: Final = 404  # too little in stock
FRESH: Final = 1 / 60  # of the requests come on a new connection, which any worker may get


class Item(msgspec.Struct, frozen=True):
    """What is checked of a product that is shown."""

    id: int
    version: int
    price: int
    stock: int


class Details(msgspec.Struct, frozen=True):
    product: Item
    related: tuple[Item, ...]


class Listing(msgspec.Struct, frozen=True):
    products: tuple[Item, ...]


class Cart(msgspec.Struct, frozen=True):
    lines: tuple[tuple[int, Item], ...]


_details = msgspec.json.Decoder(Details).decode
_listing = msgspec.json.Decoder(Listing).decode
_cart = msgspec.json.Decoder(Cart).decode
_item = msgspec.json.Decoder(Item).decode

SHOWN: Final[Mapping[str, Callable[[bytes], Sequence[Item]]]] = {
    "product": lambda body: [(found := _details(body)).product, *found.related],
    "list": lambda body: _listing(body).products,
    "search": lambda body: _listing(body).products,
    "cart": lambda body: [item for _quantity, item in _cart(body).lines],
}


class Choice:
    """Chooses what is asked for: of each kind a few things often, and many seldom.

    Args:
        tenants: The tenant of each product.
        seed: Of the choices.
    """

    def __init__(self, tenants: Mapping[int, str], seed: int) -> None:
        self._chance = random.Random(seed)
        self._tenants = sorted(set(tenants.values()))
        self._of = {name: [one for one in sorted(tenants) if tenants[one] == name] for name in self._tenants}
        self._weights: dict[int, list[float]] = {}

    def _one(self, ranked: Sequence[object]) -> int:
        """Give a place in a ranking, by Zipf's law."""
        count = len(ranked)
        if count not in self._weights:
            self._weights[count] = list(itertools.accumulate(1 / (rank + 1) for rank in range(count)))
        return self._chance.choices(range(count), cum_weights=self._weights[count])[0]

    def product(self) -> tuple[str, int]:
        """Give a tenant and one of its products."""
        tenant = self._chance.choice(self._tenants)
        return tenant, self._of[tenant][self._one(self._of[tenant])]

    def read(self) -> tuple[str, str]:
        """Give a kind of read, and its path."""
        (kind,) = self._chance.choices(list(READS), weights=list(READS.values()))
        tenant, product = self.product()
        if kind == "product":
            return kind, f"/api/{tenant}/products/{product}"
        if kind == "list":
            category = CATEGORIES[self._one(CATEGORIES)]
            return kind, f"/api/{tenant}/products?category={category}&page={1 + self._one(range(PAGES))}"
        if kind == "search":
            return kind, f"/api/{tenant}/search?q={quote(WORDS[self._one(WORDS)])}"
        return kind, f"/api/{tenant}/cart"

    def write(self) -> tuple[str, str, bytes, tuple[str, int]]:
        """Give a kind of write, its path, its body, and the product that it is about."""
        (kind,) = self._chance.choices(list(WRITES), weights=list(WRITES.values()))
        tenant, product = self.product()
        body = {"stock": {"by": self._chance.choice((-1, -1, -1, 3))}, "price": {"price": self.price()}, "cart": {}}
        path = f"/api/{tenant}/products/{product}/{kind}"
        return kind, path, msgspec.json.encode(body[kind]), (tenant, product)

    def price(self) -> int:
        """Give a new price."""
        return self._chance.randrange(500, 20_000)

    def happens(self, share: float) -> bool:
        """Say whether what happens in such a share of all cases happens now."""
        return self._chance.random() < share


class Client:
    """One client: it asks, one request after the other.

    Args:
        port: The shop's.
        choice: What it asks for.
        share: The share of its requests that write.

    Attributes:
        served: What it was served.
        took_s: How long its requests took, in seconds.
        counts: What it did, and what befell it.
        workers: Who answered.
    """

    def __init__(self, port: int, choice: Choice, share: float) -> None:
        self._port = port
        self._choice = choice
        self._share = share
        self._connection: Connection | None = None
        self.cookies = Cookies()
        self.served = Served()
        self.took_s: list[float] = []
        self.counts: Counter[str] = Counter()
        self.workers: Counter[int] = Counter()

    async def run(self, over: asyncio.Event) -> None:
        """Ask until it is over."""
        while not over.is_set():
            try:
                await (self.write() if self._choice.happens(self._share) else self.read(*self._choice.read()))
            except ConnectionError:
                self.counts["broken"] += 1
        self.leave()

    def leave(self) -> None:
        """Close the connection: the next one may be another worker's."""
        if self._connection is not None:
            self._connection.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Ask, on a connection that is opened anew where the last one was lost."""
        if self._choice.happens(FRESH):
            self.leave()
        if self._connection is None or self._connection.lost:
            self._connection = None
            self._connection = await connect(self._port)
        began = time.perf_counter()
        answer = await self._connection.ask(write_request(method, path, self.cookies.now(), body))
        self.took_s.append(time.perf_counter() - began)
        self.cookies.take(answer)
        self.counts[str(answer.status)] += 1
        if worker := answer.headers.get("x-worker"):
            self.workers[int(worker)] += 1
        return answer

    async def read(self, kind: str, path: str) -> list[Item]:
        """Read, and note what was served."""
        began = time.monotonic()
        answer = await self.ask("GET", path)
        return self._note(kind, began, answer)

    def _note(self, kind: str, began: float, answer: Answer) -> list[Item]:
        self.served.responses += 1
        if answer.status != 200:
            return []
        items = list(SHOWN[kind](answer.body))
        for item in items:
            self.served.note(began, item.id, item.version, (item.price, item.stock))
        return items

    async def write(self) -> None:
        """Write; what was changed must be seen at once by who has changed it."""
        kind, path, body, (tenant, product) = self._choice.write()
        began = time.monotonic()
        answer = await self.ask("POST", path, body)
        self.counts["writes"] += 1
        if answer.status == REFUSED:
            return
        if kind == "cart":
            self._note("cart", began, answer)
            return
        changed = _item(answer.body)
        self.served.wrote(product, changed.version)
        self.leave()  # so that any worker may be asked for it
        await self.read("product", f"/api/{tenant}/products/{product}")
