"""The path of a hit: a resident entry that is proven fresh is given without a lock, a key or a flow.

No lock is taken. What makes that right is the order of the three steps, since a record is applied before the lease is
renewed by the poll that brought it:

    1. the clock is read, 2. the lease is looked at, 3. the entry is looked for.

Whatever had to be applied for the lease seen in step 2 has removed its entries from `aliases` before step 3. Another
order would be wrong (H8, H22): find the entry; sleep for a minute; the tail wakes first, applies what ends the entry
and renews the lease; look at the lease: proven; serve what was ended a minute ago.

What surrounds the call is looked up last: most often nothing. Within a session, and nothing else, a hit is one as soon
as the node has reached the session's ticket (`lets`).

`aliases` holds fresh entries only, by their plain arguments; whether the argument has the entry's type is checked
because 1 == True (H29). A call that awaits must be a coroutine, and the commonest call, of one argument, stands inline
in both colours: a shared function would be one more call on each hit. All other calls share `_resident`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from unstale.core.calls import read_alone
from unstale.core.context import lets, surroundings
from unstale.core.lease import Lease
from unstale.plans import MISSING, Plan

if TYPE_CHECKING:
    from unstale.core.table import Cell

ALWAYS = Lease()
ALWAYS.proven = float("inf")


def hit_path(plan: Plan) -> Any:
    """Give the function that answers calls from memory where it may, and by a read otherwise.

    Args:
        plan: Of the cached function; its colour is the function's.
    """
    if plan.sole is None:
        return (_blocking_many if plan.blocking else _asynchronous_many)(plan)
    return _called_like((_blocking if plan.blocking else _asynchronous)(plan), plan.function, plan.sole)


# Calls of one argument ----------------------------------------------------------------------------------------------


def _blocking(plan: Plan) -> Any:
    find, clock, tick, lease, bound_s, around = _parts(plan)
    slow = _read

    def hit(arg: Any) -> Any:
        now = clock(tick)
        if now - lease.proven < bound_s:
            try:
                cell = find(arg)
            except TypeError:
                cell = None  # not hashable: the key's renderer says what to write instead
            if (
                cell is not None
                and now < cell.deadline
                and cell.kind is type(arg)
                and (around() is None or lets(plan.cache.node, cell))
            ):
                cell.visited = True
                return cell.value
        return slow(plan, () if arg is MISSING else (arg,), {})

    return hit


def _asynchronous(plan: Plan) -> Any:
    find, clock, tick, lease, bound_s, around = _parts(plan)
    cache, want, name = plan.cache, plan.want, plan.name

    async def hit(arg: Any) -> Any:
        now = clock(tick)
        if now - lease.proven < bound_s:
            try:
                cell = find(arg)
            except TypeError:
                cell = None
            if (
                cell is not None
                and now < cell.deadline
                and cell.kind is type(arg)
                and (around() is None or lets(cache.node, cell))
            ):
                cell.visited = True
                return cell.value
        args = () if arg is MISSING else (arg,)
        served: Any = await cache.arun(read_alone(cache.active, want(args, {})))  # `_aread`: each await has its price
        if served.failed:
            raise served.value.with_traceback(None)
        if served.cell is not None and served.cell.queue is not None:
            name(served.cell, args, {})
        return served.value

    return hit


def _called_like(hit: Any, function: Callable[..., Any], sole: inspect.Parameter) -> Any:
    """Give a hit of one argument the name and the only parameter of its function.

    So Python itself binds a keyword and refuses a wrong call, and no hit pays for collecting `*args` and `**kwargs`.

    Args:
        hit: The path.
        function: The cached function.
        sole: Its parameter; left out, it stays to the function, so `MISSING` stands for whatever it has as a default.
    """
    code = hit.__code__
    hit.__code__ = code.replace(
        co_name=function.__name__,
        co_qualname=function.__qualname__,
        co_posonlyargcount=int(sole.kind is sole.POSITIONAL_ONLY),
        # The others get names that no parameter can have: until 3.12 a debugger writes variables back by their names.
        co_varnames=(sole.name, *map(".{}".format, code.co_varnames[1:])),
        co_freevars=tuple(map(".{}".format, code.co_freevars)),
    )
    hit.__defaults__ = None if sole.default is sole.empty else (MISSING,)
    return hit


# Other calls --------------------------------------------------------------------------------------------------------


def _blocking_many(plan: Plan) -> Any:
    one, resident = _blocking(plan), _resident(plan)

    def hit(arg: Any = MISSING, /, *more: Any, **named: Any) -> Any:
        if not (more or named):
            return one(arg)
        args = more if arg is MISSING else (arg, *more)
        cell = None if named else resident(args)
        return _read(plan, args, named) if cell is None else cell.value

    def hit_method(this: Any, /, *args: Any, **named: Any) -> Any:
        cell = None if named else resident(args)
        return _read(plan, (this, *args), named) if cell is None else cell.value

    return hit_method if plan.takes_self else hit


def _asynchronous_many(plan: Plan) -> Any:
    one, resident = _asynchronous(plan), _resident(plan)

    async def hit(arg: Any = MISSING, /, *more: Any, **named: Any) -> Any:
        if not (more or named):
            return await one(arg)
        args = more if arg is MISSING else (arg, *more)
        cell = None if named else resident(args)
        return await _aread(plan, args, named) if cell is None else cell.value

    async def hit_method(this: Any, /, *args: Any, **named: Any) -> Any:
        cell = None if named else resident(args)
        return await _aread(plan, (this, *args), named) if cell is None else cell.value

    return hit_method if plan.takes_self else hit


def _resident(plan: Plan) -> Callable[[tuple[Any, ...]], Cell | None]:
    """Give the look-up of a hit with several arguments, by the same three steps."""
    find, clock, tick, lease, bound_s, around = _parts(plan)

    def resident(args: tuple[Any, ...]) -> Cell | None:
        now = clock(tick)
        if now - lease.proven < bound_s:
            try:
                cell: Cell | None = find(args)
            except TypeError:
                return None
            if (
                cell is not None
                and now < cell.deadline
                and cell.kind == tuple(map(type, args))
                and (around() is None or lets(plan.cache.node, cell))
            ):
                cell.visited = True
                return cell
        return None

    return resident


# What all of them need ----------------------------------------------------------------------------------------------


def _parts(plan: Plan) -> tuple[Any, Any, Any, Lease, float, Any]:
    """Give what the path of a hit needs, as plain local names."""
    cache = plan.cache
    context: ContextVar[Any] = surroundings
    lease = ALWAYS if plan.consistency == "eventual" else cache.node.lease
    return plan.aliases.get, cache.tick_clock, cache.tick, lease, plan.bound_s, context.get


def _read(plan: Plan, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    cache = plan.cache
    served: Any = cache.run(read_alone(cache.active, plan.want(args, named)))
    if served.failed:
        raise served.value.with_traceback(None)
    if served.cell is not None and served.cell.queue is not None:  # it has come to stay
        plan.name(served.cell, args, named)
    return served.value


async def _aread(plan: Plan, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    cache = plan.cache
    served: Any = await cache.arun(read_alone(cache.active, plan.want(args, named)))
    if served.failed:
        raise served.value.with_traceback(None)
    if served.cell is not None and served.cell.queue is not None:  # it has come to stay
        plan.name(served.cell, args, named)
    return served.value
