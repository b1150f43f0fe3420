"""Cached functions as people see them: their types, their methods, and the decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from unstale.core.calls import explain_key, publish_record, read_value
from unstale.core.explain import Explanation
from unstale.core.policy import Consistency
from unstale.core.write import Receipt
from unstale.errors import UsageError
from unstale.hitpath import hit_path
from unstale.plans import Plan
from unstale.requests import After, record_of, ticket_of
from unstale.writers import make_writer

P = ParamSpec("P")
Rest = ParamSpec("Rest")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
First = TypeVar("First")
Writer = TypeVar("Writer", bound=Callable[..., Any])
AsyncWriter = TypeVar("AsyncWriter", bound=Callable[..., Coroutine[Any, Any, Any]])

# The types ----------------------------------------------------------------------------------------------------------
#
# `__get__` tells type checkers what is bound when a cached function is got from a class: by its first parameter, which
# takes the class (a class method), or the instance (a method), or neither (a static method, which stays as it is).


class Cached(Protocol[P, T_co]):
    """A cached function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Give the value, from the cache or the function."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """End the entry of these arguments, and all that depends on it, on every node."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Load the value anew, whatever is cached, and cache it."""

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> T_co | None:
        """Give the cached value, None if there is none that may be served; never loads."""

    def reading(self, *, after: After = None, consistency: Consistency | None = None) -> Callable[P, T_co]:
        """Give the function with reads as fresh as this one has to be: `product.reading(after=ticket)(17)`."""

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Tell what is cached for these arguments, and whether and why it may be served."""

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Give the key of these arguments."""

    def writer(self, function: Writer, /) -> Writer:
        """Let a function write through: it commits, and returns the value now in force, which is then cached."""

    @overload
    def __get__(self: Callable[Concatenate[First, Rest], T], instance: object, owner: First, /) -> Cached[Rest, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[First, Rest], T], instance: First, owner: type | None = None, /
    ) -> Cached[Rest, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Self: ...


class AsyncCached(Protocol[P, T_co]):
    """A cached coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Give the value, from the cache or the function."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Receipt]:
        """End the entry of these arguments, and all that depends on it, on every node."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Load the value anew, whatever is cached, and cache it."""

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co | None]:
        """Give the cached value, None if there is none that may be served; never loads."""

    def reading(
        self, *, after: After = None, consistency: Consistency | None = None
    ) -> Callable[P, Coroutine[Any, Any, T_co]]:
        """Give the function with reads as fresh as this one has to be: `await product.reading(after=ticket)(17)`."""

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Explanation]:
        """Tell what is cached for these arguments, and whether and why it may be served."""

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Give the key of these arguments."""

    def writer(self, function: AsyncWriter, /) -> AsyncWriter:
        """Let a coroutine function write through: it commits, and returns the value now in force."""

    @overload
    def __get__(
        self: Callable[Concatenate[First, Rest], Coroutine[Any, Any, T]], instance: object, owner: First, /
    ) -> AsyncCached[Rest, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[First, Rest], Coroutine[Any, Any, T]], instance: First, owner: type | None = None, /
    ) -> AsyncCached[Rest, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Self: ...


# What can be done beside calling it ---------------------------------------------------------------------------------

METHODS = ("explain", "invalidate", "key", "peek", "reading", "refresh", "writer")


class Methods:
    """The methods of a cached function, in its own colour: each runs one flow.

    Args:
        plan: Of the function.
        bound: The instance whose method it is, if it is one.
    """

    def __init__(self, plan: Plan, bound: tuple[Any, ...] = ()) -> None:
        self._plan = plan
        self._cache = plan.cache
        self._bound = bound
        self._drive = plan.cache.run if plan.blocking else plan.cache.arun

    def _all(self, args: tuple[Any, ...], *, loads: bool = False) -> tuple[Any, ...]:
        """Give the arguments of a call with those to which its function is bound.

        Raises:
            UsageError: Its class would be needed, and is not known.
        """
        if self._bound or not self._plan.takes_class or (args and isinstance(args[0], type)):
            return (*self._bound, *args)
        if loads:  # from Python 3.13 on, a classmethod tells what it holds of its class only when that is called
            name = self._plan.function.__qualname__
            hint = "write @cache.cached(...) above @classmethod, or pass the class as the first argument"
            raise UsageError(f"{name} cannot be loaded without its class", hint=hint)
        return (None, *args)  # no key depends on it

    def key(self, *args: Any, **kwargs: Any) -> str:
        """Give the key of these arguments."""
        return self._plan.key(self._all(args), kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        """End the entry of these arguments."""
        record = record_of(self._cache.node, (self.key(*args, **kwargs),))
        return self._drive(publish_record(self._cache.active, record, wait=False))

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Load anew."""
        want = self._plan.want(self._all(args, loads=True), kwargs, anew=True)
        return self._drive(read_value(self._cache.active, want, None))

    def peek(self, *args: Any, **kwargs: Any) -> Any:
        """Give the cached value; never load."""
        want = self._plan.want(self._all(args), kwargs, loads=False)
        return self._drive(read_value(self._cache.active, want, None))

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        """Tell what is cached for these arguments."""
        want = self._plan.want(self._all(args), kwargs, loads=False)
        return self._drive(explain_key(self._cache.active, want))

    def reading(self, *, after: After = None, consistency: Consistency | None = None) -> Callable[..., Any]:
        """Give the function with reads as fresh as this one has to be."""
        consistency = self._plan.consistency if consistency is None else consistency
        bound_s = self._cache.bound_of(self._plan.policy, consistency)
        ticket = ticket_of(after)

        def read(*args: Any, **kwargs: Any) -> Any:
            want = self._plan.want(self._all(args, loads=True), kwargs)
            want.after, want.consistency, want.bound_s = ticket, consistency, bound_s
            return self._drive(read_value(self._cache.active, want, None))

        async def aread(*args: Any, **kwargs: Any) -> Any:
            return await read(*args, **kwargs)

        return functools.wraps(self._plan.function)(read if self._plan.blocking else aread)

    def writer(self, function: Any, /) -> Any:
        """Let a function write through."""
        return make_writer(self._plan, function)


