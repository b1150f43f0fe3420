"""What the events of a binary log end: transactions, each with the scopes of what it has changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from pymysqlreplication.event import (
    HeartbeatLogEvent,
    NotImplementedEvent,
    QueryEvent,
    XAPrepareEvent,
    XidEvent,
)
from pymysqlreplication.row_event import DeleteRowsEvent, PartialUpdateRowsEvent, UpdateRowsEvent, WriteRowsEvent

from unstale.errors import SourceError
from unstale.sources.binlog_tables import Tables
from unstale.sources.log_scopes import Changes

EVENTS: Final = (
    HeartbeatLogEvent,
    NotImplementedEvent,
    QueryEvent,
    XAPrepareEvent,
    XidEvent,
    DeleteRowsEvent,
    PartialUpdateRowsEvent,
    UpdateRowsEvent,
    WriteRowsEvent,
)
ROWS: Final = (DeleteRowsEvent, PartialUpdateRowsEvent, UpdateRowsEvent, WriteRowsEvent)
WITHIN: Final = frozenset({"BEGIN", "SAVEPOINT", "ROLLBACK", "START"})
"""Statements that change nothing: what is in the log was committed, and its end is told in another way."""
DDL: Final = frozenset(
    {
        "ALTER",
        "ANALYZE",
        "CREATE",
        "DROP",
        "FLUSH",
        "GRANT",
        "OPTIMIZE",
        "RENAME",
        "REPAIR",
        "REVOKE",
        "SET",
        "TRUNCATE",
    }
)
# Stop, format, ignorable, rows' query, GTIDs and their lists; of MariaDB: statements for people, checkpoints, GTIDs.
HARMLESS: Final = frozenset({0x03, 0x0F, 0x1B, 0x1C, 0x1D, 0x21, 0x22, 0x23, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4})
COMMENT: Final = re.compile(r"/\*.*?\*/|--[^\n]*\n|#[^\n]*\n", re.DOTALL)
WORD: Final = re.compile(r"[A-Za-z]+")

Trouble = Callable[[str, BaseException], object]


class Told(msgspec.Struct):
    """A transaction that was read: its place in the log, when it was, and what it ends."""

    place: str
    at_s: float
    scopes: tuple[str, ...]


class Gatherer:
    """Makes transactions of events.

    Args:
        tables: What is captured.
        trouble: Told what can no longer be told of single rows.

    Attributes:
        redefined: A captured table was redefined: it is to be looked up anew.
    """

    def __init__(self, tables: Tables, trouble: Trouble) -> None:
        self.tables = tables
        self.redefined = False
        self._trouble = trouble
        self._complained: set[str] = set()
        self._changes = Changes()

    def take(self, event: Any) -> tuple[str, ...] | None:
        """Take in an event: what its transaction ends, if it closes one."""
        if isinstance(event, ROWS):
            self._rows(event)
        elif isinstance(event, XidEvent):
            return self._closed()
        elif isinstance(event, QueryEvent):
            return self._query(event.query)
        elif isinstance(event, XAPrepareEvent):
            if not event.one_phase:  # its changes are seen with XA COMMIT, which does not tell them
                self._changes = Changes()
            return self._closed()
        elif isinstance(event, NotImplementedEvent) and event.event_type not in HARMLESS:
            self._everything(f"the log holds an event of the unknown kind {event.event_type}")
        return None

    def _closed(self) -> tuple[str, ...]:
        changes, self._changes = self._changes, Changes()
        return changes.told()

    def _rows(self, event: Any) -> None:
        place = (event.schema, event.table)
        rule = self.tables.rules.get(place)
        for row in event.rows:
            old = row["values"] if isinstance(event, DeleteRowsEvent) else row.get("before_values")
            new = row["values"] if isinstance(event, WriteRowsEvent) else row.get("after_values")
            if rule is not None and not self._changes.row(rule, old, new):
                self._complain(f"{rule.name}: a value that its scopes name was not told, or has no text")
            if old is not None:
                for child in self.tables.cascaded(place, old, new):
                    self._changes.everything(child)

    def _query(self, query: str) -> tuple[str, ...] | None:
        text = COMMENT.sub(" ", query)
        words = [word.upper() for word in WORD.findall(text[:200])]
        verb, following = (*words, "", "")[:2]
        if verb in WITHIN or (verb == "XA" and following != "COMMIT"):
            return None
        if verb in DDL:
            of_all = verb == "DROP" and following in {"DATABASE", "SCHEMA"}
            rules = [*self.tables.rules.values()] if of_all else self.tables.named_in(text)
            for rule in rules:
                self._changes.everything(rule)
            self.redefined |= bool(rules)
        elif verb == "XA":
            self._everything("a transaction of two phases was committed: the log does not tell again what it changed")
        elif verb != "COMMIT":
            self._everything(f"the log holds a statement in place of rows: {verb} in binlog_format = STATEMENT")
            return None  # it stands within a transaction
        return self._closed()

    def _everything(self, why: str) -> None:
        for rule in self.tables.rules.values():
            self._changes.everything(rule)
        self._complain(why)

    def _complain(self, why: str) -> None:
        if why not in self._complained:
            self._complained.add(why)
            self._trouble("capture", SourceError(f"{why}; all of the table ends", hint="see the guide of the capture"))
