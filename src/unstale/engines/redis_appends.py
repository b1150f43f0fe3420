"""Appends to the log of the Redis engine: how records are handed to its scripts, and what these answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from unstale.core.record import Logged, Record
from unstale.engines import redis_append_scripts as appending
from unstale.engines.redis_commands import Command
from unstale.engines.redis_marks import version_text
from unstale.engines.redis_store import Names, script_call

SCRIPT_RECORDS: Final = 50  # that one script appends: its beginning costs little, and the next is made meanwhile


class Appends:
    """Makes the commands that append records, and reads their answers.

    Args:
        names: The keys of the cache.
        records_max: The log is trimmed to about so many records.
        mark_ms: The life of a mark, in milliseconds.
        new_id: Source of unique ids.
        encode: Gives the bytes of a record, signed if they have to be.
    """

    def __init__(
        self, names: Names, records_max: int, mark_ms: int, new_id: Callable[[], str], encode: Callable[[Record], bytes]
    ) -> None:
        self._names = names
        self._limits = (records_max, mark_ms)
        self._new_id = new_id
        self._encode = encode

    def commands(self, records: Sequence[Record]) -> list[Callable[[], Command]]:
        """Give what makes the commands: each appends a part of the records in one atomic step."""
        return [partial(self._command, part) for part in _parts(records)]

    def _command(self, records: Sequence[Record]) -> Command:
        names = self._names
        if len(records) > 1 and not any(record.soft or record.version for record in records):
            scopes_of = [tuple(dict.fromkeys(record.scopes)) for record in records]
            marks = [names.mark + scope.encode() for scopes in scopes_of for scope in scopes]
            return script_call(
                appending.APPEND_PLAIN, (*names.all, *marks), self._new_id(), *self._limits, len(records),
                *[record.id for record in records], *map(self._encode, records), *map(len, scopes_of),
            )  # fmt: skip
        places: dict[str, int] = {}
        args: list[bytes | str | int] = [*self._limits]
        for record in records:
            scopes = [places.setdefault(scope, len(places) + 5) for scope in dict.fromkeys(record.scopes)]
            version = record.version
            args += (
                record.id, self._encode(record), "s" if record.soft else "h", version_text(version),
                version.timeline if version else "", len(scopes), *scopes,
            )  # fmt: skip
        keys = (*names.all, *[names.mark + scope.encode() for scope in places])
        return script_call(appending.APPEND, keys, self._new_id(), *args)

    def logged(self, records: Sequence[Record], answers: Sequence[Sequence[Any]]) -> tuple[Logged, ...]:
        """Give where the records lie, by the answers to all commands."""
        logged: list[Logged] = []
        for part, (_generation, *where, _head, _head_id) in zip(_parts(records), answers, strict=True):
            if len(where) == 2 < 2 * len(part):  # noqa: PLR2004 - all are new, and follow the first
                before = [where[1].decode(), *[record.id for record in part[:-1]]]
                logged += map(Logged, range(where[0], where[0] + len(part)), before, part)
            else:
                logged += map(Logged, where[::2], [prev.decode() for prev in where[1::2]], part)
        return tuple(logged)


def _parts(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Divide records among commands: without any there is one command too, which tells where the head is."""
    if len(records) <= SCRIPT_RECORDS:
        return [records]
    starts = range(0, len(records), SCRIPT_RECORDS)
    return [records[start : start + SCRIPT_RECORDS] for start in starts]
