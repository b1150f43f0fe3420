"""Change capture by triggers: what goes round the application is told by the database itself.

A trigger writes into the outbox, in the transaction of the change, which rows it has changed; the relay makes a record
of that and publishes it, as it does with all that lies in the outbox. So what it publishes is visible: a row of the
outbox and the change that it tells of are committed in one (H18).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, Self

from unstale.errors import SourceError, UsageError
from unstale.sources import (
    capture_mysql,
    capture_mysql_look,
    capture_postgres,
    capture_postgres_look,
    capture_sqlite,
    capture_sqlite_look,
)
from unstale.sources.capture_config import Config
from unstale.sources.capture_plan import GONE, Captured, Finding, Found, capture, differing
from unstale.sources.connections import Database, connect
from unstale.sources.dialects import MYSQL, POSTGRESQL, SQLITE, TABLE, checked

INSTALL: Final = "unstale capture install DATABASE --tables {table}"


class Triggers(Protocol):
    """How a database is told to capture tables."""

    REGISTRY: str

    def describe(self, database: Database, table: str, outbox: str) -> Found:
        """Say what the database knows of a table."""

    def create(self, table: Captured, outbox: str) -> list[str]:
        """Give the statements that capture a table."""

    def drop(self, table: Captured, outbox: str, *, gone: bool) -> list[str]:
        """Give the statements that capture it no longer."""


class Look(Protocol):
    """How a database is asked what is there."""

    def look(self, database: Database, outbox: str) -> tuple[list[Captured], list[Finding], str]:
        """Give what is captured, what is wrong with it, and a text that changes when changes may have gone unseen."""

    def installed(self, database: Database, outbox: str) -> bool:
        """Say whether anything was ever captured."""


TRIGGERS: Final[Mapping[str, Triggers]] = {
    POSTGRESQL.name: capture_postgres,
    MYSQL.name: capture_mysql,
    SQLITE.name: capture_sqlite,
}
LOOKS: Final[Mapping[str, Look]] = {
    POSTGRESQL.name: capture_postgres_look,
    MYSQL.name: capture_mysql_look,
    SQLITE.name: capture_sqlite_look,
}


class CaptureError(SourceError):
    """Changes may go unseen, since triggers are not as they were installed: nothing is proven until they are."""


class Capture:
    """The triggers of a database, as their keeper sees them.

    Args:
        url: The database.
        table: The name of the outbox's table.

    Raises:
        UsageError: The URL names no database, or the table's name is none.
        SourceError: The database cannot be reached.
    """

    def __init__(self, url: str, *, table: str = TABLE) -> None:
        self.outbox = checked(table)
        self.database = connect(url)
        self._triggers = TRIGGERS[self.database.dialect.name]
        self._look = LOOKS[self.database.dialect.name]

    def plan(self, tables: Sequence[str], config: Config, caches: Sequence[str]) -> list[Captured]:
        """Say how tables are captured.

        Args:
            tables: Their names; none for those of the file.
            config: What was asked for.
            caches: The caches that are told; none for those of the file.

        Raises:
            UsageError: A table that cannot be captured, or nothing to do.
            SourceError: The database failed.
        """
        names = list(dict.fromkeys(tables or config.tables))
        told = caches or config.caches
        if not names:
            raise UsageError("no table is named", hint="write --tables product,price, or [tables.product] in the file")
        if not told:
            raise UsageError("no cache is named", hint='write --name shop, or caches = ["shop"] in the file')
        found = [self._triggers.describe(self.database, name, self.outbox) for name in names]
        return [capture(name, one, config, told) for name, one in zip(names, found, strict=True)]

    def statements(self, planned: Sequence[Captured]) -> list[str]:
        """Give the statements that capture tables."""
        registry = self._triggers.REGISTRY.format(t=self.outbox)
        return [registry, *(one for table in planned for one in self._triggers.create(table, self.outbox))]

    def install(self, planned: Sequence[Captured]) -> list[Captured]:
        """Capture tables, in one transaction; those that are as planned are left alone.

        Returns:
            Those that were not: with the relay's next pulse everything ends once, since nobody saw what they changed.

        Raises:
            SourceError: The database failed, or others hold the tables: nothing was done.
        """
        as_planned: set[str] = set()
        if self._look.installed(self.database, self.outbox):
            captured, findings, _life = self._look.look(self.database, self.outbox)
            wrong = {one.table for one in findings if one.unseen or one.mend.startswith("unstale")}
            as_planned = {one.name for one in captured if one in planned and one.name not in wrong}
        changed = [one for one in planned if one.name not in as_planned]
        if changed:
            self.database.script(self.statements(changed))
        return changed

    def captured(self) -> list[Captured]:
        """Give what is captured."""
        if not self._look.installed(self.database, self.outbox):
            return []
        return self._look.look(self.database, self.outbox)[0]

    def check(self, config: Config | None = None, caches: Sequence[str] = ()) -> list[Finding]:
        """Give what is wrong.

        Args:
            config: What was asked for; None for what was installed.
            caches: The caches that are told, where the file does not say.
        """
        if not self._look.installed(self.database, self.outbox):
            captured, findings = list[Captured](), list[Finding]()
        else:
            captured, findings, _life = self._look.look(self.database, self.outbox)
        gone = {one.table for one in findings if one.text == GONE}
        for table in captured:
            if table.name not in gone:
                findings += self._against(table, config, caches)
        for name in config.tables if config is not None else ():
            if name not in {one.name for one in captured}:
                findings.append(Finding(name, "it is not captured", INSTALL.format(table=name)))
        return findings

    def _against(self, table: Captured, config: Config | None, caches: Sequence[str]) -> list[Finding]:
        """Compare a captured table with the database's own word on it, and with what was asked for."""
        mend = INSTALL.format(table=table.name)
        try:
            found = self._triggers.describe(self.database, table.name, self.outbox)
            told = caches or (config.caches if config is not None else ()) or table.caches
            wanted = None if config is None else capture(table.name, found, config, told)
        except UsageError as error:
            return [Finding(table.name, error.message, error.hint, unseen=False)]
        columns = sorted(name for name, kind in table.columns.items() if found.kinds.get(name) != kind)
        if columns:
            text = f"it has no such column any more, or of another type: {', '.join(columns)}"
            return [Finding(table.name, text, f"name others in the file, then {mend} --config FILE", unseen=False)]
        if found.key != table.key:
            return [Finding(table.name, "its primary key is another one", mend, unseen=False)]
        if wanted is not None and wanted != table:
            text = f"it is not captured as the file says: {', '.join(differing(table, wanted))}"
            return [Finding(table.name, text, f"{mend} --config FILE", unseen=False)]
        return []

    def remove(self, tables: Sequence[str] = ()) -> list[str]:
        """Capture tables no longer; none for all: which ones that were.

        Raises:
            UsageError: One is not captured.
            SourceError: The database failed: nothing was done.
        """
        captured = {one.name: one for one in self.captured()}
        unknown = sorted({*tables} - {*captured})
        if unknown:
            raise UsageError(f"{', '.join(unknown)} is not captured", hint="see `unstale capture check`")
        chosen = [captured[name] for name in tables or captured]
        if chosen:
            gone = {one.table for one in self._look.look(self.database, self.outbox)[1] if one.text == GONE}
            statements = (self._triggers.drop(one, self.outbox, gone=one.name in gone) for one in chosen)
            self.database.script([one for some in statements for one in some])
        return [one.name for one in chosen]

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def life_of(database: Database, outbox: str) -> str:
    """Name the life of what is captured: another name means that changes may have gone unseen. Empty for nothing.

    Raises:
        CaptureError: Changes may go unseen now.
        SourceError: The database failed.
    """
    look = LOOKS[database.dialect.name]
    if not look.installed(database, outbox):
        return ""
    _captured, findings, life = look.look(database, outbox)
    unseen = [one for one in findings if one.unseen]
    if unseen:
        told = "; ".join(f"{one.table}: {one.text}" for one in unseen[:3])
        msg = f"changes may go unseen, and nothing is proven: {told}"
        raise CaptureError(msg, hint=f"{unseen[0].mend}; see `unstale capture check`")
    return life
