"""Writes to Django's cache within transactions of the database, and what their rollbacks leave."""

# mypy: disable-error-code="import-untyped,misc"

# ruff: noqa: PT012 - what is rolled back is a block

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.django_project import Product, forget, node, tables
from tests.support.postgres_servers import PostgresServer
from tests.support.waiting import until
from unstale.django import Cache, cache_of
from unstale.django.transactions import OPEN, Waiting, open_transaction, steady

from django.core.cache import caches  # isort: skip - Django is set up by the project above
from django.db import connection, connections, transaction  # isort: skip


@pytest.fixture(autouse=True)
def _database() -> Iterator[None]:
    with tables():
        yield
    forget()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Name a cache that no other test has."""
    return str(request.node.name)


@pytest.fixture
def here(name: str) -> Cache:
    """Give a node."""
    return node("memory://", name=name)


class Elsewhere:
    """A node whose methods are called in a thread of their own, which is in no transaction."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any) -> Any:
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(getattr(self._cache, method), *args).result()

        return call


@pytest.fixture
def other(name: str) -> Elsewhere:
    """Another process, to all that the cache knows: it comes to know of a write a moment later."""
    return Elsewhere(node("memory://", name=name))


def test_h01_a_value_of_an_uncommitted_row_reaches_nobody_before_the_commit(here: Cache, other: Elsewhere) -> None:
    """The code of the transaction sees what it has written, all others what was before; then all see it."""
    here.set("key", "old")
    with transaction.atomic():
        here.set("key", "new")
        here.set_many({"a": 1, "b": [2]})
        assert here.get("key") == "new"
        assert here.get_many(["key", "a", "b", "c"]) == {"key": "new", "a": 1, "b": [2]}
        assert (other.get("key"), other.get("a")) == ("old", None)
    assert here.get("key") == "new"
    until(lambda: (other.get("key"), other.get("b")) == ("new", [2]))


def test_h01_a_rollback_takes_back_what_was_written(here: Cache, other: Elsewhere) -> None:
    """Sets, deletes and a clear of a transaction that is rolled back never were."""
    here.set_many({"key": "old", "deleted": 1, "many": 1})
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        here.set("key", "new")
        assert here.delete("deleted") is True
        assert here.delete("deleted") is False
        here.delete_many(["many"])
        assert here.get_many(["key", "deleted", "many"]) == {"key": "new"}
        here.clear()
        assert here.get("key") is None
        here.set("key", "after the clear")
        assert here.get("key") == "after the clear"
        raise ZeroDivisionError
    for cache in (here, other):
        assert cache.get_many(["key", "deleted", "many"]) == {"key": "old", "deleted": 1, "many": 1}


def test_h01_a_savepoint_takes_back_its_own_writes_alone(here: Cache, other: Elsewhere) -> None:
    """What an inner block wrote goes with it; what the outer one wrote before is seen again, and committed."""
    with transaction.atomic():
        here.set("key", "outer")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            here.set("key", "inner")
            here.delete("kept")
            assert here.get("key") == "inner"
            raise ZeroDivisionError
        assert here.get("key") == "outer"
        with transaction.atomic():
            here.set("second", "inner")
        assert other.get("key") is None
    assert (other.get("key"), other.get("second")) == ("outer", "inner")


def test_deletes_and_clears_wait_for_the_commit(here: Cache, other: Elsewhere) -> None:
    """Else another process would load what is not committed yet, and keep the old."""
    here.set_many({"key": 1, "other": 1})
    with transaction.atomic():
        here.delete("key")
        assert (here.get("key"), other.get("key")) == (None, 1)
        assert here.add("key", 2) is True  # it was deleted here
        assert here.incr("key") == 3
        assert here.touch("key", 60) is True
        assert here.add("key", 9) is False
        assert other.get("key") == 1
    until(lambda: other.get("key") == 3)
    with transaction.atomic():
        here.clear()
        with pytest.raises(ValueError, match="not found"):
            here.incr("key")
        assert here.touch("key") is False
        assert other.get("other") == 1
    until(lambda: other.get("other") is None)


