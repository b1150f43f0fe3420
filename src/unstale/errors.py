"""Every error that unstale raises, in one tree.

    UnstaleError
    ├── UsageError            the calling code broke the contract (also a ValueError)
    │   ├── DurationError         a duration that cannot be read
    │   ├── KeyTemplateError      a template that could let two calls share an entry by mistake
    │   ├── KeyArgumentError      an argument that cannot be part of a key
    │   ├── ScopeError            a scope that cannot be invalidated or depended on
    │   ├── PolicyError           a policy that contradicts itself
    │   ├── ValueTypeError        a value or type that would not survive the store
    │   ├── EngineUrlError        a URL that names no engine, or an option that it lacks
    │   ├── OutsideLoadError      tag(), ttl() or skip() called where nothing is loading
    │   ├── ReentrantLoadError    a loader that needs its own result (it would wait for ever)
    │   └── ClosedError           the cache was closed
    ├── LoadError             the source of truth, or the way to it
    │   ├── LoadTimeoutError      the load took longer than the policy's hard timeout
    │   ├── OriginBusyError       no free place among the origin's concurrent loads
    │   └── CachedLoadError       a remembered failure whose own class is not at hand
    ├── SourceError           the database whose outbox is relayed: nothing is proven until it answers
    ├── WriteRefusedError     raised by the sink of a write-behind: these writes will never be taken
    ├── FreshnessError        the value exists, but cannot be proven fresh
    │   ├── UnprovenError         the policy says `refuse`, and the lease has lapsed
    │   └── TicketError           a ticket that cannot be read, or was not reached in time
    └── EngineError           the store or the log
        ├── UnavailableError      it does not answer
        ├── BusyError             it is locked by others for longer than we may wait
        ├── FullError             no space left
        ├── QueueFullError        a write-behind's queue had no room in time; nothing was queued
        ├── ReadOnlyError         it refuses writes
        ├── DeniedError           it does not let us: user, password or permissions
        ├── CorruptError          what it holds is not ours, or damaged
        └── NotPublishedError     the write is committed, but its invalidation could not be published

Each error says who has to act (`culprit`), carries the facts (`fields`) and what to do (`hint`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class UnstaleError(Exception):
    """The root of all errors of this library.

    Args:
        message: What went wrong, as one sentence.
        hint: What to do or to write instead.
        fields: The facts behind it, by name; they become attributes of `fields`.
    """

    culprit: ClassVar[str] = "unstale"

    def __init__(self, message: str, *, hint: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(UnstaleError, ValueError):
    """The calling code broke the contract."""

    culprit = "caller"


class DurationError(UsageError):
    """A duration that cannot be read."""


class KeyTemplateError(UsageError):
    """A key template that could let two different calls share one entry."""


class KeyArgumentError(UsageError):
    """An argument that cannot be part of a key."""


class ScopeError(UsageError):
    """A scope that cannot be invalidated or depended on."""


class PolicyError(UsageError):
    """A policy that contradicts itself."""


class ValueTypeError(UsageError, TypeError):
    """A value, or the type of one, that would not come back from the store as it went in."""


class EngineUrlError(UsageError):
    """A URL that names no engine, or an option that the engine does not have."""


class OutsideLoadError(UsageError):
    """`tag()`, `ttl()`, `skip()` or `version()` was called while nothing was loading."""


class ReentrantLoadError(UsageError):
    """A loader asked for the very entry that it is loading."""


class ClosedError(UsageError):
    """The cache was used after it was closed."""


class LoadError(UnstaleError):
    """The source of truth failed, or could not be asked."""

    culprit = "origin"


class LoadTimeoutError(LoadError, TimeoutError):
    """A load took longer than the policy's hard timeout."""


class OriginBusyError(LoadError):
    """The origin's limit of concurrent loads left no place in time."""


class CachedLoadError(LoadError):
    """A failure remembered by negative caching, whose own class is not at hand."""


class SourceError(UnstaleError):
    """A source that tells of changes, such as the database of an outbox, could not be read."""

    culprit = "origin"


class WriteRefusedError(UnstaleError):
    """Raised by the sink of a write-behind: some writes of the batch will never be taken, however often they are tried.

    Args:
        message: Why, for those who look at what was put aside.
        keys: Of the writes that are refused; all others are tried again.
    """

    culprit = "origin"

    def __init__(self, message: str, *, keys: Iterable[str]) -> None:
        super().__init__(message, keys=tuple(keys))


class FreshnessError(UnstaleError):
    """A value exists, but cannot be proven fresh enough."""

    culprit = "freshness"


class UnprovenError(FreshnessError):
    """The lease has lapsed and the policy says `refuse`."""


class TicketError(FreshnessError):
    """A ticket cannot be read, or was not reached in time."""


class EngineError(UnstaleError):
    """The store or the log failed."""

    culprit = "engine"


class UnavailableError(EngineError):
    """The engine does not answer; the outcome of a request under way is unknown."""


class BusyError(EngineError):
    """Others hold the engine's lock for longer than we may wait; nothing was done."""


class FullError(EngineError):
    """The engine has no space left; nothing was done."""


class QueueFullError(EngineError):
    """The queue of a write-behind had no room in time; nothing of the call was queued."""


class ReadOnlyError(EngineError):
    """The engine refuses writes; nothing was done."""


class DeniedError(EngineError):
    """The engine does not let us do it: the user, the password or the permissions are not right; nothing was done."""


class CorruptError(EngineError):
    """What lies where the engine's data should be is not ours, or is damaged."""


class NotPublishedError(EngineError):
    """A committed write could not be announced: other nodes serve the old value up to its TTL."""
