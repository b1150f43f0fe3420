"""Random histories of port calls, on an engine and on the model, with equal answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

import msgspec

from unstale.core.marks import full
from unstale.core.ops import Fetched, Identity, Item
from unstale.core.record import EVERYTHING, Record, Stamp, Version
from unstale.engines.memory import MemoryServer
from unstale.testing.conformance.suite import OneEngine, Suite, member, record

SEEDS = 12
STEPS = 250
KEYS = ("a", "b", "k:1", "k:2", "\u8336")
SCOPES = (*KEYS, "tag", EVERYTHING)
NODES = ("n1", "n2", "n3")


class Replay:
    """One history: every call goes to the engine, through either handle, and to a `MemoryServer`.

    Args:
        handles: Handles of the engine.
        advance: Advances the engine's clock; None if it has none.
        chance: The source of all that is random.
        slack_s: How much remaining lifetimes may be off.
    """

    def __init__(
        self,
        handles: tuple[OneEngine, ...],
        advance: Callable[[float], None] | None,
        chance: random.Random,
        slack_s: float,
    ) -> None:
        self._handles = handles
        self._advance = advance
        self._chance = chance
        self._slack_s = slack_s
        self._now = 0.0
        self._generation = handles[0].read_head().generation
        self._model = MemoryServer(lambda: self._now, self._generation)
        self._appended: list[Record] = []
        self._tokens: dict[str, list[tuple[int, int]]] = {}
        self._told: dict[str, tuple[int, float]] = {}

    def step(self) -> None:
        """Make one call, and compare its answers."""
        steps = (
            self._store, self._store, self._fetch, self._fetch, self._delete, self._append, self._append, self._poll,
            self._poll, self._read_marks, self._read_marks, self._lock, self._unlock, self._leave, self._read_members,
            self._pass_time,
        )  # fmt: skip
        self._chance.choice(steps)()
        self._same_identity(self._handle.read_head())

    @property
    def _handle(self) -> OneEngine:
        return self._chance.choice(self._handles)

    def _some(self, names: tuple[str, ...], most: int) -> tuple[str, ...]:
        return tuple(self._chance.choice(names) for _ in range(self._chance.randint(0, most)))

    def _same_identity(self, identity: Identity) -> None:
        expected = self._model.identity()
        assert msgspec.structs.replace(identity, proven=expected.proven, pulsed=expected.pulsed) == expected

    def _store(self) -> None:
        items = tuple(
            Item(key, self._chance.randbytes(self._chance.randint(0, 300)), self._chance.randint(0, 30) + 0.5)
            for key in self._some(KEYS, 3)
        )
        self._handle.store(items)
        self._model.store(items)

    def _fetch(self) -> None:
        keys = self._some(KEYS, 6)
        for found, expected in zip(self._handle.fetch(keys), self._model.fetch(keys), strict=True):
            if expected is None:
                assert found is None
                continue
            assert isinstance(found, Fetched)
            assert found.data == expected.data
            if self._advance is not None:
                assert abs(found.remaining_s - expected.remaining_s) <= self._slack_s

    def _delete(self) -> None:
        keys = self._some(KEYS, 2)
        self._handle.delete(keys)
        self._model.delete(keys)

    def _record(self) -> Record:
        if self._appended and self._chance.random() < 0.25:
            return self._chance.choice(self._appended)
        if self._chance.random() < 0.1:
            one = Record(record().id, (), covers=Stamp(self._generation, self._model.head), timeline="tl")
        else:
            scopes = tuple(dict.fromkeys(self._some(SCOPES, 3)))
            version = Version(self._chance.randint(0, 9), self._chance.choice(["", "tl"]))
            versioned = version if self._chance.random() < 0.3 else None
            one = Record(record().id, scopes, soft=self._chance.random() < 0.3, version=versioned, who="model")
        self._appended.append(one)
        return one

    def _append(self) -> None:
        records = tuple(self._record() for _ in range(self._chance.randint(0, 4)))
        appended, expected = self._handle.append(records), self._model.append(records)
        assert appended.records == expected.records
        self._same_identity(appended.identity)

    def _read_marks(self) -> None:
        scopes = self._some(SCOPES, 8)
        reply, expected = self._handle.read_marks(scopes), self._model.read_marks(scopes)
        assert {scope: full(mark) for scope, mark in reply.marks.items()} == {
            scope: full(mark) for scope, mark in expected.marks.items()
        }
        assert (reply.upto, reply.start <= 1) == (expected.upto, True)
        self._same_identity(reply.identity)

    def _poll(self) -> None:
        node, position = self._chance.choice(NODES), self._chance.randint(0, self._model.head + 2)
        limit, bound_s = self._chance.choice([0, 1, 3, 1000]), self._chance.choice([5.0, 8.0])
        batch = self._handle.poll(member(node, self._generation, position, bound_s, urgent=True), position, limit, 0.0)
        expected = self._model.after(position, limit)
        assert (batch.at_id, batch.records) == (expected.at_id, expected.records)
        self._same_identity(batch.identity)
        self._told[node] = (position, self._now + bound_s)

    def _lock(self) -> None:
        key, ttl_s = self._chance.choice(KEYS), self._chance.randint(1, 20) + 0.5
        token, expected = self._handle.lock(key, ttl_s), self._model.lock(key, ttl_s)
        assert (token is None) is (expected is None)
        if token is not None and expected is not None:
            tokens = self._tokens.setdefault(key, [])
            assert all(token > before for before, _model in tokens)
            tokens.append((token, expected))

    def _unlock(self) -> None:
        key = self._chance.choice(KEYS)
        token, expected = self._chance.choice(self._tokens.get(key, [(0, 0)]))
        self._handle.unlock(key, token)
        self._model.unlock(key, expected)

    def _leave(self) -> None:
        node = self._chance.choice(NODES)
        self._handle.leave(node)
        self._told.pop(node, None)

    def _read_members(self) -> None:
        reply = self._handle.read_members()
        found = {one.node: one.applied for one in reply.members}
        assert found.items() <= {node: applied for node, (applied, _until) in self._told.items()}.items()
        assert {node for node, (_applied, until) in self._told.items() if until > self._now} <= set(found)
        self._same_identity(reply.identity)

    def _pass_time(self) -> None:
        if self._advance is not None:
            passed_s = float(self._chance.choice([1, 1, 2, 7]))
            self._now += passed_s
            self._advance(passed_s)


class ModelTests(Suite):
    """The engine behaves as the model does."""

    def test_random_histories_are_the_models(self) -> None:
        """Whatever is called, in whatever order and through whichever handle, the answers are those of the model."""
        for seed in range(SEEDS):
            engine = self.begin_anew()
            other = cast("OneEngine", self.other_store)
            chance = random.Random(seed)
            replay = Replay((engine, other), self.advance if self.can_advance else None, chance, self.slack_s)
            for number in range(STEPS):
                try:
                    replay.step()
                except Exception as error:
                    error.add_note(f"seed {seed}, step {number}")
                    raise
