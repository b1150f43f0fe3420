"""A simulated world: true time, nodes with clocks of their own, servers, and links that fail.

It is a third driver of the core's flows. Every op is a scheduling point: it is carried out after a random delay, or
lost, or carried out twice, or answered to nobody. One seed decides everything, so a run can be repeated exactly.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from unstale.core import ops
from unstale.core.lease import DRIFT
from unstale.core.node import Node
from unstale.core.ops import Op
from unstale.core.table import Table
from unstale.drivers import CALLS
from unstale.engines.memory import MemoryServer
from unstale.errors import UnavailableError

Coro = Coroutine[Any, Any, Any]
REQUEST_S = 0.4  # how long a node waits for an answer


class CrashedError(BaseException):
    """The process is gone: whatever its tasks still try fails at once."""


class CancelledError(BaseException):
    """The task was cancelled, as asyncio would."""


class NoLock:
    """The node's lock: tasks of a simulated process never run at once. It makes sure that no op is made under it."""

    def __init__(self) -> None:
        self.held = False

    def __enter__(self) -> None:
        assert not self.held, "the lock is not re-entrant"
        self.held = True

    def __exit__(self, *_error: object) -> None:
        self.held = False


class Link:
    """The way from a node to a port: cut in either direction, or lossy."""

    __slots__ = ("cut", "delay_s", "lossy", "server")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cut = False
        self.lossy = 0.0
        self.delay_s = 0.01


class Server:
    """A server of a port, and the polls that wait at it. `leader`: the quorum acknowledges what it does."""

    def __init__(self, world: World, state: MemoryServer, name: str) -> None:
        self.world = world
        self.state = state
        self.name = name
        self.up = True
        self.leader = True
        self.waiting: list[tuple[ops.Poll, Callable[[Any], None]]] = []

    def perform(self, op: Op[Any], done: Callable[[Any], None], *, own: bool) -> None:
        """Carry out a request; `own`: this server is both the store and the log."""
        state = self.state
        if isinstance(op, ops.Poll):
            state.renew(op.member)
            if not self._answer(op, done):
                self.waiting.append((op, done))
                self.world.after(op.wait_s, lambda: self._expire(op, done))
            return
        if isinstance(op, ops.Append):
            appended = state.append(op.records, marks=own)
            if not self.leader:
                return  # no quorum: the record is here, and nobody ever hears of it
            done(appended)
            self.notify(op.applier)
            return
        method, _amethod, fields = CALLS[type(op)]
        if isinstance(op, ops.ReadHead):
            done(state.identity())
        elif isinstance(op, ops.ReadMarks):
            done(state.read_marks(op.scopes, own=own))
        elif isinstance(op, ops.Leave):
            done(state.members.pop(op.node, None))
        else:
            done(getattr(state, method)(*fields(op)))

    def notify(self, applier: str = "") -> None:
        """Answer the polls that have something to be told, but those of a node that applies it itself."""
        self.waiting = [one for one in self.waiting if one[0].member.node == applier or not self._answer(*one)]

    def _answer(self, op: ops.Poll, done: Callable[[Any], None]) -> bool:
        batch = self.state.after(op.position, op.limit)
        ours = batch.identity.generation == op.member.generation and batch.identity.head == op.position
        if batch.records or not ours or op.wait_s <= 0:
            done(batch)
            return True
        return False

    def _expire(self, op: ops.Poll, done: Callable[[Any], None]) -> None:
        if (op, done) in self.waiting:
            self.waiting.remove((op, done))
            done(self.state.after(op.position, op.limit))


