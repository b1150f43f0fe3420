"""The outbox in SQL: its tables, and what is said to them, for PostgreSQL, MySQL and MariaDB, and SQLite.

Rows are told apart by the id of their record, which is never used twice; `seq` only orders them. A sequence may begin
anew after a restore or a restart, and a row deleted by its number could be another one than was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from unstale.errors import UsageError

TABLE: Final = "unstale_outbox"
NAME: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,39}\.)?[A-Za-z_][A-Za-z0-9_]{0,39}")
SEQ_MAX: Final = 2**63 - 1


class Dialect(msgspec.Struct, frozen=True):
    """What differs between databases. `{t}` stands for the table, `?` for a parameter.

    Attributes:
        name: Its name, as SQLAlchemy has it.
        bind: How its driver writes a parameter.
        ddl: What makes the tables where they are missing.
        age: The age of a row, in seconds.
        timeline: Names the life of the database.
    """

    name: str
    bind: str
    ddl: tuple[str, ...]
    age: str
    timeline: str

    def create(self, table: str) -> tuple[str, ...]:
        """Give the statements that make the tables."""
        return tuple(statement.format(t=checked(table)) for statement in self.ddl)

    def drop(self, table: str) -> tuple[str, ...]:
        """Give the statements that remove the tables."""
        return tuple(f"DROP TABLE IF EXISTS {checked(table)}{suffix}" for suffix in ("", "_dead", "_life"))

    def insert(self, table: str, cache: str) -> str:
        """Give the statement that writes a row (id, cache, data), and wakes the relay when it is committed."""
        row = f"INSERT INTO {table} (id, cache, data) VALUES (?, ?, ?)"
        if self.name != "postgresql":
            return row
        return f"WITH told AS ({row}) SELECT pg_notify('{channel(table, cache)}', '')"

    def among(self, column: str, values: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        """Give a condition that a column is one of some values, and its parameters."""
        if self.name == "postgresql":
            return f"{column} = ANY(?)", (list(values),)
        return f"{column} IN ({', '.join('?' * len(values))})", tuple(values)

    def written(self, statement: str) -> str:
        """Give a statement as the driver wants it."""
        return statement if self.bind == "?" else statement.replace("?", self.bind)


def checked(table: object) -> str:
    """Give the name of a table, if it is a plain one.

    Raises:
        UsageError: It is not.
    """
    if isinstance(table, str) and NAME.fullmatch(table):
        return table
    msg = f"{table!r} is no plain name of a table"
    raise UsageError(msg, hint=f'write letters, digits and _, with a schema before it or not: table="{TABLE}"')


def channel(table: str, cache: str) -> str:
    """Give the channel on which rows of a cache are announced."""
    return "unstale_" + blake2b(f"{table}|{cache}".encode(), digest_size=16).hexdigest()


# A life's row is written by the transaction `xmin`: one that a restored dump has brought names another one.
POSTGRESQL: Final = Dialect(
    name="postgresql",
    bind="%s",
    ddl=(
        """CREATE TABLE IF NOT EXISTS {t} (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id text NOT NULL UNIQUE,
  cache text NOT NULL,
  data bytea NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (cache, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)""",
        """CREATE TABLE IF NOT EXISTS {t}_dead (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id text NOT NULL UNIQUE,
  cache text NOT NULL,
  data bytea NOT NULL,
  reason text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
)""",
        "CREATE TABLE IF NOT EXISTS {t}_life (one integer PRIMARY KEY CHECK (one = 1), id text NOT NULL)",
        "INSERT INTO {t}_life VALUES (1, md5(random()::text || clock_timestamp())) ON CONFLICT DO NOTHING",
    ),
    age="extract(epoch FROM clock_timestamp() - at)::float8",
    # The second column is written, and waits for the standbys where such are named: a primary that is cut off from
    # them, and may have been deposed, says nothing.
    timeline="""SELECT (SELECT system_identifier FROM pg_control_system()) || '/'
  || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/'
  || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || l.id || '/' || l.xmin,
  CASE WHEN current_setting('synchronous_standby_names') <> '' THEN pg_logical_emit_message(true, 'unstale', '') END
FROM {t}_life l""",
)

MYSQL: Final = Dialect(
    name="mysql",
    bind="%s",
    ddl=(
        """CREATE TABLE IF NOT EXISTS {t} (
  seq bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL UNIQUE,
  cache varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  data longblob NOT NULL,
  at timestamp(6) NOT NULL DEFAULT current_timestamp(6),
  UNIQUE (cache, seq)
) ENGINE = InnoDB""",
        """CREATE TABLE IF NOT EXISTS {t}_dead (
  seq bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL UNIQUE,
  cache varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  data longblob NOT NULL,
  reason text CHARACTER SET utf8mb4 NOT NULL,
  at timestamp(6) NOT NULL DEFAULT current_timestamp(6)
) ENGINE = InnoDB""",
        "CREATE TABLE IF NOT EXISTS {t}_life (one integer PRIMARY KEY, id varchar(64) NOT NULL) ENGINE = InnoDB",
        "INSERT IGNORE INTO {t}_life VALUES (1, uuid())",
    ),
    age="timestampdiff(MICROSECOND, at, current_timestamp(6)) / 1e6",
    # A replica has another number than its primary; a table that a dump has made was made at another moment.
    timeline="""SELECT concat_ws('/', @@server_id, database(), l.id,
  (SELECT create_time FROM information_schema.tables
   WHERE table_schema = coalesce(nullif('{schema}', ''), database()) AND table_name = '{plain}_life'))
FROM {t}_life l""",
)

SQLITE: Final = Dialect(
    name="sqlite",
    bind="?",
    ddl=(
        """CREATE TABLE IF NOT EXISTS {t} (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  cache TEXT NOT NULL,
  data BLOB NOT NULL,
  at REAL NOT NULL DEFAULT (julianday('now')),
  UNIQUE (cache, seq)
)""",
        """CREATE TABLE IF NOT EXISTS {t}_dead (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  cache TEXT NOT NULL,
  data BLOB NOT NULL,
  reason TEXT NOT NULL,
  at REAL NOT NULL DEFAULT (julianday('now'))
)""",
        "CREATE TABLE IF NOT EXISTS {t}_life (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL)",
        "INSERT OR IGNORE INTO {t}_life VALUES (1, hex(randomblob(16)))",
    ),
    age="(julianday('now') - at) * 86400.0",
    timeline="SELECT l.id FROM {t}_life l",
)

DIALECTS: Final = {"postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL, "sqlite": SQLITE}


def dialect_of(name: str) -> Dialect:
    """Give a dialect by its name.

    Raises:
        UsageError: There is none of that name.
    """
    if name in DIALECTS:
        return DIALECTS[name]
    raise UsageError(f"there is no outbox for {name!r}", hint=f"the dialects are: {', '.join(DIALECTS)}")
