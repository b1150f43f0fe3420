"""The cache backend: Django's own interface, each method in both colours, upon one node a process.

What is written here has no other truth than the cache: see `unstale.core.register` for what that means. Within a
transaction of the database, what is written waits for the commit: see `unstale.django.transactions`.
"""

# ruff: noqa: ASYNC109 - Django's `timeout` is the life of a value
# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db.backends.base.base import BaseDatabaseWrapper

from unstale.core import register, register_reads
from unstale.core.calls import publish_record, read_value
from unstale.core.context import surroundings
from unstale.core.ops import Flow
from unstale.core.register import Written
from unstale.core.served import Served
from unstale.django.keys import Keys, last_of
from unstale.django.shared import shared_of
from unstale.django.transactions import EVERY, GONE, OPEN, UNKNOWN, Waiting, open_transaction, seen, steady, wait
from unstale.django.values import opened
from unstale.loading import ttl

MISSING: Final = object()


class Cache(BaseCache):
    """A Django cache: `"BACKEND": "unstale.django.Cache"`.

    LOCATION is the URL of a cache, OPTIONS has arguments of `unstale.Cache` (`name`, `max_staleness`, `max_ttl`,
    `secret`, `entries_max`, ...) and `on_commit`. Its keys depend on the scope `django:KEY_PREFIX`.

    Args:
        location: LOCATION.
        params: The alias's other settings.

    Raises:
        UsageError: A LOCATION that is no URL, or an option that is none.
        EngineUrlError: The URL names no engine.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.shared = shared = shared_of(location, params.get("OPTIONS") or {})
        self._cache = cache = shared.cache
        self._keys = Keys(shared, self.key_prefix)
        self._owner = shared, self._keys.space
        # For the path of a hit, as in `unstale.hitpath`: the clock, then the lease, then the entry.
        self._tick, self._clock, self._lease = cache.tick, cache.tick_clock, cache.node.lease
        self._cells, self._bound_s = cache.node.table.cells, cache.node.bound_s
        self._shape = shared.codec.shape

    def _name(self, key: Any, version: int | None) -> str:
        return self._keys.name(self.make_and_validate_key(key, version=version))

    def _life_s(self, timeout: Any) -> float:
        return self._keys.life_s(self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout)

    # What waits for a commit ------------------------------------------------------------------------------------------

    def _transaction(self) -> BaseDatabaseWrapper | None:
        """Give the transaction for which writes of this thread have to wait."""
        return open_transaction() if self.shared.on_commit else None

    def _waiting(self, name: str) -> Any:
        """Give what this thread's transactions have written under a key: it decides, since nobody else sees it."""
        if not OPEN.connections or (waiting := seen(self._owner, name)) is UNKNOWN:
            return UNKNOWN
        around = surroundings.get()
        if around is not None and around.frame is not None:
            around.frame.keep_apart()  # what is being loaded is made of what is not committed (H1)
        return waiting

    def _later(self, writes: list[Written], run: Callable[[], object] | None = None) -> bool:
        """Let writes wait for the commit of the transaction that this thread is in; False where there is none."""
        if (connection := self._transaction()) is None:
            return False
        run = run or (lambda: self._cache.run(self._write(writes)))
        values = {one.want.key: one.value for one in writes}
        ended = self._keys.record(values, "set")
        before = partial(self.shared.publish, ended) if any(one.life_s > 0 for one in writes) else None
        wait(connection, Waiting(run, owner=self._owner, values=values, scopes=values, before=before))
        return True

    def _write(self, writes: list[Written]) -> Flow[Any]:
        record = self._keys.record((one.want.key for one in writes), "set")
        return self._unless_disabled(lambda node: register.write_all(node, writes, record, atomic=self.shared.atomic))

    async def _unless_disabled(self, flow: Callable[[Any], Flow[Any]], *, disabled: Any = None) -> Any:
        node = self._cache.active
        return disabled if node is None else await flow(node)

    # Reading ----------------------------------------------------------------------------------------------------------

    def _resident(self, name: str) -> Any:
        """Give what is here and proven fresh, without a lock; `MISSING` for what has to be looked for."""
        if OPEN.connections and (waiting := self._waiting(name)) is not UNKNOWN:
            return waiting
        now = self._clock(self._tick)
        if now - self._lease.proven < self._bound_s:
            cell = self._cells.get(name)
            if cell is not None and now < cell.deadline and cell.shape is self._shape and surroundings.get() is None:
                cell.visited = True
                return cell.value
        return MISSING

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Give a value, or the default."""
        name = self._name(key, version)
        held = self._resident(name)
        if held is MISSING:
            want = self._keys.want(name, self.shared.policy)
            held = self._cache.run(register_reads.read_one(self._cache.active, want, MISSING))
        return default if held is MISSING or held is GONE else opened(held)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Give a value, or the default."""
        name = self._name(key, version)
        held = self._resident(name)
        if held is MISSING:
            want = self._keys.want(name, self.shared.policy, blocking=False)
            held = await self._cache.arun(register_reads.read_one(self._cache.active, want, MISSING))
        return default if held is MISSING or held is GONE else opened(held)

    def _look_many(self, keys: Iterable[Any], version: int | None) -> tuple[dict[str, Any], dict[str, Any], Flow[Any]]:
        """Give the keys by their names, what is here, and the flow that finds the rest."""
        names = {self._name(key, version): key for key in keys}
        here = {name: held for name in names if (held := self._resident(name)) is not MISSING}
        wants = [self._keys.want(name, self.shared.policy) for name in names if name not in here]
        return names, here, self._unless_disabled(lambda node: register_reads.read_all(node, wants), disabled={})

    @staticmethod
    def _found_many(names: dict[str, Any], here: dict[str, Any], found: dict[str, Served]) -> dict[Any, Any]:
        held = here | {name: served.value for name, served in found.items()}
        return {key: opened(held[name]) for name, key in names.items() if name in held and held[name] is not GONE}

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Give the values that there are, by key, with one question to the store for all that is not here."""
        names, here, rest = self._look_many(keys, version)
        return self._found_many(names, here, self._cache.run(rest))

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Give the values that there are, by key: see `get_many`."""
        names, here, rest = self._look_many(keys, version)
        return self._found_many(names, here, await self._cache.arun(rest))

    # Writing, whatever is there ---------------------------------------------------------------------------------------

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Write a value for all processes; in a transaction, when that is committed."""
        writes = [self._keys.written(self._name(key, version), value, self._life_s(timeout))]
        if not self._later(writes):
            self._cache.run(self._write(writes))

    async def aset(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Write a value for all processes: see `set`."""
        writes = [self._keys.written(self._name(key, version), value, self._life_s(timeout))]
        if not self._later(writes):
            await self._cache.arun(self._write(writes))

    def _all(self, data: Mapping[Any, Any], timeout: Any, version: int | None) -> list[Written]:
        life_s = self._life_s(timeout)
        return [self._keys.written(self._name(key, version), value, life_s) for key, value in data.items()]

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Write values, all at once; no key fails alone, so the list is empty."""
        writes = self._all(data, timeout, version)
        if writes and not self._later(writes):
            self._cache.run(self._write(writes))
        return []

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Write values, all at once: see `set_many`."""
        writes = self._all(data, timeout, version)
        if writes and not self._later(writes):
            await self._cache.arun(self._write(writes))
        return []

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key for all processes: was it there, as far as this process knew?"""
        one = self._keys.written(self._name(key, version), None, 0.0)
        if self._transaction():
            there = self.get(key, MISSING, version) is not MISSING
            if self._later([one]):
                return there
        return bool(self._cache.run(self._end(one)))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key for all processes: see `delete`."""
        one = self._keys.written(self._name(key, version), None, 0.0)
        if self._transaction():
            there = await self.aget(key, MISSING, version) is not MISSING
            if self._later([one]):
                return there
        return bool(await self._cache.arun(self._end(one)))

    def _end(self, one: Written) -> Flow[Any]:
        record = self._keys.record((one.want.key,), "delete")
        return self._unless_disabled(
            lambda node: register.end(node, one, record, atomic=self.shared.atomic), disabled=False
        )

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete keys, all at once."""
        writes = self._all(dict.fromkeys(keys), 0, version)
        if writes and not self._later(writes):
            self._cache.run(self._write(writes))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete keys, all at once."""
        writes = self._all(dict.fromkeys(keys), 0, version)
        if writes and not self._later(writes):
            await self._cache.arun(self._write(writes))

    def clear(self) -> None:
        """Delete all keys of this KEY_PREFIX, by one record, however many they are."""
        if not self._clear_later():
            self._cache.run(self._clear())

    async def aclear(self) -> None:
        """Delete all keys of this KEY_PREFIX: see `clear`."""
        if not self._clear_later():
            await self._cache.arun(self._clear())

    def _clear(self) -> Flow[Any]:
        return publish_record(self._cache.active, self._keys.record_of_all(), wait=False)

    def _clear_later(self) -> bool:
        connection = self._transaction()
        if connection is None:
            return False
        waiting = Waiting(
            partial(self.shared.publish, self._keys.record_of_all()),
            owner=self._owner,
            values={EVERY: GONE},
            scopes=(self._keys.space,),
        )
        wait(connection, waiting)
        return True

    # Writing, depending on what is there ------------------------------------------------------------------------------

    def _change(self, name: str, decide: register.Decide, why: str, disabled: Any) -> Flow[Any]:
        want, record = self._keys.want(name, self.shared.change_policy), self._keys.record((name,), why)
        return self._unless_disabled(
            lambda node: register.change(node, want, decide, record, atomic=self.shared.atomic), disabled=disabled
        )

    def _add(self, name: str, value: Any, timeout: Any) -> bool | Flow[Any]:
        """Give the answer, or the flow that finds it."""
        one = self._keys.written(name, value, self._life_s(timeout))
        if (waiting := self._waiting(name)) is not UNKNOWN:
            return waiting is GONE and self._later([one])
        return self._change(name, lambda found: one if found is None else None, "add", disabled=True)

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Write a value if there is none: of all processes that try at once, one is told that it did.

        It acts at once also in a transaction, since its answer is needed now; not so for a key that the transaction
        has deleted itself.
        """
        answer = self._add(self._name(key, version), value, timeout)
        return answer if isinstance(answer, bool) else bool(self._cache.run(answer))

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Write a value if there is none: see `add`."""
        answer = self._add(self._name(key, version), value, timeout)
        return answer if isinstance(answer, bool) else bool(await self._cache.arun(answer))

    def _touch(self, name: str, timeout: Any) -> bool | Flow[Any]:
        life_s = self._life_s(timeout)
        if (waiting := self._waiting(name)) is not UNKNOWN:
            return waiting is not GONE and self._later([self._keys.written(name, opened(waiting), life_s)])
        return self._change(
            name,
            lambda found: None if found is None else self._keys.written(name, opened(found.value), life_s),
            "touch",
            disabled=False,
        )

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a key another timeout: was it there?"""
        answer = self._touch(self._name(key, version), timeout)
        return answer if isinstance(answer, bool) else bool(self._cache.run(answer))

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a key another timeout: see `touch`."""
        answer = self._touch(self._name(key, version), timeout)
        return answer if isinstance(answer, bool) else bool(await self._cache.arun(answer))

    def _incr(self, key: Any, delta: Any, version: int | None, values: list[Any]) -> Flow[Any] | None:
        """Give the flow that adds; None if the transaction's own value was added to. The last of `values` counts."""
        name, node = self._name(key, version), self._cache.node

        def decide(found: Served | None) -> Written:
            if found is None:
                raise ValueError(f"Key {key!r} not found")
            values.append(opened(found.value) + delta)
            return self._keys.written(name, values[-1], (found.fresh_until or 0.0) - node.clock())

        if (waiting := self._waiting(name)) is UNKNOWN:
            return self._change(name, decide, "incr", disabled=None)
        if waiting is GONE:
            decide(None)
        values.append(opened(waiting) + delta)
        self._later([self._keys.written(name, values[-1], self._life_s(DEFAULT_TIMEOUT))])
        return None

    def incr(self, key: Any, delta: Any = 1, version: int | None = None) -> Any:
        """Add to a value, of which no other process's addition is lost; its timeout stays.

        Raises:
            ValueError: There is no such key.
        """
        values: list[Any] = []
        if (flow := self._incr(key, delta, version, values)) is not None:
            self._cache.run(flow)
        return last_of(values, key)

    async def aincr(self, key: Any, delta: Any = 1, version: int | None = None) -> Any:
        """Add to a value: see `incr`."""
        values: list[Any] = []
        if (flow := self._incr(key, delta, version, values)) is not None:
            await self._cache.arun(flow)
        return last_of(values, key)

    # Loading ----------------------------------------------------------------------------------------------------------

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """Give a value, or compute and keep it: one call of `default` for all threads that ask at once.

        What has been ended since `default` was called is not kept.
        """
        value = self.get(key, MISSING, version)
        if value is not MISSING:
            return value
        name, life_s = self._name(key, version), self._life_s(timeout)
        if life_s <= 0 or self._transaction():
            return self._computed(name, default, life_s)
        want = self._keys.want(name, self.shared.policy, self._loader(default, life_s))
        return opened(self._cache.run(read_value(self._cache.active, want, None)))

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Give a value, or compute and keep it: see `get_or_set`; `default` may be a coroutine function."""
        value = await self.aget(key, MISSING, version)
        if value is not MISSING:
            return value
        name, life_s = self._name(key, version), self._life_s(timeout)
        if life_s <= 0 or self._transaction():
            value = default() if callable(default) else default
            value = await value if inspect.isawaitable(value) else value
            return self._computed(name, value, life_s)
        want = self._keys.want(name, self.shared.policy, self._loader(default, life_s), blocking=False)
        return opened(await self._cache.arun(read_value(self._cache.active, want, None)))

    def _loader(self, default: Any, life_s: float) -> Callable[[], Any]:
        hold = self.shared.codec.hold

        def load() -> Any:
            value = default() if callable(default) else default
            ttl(life_s)
            return awaited(value) if inspect.isawaitable(value) else hold(value)[0]

        async def awaited(value: Any) -> Any:
            return hold(await value)[0]

        return load

    def _computed(self, name: str, default: Any, life_s: float) -> Any:
        """Compute a value in a transaction, which keeps it when it is committed, if nothing has ended it by then.

        What shows a view from the begin of the transaction may be older than what has been applied since: it is seen
        by this transaction alone (H17).
        """
        node, connection = self._cache.node, open_transaction()
        since, began = node.stamp(), node.clock()
        value = default() if callable(default) else default
        if life_s > 0 and connection is not None:
            one = self._keys.written(name, value, life_s)

            def keep() -> None:
                if since is not None and steady(connection):
                    self._cache.run(self._unless_disabled(lambda node: register.fill(node, one, since, began)))

            self._later([one], keep)
        return value
