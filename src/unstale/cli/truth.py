"""The source of truth of the demo and the replays: an SQLite database whose rows carry versions.

Both have *objects*, which are changed and whose version counts the changes, and *entries*, which are read and cached;
an entry shows the version of its object. In the demo's shop, entries are product pages and lists of a category's
products, each its own object; a change of a product changes its category too.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, Protocol

import msgspec

PRODUCTS: Final = 2000
CATEGORIES: Final = 40
REVIEWS_PER_PRODUCT: Final = 40
AUTHORS: Final = 4000
LISTED: Final = 20
BODY_BYTES_MAX: Final = 4096
BODY_BYTES_UNKNOWN: Final = 256
BUSY_S: Final = 20.0


class Change(NamedTuple):
    """An object, and the version that a commit gave to it."""

    object: int
    version: int


class Product(msgspec.Struct, frozen=True):
    """A product's page."""

    version: int
    name: str
    category: str
    price: int
    stars: float
    reviews: int
    related: str


class Listed(msgspec.Struct, frozen=True):
    """A product as a line of a list."""

    product: int
    name: str
    price: int
    stars: float


class Listing(msgspec.Struct, frozen=True):
    """The products of a category, the cheapest first."""

    version: int
    category: str
    products: list[Listed]


class Block(msgspec.Struct, frozen=True):
    """An entry of a trace."""

    version: int
    body: bytes


View = Product | Listing | Block


class Truth(Protocol):
    """What a process sees of the source of truth."""

    def load(self, entry: int) -> View:
        """Read an entry, in one read view."""

    def change(self, number: int) -> list[Change]:
        """Change an object: all that the commit changed. It has been committed when this returns."""

    def versions(self) -> list[int]:
        """Give the versions of all objects."""

    def kind(self, entry: int) -> type[View]:
        """Give the type of an entry's view."""


class Database:
    """An SQLite file with one connection for each thread.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        known: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if known is None:
            known = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            known.execute("PRAGMA journal_mode=WAL")
            known.execute("PRAGMA synchronous=NORMAL")
            self._own.connection = known
        return known

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction that writes."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


class ShopTruth:
    """The shop: entries 0 to 1,999 are products' pages, the 40 after them are the lists of the categories."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)

    @staticmethod
    def create(path: Path, seed: int) -> None:
        """Make the database."""
        random = Random(seed)
        database = Database(path)
        database.connection.executescript(SHOP_SCHEMA)
        with database.writing() as connection:
            categories = [(number, f"category {number}", 1) for number in range(CATEGORIES)]
            connection.executemany("INSERT INTO category VALUES (?, ?, ?)", categories)
            products = (
                (number, number % CATEGORIES, f"product {number}", random.randrange(100, 100_000), 1)
                for number in range(PRODUCTS)
            )
            connection.executemany("INSERT INTO product VALUES (?, ?, ?, ?, ?)", products)
            reviews = (
                (number, random.randrange(AUTHORS), random.randint(1, 5))
                for number in range(PRODUCTS)
                for _ in range(REVIEWS_PER_PRODUCT)
            )
            connection.executemany("INSERT INTO review (product, author, stars) VALUES (?, ?, ?)", reviews)
        database.connection.execute("ANALYZE")
        database.connection.close()

    def product(self, product_id: int) -> Product:
        """Read a product's page."""
        row = self._database.connection.execute(SELECT_PRODUCT, (product_id,)).fetchone()
        return Product(*row)

    def listing(self, category_id: int) -> Listing:
        """Read a category's list."""
        rows = self._database.connection.execute(SELECT_LISTING, (category_id, LISTED)).fetchall()
        version, category = rows[0][:2]
        return Listing(version, category, [Listed(*row[2:]) for row in rows])

    def load(self, entry: int) -> View:
        """Read an entry, in one read view."""
        return self.product(entry) if entry < PRODUCTS else self.listing(entry - PRODUCTS)

    def change(self, number: int) -> list[Change]:
        """Give a product another price: its page and its category's list change."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE product SET price = price % 99991 + 7, version = version + 1 WHERE id = ?", (number,)
            )
            connection.execute(
                "UPDATE category SET version = version + 1 WHERE id = (SELECT category FROM product WHERE id = ?)",
                (number,),
            )
            product_version, category_id, category_version = connection.execute(SELECT_VERSIONS, (number,)).fetchone()
        return [Change(number, product_version), Change(PRODUCTS + category_id, category_version)]

    def versions(self) -> list[int]:
        """Give the versions of all objects."""
        connection = self._database.connection
        rows = connection.execute("SELECT version FROM product ORDER BY id").fetchall()
        rows += connection.execute("SELECT version FROM category ORDER BY id").fetchall()
        return [version for (version,) in rows]

    def kind(self, entry: int) -> type[View]:
        """Give the type of an entry's view."""
        return Product if entry < PRODUCTS else Listing


