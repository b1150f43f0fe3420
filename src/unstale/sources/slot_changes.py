"""What the messages of a replication slot end: transactions, each with the scopes of what it has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from unstale.errors import SourceError
from unstale.sources.log_scopes import Changes
from unstale.sources.pgoutput import Begin, Change, Commit, Decoder, MessageError, Relation, Truncate
from unstale.sources.slot_tables import Captured

Trouble = Callable[[str, BaseException], object]


class Told(msgspec.Struct):
    """A transaction that was read: where its commit lies and ends, its 32-bit number, when it was, what it ends."""

    commit_lsn: int
    end_lsn: int
    xid: int
    at_s: float
    scopes: tuple[str, ...]


class Gatherer:
    """Makes transactions of messages.

    Args:
        tables: What is captured.
        trouble: Told, once each, what can no longer be told of single rows.
    """

    def __init__(self, tables: Sequence[Captured], trouble: Trouble) -> None:
        self._tables = {(one.schema, one.name): one for one in tables}
        self._trouble = trouble
        self._complained: set[str] = set()

    def gather(self, messages: Iterable[bytes]) -> tuple[list[Told], int]:
        """Make transactions of one reading's messages, one after the other: them, and how many messages that were.

        Raises:
            SourceError: One is no message.
        """
        told: list[Told] = []
        count = 0
        decoder, begin, changes = Decoder(), Begin(0, 0.0, 0), Changes()
        for data in messages:
            count += 1
            try:
                message = decoder.read(data)
            except MessageError as error:
                raise SourceError(str(error), hint="report it, with the version of PostgreSQL") from error
            if isinstance(message, Begin):
                begin, changes = message, Changes()
            elif isinstance(message, Commit):
                told.append(Told(begin.commit_lsn, message.end_lsn, begin.xid, begin.at_s, changes.told()))
            elif isinstance(message, Change):
                self._change(message, changes)
            elif isinstance(message, Truncate):
                for relation in message.relations:
                    self._everything(relation, changes)
        return told, count

    def _change(self, change: Change, changes: Changes) -> None:
        table = self._tables.get((change.relation.schema, change.relation.name))
        if table is None:
            return
        why = table.unsound(change.relation)
        if why:
            self._complain(table, why)
            changes.everything(table.rule)
        elif not changes.row(table.rule, table.values(change.old), table.values(change.new)):
            self._complain(table, "a value that its scopes name was not told, or has no text")

    def _everything(self, relation: Relation, changes: Changes) -> None:
        table = self._tables.get((relation.schema, relation.name))
        if table is not None:
            changes.everything(table.rule)

    def _complain(self, table: Captured, why: str) -> None:
        if f"{table.rule.name}: {why}" not in self._complained:
            self._complained.add(f"{table.rule.name}: {why}")
            msg = f"{table.rule.name}: {why}; each change ends all of it"
            self._trouble("capture", SourceError(msg, hint="correct capture.toml or the table, then restart the relay"))
