"""The writers of a torture run: one writes in all ways at once, one is killed after each commit."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from typing import Any, Final

import psycopg
from sqlalchemy import event, update
from sqlalchemy.orm import Session, sessionmaker

from tests.torture.roles import Role, Scene
from tests.torture.shop import KINDS, Item, Part, key_of, open_cache, open_engine, update_of
from unstale.clock import boottime
from unstale.sqlalchemy import track

NOTED: Final = "versions to be noted"
LATE_S: Final = 0.12  # between the record and the commit
PSQL_S: Final = 10.0
SHARED: Final = 0.25  # of the rows that any kind of writer may change
BULK: Final = 5  # rows of one statement


class RolledBackError(Exception):
    """What takes a transaction back."""


class Writer(Role):
    """Writes in all ways at once.

    Args:
        scene: Where it takes place.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.cache = open_cache(scene.url, trouble=self.trouble)
        self.cache.ticket()
        self.sessions: sessionmaker[Session] = sessionmaker(open_engine(scene.database))
        event.listen(self.sessions, "after_commit", self._committed)
        track(self.sessions, self.cache, outbox=True)
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        for kind, step, pause_s in (
            ("ORM", self.by_orm, 0.1),
            ("bulk", self.in_bulk, 0.3),
            ("raw SQL", self.by_raw_sql, 0.1),
            ("late commit", self.late, 0.1),
            ("write-through", self.through, 0.1),
            ("psql", self.by_psql, 0.5),
            ("plain psycopg", self.plainly, 0.3),
            ("waits for a standby", self.wait_for_standby, 2.0),
        ):
            self.repeat(kind, step, pause_s)

    def end(self) -> dict[str, Any]:
        """Stop writing, and leave."""
        told = super().end()
        self.cache.close()
        return told

    def connection(self, kind: str, *, autocommit: bool = False, begin: str = "") -> psycopg.Connection[Any]:
        """Give the connection of a kind of writer; one that is gone is opened anew."""
        known = self._connections.get(kind)
        if known is None or known.closed:
            known = self._connections[kind] = psycopg.connect(self.scene.database, autocommit=autocommit)
            if begin:
                known.execute(begin.encode())
        return known

    def committed(self, kind: str, versions: dict[int, int]) -> None:
        """Note what was committed."""
        for row, version in versions.items():
            self.ledger.note(row, version)
        self.done[kind] += 1

    def _committed(self, session: Session) -> None:
        """Note it when the database has answered, and before anything is published."""
        kind, versions = session.info.pop(NOTED, ("", {}))
        if versions:
            self.committed(kind, versions)

    def by_orm(self) -> None:
        """Change rows by a session, with savepoints that are rolled back, and rolled back as a whole now and then."""
        with self.sessions() as session:
            versions = {}
            for row in sorted(random.sample(rows_of("ORM"), 2)):
                versions[row] = self._raise(session, row)
            if random.random() < 0.4:
                with session.begin_nested() as savepoint:
                    self._raise(session, random.choice(rows_of("ORM")))
                    savepoint.rollback()
                self.done["savepoints rolled back"] += 1
            if random.random() < 0.25:
                session.rollback()
                self.done["rolled back"] += 1
                return
            session.info[NOTED] = ("ORM", versions)
            session.commit()

    def _raise(self, session: Session, row: int) -> int:
        one = session.get_one(Item, row, with_for_update=True)
        one.version += 1
        session.flush()
        return one.version

    def in_bulk(self) -> None:
        """Change rows by one statement that does not say which."""
        first = random.choice(KINDS["bulk"][:-BULK])
        change = update(Part).where(Part.id >= first, Part.id < first + BULK).values(version=Part.version + 1)
        with self.sessions() as session:
            found = session.execute(change.returning(Part.id, Part.version)).all()
            session.info[NOTED] = ("bulk", dict(found))
            session.commit()

    def by_raw_sql(self) -> None:
        """Change a row by SQL, in a transaction that the cache ends; some are rolled back."""
        connection, row = self.connection("raw SQL"), random.choice(rows_of("raw SQL"))
        fails = random.random() < 0.25
        with contextlib.suppress(RolledBackError), self.cache.transaction(connection) as tx:
            version = raised(connection, row)
            tx.invalidate(key_of(row))
            if fails:
                raise RolledBackError
        if fails:
            self.done["rolled back"] += 1
        else:
            self.committed("raw SQL", {row: version})

    def late(self) -> None:
        """Commit some time after the record was written, and publish after that."""
        connection, row = self.connection("late commit"), random.choice(rows_of("late commit"))
        tx = self.cache.in_transaction(connection)
        try:
            version = raised(connection, row)
            tx.invalidate(key_of(row))
            self.over.wait(LATE_S)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        self.committed("late commit", {row: version})
        tx.publish()

    def through(self) -> None:
        """Write through; two processes write the same row at about the same time."""
        rows = KINDS["write-through"]
        row = rows[int(boottime() / 0.4) % len(rows)]
        connection = self.connection("write-through")

        def write() -> int:
            version = raised(connection, row)
            connection.commit()
            self.ledger.note(row, version)
            self.over.wait(random.random() * LATE_S)
            return version

        self.cache.write(key_of(row), write, type=int, ttl="1h")
        self.done["write-through"] += 1

    def by_psql(self) -> None:
        """Change a row by the database's own client."""
        program = shutil.which("psql")
        assert program is not None, "install psql: apt install postgresql-client"
        row = random.choice(KINDS["psql"])
        done = subprocess.run(
            [program, "-XAtq", self.scene.database, "-c", update_of(row)], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=PSQL_S, check=True,
        )  # fmt: skip
        self.committed("psql", {row: int(done.stdout)})

    def plainly(self) -> None:
        """Change a row by a connection of which no cache knows."""
        row = random.choice(KINDS["plain psycopg"])
        self.committed("plain psycopg", {row: raised(self.connection("plain", autocommit=True), row)})

    def wait_for_standby(self) -> None:
        """The same, where the commit waits until the replica shows it: it is in the log long before it is visible."""
        row = random.choice(KINDS["waits for a standby"])
        begin = "SET synchronous_commit = remote_apply"
        connection = self.connection("standby", autocommit=True, begin=begin)
        self.committed("waits for a standby", {row: raised(connection, row)})


