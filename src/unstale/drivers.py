"""The drivers that run the core's flows for real: `run` for blocking code, `arun` for asyncio, and the tail thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any, Final, TypeVar

from unstale.core import ops
from unstale.core.ops import Flow, Op
from unstale.core.signal import Signal
from unstale.engines.ports import Ports
from unstale.errors import UsageError

T = TypeVar("T")

# One line for each op that an engine performs: its method, and the op's fields in their order.
METHODS: Final[dict[type[Op[Any]], tuple[str, Callable[[Any], tuple[Any, ...]]]]] = {
    ops.Fetch: ("fetch", lambda op: (op.keys,)),
    ops.Store: ("store", lambda op: (op.items,)),
    ops.Delete: ("delete", lambda op: (op.keys,)),
    ops.ReadMarks: ("read_marks", lambda op: (op.scopes,)),
    ops.ExtendMarks: ("extend_marks", lambda op: (op.generation, op.start, op.upto, op.marks)),
    ops.Lock: ("lock", lambda op: (op.key, op.ttl_s)),
    ops.Unlock: ("unlock", lambda op: (op.key, op.token)),
    ops.Append: ("append", lambda op: (op.records, op.applier)),
    ops.Put: ("put", lambda op: (op.record, op.items, op.after)),
    ops.Poll: ("poll", lambda op: (op.member, op.position, op.limit, op.wait_s)),
    ops.ReadHead: ("read_head", lambda _op: ()),
    ops.ReadMembers: ("read_members", lambda _op: ()),
    ops.Leave: ("leave", lambda op: (op.node,)),
}
# The same with the method for event loops between the two.
CALLS: Final = {kind: (method, f"a{method}", fields) for kind, (method, fields) in METHODS.items()}


def call_engine(op: Op[Any], ports: Ports) -> Any:
    """Perform an op of a port against its engine."""
    method, _amethod, fields = CALLS[type(op)]
    engine = ports.store if op.port == "store" else ports.log
    return getattr(engine, method)(*fields(op))


# Blocking ---------------------------------------------------------------------------------------------------------


def run(flow: Flow[T], ports: Ports) -> T:
    """Run a flow to its end, blocking this thread."""
    try:
        op = flow.send(None)
        while True:
            try:
                answer = _perform(op, ports)
            except BaseException as error:  # noqa: BLE001 - the flow decides what an error means
                op = flow.throw(error)
            else:
                op = flow.send(answer)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        flow.close()


def _perform(op: Op[Any], ports: Ports) -> Any:
    call = CALLS.get(type(op))
    if call is not None:
        method, _amethod, fields = call
        return getattr(ports.store if op.port == "store" else ports.log, method)(*fields(op))
    if isinstance(op, ops.Load):
        return _call_user(op)
    if isinstance(op, ops.Sleep):
        time.sleep(op.seconds)
        return None
    if isinstance(op, ops.Wait):
        return _wait(op.signal, op.timeout_s)
    assert isinstance(op, ops.Spawn), f"no driver knows {op!r}"
    flow = op.flow
    BACKGROUND.submit(lambda: run(flow(), ports), op.what)
    return None


def _call_user(op: ops.Load) -> object:
    value = op.call()
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        msg = "a blocking call was given a function that has to be awaited"
        raise UsageError(msg, hint="await the method with an `a` before its name, such as aget_or_load or awrite")
    return value


def _wait(signal: Signal, timeout_s: float | None) -> bool:
    if signal.fired:
        return True
    event = threading.Event()
    signal.watch(event.set)
    try:
        return event.wait(timeout_s)
    finally:
        signal.unwatch(event.set)


Job = tuple[Callable[[], object], contextvars.Context, str]


class Background:
    """Daemon threads for what runs beside its caller: one for each job at once, and a few seconds longer.

    There is no limit to their number, for a job may wait for another one, as a load waits for the loads within it: 32
    threads that wait for jobs in a queue would wait for ever. What limits loads is an `Origin`.
    """

    def __init__(self, idle_s: float = 2.0) -> None:
        self.idle_s = idle_s
        self.reborn()

    def reborn(self) -> None:
        """Start anew: in a forked child no thread of the parent lives, and any lock may be held for ever."""
        self._ready = threading.Condition(threading.Lock())
        self._jobs: deque[Job] = deque()
        self._idle = 0  # threads that wait for a job, less the jobs that are meant for them

    def submit(self, job: Callable[[], object], what: str) -> None:
        """Run a job at once, in the context of the caller: in a thread that is idle, or in a new one."""
        work: Job = (job, contextvars.copy_context(), f"unstale: {what}")
        with self._ready:
            if self._idle:
                self._idle -= 1
                self._jobs.append(work)
                self._ready.notify()
                return
        try:
            threading.Thread(target=self._work, args=(work,), name=work[2], daemon=True).start()
        except RuntimeError:  # the system gives no more threads, or the interpreter is at its end: the caller has one
            _run_alone(work)

    def _work(self, work: Job | None) -> None:
        while work is not None:
            threading.current_thread().name = work[2]
            _run_alone(work)
            work = None  # what it refers to is not kept while the thread is idle
            work = self._next()

    def _next(self) -> Job | None:
        """Give the next job, None when there was none for a while: then the thread ends."""
        with self._ready:
            self._idle += 1
            if self._ready.wait_for(lambda: self._jobs, self.idle_s):
                return self._jobs.popleft()
            self._idle -= 1
            return None


def _run_alone(work: Job) -> None:
    job, context, _name = work
    with contextlib.suppress(Exception):  # flows report their own failures before they raise
        context.run(job)


BACKGROUND = Background()


# asyncio ----------------------------------------------------------------------------------------------------------


async def arun(flow: Flow[T], ports: Ports) -> T:
    """Run a flow to its end in the running event loop."""
    try:
        op = flow.send(None)
        while True:
            try:
                answer = _aperform(op, ports)
                if type(answer) is CoroutineType:
                    answer = await answer
            except BaseException as error:  # noqa: BLE001 - cancellation too is the flow's to deal with
                op = flow.throw(error)
            else:
                op = flow.send(answer)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        flow.close()


def _aperform(op: Op[Any], ports: Ports) -> Any:
    """Perform an op: its answer, or a coroutine that gives it."""
    call = CALLS.get(type(op))
    if call is None:
        return _acall_user(op) if isinstance(op, ops.Load) else _adrive(op, ports)
    method, amethod, fields = call
    engine = ports.store if op.port == "store" else ports.log
    if method in engine.guarantees.native:
        return getattr(engine, amethod)(*fields(op))
    if method in engine.guarantees.quick:
        return call_engine(op, ports)
    return _in_thread(op, ports)


async def _in_thread(op: Op[Any], ports: Ports) -> Any:
    return await asyncio.to_thread(call_engine, op, ports)


def _acall_user(op: ops.Load) -> object:
    value = op.call()
    return _awaited(value) if inspect.isawaitable(value) else value


async def _awaited(value: Awaitable[object]) -> object:
    return await value


async def _adrive(op: Op[Any], ports: Ports) -> Any:
    if isinstance(op, ops.Sleep):
        await asyncio.sleep(op.seconds)
        return None
    if isinstance(op, ops.Wait):
        return await _await(op.signal, op.timeout_s)
    assert isinstance(op, ops.Spawn), f"no driver knows {op!r}"
    task = asyncio.get_running_loop().create_task(_alone(op.flow(), ports), name=f"unstale: {op.what}")
    TASKS.add(task)  # the loop itself keeps only a weak reference
    task.add_done_callback(TASKS.discard)
    return None


TASKS: Final[set[asyncio.Task[None]]] = set()


async def _alone(flow: Coroutine[Op[Any], Any, object], ports: Ports) -> None:
    with contextlib.suppress(Exception):  # flows report their own failures before they raise
        await arun(flow, ports)


async def _await(signal: Signal, timeout_s: float | None) -> bool:
    if signal.fired:
        return True
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    def fired() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(end)

    timer = None if timeout_s is None else loop.call_later(timeout_s, end)
    signal.watch(fired)
    try:
        await over
    finally:
        signal.unwatch(fired)
        if timer is not None:
            timer.cancel()
    return signal.fired


# The tail ---------------------------------------------------------------------------------------------------------


class TailThread:
    """One daemon thread that follows the log for a node. It is started by the first use, and anew after a fork."""

    def __init__(self, flow: Callable[[Callable[[], bool]], Flow[None]], ports: Ports, name: str) -> None:
        self._stop = threading.Event()
        self._flow = flow
        self._ports = ports
        self._thread = threading.Thread(target=self._work, name=f"unstale: tail of {name}", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # interrupted while it waits for the thread, which runs: nobody else would stop it
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Tell it to stop after the poll that is under way; it does not wait for that."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end: did it come in time?"""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        run(self._flow(self._stop.is_set), self._ports)
