"""A Django project for tests: settings, models, nodes of the backend. Imported by whoever needs Django set up."""

# mypy: disable-error-code="import-untyped,misc"

# ruff: noqa: D106, DJ008 - models of tests

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="a key that is long enough to sign something with",
        CACHES={
            "default": {"BACKEND": "unstale.django.Cache", "LOCATION": "memory://", "OPTIONS": {"name": "project"}},
            "other": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        },
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
            "second": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        },
        INSTALLED_APPS=["unstale.django"],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=True,
    )
    django.setup()

from django.core.cache import caches
from django.db import connections, models

from unstale.django import Cache, shared
from unstale.django.models import TrackedManager


class Tag(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "shop"


class Product(models.Model):
    name = models.CharField(max_length=50)
    price = models.IntegerField(default=0)
    tags = models.ManyToManyField(Tag, related_name="products")

    objects = TrackedManager()

    class Meta:
        app_label = "shop"


class Book(Product):
    pages = models.IntegerField(default=0)

    class Meta:
        app_label = "shop"


class Cheap(Product):
    class Meta:
        proxy = True
        app_label = "shop"


class Plain(models.Model):
    name = models.CharField(max_length=50)
    objects = TrackedManager()

    class Meta:
        app_label = "shop"


MODELS: list[Any] = [Tag, Product, Book, Plain]
_numbers = itertools.count()


def node(url: str, *, name: str = "", prefix: str = "", timeout: Any = 300, **options: Any) -> Cache:
    """Make a backend upon a node of its own: another `node_name` is another process to all others."""
    options = {"node_name": f"node {next(_numbers)}", **({"name": name} if name else {}), **options}
    return Cache(url, {"OPTIONS": options, "KEY_PREFIX": prefix, "TIMEOUT": timeout})


def forget() -> None:
    """Close all nodes."""
    for one in shared._shared.values():
        one.cache.close()
    shared._shared.clear()
    if hasattr(caches._connections, "default"):
        del caches["default"]


@contextmanager
def tables(alias: str = "default") -> Iterator[None]:
    """Make the tables of the models, and drop them."""
    connection = connections[alias]
    connection.ensure_connection()
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            for model in reversed(MODELS):
                editor.delete_model(model)
        connection.close()
