"""Models of Django tell what is committed, and nothing else; `manage.py unstale` looks at the cache."""

# mypy: disable-error-code="import-untyped,misc"

# ruff: noqa: PT012 - what is rolled back is a block

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.django_project import Book, Cheap, Plain, Product, Tag, forget, tables
from unstale import Cache
from unstale.core.record import Logged
from unstale.django import cache_of
from unstale.django import models as telling
from unstale.django.models import touched, track
from unstale.errors import KeyTemplateError, UsageError

from django.core.cache import caches  # isort: skip - Django is set up by the project above
from django.core.management import CommandError, call_command  # isort: skip
from django.db import transaction  # isort: skip


@pytest.fixture(autouse=True)
def _database() -> Iterator[None]:
    with tables():
        yield
    forget()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Cache]:
    """Give a cache that the models tell, each row by its own table but for tags."""
    monkeypatch.setattr(telling, "_tracked", {})
    with Cache("memory://", name=request.node.name) as one:
        one.ticket()
        track(Product, Tag, Book, cache=one, scopes={Tag: "label:{id}"})
        yield one


def told(cache: Cache) -> list[tuple[str, ...]]:
    """Give the scopes of all records so far, and forget them."""
    server: Any = cache.ports.log.server  # type: ignore[attr-defined]
    records: list[Logged] = list(server.log)
    seen = server.__dict__.setdefault("seen_by_tests", 0)
    server.__dict__["seen_by_tests"] = len(records)
    return [tuple(sorted(logged.record.scopes)) for logged in records[seen:]]


def test_a_saved_and_a_deleted_row_tell_their_scope_and_their_table(cache: Cache) -> None:
    """Outside a transaction at once; the names are those of tracked sessions of SQLAlchemy."""
    product = Product.objects.create(name="kettle")
    product.save()
    assert told(cache) == [("shop_product:1", "table:shop_product")] * 2
    product.delete()
    ((*scopes,),) = told(cache)
    assert {"shop_product:1", "table:shop_product"} <= set(scopes)