def test_add_and_incr_act_at_once(here: Cache, other: Elsewhere) -> None:
    """A lock, and a counter of failed logins, must not be taken back by the rollback of a request."""
    here.set("n", 1)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert here.add("lock", 1) is True
        assert here.incr("n") == 2
        assert other.add("lock", 2) is False
        raise ZeroDivisionError
    assert (other.get("lock"), other.get("n")) == (1, 2)


def test_two_databases_are_waited_for(here: Cache, other: Elsewhere) -> None:
    """What was written while two transactions were open waits for both."""
    with transaction.atomic():
        with transaction.atomic(using="second"):
            here.set("key", 1)
        assert here.get("key") == 1
        assert other.get("key") is None
    assert other.get("key") == 1
    with transaction.atomic(using="second"):
        with transaction.atomic():
            here.set("more", 1)
        assert here.get("more") == 1
        assert other.get("more") is None
    assert other.get("more") == 1


def test_h02_a_commit_is_told_although_another_database_rolls_back(here: Cache, other: Elsewhere) -> None:
    """What one database has committed ends what was made of it, whatever becomes of the other."""
    here.set_many({"key": "old", "value": "old"})
    until(lambda: other.get_many(["key", "value"]) == {"key": "old", "value": "old"})
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="second"):
        with transaction.atomic():
            here.delete("key")
            here.set("value", "of both")
        raise ZeroDivisionError
    until(lambda: other.get_many(["key", "value"]) == {})


def test_the_latest_write_of_two_databases_is_seen(here: Cache) -> None:
    """A transaction within that of another database sees its own write, the later one."""
    with transaction.atomic(using="second"):
        here.set("key", 1)
        with transaction.atomic():
            here.set("key", 2)
            assert here.get("key") == 2


def test_h02_what_others_do_on_commit_may_fail(here: Cache, other: Elsewhere) -> None:
    """What waits is done before what others have asked for: if that raises, Django does nothing of what is left."""
    here.set("key", "old")
    until(lambda: other.get("key") == "old")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        transaction.on_commit(lambda: 1 / 0)
        here.set("key", "new")
    until(lambda: other.get("key") == "new")


@pytest.mark.parametrize(
    ("vendor", "options", "kept"),
    [
        ("mysql", {}, True),
        ("mysql", {"isolation_level": None}, False),
        ("postgresql", {}, True),
        ("postgresql", {"options": "-c default_transaction_isolation=serializable"}, False),
        ("sqlite", {}, False),
    ],
)
def test_h17_which_transactions_see_what_is_committed_by_then(vendor: str, options: Any, *, kept: bool) -> None:
    """Only where each statement has a view of its own is what a transaction computes good to keep."""
    one: Any = SimpleNamespace(vendor=vendor, settings_dict={"OPTIONS": options})
    assert steady(one) is kept


def test_h06_many_keys_are_dependencies_too(here: Cache) -> None:
    """A cached function that reads many keys at once ends with each of them."""
    here.set_many({"a": 1, "b": 1})
    cache = here.shared.cache

    @cache.cached("sum:{number}")
    def total(number: int) -> int:
        return sum(here.get_many(["a", "b"]).values())

    assert total(1) == 2
    here.set("b", 5)
    assert total(1) == 6


def test_on_commit_false_writes_at_once(name: str, other: Elsewhere) -> None:
    """So do Django's own backends."""
    here = node("memory://", name=name, on_commit=False)
    with transaction.atomic():
        here.set("key", 1)
        assert other.get("key") == 1
        assert here.delete("key") is True
        until(lambda: other.get("key") is None)


async def test_coroutines_follow_the_same_rule(here: Cache, other: Elsewhere) -> None:
    """Django has no asynchronous transactions, but this thread may be in one."""
    block = transaction.atomic()
    connection.inc_thread_sharing()
    import os

    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        block.__enter__()
        await here.aset("key", [1])
        await here.aset_many({"a": 1})
        await here.adelete_many(["a"])
        assert await here.aget("key") == [1]
        assert await here.adelete("key") is True
        await here.aclear()
        assert await here.aget_or_set("computed", 5) == 5
        assert other.get("key") is None
        block.__exit__(None, None, None)
    finally:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
        connection.dec_thread_sharing()
    assert open_transaction() is None
    assert other.get("key") is None


