"""Models that tell a cache what is committed: by signals, and by a queryset for what sends none.

    class ShopConfig(AppConfig):
        def ready(self):
            track(Product, Order)

A row has the scope `shop_product:17`, of its table's name and its primary key, or one by a template. The names are
those of `unstale.sqlalchemy` and of change capture, so all of them end the same entries:

| | published |
|---|---|
| one row: `save`, `delete`, `create` | `shop_product:17`, `table:shop_product` |
| unknown rows: `update`, `bulk_create` of a `TrackedQuerySet` | `shop_product`, `table:shop_product` |
| a relation of many to many | the rows on both sides, `table:` of all three tables |
"""

# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from django.core.cache import caches
from django.db import connections, models, router, transaction
from django.db.models import signals

from unstale.cache import Cache
from unstale.core.calls import ready
from unstale.core.keys import check_scope
from unstale.core.ops import Spawn
from unstale.core.publish import append, catch_up, publish_once
from unstale.core.record import Record
from unstale.django.transactions import Waiting, is_open, wait
from unstale.errors import KeyTemplateError, UnstaleError, UsageError
from unstale.requests import record_of
from unstale.sources.row_scopes import columns_of, names_of, scope_of_all, scopes_of_row

SCOPES_MAX: Final = 1000  # of one record
DISPATCH: Final = "unstale"
REASON: Final = "transaction"
HINT: Final = "write track(Product) in AppConfig.ready()"