class TraceTruth:
    """The entries and objects of a trace.

    Args:
        path: The database.
        origin_s: A load takes so much longer, half before and half after the query: the way to a database elsewhere.
    """

    def __init__(self, path: Path, origin_s: float) -> None:
        self._database = Database(path)
        self._way_s = origin_s / 2

    @staticmethod
    def create(path: Path, object_of: Sequence[int], sizes: Sequence[int], objects: int) -> None:
        """Make the database."""
        database = Database(path)
        database.connection.executescript(TRACE_SCHEMA)
        with database.writing() as connection:
            connection.executemany("INSERT INTO object VALUES (?, 1)", ((number,) for number in range(objects)))
            rows = ((entry, object_of[entry], sizes[entry]) for entry in range(len(sizes)))
            connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
        database.connection.execute("ANALYZE")
        database.connection.close()

    def load(self, entry: int) -> View:
        """Read an entry, in one read view."""
        if self._way_s:
            time.sleep(self._way_s)
        version, size = self._database.connection.execute(SELECT_ENTRY, (entry,)).fetchone()
        if self._way_s:
            time.sleep(self._way_s)
        return Block(version, bytes(min(size or BODY_BYTES_UNKNOWN, BODY_BYTES_MAX)))

    def change(self, number: int) -> list[Change]:
        """Change an object."""
        with self._database.writing() as connection:
            connection.execute("UPDATE object SET version = version + 1 WHERE id = ?", (number,))
            ((version,),) = connection.execute("SELECT version FROM object WHERE id = ?", (number,)).fetchall()
        return [Change(number, version)]

    def versions(self) -> list[int]:
        """Give the versions of all objects."""
        rows = self._database.connection.execute("SELECT version FROM object ORDER BY id").fetchall()
        return [version for (version,) in rows]

    def kind(self, entry: int) -> type[View]:  # noqa: ARG002 - all entries of a trace are blocks
        """Give the type of an entry's view."""
        return Block


SHOP_SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE category (id INTEGER PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL);
CREATE TABLE product (
    id INTEGER PRIMARY KEY, category INTEGER NOT NULL REFERENCES category, name TEXT NOT NULL, price INTEGER NOT NULL,
    version INTEGER NOT NULL);
CREATE INDEX product_by_category ON product (category);
CREATE TABLE review (
    id INTEGER PRIMARY KEY, product INTEGER NOT NULL REFERENCES product, author INTEGER NOT NULL,
    stars INTEGER NOT NULL);
CREATE INDEX review_by_product ON review (product, author, stars);
CREATE INDEX review_by_author ON review (author, product);
"""
SELECT_PRODUCT = """
SELECT product.version, product.name, category.name, price, avg(stars), count(*), (
    SELECT group_concat(product) FROM (
        SELECT others.product FROM review AS own JOIN review AS others ON others.author = own.author
        WHERE own.product = ?1 AND others.product <> ?1
        GROUP BY others.product ORDER BY count(*) DESC, others.product LIMIT 5))
FROM product JOIN category ON category.id = product.category JOIN review ON review.product = product.id
WHERE product.id = ?1
"""
SELECT_LISTING = """
SELECT category.version, category.name, product.id, product.name, price, avg(stars)
FROM category JOIN product ON product.category = category.id JOIN review ON review.product = product.id
WHERE category.id = ? GROUP BY product.id ORDER BY price LIMIT ?
"""
SELECT_VERSIONS = """
SELECT product.version, category.id, category.version FROM product JOIN category ON category.id = product.category
WHERE product.id = ?
"""
TRACE_SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE object (id INTEGER PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE entry (id INTEGER PRIMARY KEY, object INTEGER NOT NULL REFERENCES object, size INTEGER NOT NULL);
"""
SELECT_ENTRY = "SELECT version, size FROM entry JOIN object ON object.id = entry.object WHERE entry.id = ?"
