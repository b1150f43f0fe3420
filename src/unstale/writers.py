"""Writers: what `@product.writer` makes of a function that commits a change of what `product` loads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import NoneType
from typing import Any

from unstale.core.calls import write_value
from unstale.core.codec import Codec, TypedCodec, codec_for
from unstale.core.ops import Flow
from unstale.errors import UsageError, ValueTypeError
from unstale.plans import Plan, annotations_of, check_function
from unstale.requests import record_of

GATHERS = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})


def make_writer(plan: Plan, function: Any) -> Any:
    """Give the function that writes through: it commits, publishes, and caches what it returns for a cached function.

    Args:
        plan: Of the cached function.
        function: The writer, of the same colour. It has the parameters that the key needs, by the same names, and any
            others; it commits, and returns the value that is now in force.

    Raises:
        UsageError: It is no plain function, is of another colour, lacks a parameter, or never returns such a value.
    """
    if isinstance(function, classmethod | staticmethod):
        return type(function)(make_writer(plan, function.__func__))
    check_function(function, "writer")
    _check_colour(plan, function)
    signature = inspect.signature(function)
    _check_parameters(plan, function, signature)
    codec = _codec(plan, function)

    def flow(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Any]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}() {error}") from None
        bound.apply_defaults()
        want = plan.want_to_write(bound.arguments, codec)
        record = record_of(plan.cache.node, (want.key,), reason="write")
        return write_value(plan.cache.active, want, functools.partial(function, *args, **kwargs), record)

    def write(*args: Any, **kwargs: Any) -> Any:
        return plan.cache.run(flow(args, kwargs))

    async def awrite(*args: Any, **kwargs: Any) -> Any:
        return await plan.cache.arun(flow(args, kwargs))

    return functools.wraps(function)(write if plan.blocking else awrite)


def _check_colour(plan: Plan, function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function) == (not plan.blocking):
        return
    name, reader = function.__qualname__, plan.function.__qualname__
    if plan.blocking:
        msg, hint = f"{name} is a coroutine function, and {reader} is not", f"write: def {function.__name__}(...)"
    else:
        msg, hint = f"{reader} is a coroutine function, and {name} is not", f"write: async def {function.__name__}(...)"
    raise UsageError(msg, hint=f"{hint}; or give it a function of its own colour, both with shared=True")


def _check_parameters(plan: Plan, function: Callable[..., Any], signature: inspect.Signature) -> None:
    """Refuse a writer whose calls do not tell the key: what it wrote would be cached under another one."""
    needed = inspect.signature(plan.function).parameters
    missing = [name for name in plan.template.places if name not in signature.parameters]
    if missing:
        listed = ", ".join((*missing, *(name for name in signature.parameters if name not in {"self", "cls"})))
        msg = f"{function.__qualname__} has no {', '.join(missing)}, which the key {plan.template.text!r} needs"
        hint = f"write: def {function.__name__}({listed}); or cache.write(key, writer), where the key is known later"
        raise UsageError(msg, hint=hint, missing=missing)
    for name in plan.template.places:
        kinds = {needed[name].kind, signature.parameters[name].kind}
        if len(kinds) > 1 and kinds & GATHERS:
            msg = f"{name} gathers several arguments in {function.__qualname__} or {plan.function.__qualname__} alone"
            raise UsageError(msg, hint=f"write {needed[name]} in both")


def _codec(plan: Plan, function: Callable[..., Any]) -> Codec:
    """Give the cached function's codec, whose refusals name the writer.

    Raises:
        UsageError: The writer is annotated to return nothing, and that is no value of the cached function.
    """
    codec = plan.codec
    if isinstance(codec, TypedCodec):
        codec = codec_for(annotations_of(plan.function).get("return", Any), function.__qualname__)
    if annotations_of(function).get("return", Any) is NoneType:
        try:
            codec.encode(None)
        except ValueTypeError as error:
            msg = f"{function.__qualname__} returns None, which {plan.function.__qualname__} never does"
            raise UsageError(msg, hint="return the value that is now in force: it is what gets cached") from error
    return codec