def test_h17_what_a_transaction_computes_on_an_old_view_is_not_kept(here: Cache, other: Elsewhere) -> None:
    """SQLite shows a transaction the view of its begin: `get_or_set` keeps it for that transaction alone."""
    assert not steady(connection)
    with transaction.atomic():
        assert here.get_or_set("key", lambda: [1]) == [1]
        assert here.get("key") == [1]
    assert (here.get("key"), other.get("key")) == (None, None)


def test_cached_functions_in_a_transaction_see_what_it_wrote(here: Cache) -> None:
    """A function that reads the cache within a transaction is not given what was made of the old value, nor kept."""
    calls: list[int] = []

    @here.shared.cache.cached("view:{number}")
    def view(number: int) -> int:
        calls.append(number)
        return int(here.get("key", 0)) + number

    here.set("key", 10)
    assert (view(1), view(1), calls) == (11, 11, [1])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        here.set("key", 20)
        assert view(1) == 21
        raise ZeroDivisionError
    assert view(1) == 11
    here.set("key", 30)
    assert view(1) == 31


def test_the_transaction_of_a_test_case_is_none(here: Cache, other: Elsewhere) -> None:
    """Django's TestCase never commits: nothing waits for it, as nothing of `on_commit` runs in it."""
    from django.test import TestCase

    class Case(TestCase):
        databases = frozenset({"default"})

        def test_set(self) -> None:
            here.set("key", 1)
            assert other.get("key") == 1
            with transaction.atomic():
                here.set("key", 2)
                assert other.get("key") == 1
            with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
                here.set("key", 3)
            until(lambda: other.get("key") == 3)

    outcome = Case("test_set").defaultTestResult()
    Case("test_set").run(outcome)
    assert (outcome.errors, outcome.failures, outcome.testsRun) == ([], [], 1)


def test_postgresql(here: Cache, other: Elsewhere) -> None:
    """On PostgreSQL a computed value is kept at the commit, unless somebody has ended it meanwhile (H3)."""
    with PostgresServer() as server:
        from urllib.parse import urlsplit

        at = urlsplit(server.url)
        connections.settings["pg"] = {
            **connections.settings["second"], "ENGINE": "django.db.backends.postgresql", "NAME": at.path.strip("/"),
            "USER": at.username or "", "PASSWORD": at.password or "", "HOST": at.hostname or "", "PORT": at.port or "",
        }  # fmt: skip
        try:
            with tables("pg"):
                assert steady(connections["pg"])
                product = Product.objects.using("pg").create(name="kettle", price=39)
                for ended in (False, True):
                    with transaction.atomic(using="pg"):
                        price = here.get_or_set("price", lambda: Product.objects.using("pg").get(id=product.id).price)
                        assert (price, other.get("price")) == (39, None)
                        if ended:
                            other.delete("price")
                    assert other.get("price") == (None if ended else 39)
                    here.delete("price")
                    until(lambda: other.get("price") is None)
                with pytest.raises(ZeroDivisionError), transaction.atomic(using="pg"):
                    product.price = 35
                    product.save()
                    here.set("price", 35)
                    assert here.get("price") == 35
                    raise ZeroDivisionError
                assert (here.get("price"), other.get("price")) == (None, None)
        finally:
            connections["pg"].close()
            del connections.settings["pg"]


def test_cache_of_gives_the_cache_of_an_alias() -> None:
    """Another backend's alias is a mistake, and the error says what to write."""
    assert cache_of() is cache_of("default")
    assert cache_of().name == "project"
    caches["default"].set("key", 1)
    with pytest.raises(ValueError, match="BACKEND"):
        cache_of("other")


def test_what_waits_is_forgotten_with_its_transaction(here: Cache) -> None:
    """A thread that has rolled back reads as quickly as before: nothing is looked through for it."""
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        here.set("key", 1)
        assert OPEN.connections == [connections["default"]]
        raise ZeroDivisionError
    assert here.get("key") is None
    assert OPEN.connections == []
    assert not [one for one in connection.run_on_commit if isinstance(one[1], Waiting)]
