"""The interface that people see: its methods hold no logic, each runs one flow of the core."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Literal, Self, TypeVar

from unstale import clock as clocks
from unstale.cached import Decorator, build
from unstale.core import calls
from unstale.core.codec import Codec
from unstale.core.durations import Duration, seconds
from unstale.core.explain import Explanation
from unstale.core.lease import DRIFT
from unstale.core.node import Node
from unstale.core.ops import Flow
from unstale.core.policy import Consistency, Policy, check_consistency, check_lag, check_lives, check_policy
from unstale.core.record import Stamp
from unstale.core.served import Want
from unstale.core.table import BYTES_MAX, ENTRIES_MAX, Table
from unstale.core.write import Receipt
from unstale.drivers import arun, run
from unstale.engines.connect import Ports, connect
from unstale.plans import Names, Templates, make_plan, refuse_bare
from unstale.requests import check_limits, check_name, function_of, profile_of, read_bound, record_of, tuple_of, want_of
from unstale.runtime import OnTrouble, Runtime, reporter, shielded, try_engine
from unstale.sources import exact as exacts
from unstale.sources import transaction as transactions

T = TypeVar("T")
Ticket = Stamp
WRITTEN = "that the writer returned for"


class Cache:
    """A named pair of a store and a log, as seen by this process.

    Args:
        url: `memory://` (one process), `sqlite:///path` (one machine), `redis://host:port/db` and its kin (many).
        name: Caches of one name at one URL are one cache, in whatever process.
        max_staleness: The bound: nothing is served that was invalidated longer ago, whatever fails.
        max_ttl: No entry lives longer, its grace included.
        policy: What holds for functions and calls that say nothing else.
        entries_max: Entries kept in this process's memory at most.
        bytes_max: Bytes kept in this process's memory at most, as encoded.
        secret: Entries and records are signed with it, and without a valid signature they are nothing: a text of 16
            bytes or more, the same on all nodes; or two, the new and the old one. For Redis.
        store: URLs of the stores over which the entries are spread; the log and its marks stay at `url`.
        pins: Where keys lie in spite of that: `{"price:*": "redis://a"}`.
        truth: `"outbox"`: a relay tells the log of what is committed, and nothing is proven fresh without its pulses.
        ports: Engines made by hand, in place of `url`.
        node_name: What people call this process, beside its host and number: `unstale nodes` shows it.
        clock: Seconds that only ever grow, in place of the boot-time clock (for tests).
        on_trouble: Called with what was tried and the error when something fails that no caller sees; by default the
            logger `unstale` warns of the first trouble of each kind, and of one a minute.

    Raises:
        EngineUrlError: The URL names no engine.
        EngineError: Its file cannot be opened, or is not a cache; one that is locked or full is only reported.
        DurationError: A duration that cannot be read.
        PolicyError: A policy that cannot work within `max_ttl`.
        UsageError: Another argument that cannot be.
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings with defaults
        self,
        url: str = "memory://",
        *,
        name: str = "default",
        max_staleness: Duration = "2s",
        max_ttl: Duration = "7d",
        policy: Policy | None = None,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        secret: str | bytes | Sequence[str | bytes] | None = None,
        store: Sequence[str] = (),
        pins: Mapping[str, str] | None = None,
        truth: Literal["outbox"] | None = None,
        ports: Ports | None = None,
        node_name: str = "",
        clock: Callable[[], float] | None = None,
        on_trouble: OnTrouble | None = None,
    ) -> None:
        check_name(name)
        check_limits(entries_max=entries_max, bytes_max=bytes_max)
        bound_s, max_ttl_s = read_bound(max_staleness), seconds(max_ttl, "max_ttl")
        kept = Policy() if policy is None else check_policy(policy)
        self.name, self.url, self.tick = name, url, clocks.BOOT
        self.ports = ports or connect(url, name=name, max_ttl_s=max_ttl_s, secret=secret, stores=store, pins=pins)
        self.tick_clock: Callable[[int], float] = clocks.read if clock is None else lambda _tick: clock()
        self.node = Node(
            secrets.token_hex(8),
            name,
            clock=clock or clocks.boottime,
            random=Random().random,
            new_id=lambda: secrets.token_hex(10),
            lock=threading.Lock(),
            here=threading.get_ident,
            table=Table(entries_max, bytes_max),
            max_staleness_s=bound_s,
            max_ttl_s=max_ttl_s,
            relayed=transactions.check_truth(truth),
            one_engine=self.ports.one_engine,
            profile=profile_of(node_name, kept),
        )
        self.node.on_trouble = reporter(name, self.node.clock) if on_trouble is None else shielded(on_trouble)
        self.ports.tell_troubles_to(self.node.trouble)
        self.templates = Templates()
        self.active: Node | None = self.node
        self.policy = self.adopt(kept)
        if ports is None:
            try_engine(self.ports, self.node.trouble)
        self.runtime = Runtime(self.node, self.ports, name)

    # Cached functions ---------------------------------------------------------------------------------------------

    def cached(
        self,
        key: str,
        *,
        tags: Iterable[str] = (),
        namespace: str | None = None,
        ignore: Iterable[str] = (),
        policy: Policy | None = None,
        codec: Codec | None = None,
        consistency: Consistency = "bounded",
        shared: bool = False,
        **changes: Any,
    ) -> Decorator:
        """Cache a function's results; it keeps its colour and gains methods, see `unstale.cached.Cached`.

        Args:
            key: Template of the key, such as `"product:{product_id}"`; each argument has a place in it.
            tags: Templates of further scopes that end its entries.
            namespace: The scope of all its entries, if not the text before the first placeholder.
            ignore: Arguments on which the result does not depend.
            policy: How its entries are kept; default: the cache's policy.
            codec: How its values are encoded; default: by the return annotation.
            consistency: `bounded`, `eventual` (time to live only) or `strong` (one round trip a read).
            shared: It shares its entries with other functions of this cache that say so too, as async twins do.
            changes: Fields of the policy to change, such as `ttl="5m"`.

        Raises:
            KeyTemplateError: The template would let different calls, or functions, share an entry.
            UsageError: What is decorated is no plain function.
            PolicyError: The policy cannot work.
            ValueTypeError: The return annotation cannot be encoded.
        """
        if callable(key):
            refuse_bare(key)
        kept = self.adopt((self.policy if policy is None else check_policy(policy)).but(**changes))
        names = Names(key, tuple_of(tags, "tags"), tuple_of(ignore, "ignore"), namespace, shared)
        return Decorator(lambda function: build(make_plan(self, function, names, kept, codec, consistency)))

    # Keys by hand -------------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None, **how: Any) -> Any:
        """Give what is cached under a key, or the default; never loads.

        Args:
            key: The key.
            default: What to give when nothing may be served.
            how: `type=` of the value, `consistency=`, `after=` a ticket, `policy=` or any field of one.
        """
        return self.run(calls.read_value(self.active, want_of(self, key, **how), default))

    async def aget(self, key: str, default: Any = None, **how: Any) -> Any:
        """Give what is cached under a key, or the default: see `get`."""
        return await self.arun(calls.read_value(self.active, want_of(self, key, blocking=False, **how), default))

    def get_or_load(self, key: str, load: Callable[[], Any], **how: Any) -> Any:
        """Give what is cached under a key, or load and cache it; what the loader raises is raised.

        Args:
            key: The key; its text before the first colon is its namespace.
            load: Loads the value. It may call `unstale.tag`, `ttl`, `version` and `skip`.
            how: `type=` of the value, `tags=`, `consistency=`, `after=` a ticket, `policy=` or any field of one.
        """
        want = want_of(self, key, call=function_of(load, "loader", "get_or_load"), **how)
        return self.run(calls.read_value(self.active, want, None))

    async def aget_or_load(self, key: str, load: Callable[[], Any], **how: Any) -> Any:
        """Give what is cached under a key, or load and cache it: see `get_or_load`; `load` may return an awaitable."""
        want = want_of(self, key, call=function_of(load, "loader"), blocking=False, **how)
        return await self.arun(calls.read_value(self.active, want, None))

    def get_or_load_many(
        self, keys: Iterable[str], load: Callable[[list[str]], Mapping[str, Any]], **how: Any
    ) -> dict[str, Any]:
        """Give what is cached under keys, and load all that is missing by one call.

        Args:
            keys: The keys.
            load: Loads a list of keys: a mapping, which leaves out what does not exist, as then does the answer.
            how: As for `get_or_load`.
        """
        load = function_of(load, "loader", "get_or_load_many")
        wants = [want_of(self, key, **how) for key in dict.fromkeys(tuple_of(keys, "keys"))]
        return self.run(calls.read_values(self.active, wants, load))

    async def aget_or_load_many(
        self, keys: Iterable[str], load: Callable[[list[str]], Any], **how: Any
    ) -> dict[str, Any]:
        """Give what is cached under keys, and load all that is missing by one call: see `get_or_load_many`."""
        load = function_of(load, "loader")
        wants = [want_of(self, key, blocking=False, **how) for key in dict.fromkeys(tuple_of(keys, "keys"))]
        return await self.arun(calls.read_values(self.active, wants, load))

    def set(self, key: str, value: Any, *, version: int | None = None, **how: Any) -> None:
        """Cache a value, and end what is cached under its key on every node.

        Args:
            key: The key.
            value: The value.
            version: The source's version of it, if it has one.
            how: `type=` of the value, `tags=`, `policy=` or any field of one.

        Raises:
            ValueTypeError: The value is not of that type, or could not be stored: nothing is done.
            NotPublishedError: The log failed.
        """
        self.run(self._keep(want_of(self, key, source="given for", **how), value, version))

    async def aset(self, key: str, value: Any, *, version: int | None = None, **how: Any) -> None:
        """Cache a value, and end what is cached under its key on every node: see `set`."""
        await self.arun(self._keep(want_of(self, key, source="given for", blocking=False, **how), value, version))

    def write(self, key: str, writer: Callable[[], Any], *, version: int | None = None, **how: Any) -> Any:
        """Write through: run the writer, end what is cached under the key everywhere, and cache what it returned.

        Args:
            key: The key.
            writer: Commits the change and returns the value now in force. If it raises, the key is invalidated all the
                same, since the outcome of a commit may be unknown.
            version: The source's version of what was written; the writer may also call `unstale.version`.
            how: `type=` of the value, `tags=`, `policy=` or any field of one.

        Raises:
            NotPublishedError: The change is committed but could not be announced.
        """
        want = want_of(self, key, source=WRITTEN, **how)
        return self.run(self._write(want, function_of(writer, "writer", "write"), version))

    async def awrite(self, key: str, writer: Callable[[], Any], *, version: int | None = None, **how: Any) -> Any:
        """Write through: see `write`; the writer may be a coroutine function."""
        want = want_of(self, key, source=WRITTEN, blocking=False, **how)
        return await self.arun(self._write(want, function_of(writer, "writer"), version))

    def delete(self, key: str, **how: Any) -> Receipt:
        """End what is cached under a key, and free its space in the store."""
        return self.run(self._delete(want_of(self, key, **how)))

    async def adelete(self, key: str, **how: Any) -> Receipt:
        """End what is cached under a key, and free its space in the store."""
        return await self.arun(self._delete(want_of(self, key, blocking=False, **how)))

    # Invalidation -------------------------------------------------------------------------------------------------

    def invalidate(
        self,
        *scopes: str,
        soft: bool = False,
        wait: bool = False,
        version: int | None = None,
        reason: str | None = None,
        trace: str = "",
    ) -> Receipt:
        """End all entries that depend on any of the scopes, on every node: keys, tags, namespaces, or `*`.

        Args:
            scopes: The scopes.
            soft: The entries may be served, flagged stale, within their grace while they are refreshed.
            wait: Return only when no node can serve what was ended.
            version: The source's version of the key that changed: entries at least so new are not ended.
            reason: Why, for those who read the log.
            trace: W3C `traceparent` of the change.

        Raises:
            NotPublishedError: The log failed; repeat the invalidation.
            ScopeError, ValueTypeError: A scope that cannot be one, or a version that is no integer of 64 bits.
        """
        record = record_of(self.node, scopes, soft=soft, ack=wait, version=version, reason=reason, trace=trace)
        return self.run(calls.publish_record(self.active, record, wait=wait))

    async def ainvalidate(
        self,
        *scopes: str,
        soft: bool = False,
        wait: bool = False,
        version: int | None = None,
        reason: str | None = None,
        trace: str = "",
    ) -> Receipt:
        """End all entries that depend on any of the scopes, on every node: see `invalidate`."""
        record = record_of(self.node, scopes, soft=soft, ack=wait, version=version, reason=reason, trace=trace)
        return await self.arun(calls.publish_record(self.active, record, wait=wait))

    in_transaction, transaction = transactions.in_transaction, transactions.transaction
    exact, aexact = exacts.exact, exacts.aexact

    def ticket(self) -> Ticket | None:
        """Give a ticket for all that this node has applied: a read with `after=` it, anywhere, sees all of that."""
        return self.run(calls.ticket(self.active))

    async def aticket(self) -> Ticket | None:
        """Give a ticket for all that this node has applied: see `ticket`."""
        return await self.arun(calls.ticket(self.active))

    def explain(self, key: str, **how: Any) -> Explanation:
        """Tell what is cached under a key, and whether and why it may be served."""
        return self.run(calls.explain_key(self.active, want_of(self, key, **how)))

    async def aexplain(self, key: str, **how: Any) -> Explanation:
        """Tell what is cached under a key, and whether and why it may be served."""
        return await self.arun(calls.explain_key(self.active, want_of(self, key, blocking=False, **how)))

    # Life ---------------------------------------------------------------------------------------------------------

    @property
    def disabled(self) -> bool:
        """Whether every read loads, and no engine is asked: for tests, see `unstale.testing.disabled`.

        What is written or invalidated meanwhile is told to nobody: other nodes, and this one afterwards, may serve what
        it should have ended.
        """
        return self.active is None

    @disabled.setter
    def disabled(self, disabled: bool) -> None:
        with self.node.lock:  # first the flag: a hit is found by its alias, and from here on none is given
            self.active = None if disabled else self.node
            if disabled:
                self.node.table.clear()

    def stats(self) -> dict[str, float]:
        """Give counters of this process, for people and metrics: resident entries and bytes, fetches, troubles ..."""
        return self.runtime.stats()

    def close(self) -> None:
        """Leave the member list and stop the tail, for good. Idempotent."""
        self.runtime.close()

    async def aclose(self) -> None:
        """Leave the member list and stop the tail, without blocking the loop: see `close`."""
        await asyncio.to_thread(self.runtime.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    # What the methods above are made of ---------------------------------------------------------------------------

    def bound_of(self, policy: Policy, consistency: Consistency) -> float:
        """Give the bound of a read, in seconds, or raise `PolicyError`."""
        check_consistency(consistency)
        return float("inf") if consistency == "eventual" else self.node.bound_of(policy)

    def _keep(self, want: Want, value: Any, version: int | None) -> Flow[Any]:
        want.codec.encode(value)  # what is refused is refused before it ends what is there
        return self._write(want, lambda: value, version)

    def _write(self, want: Want, writer: Callable[[], Any], version: int | None) -> Flow[Any]:
        record = record_of(self.node, (want.key,), version=version, reason="write")
        return calls.write_value(self.active, want, writer, record)

    def _delete(self, want: Want) -> Flow[Receipt]:
        return calls.delete_key(self.active, want, record_of(self.node, (want.key,), reason="delete"))

    def run(self, flow: Flow[T]) -> T:
        """Run a flow of the core, blocking this thread."""
        if self.runtime.tail is None and self.active is not None:
            self.runtime.start_for(flow)
        return run(flow, self.ports)

    def arun(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        """Run a flow of the core in the running event loop."""
        if self.runtime.tail is None and self.active is not None:
            self.runtime.start_for(flow)
        return arun(flow, self.ports)

    def adopt(self, policy: Policy) -> Policy:
        """Make sure that this node can keep what a policy promises, or raise `PolicyError`."""
        check_lives(policy, self.node.max_ttl_s)
        if policy.bound_s is not None:
            self.node.serve_bound(policy.bound_s / (1 - DRIFT))
        self.node.keep_history(check_lag(policy, self.node.bound_of(policy)))
        return policy