class Process:
    """A simulated process: a node, its links, and its clock."""

    def __init__(self, world: World, name: str, store: Server, log: Server, **how: Any) -> None:
        rng = world.rng
        self.world = world
        self.name = name
        self.links = {"store": Link(store), "log": Link(log)}
        self.dead = False
        self.paused = False
        self.asleep_s = 0.0
        self.deferred: list[Callable[[], None]] = []
        # Every clock has a zero of its own, and a speed of its own within what NTP's slewing allows.
        self._zero, self._rate = rng.uniform(0, 1e4), 1 + rng.uniform(-DRIFT, DRIFT) / 2
        self._paused_at = 0.0
        self.node = Node(
            name, clock=self.clock, random=rng.random, new_id=world.new_id, lock=NoLock(),
            table=Table(how.pop("entries_max", 64)), one_engine=world.one_engine, **how,
        )  # fmt: skip

    def clock(self) -> float:
        """Give the node's boot-time clock, which counts the time asleep."""
        return self._zero + self._rate * self.world.now

    def pause(self) -> None:
        """Fall asleep."""
        self.paused, self._paused_at = True, self.world.now

    def resume(self) -> None:
        """Wake up: everything that came meanwhile happens now, in any order."""
        self.paused = False
        self.asleep_s += self.world.now - self._paused_at
        deferred, self.deferred = self.deferred, []
        self.world.rng.shuffle(deferred)
        for step in deferred:
            step()


class Task:
    """A flow under way: a stack of coroutines, since a loader may be one too."""

    __slots__ = ("context", "done", "error", "on_done", "process", "stack", "token", "value", "what")

    def __init__(self, process: Process, flow: Coro, what: str, context: contextvars.Context | None = None) -> None:
        self.process = process
        self.stack = [flow]
        self.what = what
        self.context = contextvars.copy_context() if context is None else context
        self.token = 0
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.on_done: Callable[[Task], None] | None = None