class Naming:
    """The scopes of one model's table and rows.

    Args:
        model: The model.
        template: Of the scope of a row, or None.

    Raises:
        KeyTemplateError: It cannot be read, or names what is no part of the primary key.
    """

    def __init__(self, model: type[models.Model], template: str | None) -> None:
        meta: Any = model._meta  # noqa: SLF001 - Django's own name for what is public
        rows, self.table = names_of(meta.db_table)
        fields = getattr(meta, "pk_fields", None) or [meta.pk]
        self._places = {field.name: field.attname for field in fields} | {
            field.attname: field.attname for field in fields
        }
        self.template = template or ":".join((rows, *(f"{{{field.attname}}}" for field in fields)))
        unknown = [name for name in columns_of(self.template) if name not in self._places]
        if unknown or not columns_of(self.template):
            what = (
                f"names {unknown[0]!r}, which is no part of its primary key" if unknown else "names no part of its key"
            )
            hint = f'write "{rows}:{{{fields[0].attname}}}"'
            raise KeyTemplateError(f"the scope {self.template!r} of {meta.label} {what}", hint=hint)
        self.rows = scope_of_all(meta.db_table, self.template)

    def of_row(self, row: models.Model) -> tuple[str, ...]:
        """Give what a change of a row ends."""
        return self.of_values({name: getattr(row, attname) for name, attname in self._places.items()})

    def of_key(self, key: Any) -> tuple[str, ...]:
        """Give what a change of the row with a primary key ends."""
        parts = key if isinstance(key, tuple | list) else (key,)
        by_attname = dict(zip(dict.fromkeys(self._places.values()), parts, strict=True))
        return self.of_values({name: by_attname[attname] for name, attname in self._places.items()})

    def of_values(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Give what a change of the row with these values ends."""
        return (*scopes_of_row(self.template, values), self.table)

    @property
    def of_unknown(self) -> tuple[str, ...]:
        """Give what a change of rows that nobody knows ends."""
        return (self.rows, self.table)


Told = tuple[Cache | str, Naming]
_tracked: dict[type[models.Model], list[Told]] = {}


def track(
    *tracked: type[models.Model],
    cache: Cache | str = "default",
    scopes: Mapping[type[models.Model], str] | None = None,
) -> None:
    """Let models tell a cache of each row that is committed: call it in `AppConfig.ready()`.

    What is changed in a transaction is published once that is committed, and never if it is rolled back; cached
    functions that are called within it bypass the cache for what it has changed.

    Args:
        tracked: The models. Proxies and children of them are tracked with them.
        cache: The cache, or an alias of CACHES whose backend is `unstale.django.Cache`.
        scopes: Templates of the scopes of rows: `{Product: "item:{id}"}`, of fields of the primary key.

    Raises:
        UsageError: No model, or one that is tracked for this cache already.
        KeyTemplateError: A template that cannot be read, or names what is no part of the primary key.
    """
    given = dict(scopes or {})
    for model in tracked:
        if not (isinstance(model, type) and issubclass(model, models.Model)) or model._meta.abstract:  # noqa: SLF001
            raise UsageError(f"{model!r} is no model with a table", hint=HINT)
        told = _tracked.setdefault(_concrete(model), [])
        if any(known is cache or known == cache for known, _naming in told):
            raise UsageError(f"{model.__name__} is tracked for this cache already", hint="call track() once")
        told.append((cache, Naming(_concrete(model), given.get(model))))
        for sender in _family(model):
            signals.post_save.connect(_row_changed, sender=sender, dispatch_uid=DISPATCH)
            signals.post_delete.connect(_row_changed, sender=sender, dispatch_uid=DISPATCH)
        for field in (*model._meta.many_to_many, *_relations_to(model)):  # noqa: SLF001
            signals.m2m_changed.connect(_relation_changed, sender=field.remote_field.through, dispatch_uid=DISPATCH)


def touched(*changed: str | type[models.Model], cache: Cache | str = "default", using: str | None = None) -> None:
    """Tell of a change that sends no signal, such as that of plain SQL: when the transaction is committed.

    Args:
        changed: Scopes, such as `"shop_product:17"`, or tracked models of which any row may have changed.
        cache: The cache, or its alias, for scopes; models tell theirs.
        using: The database; default: where the model is written, or `"default"`.

    Raises:
        UsageError: A model that is not tracked.
        ScopeError: A scope that cannot be one.
    """
    for one in changed:
        if isinstance(one, str):
            _publish(cache, (check_scope(one),), using or "default")
            continue
        _publish_unknown(one, using or router.db_for_write(one))


class TrackedQuerySet(models.QuerySet):
    """A queryset that tells of `update`, `bulk_create` and `bulk_update`, of which Django sends no signal.

    They end all rows of the table, since nobody knows which ones they have changed.
    """

    def update(self, **values: Any) -> int:
        """See Django's."""
        count: int = super().update(**values)
        if count:
            _publish_unknown(self.model, self.db)
        return count

    def bulk_create(self, objs: Iterable[Any], *args: Any, **how: Any) -> list[Any]:
        """See Django's."""
        made: list[Any] = super().bulk_create(objs, *args, **how)
        if made:
            _publish_unknown(self.model, self.db)
        return made

    update.alters_data = True  # type: ignore[attr-defined]  # no template may call it
    bulk_create.alters_data = True  # type: ignore[attr-defined]


TrackedManager: Final = models.Manager.from_queryset(TrackedQuerySet, "TrackedManager")
"""The manager of that queryset: `objects = TrackedManager()`."""


# What is told -----------------------------------------------------------------------------------------------------


def _concrete(model: type[models.Model]) -> type[models.Model]:
    concrete: type[models.Model] = model._meta.concrete_model  # noqa: SLF001
    return concrete


def _family(model: type[models.Model]) -> Iterator[type[models.Model]]:
    """Give a model and all whose rows are rows of it: proxies, and children by inheritance of tables."""
    yield model
    for child in model.__subclasses__():
        yield from _family(child)


def _relations_to(model: type[models.Model]) -> list[Any]:
    return [one.field for one in model._meta.related_objects if one.many_to_many]  # noqa: SLF001


def _told_of(model: type[models.Model]) -> Iterator[Told]:
    """Give whom a row of a model concerns: it is a row of each parent's table, too."""
    concrete = _concrete(model)
    for one in (concrete, *concrete._meta.get_parent_list()):  # noqa: SLF001
        yield from _tracked.get(one, ())


def _row_changed(sender: type[models.Model], instance: models.Model, using: str, **_how: Any) -> None:
    for cache, naming in _told_of(sender):
        _publish(cache, naming.of_row(instance), using)


def _relation_changed(
    sender: Any, *, instance: models.Model, action: str, model: Any, pk_set: Any, using: str, **_how: Any
) -> None:
    if not action.startswith("post_") or (pk_set is not None and not pk_set):
        return
    through = names_of(sender._meta.db_table)[1]  # noqa: SLF001
    for cache, naming in _told_of(type(instance)):
        _publish(cache, (*naming.of_row(instance), through), using)
    for cache, naming in _told_of(model):
        known = naming.of_unknown if pk_set is None else itertools.chain(*map(naming.of_key, pk_set))
        _publish(cache, (*known, through), using)


class Changes(Waiting):
    """What a transaction has changed of tracked models, for one cache."""

    __slots__ = ("cache",)

    def __init__(self, cache: Cache | str, scopes: Iterable[str]) -> None:
        super().__init__(lambda: _announce(cache, self.scopes), scopes=scopes)
        self.cache = cache


def _publish_unknown(model: type[models.Model], using: str) -> None:
    told = list(_told_of(model))
    if not told:
        raise UsageError(f"{model.__name__} is not tracked: nobody would be told of its change", hint=HINT)
    for cache, naming in told:
        _publish(cache, naming.of_unknown, using)


def _publish(cache: Cache | str, scopes: Iterable[str], using: str) -> None:
    """Publish at once, or when the transaction is committed; what one transaction has changed, together."""
    named = dict.fromkeys(scopes)
    connection = connections[using]
    if not is_open(connection):
        if not connection.in_atomic_block and not connection.get_autocommit():
            # Without autocommit nobody knows when it is committed: Django says so.
            transaction.on_commit(lambda: None, using=using)
        _announce(cache, named)
        return
    ids, last, _robust = connection.run_on_commit[-1] if connection.run_on_commit else (None, None, False)
    if isinstance(last, Changes) and last.cache == cache and ids == set(connection.savepoint_ids):
        last.scopes.update(named)  # one is not rolled back without the other
        return
    wait(connection, Changes(cache, named))


def _announce(cache: Cache | str, scopes: Iterable[str]) -> None:
    """Publish what is committed. What fails is reported and tried again: the commit has come about."""
    kept = caches[cache].shared.cache if isinstance(cache, str) else cache
    names = tuple(scopes)
    for start in range(0, len(names) if kept.active is not None else 0, SCOPES_MAX):
        record = record_of(kept.node, names[start : start + SCOPES_MAX], reason=REASON)
        try:
            kept.run(_tell(kept, record))
        except UnstaleError as error:  # the cache was closed
            kept.node.trouble("publish", error)


async def _tell(cache: Cache, record: Record) -> None:
    await ready(cache.node)
    if await publish_once(cache.node, (record,)) is None:
        await Spawn(lambda: _insist(cache, record), "publish")


async def _insist(cache: Cache, record: Record) -> None:
    """Publish as long as anyone should try; then nodes may serve the old value up to its time to live."""
    try:
        await append(cache.node, (record,))
        await catch_up(cache.node)
    except UnstaleError as error:
        cache.node.trouble("publish", error)
