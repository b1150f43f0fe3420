"""The simulated database behind a relay: rows of an outbox, or what a capture reads ahead of its visibility."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import msgspec

from unstale.core.ops import Sleep
from unstale.core.record import Record
from unstale.core.tail import Drained
from unstale.testing.oracle import Change, Truth

PART = 2  # rows that one reading gives at most, so that most readings have several parts
LOOK_S = 0.1


class Row(msgspec.Struct, eq=False):
    """A row of an open transaction; once that is committed, it has a record.

    Attributes:
        number: Drawn when the row is written: transactions do not commit in that order (H21).
        record: What is to be published.
        change: What was committed; None while no fresh read would see it.
        lost: The database was restored before that.
    """

    number: int
    record: Record | None = None
    change: Change | None = None
    lost: bool = False


class Outbox:
    """The rows that no relay has published yet.

    Args:
        rng: Decides everything.
        truth: The source of truth.
        ahead: A capture reads them from the database's own log, and so before a fresh read would see them (H18).
    """

    def __init__(self, rng: Random, truth: Truth, *, ahead: bool) -> None:
        self.rows: list[Row] = []
        self.ahead = ahead
        self.slow_s = rng.choice([0.05, 0.05, 1.0])  # so long a reading may take, about
        self._rng = rng
        self._truth = truth
        self._number = 0

    def write(self) -> Row:
        """Write a row in a transaction."""
        self._number += 1
        row = Row(self._number)
        self.rows.append(row)
        return row

    def restore(self) -> None:
        """Lose all rows, and all open transactions."""
        for row in self.rows:
            row.lost = True
        self.rows.clear()

    def told(self) -> list[Row]:
        """Give what a reading finds that begins now."""
        found = [row for row in self.rows if row.record is not None and (self.ahead or row.change is not None)]
        return sorted(found, key=lambda row: row.number)

    def drain(self) -> Callable[[], object]:
        """Give what reads it to its end as of the first call, part by part."""
        due: list[Row] | None = None

        async def part() -> Drained:
            nonlocal due
            await Sleep(self._rng.random() * 0.05)
            if due is None:
                due = self.told()
            await Sleep(self._rng.random() * self.slow_s)
            rows, due = due[:PART], due[PART:]
            while self._hidden(rows):  # it is in the database's log, and no fresh read sees it
                await Sleep(LOOK_S)
            records = tuple(row.record for row in rows if row.record is not None)

            def settle(_refused: Mapping[str, str]) -> None:
                self.rows = [row for row in self.rows if row not in rows]

            return Drained(records, self._truth.timeline, bool(due), settle)

        return part

    def _hidden(self, rows: list[Row]) -> bool:
        return any(row.change is None and not row.lost for row in rows)
