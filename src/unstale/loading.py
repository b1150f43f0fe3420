"""What a loader can say of the value that it loads, and what can be seen of the reads in a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from unstale.core.context import NOTHING, Read, loading, surround, surroundings
from unstale.core.durations import Duration, seconds
from unstale.core.keys import check_scope, check_version


def tag(*scopes: str) -> None:
    """Let the value that is being loaded depend on further scopes.

    Args:
        scopes: Scopes learnt while loading, such as `f"tenant:{row.tenant}"`.

    Raises:
        OutsideLoadError: Nothing is being loaded.
        ScopeError: A scope that cannot be one.
    """
    frame = loading("tag")
    for scope in scopes:
        frame.scopes[check_scope(scope)] = None


def ttl(duration: Duration) -> None:
    """Give the value that is being loaded a life of its own, in place of the policy's `ttl`.

    Args:
        duration: Such as `"30s"`.

    Raises:
        OutsideLoadError: Nothing is being loaded.
        DurationError: A duration that cannot be read.
    """
    loading("ttl").ttl_s = seconds(duration, "ttl")


def skip() -> None:
    """Do not cache the value that is being loaded.

    Raises:
        OutsideLoadError: Nothing is being loaded.
    """
    loading("skip").skipped = True


def version(value: int) -> None:
    """Give the source's version of the value that is being loaded or written: a row version, or a commit timestamp.

    Args:
        value: An integer of 64 bits, which grows with every change of the row.

    Raises:
        OutsideLoadError: Nothing is being loaded.
        ValueTypeError: It is no such integer.
    """
    loading("version").version = check_version(value)


def needs_primary() -> bool:
    """Say whether the value that is being loaded has to be read where writers commit: a replica may not show it yet.

    So it is for a read with a ticket that the replica may not have reached, and for a strong one; where a record that
    is younger than what the replica shows names the key; where the replica is further behind than `max_staleness`, or
    nobody knows how far (`Policy.replica` measures it); in a writer; and where a transaction or a
    session has changed something that is not published yet.

    Returns:
        True: read the primary. False: a replica will do.

    Raises:
        OutsideLoadError: Nothing is being loaded.
    """
    frame = loading("needs_primary")
    around = surroundings.get()
    if frame.primary or (around is not None and around.changed):
        frame.told = True
    return frame.told


@contextmanager
def observe() -> Iterator[list[Read]]:
    """Record what every read inside the block served: key, from where, stamp, proven as of, fresh or stale, why."""
    around = surroundings.get() or NOTHING
    reads: list[Read] = []
    surroundings.set(replace(around, observers=(*around.observers, reads)))
    try:
        yield reads
    finally:  # a transaction that began in the block may outlive it, and one from before may have ended in it
        surround(replace(around, transactions=(surroundings.get() or around).transactions))