def test_h01_nothing_is_told_before_the_commit_and_nothing_after_a_rollback(cache: Cache) -> None:
    """What one transaction has changed is told together; what a savepoint took back is not."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Product.objects.create(name="lost")
        raise ZeroDivisionError
    assert told(cache) == []
    with transaction.atomic():
        first = Product.objects.create(name="first")
        second = Product.objects.create(name="second")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Tag.objects.create(name="lost")
            raise ZeroDivisionError
        assert told(cache) == []
    (scopes,) = told(cache)
    assert set(scopes) == {f"shop_product:{first.id}", f"shop_product:{second.id}", "table:shop_product"}


def test_h01_a_cached_function_in_a_transaction_is_not_given_what_the_transaction_changed(cache: Cache) -> None:
    """Nor is what it loads there kept: it would be served to others before the commit, or after a rollback."""
    product = Product.objects.create(name="kettle", price=39)

    @cache.cached("shop_product:{number}")
    def price(number: int) -> int:
        return int(Product.objects.get(id=number).price)

    assert (price(product.id), price(product.id)) == (39, 39)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        product.price = 35
        product.save()
        assert price(product.id) == 35
        raise ZeroDivisionError
    assert price(product.id) == 39
    with transaction.atomic():
        product.save()
        assert price(product.id) == 35
    assert price(product.id) == 35


def test_h31_bulk_statements_tell_of_the_whole_table(cache: Cache) -> None:
    """Django sends no signal for them; a tracked queryset tells, and a model that nobody follows is an error."""
    Product.objects.bulk_create([Product(name="a"), Product(name="b")])
    Product.objects.filter(name="a").update(price=1)
    assert told(cache) == [("shop_product", "table:shop_product")] * 2
    assert Product.objects.filter(name="nothing").update(price=1) == 0
    assert Product.objects.bulk_create([]) == []
    assert told(cache) == []
    Product.objects.bulk_update([Product(id=1, name="c", price=2)], ["price"])
    assert told(cache) == [("shop_product", "table:shop_product")]
    Plain.objects.create(name="x")
    with pytest.raises(UsageError, match="not tracked"):
        Plain.objects.update(name="y")


def test_children_and_proxies_are_rows_of_their_parents(cache: Cache) -> None:
    """Saving a book changes a row of both tables; a proxy is the model itself."""
    book = Book.objects.create(name="novel", pages=300)
    scopes = {scope for record in told(cache) for scope in record}
    assert scopes == {f"shop_product:{book.id}", "table:shop_product", f"shop_book:{book.id}", "table:shop_book"}
    Cheap.objects.create(name="pen")
    assert told(cache) == [("shop_product:2", "table:shop_product")]


def test_relations_tell_of_both_sides(cache: Cache) -> None:
    """Rows that are added or taken away are known; of a clear, those of the other side are not."""
    product, tag = Product.objects.create(name="kettle"), Tag.objects.create(name="steel")
    told(cache)

    def all_told() -> set[str]:
        return {scope for record in told(cache) for scope in record}

    both = {"shop_product:1", "label:1", "table:shop_product", "table:shop_tag", "table:shop_product_tags"}
    product.tags.add(tag)
    assert all_told() == both
    product.tags.add(tag)
    assert all_told() == set()
    tag.products.remove(product)
    assert all_told() == both
    product.tags.clear()
    assert all_told() == both - {"label:1"} | {"label"}


def test_changes_that_nobody_sees_can_be_told(cache: Cache) -> None:
    """By scopes or by models, when the transaction is committed."""
    with transaction.atomic():
        touched("shop_product:17", cache=cache)
        touched(Product)
        assert told(cache) == []
    ((*scopes,),) = told(cache)
    assert set(scopes) == {"shop_product:17", "shop_product", "table:shop_product"}


def test_an_alias_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache is asked for when there is something to tell, not when the application starts."""
    monkeypatch.setattr(telling, "_tracked", {})
    track(Product)
    calls: list[int] = []

    @cache_of().cached("shop_product:{number}")
    def product(number: int) -> int:
        calls.append(number)
        return number

    product(1)
    Product.objects.create(name="kettle")
    product(1)
    assert calls == [1, 1]


def test_mistakes_are_refused(cache: Cache) -> None:
    """Each with what to write instead."""
    with pytest.raises(UsageError, match="tracked for this cache already"):
        track(Product, cache=cache)
    with pytest.raises(UsageError, match="no model"):
        track(str, cache=cache)
    with pytest.raises(KeyTemplateError, match="'name'"):
        track(Plain, cache=cache, scopes={Plain: "plain:{name}"})
    with pytest.raises(KeyTemplateError, match="no part"):
        track(Plain, cache=cache, scopes={Plain: "plain"})


def test_manage_py_acts_on_the_cache_of_an_alias(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands are those of `unstale`, with an alias in place of the URL."""
    from django.test.utils import override_settings

    where = {"BACKEND": "unstale.django.Cache", "LOCATION": f"sqlite:///{tmp_path}/a.cache"}
    with override_settings(CACHES={"default": caches.settings["default"], "shop": where}):
        shop = caches["shop"]
        shop.set("key", 1)
        call_command("unstale", "--alias", "shop", "invalidate", "django:", "--reason", "by a test")
        assert "Invalidated" in capsys.readouterr().out
        call_command("unstale", "--alias", "shop", "tail", "--no-follow")
        assert "by a test" in capsys.readouterr().out
        call_command("unstale", "--alias", "shop", "nodes")
        assert "1 node" in capsys.readouterr().out
        call_command("unstale", "--alias", "shop", "doctor", "--json")
        assert '"level"' in capsys.readouterr().out
        with pytest.raises(SystemExit):
            call_command("unstale", "--alias", "shop", "explain", "nothing")
        forget()
    with pytest.raises(CommandError, match="none of"):
        call_command("unstale", "--alias", "other", "doctor")
