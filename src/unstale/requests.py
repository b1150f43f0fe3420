"""From the arguments of a public method to the request that the core understands."""

from __future__ import annotations

import inspect
import os
import reprlib
import socket
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from unstale._version import __version__
from unstale.core.about import Profile, describe
from unstale.core.codec import Codec, codec_for
from unstale.core.durations import Duration, seconds
from unstale.core.keys import check_key, check_scope, check_version
from unstale.core.node import Node
from unstale.core.policy import Consistency, Policy, check_policy
from unstale.core.record import EVERYTHING, Record, Stamp, Version
from unstale.core.served import Want, stored_key
from unstale.core.write import Receipt
from unstale.errors import PolicyError, ScopeError, TicketError, UsageError, ValueTypeError

if TYPE_CHECKING:
    from unstale.cache import Cache

HOST = socket.gethostname()
NODE_NAME_CHARS_MAX = 100
After = Stamp | Receipt | str | None
SAY_TYPE = "say with type= what the value is: a dataclass, msgspec.Struct, TypedDict, NamedTuple or built-in type, "
SAY_TYPE += "such as type=tuple[int, ...] or type=Product | None"


def want_of(  # noqa: PLR0913 - keyword-only settings with defaults
    cache: Cache,
    key: str,
    *,
    type: Any = Any,  # noqa: A002 - what the value is
    tags: Iterable[str] = (),
    consistency: Consistency = "bounded",
    after: After = None,
    policy: Policy | None = None,
    call: Callable[[], object] | None = None,
    source: str = "that the loader returned for",
    blocking: bool = True,
    **changes: Any,
) -> Want:
    """Give the read of a key by hand.

    Raises:
        ScopeError: A key or tag that cannot be one.
        PolicyError: A policy that cannot work.
        TicketError: A ticket that cannot be read.
        ValueTypeError: A type that cannot be cached.
    """
    kept = cache.policy if policy is None else check_policy(policy)
    kept = cache.adopt(kept.but(**changes)) if changes or policy is not None else kept
    key = check_key(key)
    scopes = dict.fromkeys((*namespaces_of(key), *map(check_scope, tuple_of(tags, "tags"))))
    scopes.pop(key, None)
    codec = GivenCodec(codec_of(type), type, source, key)
    return Want(
        key=key,
        stored_key=stored_key(codec.shape, key),
        scopes=tuple(scopes),
        policy=kept,
        codec=codec,
        bound_s=cache.bound_of(kept, consistency),
        consistency=consistency,
        after=None if after is None else ticket_of(after),
        call=call,
        blocking=blocking,
    )


def namespaces_of(key: str) -> tuple[str, ...]:
    """Give the namespaces of a key given by hand: all that stands before one of its colons, since any may be meant."""
    *parents, _last = accumulate(key.split(":"), "{}:{}".format)
    return tuple(parents)


def ticket_of(after: After) -> Stamp | None:
    """Give the ticket that a read has to answer.

    Raises:
        TicketError: It is none.
    """
    if after is None or isinstance(after, Stamp):
        return after
    if isinstance(after, Receipt):
        return after.stamp
    if isinstance(after, str):
        return Stamp.parse(after)
    msg = f"after= takes a ticket, not {reprlib.repr(after)}"
    raise TicketError(msg, hint="pass cache.ticket(), a receipt, or the text of a ticket")


def record_of(
    node: Node,
    scopes: tuple[str, ...],
    *,
    soft: bool = False,
    ack: bool = False,
    version: int | None = None,
    reason: str | None = None,
    trace: str = "",
) -> Record:
    """Give a record to be published.

    Raises:
        ScopeError: A scope that cannot be one, or none.
        ValueTypeError: A version that cannot be one.
        UsageError: A reason or trace that is no text.
    """
    if not scopes:
        msg = "invalidate() was given no scope"
        raise ScopeError(msg, hint='write invalidate("product:17"), or invalidate("*") for everything')
    for name, text in (("reason", reason or ""), ("trace", trace)):
        if not isinstance(text, str):
            raise UsageError(f"{name} is a text, not {reprlib.repr(text)}", hint=f'write {name}="..."')
    return Record(
        node.new_id(),
        tuple(dict.fromkeys(map(check_scope, scopes))),
        soft=soft,
        version=None if version is None else Version(check_version(version), node.timeline),
        ack=ack,
        who=this_process(),
        why=reason or "",
        trace=trace,
        at=time.time(),
    )


def this_process() -> str:
    """Name this process for people."""
    return f"{HOST}:{os.getpid()}"