class Doomed(Role):
    """Forks children that write and commit, and are killed before they can publish; half of them commit late.

    Args:
        scene: Where it takes place.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.repeat("killed after commit", self.fork, 0.1)

    def fork(self) -> None:
        """Let a child do it, and see that it was killed."""
        child = os.fork()
        if not child:
            try:
                self.commit_and_die()
            finally:
                os._exit(1)
        _pid, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        self.done["killed after commit" if killed else "ended too early"] += 1

    def commit_and_die(self) -> None:
        """Write the record, commit, and be killed."""
        row = random.choice(KINDS["killed after commit"])
        cache = open_cache(self.scene.url, trouble=self.trouble)
        with psycopg.connect(self.scene.database) as connection:
            version = raised(connection, row)
            cache.in_transaction(connection).invalidate(key_of(row))
            if random.random() < 0.5:
                self.over.wait(LATE_S)
            connection.commit()
            self.ledger.note(row, version)
            os.kill(os.getpid(), signal.SIGKILL)


def rows_of(kind: str) -> range:
    """Give the rows that a kind of writer changes next: its own, or those of all kinds."""
    return KINDS["all of them"] if random.random() < SHARED else KINDS[kind]


def raised(connection: psycopg.Connection[Any], row: int) -> int:
    """Raise the version of a row: the version."""
    ((version,),) = connection.execute(update_of(row).encode()).fetchall()
    return int(version)
