"""The first products, made up from a few words, and the same on each machine."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

from sqlalchemy import create_engine, insert, select

from shop.models import Base, Change, Product, Review, Tenant
from shop.settings import settings
from unstale.sources.outbox import Outbox

TENANTS = {"acme": "Acme Home", "borealis": "Borealis", "cobalt": "Cobalt & Co", "dune": "Dune Supply"}
CATEGORIES = {
    "kitchen": ["kettle", "teapot", "skillet", "ladle", "grater", "carafe", "mortar", "whisk"],
    "light": ["lantern", "desk lamp", "candle holder", "string light", "floor lamp", "torch"],
    "outdoor": ["tent", "hammock", "flask", "compass", "camp stove", "rucksack", "tarp"],
    "paper": ["notebook", "sketchbook", "envelope set", "calendar", "planner", "card box"],
    "textile": ["blanket", "cushion", "towel", "apron", "table cloth", "curtain", "rug"],
    "workshop": ["plane", "chisel", "folding rule", "clamp", "mallet", "hand drill", "vice"],
}
COLOURS = ["amber", "black", "cobalt", "ivory", "jade", "ochre", "rust", "sand", "slate", "white", "indigo", "moss"]
MATERIALS = [
    "ash",
    "brass",
    "cast iron",
    "copper",
    "cotton",
    "enamel",
    "glass",
    "linen",
    "oak",
    "steel",
    "wool",
    "zinc",
]
PRAISE = ["Lasts.", "As described, and quickly here.", "Smaller than I thought.", "My third one.", "A fine present."]
PARTS = 1000  # rows of one statement


def make_database() -> int:
    """Make the tables where they are missing, and fill a new shop: how many products were put into it."""
    url = settings.plain_database
    engine = create_engine(settings.database)
    Base.metadata.create_all(engine)
    with Outbox(url) as outbox:
        outbox.create()
    try:
        with engine.begin() as connection:  # all of it or nothing: half a shop would look like a whole one
            if connection.execute(select(Tenant.id)).first() is not None:
                return 0
            products, reviews = made_up(settings.products)
            connection.execute(insert(Tenant), [{"id": one, "title": title} for one, title in TENANTS.items()])
            for table, rows in ((Product, products), (Change, first_changes(products)), (Review, reviews)):
                for part in parts(rows):
                    connection.execute(insert(table), part)
            return len(products)
    finally:
        engine.dispose()


def made_up(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make up products, and what people say of them."""
    chance = random.Random(17)
    kinds = [(category, noun) for category, nouns in CATEGORIES.items() for noun in nouns]
    names = [(kind, colour, material) for kind, colour, material in product(kinds, COLOURS, MATERIALS)]
    chance.shuffle(names)
    products, reviews = [], []
    for number in range(1, count + 1):
        (category, noun), colour, material = names[number % len(names)]
        words = f"A {noun} of {material}, in {colour}. It is made to be used every day and to be repaired when needed."
        products.append(
            {
                "id": number,
                "tenant": list(TENANTS)[number % len(TENANTS)],
                "category": category,
                "name": f"{colour} {material} {noun} no. {number}".capitalize(),
                "description": f"{words} Goes well with {chance.choice(COLOURS)} and {chance.choice(MATERIALS)}.",
                "price": chance.randrange(500, 20_000, 5),
                "stock": chance.randrange(50, 500),
                "version": 1,
            }
        )
        reviews += [
            {"product_id": number, "stars": chance.randint(2, 5), "text": chance.choice(PRAISE)}
            for _ in range(chance.randrange(6))
        ]
    return products, reviews


def first_changes(products: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the first line of each product's history."""
    return [
        {"product_id": one["id"], "version": one["version"], "price": one["price"], "stock": one["stock"]}
        for one in products
    ]


def parts(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [rows[start : start + PARTS] for start in range(0, len(rows), PARTS)]