def _attach(function: Any, plan: Plan) -> None:
    """Give a cached function its methods."""
    methods = Methods(plan)
    for name in METHODS:
        setattr(function, name, getattr(methods, name))
    function.cache = plan.cache
    function.policy = plan.policy


# Methods of classes -------------------------------------------------------------------------------------------------


class CachedMethod:
    """A cached method: a descriptor, so that `shop.product.refresh(17)` knows its `shop`."""

    def __init__(self, function: Any, plan: Plan) -> None:
        self._function = function
        self._plan = plan
        functools.update_wrapper(self, function)
        _attach(self, plan)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it with its instance as first argument, as `Shop.product(shop, 17)` does."""
        return self._function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = BoundMethod(self._function, instance)
        bound.plan = self._plan
        return bound


class BoundMethod(functools.partial[Any]):
    """A cached method of one instance: a partial, for that is the quickest call; its methods are made when used."""

    plan: Plan

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            return getattr(Methods(self.plan, self.args), name)
        if name in {"cache", "policy"}:
            return getattr(self.plan, name)
        raise AttributeError(name)


class ClassMethod(classmethod):  # type: ignore[type-arg]  # it takes none at run time
    """A cached class method: it binds as a `classmethod` did until Python 3.12, so that its methods know its class."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.__func__.__get__(type(instance) if owner is None else owner)

    def writer(self, function: Any, /) -> Any:
        """Let a function of the same class write through."""
        return self.__func__.writer(function)  # type: ignore[attr-defined]  # a cached function has one


class StaticMethod(staticmethod):  # type: ignore[type-arg]  # it takes none at run time
    """A cached static method, which has a writer in the body of its class already."""

    def writer(self, function: Any, /) -> Any:
        """Let a function of the same class write through."""
        return self.__func__.writer(function)  # type: ignore[attr-defined]  # a cached function has one


# Decorating -------------------------------------------------------------------------------------------------------


class Decorator:
    """What `cache.cached(...)` gives: it takes a function of either colour."""

    def __init__(self, decorate: Callable[[Any], Any]) -> None:
        self._decorate = decorate

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> AsyncCached[P, T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, T]) -> Cached[P, T]: ...
    def __call__(self, function: Any) -> Any:
        """Give the cached form of a function."""
        if isinstance(function, classmethod):
            return ClassMethod(self._decorate(function.__func__))
        if isinstance(function, staticmethod):
            return StaticMethod(self._decorate(function.__func__))
        return self._decorate(function)


def build(plan: Plan) -> Any:
    """Give the cached function of a plan, in its own colour."""
    function = hit_path(plan)
    functools.update_wrapper(function, plan.function)
    _attach(function, plan)
    return CachedMethod(function, plan) if plan.takes_self else function