class World:
    """True time and all that happens in it.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.tasks: list[Task] = []
        self.trace: list[str] | None = None
        self.processes: list[Process] = []
        self.duplicates = 0.0
        self.lost_replies = 0.0
        self.scrambled = 0.0
        self.one_engine = True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ids = itertools.count(1)

    # Time -----------------------------------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now + max(delay_s, 0.0), next(self._order), action))

    def run(self, until: float) -> None:
        """Let time pass."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _order, action = heapq.heappop(events)
            action()
        self.now = until

    def say(self, text: str) -> None:
        """Write a line into the trace, if one is kept."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.4f}  {text}")

    def new_id(self) -> str:
        """Give a unique id."""
        return f"r{next(self._ids)}"

    # Processes ------------------------------------------------------------------------------------------------

    def process(self, name: str, store: Server, log: Server, **how: Any) -> Process:
        """Start a process; `how` is given to its node."""
        process = Process(self, name, store, log, **how)
        self.processes.append(process)
        return process

    def spawn(self, process: Process, flow: Coro, what: str, context: contextvars.Context | None = None) -> Task:
        """Start a task."""
        task = Task(process, flow, what, context)
        self.tasks.append(task)
        self.step(task)
        return task

    def cancel(self, task: Task) -> None:
        """Throw a cancellation into a task, wherever it waits."""
        task.token += 1
        self.step(task, error=CancelledError())

    # Driving --------------------------------------------------------------------------------------------------

    def step(  # noqa: C901, PLR0912 - one loop, each way that a step can end
        self, task: Task, value: Any = None, error: BaseException | None = None
    ) -> None:
        """Go on with a task, up to its next op that takes time."""
        process = task.process
        if task.done:
            return
        if process.paused and not process.dead:
            process.deferred.append(lambda: self.step(task, value, error))
            return
        while True:
            if process.dead and not isinstance(error, CrashedError):
                error = CrashedError()
            flow = task.stack[-1]
            try:
                op = task.context.run(flow.send, value) if error is None else task.context.run(flow.throw, error)
            except StopIteration as done:
                value, error = done.value, None
                del task.stack[-1]
            except BaseException as raised:  # noqa: BLE001 - it is the outer flow's to deal with
                value, error = None, raised
                del task.stack[-1]
            else:
                assert not getattr(process.node.lock, "held", False), f"{op!r} was made under the lock"
                if process.dead:
                    value, error = None, CrashedError()
                    continue
                if isinstance(op, ops.Load):
                    value, error = None, None
                    try:
                        value = task.context.run(op.call)
                    except Exception as raised:  # noqa: BLE001 - the loader's own
                        error = raised
                    if isinstance(value, Coroutine):
                        task.stack.append(value)
                        value = None
                    continue
                self._perform(task, op)
                return
            if not task.stack:
                task.done, task.value, task.error = True, value, error
                if task.on_done is not None:
                    task.on_done(task)
                return

    def _perform(self, task: Task, op: Op[Any]) -> None:
        task.token += 1
        token = task.token
        tiny = self.rng.random() * 0.002

        def answer(value: Any = None, error: BaseException | None = None) -> None:
            if task.token == token:
                task.token += 1
                self.step(task, value, error)

        if op.port != "driver":
            self._request(task.process, op, answer)
        elif isinstance(op, ops.Sleep):
            self.after(op.seconds + tiny, answer)
        elif isinstance(op, ops.Wait):
            self._wait(op, tiny, answer)
        elif isinstance(op, ops.Spawn):
            flow, process, what = op.flow, task.process, op.what
            context = task.context.copy()
            self.after(tiny, lambda: None if process.dead else void(self.spawn(process, flow(), what, context)))
            self.after(0, answer)

    def _wait(self, op: ops.Wait, tiny: float, answer: Callable[..., None]) -> None:
        signal = op.signal
        if signal.fired:
            answer(value=True)
            return
        signal.watch(lambda: self.after(tiny, lambda: answer(value=True)))
        if op.timeout_s is not None:
            self.after(op.timeout_s + tiny, lambda: answer(signal.fired))

    def _scramble(self, batch: ops.Batch) -> ops.Batch:
        """Deliver a batch with records missing, twice, or out of order."""
        records = list(batch.records)
        if not records or self.rng.random() >= self.scrambled:
            return batch
        how = self.rng.randrange(3)
        place = self.rng.randrange(len(records))
        if how == 0:
            del records[place]
        elif how == 1:
            records.insert(self.rng.randrange(len(records) + 1), records[place])
        else:
            self.rng.shuffle(records)
        return ops.Batch(batch.identity, batch.at_id, tuple(records))

    def _request(self, process: Process, op: Op[Any], answer: Callable[..., None]) -> None:
        link = process.links[op.port]
        rng = self.rng
        patience_s = REQUEST_S + (op.wait_s if isinstance(op, ops.Poll) else 0.0)
        unavailable = UnavailableError(f"{op.port} does not answer")
        self.after(patience_s, lambda: answer(error=unavailable))
        if link.cut or rng.random() < link.lossy:
            return
        delay_s = rng.random() * link.delay_s

        def reply(value: Any) -> None:
            if self.scrambled and isinstance(value, ops.Batch):
                value = self._scramble(value)
            # The reply is lost although the request was carried out (outcome unknown), or it just takes its time.
            if not link.cut and rng.random() >= self.lost_replies:
                self.after(rng.random() * link.delay_s, lambda: answer(value))

        def arrive(done: Callable[[Any], None] = reply) -> None:
            server = link.server
            if not server.up:
                return
            server.perform(op, done, own=self.one_engine)
            if self.trace is not None:
                self.say(f"{process.name} -> {server.name}: {brief(op)}")

        self.after(delay_s, arrive)
        if self.duplicates and isinstance(op, ops.Append | ops.Store) and rng.random() < self.duplicates:
            self.after(delay_s + rng.random() * 3.0, lambda: arrive(void))


def void(_value: object) -> None:
    """Take an answer that nobody waits for."""


def brief(op: Op[Any]) -> str:
    """Give an op as one short text."""
    text = repr(op)
    return text if len(text) < 200 else text[:200] + "..."