def tuple_of(names: Iterable[str], what: str) -> tuple[str, ...]:
    """Give names as a tuple.

    Raises:
        UsageError: One text, where several were asked for: its letters are not meant. Or nothing of the kind.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UsageError(f"{what} takes a list, not {reprlib.repr(names)}", hint=f"write {what}=[{names!r}]")
    return tuple(names)


def function_of(call: Any, what: str, blocking_in: str | None = None) -> Callable[..., Any]:
    """Check the loader or writer that a method was given.

    Args:
        call: What was given.
        what: What it is for: `loader` or `writer`.
        blocking_in: The name of the method, if that one blocks.

    Raises:
        UsageError: It cannot be called, or it would have to be awaited.
    """
    if not callable(call):
        if inspect.iscoroutine(call):
            call.close()
        hint = f"pass the {what} itself, without calling it, or a lambda that calls it"
        raise UsageError(f"the {what} is {type(call).__qualname__}, not a function", hint=hint)
    code = getattr(call, "__code__", None)  # what else gives something to be awaited, the driver finds out
    if blocking_in and code is not None and code.co_flags & inspect.CO_COROUTINE:
        msg = f"{blocking_in}() blocks, and was given a coroutine function as its {what}"
        raise UsageError(msg, hint=f"write: await cache.a{blocking_in}(...)")
    function: Callable[..., Any] = call
    return function


class GivenCodec:
    """The codec of a `type=` that was given by hand: what it refuses, it says of that value and that type.

    Args:
        codec: What encodes and decodes.
        kind: The type.
        source: Whence the value comes, such as `given for`.
        key: Its key.
    """

    __slots__ = ("_codec", "_key", "_kind", "_source", "decode", "shape")

    def __init__(self, codec: Codec, kind: Any, source: str, key: str) -> None:
        self._codec = codec
        self._kind = kind
        self._source = source
        self._key = key
        self.shape = codec.shape
        self.decode = codec.decode

    def encode(self, value: object) -> bytes:
        """Encode a value, or raise `ValueTypeError`."""
        try:
            return self._codec.encode(value)
        except ValueTypeError as refusal:
            shown = inspect.formatannotation(self._kind)
            problem = refusal.message.removeprefix("it returned ").replace(
                f" where {shown} is annotated", f", but type={shown}"
            )
            msg = f"the value {self._source} {self._key!r} is {problem}"
            raise ValueTypeError(msg, hint=SAY_TYPE) from refusal.__cause__


def _make_codec(kind: Any) -> Codec:
    try:
        return codec_for(kind, "it")
    except ValueTypeError as refusal:
        shown = inspect.formatannotation(kind)
        raise ValueTypeError(f"values of type={shown} cannot be cached", hint=SAY_TYPE) from refusal.__cause__


_codec_of_hashable = lru_cache(maxsize=256)(_make_codec)


def codec_of(kind: Any) -> Codec:
    """Give the codec of a type, made once.

    Raises:
        ValueTypeError: Values of that type cannot be cached.
    """
    try:
        return _codec_of_hashable(kind)
    except ValueTypeError:
        raise
    except TypeError:
        return _make_codec(kind)


# What a cache is made with -------------------------------------------------------------------------------------------


def check_name(name: object) -> None:
    """Refuse what cannot be a cache's name.

    Raises:
        UsageError: It is no text, or an empty one.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"name is a text, not {reprlib.repr(name)}", hint='write name="shop"')


def profile_of(node_name: object, policy: Policy) -> Profile:
    """Give what a node tells of itself, before any function is decorated.

    Args:
        node_name: What was given for `node_name=`.
        policy: The cache's own.

    Raises:
        UsageError: No node can be called so.
    """
    if not isinstance(node_name, str) or not (node_name + " ").isprintable() or len(node_name) > NODE_NAME_CHARS_MAX:
        msg = (
            f"node_name is a text of at most {NODE_NAME_CHARS_MAX} printable characters, not {reprlib.repr(node_name)}"
        )
        raise UsageError(msg, hint='write node_name="web-1"')
    profile = Profile(node_name, __version__, this_process)
    profile.tell(EVERYTHING, "", describe(policy))
    return profile


def check_limits(**limits: object) -> None:
    """Refuse what cannot be a limit.

    Raises:
        UsageError: One is no number, or a negative one.
    """
    for limit, given in limits.items():
        if type(given) is not int or given < 0:
            raise UsageError(f"{limit} is a number, not {reprlib.repr(given)}", hint=f"write {limit}=100_000")


def read_bound(max_staleness: Duration) -> float:
    """Give the bound, in seconds.

    Raises:
        DurationError: It cannot be read.
        PolicyError: It is nothing.
    """
    bound_s = seconds(max_staleness, "max_staleness")
    if bound_s <= 0:
        msg = "max_staleness must be longer than nothing"
        raise PolicyError(msg, hint='write max_staleness="2s", or read with consistency="strong"')
    return bound_s
