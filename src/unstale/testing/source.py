"""The simulated source of truth: its rows, and the loaders that read them slowly, late, or from a lagging replica."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from unstale.core.calls import read_served
from unstale.core.codec import codec_for
from unstale.core.context import loading
from unstale.core.lease import DRIFT
from unstale.core.ops import Sleep
from unstale.core.origin import Origin
from unstale.core.policy import Policy
from unstale.core.record import Stamp
from unstale.core.served import Want, stored_key
from unstale.loading import needs_primary
from unstale.testing.mixes import Mix
from unstale.testing.oracle import Truth
from unstale.testing.world import Process, World

CODEC = codec_for(Any, "simulator")
UNKNOWN = 0.05  # measurings that give nothing


class View(msgspec.Struct, frozen=True):
    """The view of a transaction: the stamp captured at its begin, when that was by the node's clock, and in truth."""

    stamp: Stamp | None
    began: float
    at: float


class LoaderError(Exception):
    """A loader fails."""


class Source:
    """Rows `p:0`, `p:1` ..., views of all of them `v:0`, `v:1` ..., and how they are read through the cache.

    Args:
        world: The world.
        mix: The mix of the run.
        rows: The keys of the rows.
        views: The keys of the views.
        versioned: Rows have versions.
        lag_s: Loaders read replicas at most so far behind, in seconds.
    """

    def __init__(
        self, world: World, mix: Mix, *, rows: list[str], views: list[str], versioned: bool, lag_s: float
    ) -> None:
        self.world = world
        self.rng = world.rng
        self.mix = mix
        self.keys = rows
        self.views = views
        self.truth = Truth(rows)
        self.versioned = versioned
        self.lag_s = lag_s
        self.loads = 0
        self.aloft: Counter[tuple[str, str]] = Counter()
        self.policy = self._new_policy()
        self.view_policy = self.policy.but(replica_lag=0, replica=None) if self.rng.random() < 0.5 else self.policy
        self.shown = float("-inf")  # the moment that the replica shows, where its lag is measured

    def _new_policy(self) -> Policy:
        """Give the policy of this run."""
        rng = self.rng
        grace = rng.choice([0, 0, 5]) if self.mix.soft and self.mix.max_ttl_s > 20 else 0
        self.origin_limit = 2 if rng.random() < self.mix.origin else None
        return Policy(
            ttl=rng.choice([3, 8, 20]) if self.mix.max_ttl_s > 20 else self.mix.max_ttl_s,
            grace=grace,
            jitter=rng.choice([0, 0.1]),
            early=rng.choice([0, 0, 1.0]),
            coalesce="process" if self.mix.herd else rng.choice(["process", "process", "process", "cluster", "off"]),
            lock_ttl=1,
            hard_timeout=rng.choice([None, None, None, 3]),
            unproven="stale" if grace and rng.random() < 0.1 else "load",
            revalidate=rng.random() < 0.8,
            replica_lag=0 if self.mix.measured else self.lag_s,
            replica=self.measure if self.mix.measured else None,
            stale_if_error=grace,
            origin=Origin(self.origin_limit) if self.origin_limit else None,
        )

    def tag_of(self, key: str) -> str:
        """Give the tag of a key: known to the loader only."""
        return f"tag:{int(key[2:]) % 2}"

    def want(self, key: str, view: View | None = None, **how: Any) -> Want:
        """Give a read of a key, as a cached function would, in a transaction that began before or not."""
        process = how.pop("process")
        whole = key.startswith("v:")  # it reads nothing itself, and need not know that its parts come from a replica

        def load() -> Any:
            return self.load_view(process, key) if whole else self.load(process, key, view)

        return Want(
            key=key, stored_key=stored_key(CODEC.shape, key), scopes=(key[0],), codec=CODEC, call=load,
            policy=self.view_policy if whole else self.policy, bound_s=process.node.bound_of(self.policy), **how,
        )  # fmt: skip

    async def load(self, process: Process, key: str, view: View | None = None) -> list[object]:
        """Load a key, and make sure that the origin is not asked more often at a time than it can bear."""
        if loading("load").outer is not None:
            return await self.load_row(process, key, view)  # a part of a view is loaded in the place of the view
        self.loads += 1
        self.aloft[process.name, key] += 1
        try:
            assert not self.mix.herd or self.aloft[process.name, key] == 1, f"{key} is loaded twice at a time"
            assert self.loads <= (self.origin_limit or self.loads), "the origin is asked too often at a time"
            return await self.load_row(process, key, view)
        finally:
            self.loads -= 1
            self.aloft[process.name, key] -= 1

    async def load_row(self, _process: Process, key: str, view: View | None) -> list[object]:
        """Load a key: the view is taken some time after the call, and the answer comes some time after that.

        In a transaction that began before, it is that one's view.
        """
        rng, world = self.rng, self.world
        await Sleep(rng.random() * self.mix.load_s)
        if view is not None:
            loading("view").look_back(view.stamp, view.began)
        at = self.at_replica() if view is None else view.at
        if view is None and self.mix.measured and needs_primary():
            at = world.now
        seen = self.truth.view(key, at)
        await Sleep(rng.random() * rng.random() * self.mix.load_s * 2)
        if rng.random() < self.mix.raising:
            raise LoaderError(key)
        frame = loading("tag")
        frame.scopes[self.tag_of(key)] = None
        if self.versioned:
            frame.version = seen.row
        if rng.random() < self.mix.own_ttl:
            frame.ttl_s = 100.0
        return [key, seen.version]

    def at_replica(self) -> float:
        """Give the moment that the replica shows now; the lag changes all the time, a measured one never goes back."""
        at = self.world.now - self.rng.random() * self.lag_s * 0.99
        if self.mix.measured:
            at = self.shown = max(at, self.shown)
        return at

    def measure(self) -> float | None:
        """Tell how far the replica is behind, by a clock that may be slow; or nothing, or fail."""
        if self.rng.random() < UNKNOWN:
            return self.rng.choice([None, float("nan"), -1.0])
        return (self.world.now - self.at_replica()) * (1 + DRIFT)

    async def load_view(self, process: Process, key: str) -> list[list[object]]:
        """Load a view of all keys through their own entries: its scopes are inherited.

        In some mixes the loader needs other views, even itself: a mistake that must not make anyone wait for ever.
        """
        values = []
        for one in self.keys:
            served = await read_served(process.node, self.want(one, process=process))
            assert served is not None, "a read with a loader serves or raises"
            values.append(served.value)
        if self.versioned:
            loading("version").version = 1_000_000  # its own versions have nothing to do with those of its parts
        if self.rng.random() < self.mix.circles:
            other = self.rng.choice([view for view in self.views if view != key] or self.views)
            await Sleep(self.rng.random() * 0.1)
            await read_served(process.node, self.want(other, process=process))
        return values
