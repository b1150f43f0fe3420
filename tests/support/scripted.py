"""A driver of the core's flows that stops wherever a test wants to be: at each op it can answer, fail, or go on."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

from unstale.core import ops
from unstale.core.codec import codec_for
from unstale.core.node import Node
from unstale.core.ops import Flow, Op
from unstale.core.policy import Policy
from unstale.core.record import Record, Stamp
from unstale.core.served import Want, stored_key
from unstale.core.tail import follow, join
from unstale.drivers import call_engine
from unstale.engines.memory import MemoryEngine, MemoryServer
from unstale.engines.ports import Ports
from unstale.testing.world import NoLock

O = TypeVar("O", bound=Op[Any])  # noqa: E741 - an op
CODEC = codec_for(Any, "test")


class KilledError(BaseException):
    """What no flow should catch: its task was cancelled, or its process ends."""


class Script:
    """One flow, driven by hand.

    Args:
        flow: The flow.
        bench: Where its ops are carried out when nobody else answers them.
        inside: Another flow that stands at a `Load`: this one runs inside that load.

    Attributes:
        op: The op at which it stands; None when it has ended.
        value: What it returned.
        error: What it raised.
    """

    def __init__(self, flow: Flow[Any], bench: Bench, inside: Script | None = None) -> None:
        self.flow = flow
        self.bench = bench
        self.context: contextvars.Context = contextvars.copy_context() if inside is None else inside.context
        self.op: Op[Any] | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        bench.scripts.append(self)
        self._step(lambda: flow.send(None))

    def _step(self, step: Callable[[], Op[Any]]) -> None:
        try:
            self.op = self.context.run(step)
        except StopIteration as done:
            self.op, self.value = None, done.value
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.op, self.error = None, error

    @property
    def done(self) -> bool:
        """It has ended."""
        return self.op is None

    def answer(self, value: Any = None) -> Script:
        """Answer its op."""
        assert self.op is not None, "it has ended"
        self._step(lambda: self.flow.send(value))
        return self

    def fail(self, error: BaseException) -> Script:
        """Let its op fail."""
        assert self.op is not None, "it has ended"
        self._step(lambda: self.flow.throw(error))
        return self

    def perform(self) -> Script:
        """Carry out its op: time passes by itself, and what is spawned is kept in the bench."""
        op = self.op
        assert op is not None, "it has ended"
        try:
            value = self.context.run(self.bench.perform, op)
        except BaseException as error:  # noqa: BLE001 - the flow's to deal with
            return self.fail(error)
        return self.answer(value)

    def kill(self) -> None:
        """Let it end, wherever it stands; what it does on its way out is carried out."""
        if self.op is not None:
            self.fail(KilledError())
        while self.op is not None:
            self.perform()

    def until(self, kind: type[O]) -> O:
        """Go on up to an op of a kind, which is not carried out."""
        while not isinstance(self.op, kind):
            assert self.op is not None, f"it ended with {self.value!r}, {self.error!r} before any {kind.__name__}"
            self.perform()
        return self.op

    def end(self) -> Any:
        """Go on to the end: what it returns."""
        while self.op is not None:
            self.perform()
        if self.error is not None:
            raise self.error
        return self.value


class Bench:
    """One server (or a store and a log), its nodes, and a clock for all.

    Args:
        two: Store and log are two engines.
        records_max: The log's length.
    """

    def __init__(self, *, two: bool = False, records_max: int = 1000) -> None:
        self.now = 1000.0
        self.log = MemoryServer(lambda: self.now, "g1", records_max=records_max)
        self.store = MemoryServer(lambda: self.now, "store") if two else self.log
        log = MemoryEngine(self.log)
        self.ports = Ports(Foreign(self.store) if two else log, log)
        self.spawned: list[Callable[[], Flow[object]]] = []
        self.broken: dict[type[Op[Any]], Exception] = {}
        self.scripts: list[Script] = []
        self.ids = 0

    def close(self) -> None:
        """Let all that is under way end."""
        self.broken.clear()
        for script in reversed(self.scripts):
            script.kill()

    def new_id(self) -> str:
        """Give a unique id."""
        self.ids += 1
        return f"r{self.ids}"

    def node(self, name: str = "n", *, joined: bool = True, **how: Any) -> Node:
        """Make a node, which has joined."""
        how.setdefault("one_engine", self.ports.one_engine)
        node = Node(
            name, clock=lambda: self.now, random=lambda: 0.5, new_id=self.new_id, lock=NoLock(),
            here=lambda: "this thread", **how,
        )  # fmt: skip
        if joined:
            self.run(join(node))
        return node

    def want(self, key: str, call: Callable[[], object] | None = None, **how: Any) -> Want:
        """Give a read of a key; `how`: of the read, or fields of its policy."""
        reading: dict[str, Any] = {name: how.pop(name) for name in tuple(how) if name in Want.__struct_fields__}
        for name, value in {"scopes": (), "codec": CODEC, "bound_s": 2.0}.items():
            reading.setdefault(name, value)
        stored = stored_key(reading["codec"].shape, key)
        return Want(key=key, stored_key=stored, policy=Policy(**{"ttl": 60, "jitter": 0} | how), call=call, **reading)

    def perform(self, op: Op[Any]) -> Any:
        """Carry out an op."""
        if type(op) in self.broken:
            raise self.broken[type(op)]
        if isinstance(op, ops.Load):
            return op.call()
        if isinstance(op, ops.Sleep):
            self.now += op.seconds
            return None
        if isinstance(op, ops.Wait):
            assert op.signal.fired or op.timeout_s is not None, "it would wait for ever"
            self.now += 0.0 if op.signal.fired else op.timeout_s or 0.0
            return op.signal.fired
        if isinstance(op, ops.Spawn):
            self.spawned.append(op.flow)
            return None
        if isinstance(op, ops.Poll):
            return self.ports.log.poll(op.member, op.position, op.limit, 0.0)
        return call_engine(op, self.ports)

    def script(self, flow: Flow[Any], inside: Script | None = None) -> Script:
        """Begin a flow."""
        return Script(flow, self, inside)

    def run(self, flow: Flow[Any]) -> Any:
        """Run a flow to its end."""
        return self.script(flow).end()

    def run_spawned(self) -> None:
        """Run what was left to the background."""
        while self.spawned:
            self.run(self.spawned.pop(0)())

    def publish(self, *scopes: str, **how: Any) -> Stamp:
        """Append a record, as another node would."""
        logged = self.log.append((Record(self.new_id(), scopes, **how),), marks=self.ports.one_engine).records[0]
        return Stamp(self.log.generation, logged.position)

    def hear(self, node: Node) -> None:
        """Let a node poll once."""
        self.run(follow(node, 0.0))


class Foreign(MemoryEngine):
    """The memory engine as the store of a log that is another engine's."""

    def read_marks(self, scopes: tuple[str, ...]) -> ops.MarksReply:
        """Give the marks that nodes wrote."""
        return self.server.read_marks(scopes, own=False)
