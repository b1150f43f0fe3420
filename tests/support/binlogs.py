"""Captures of a shop's tables by the binary log of a MariaDB server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support.mariadb_servers import USER, MariaDBServer
from tests.support.outboxes import NAME
from tests.support.ports import HOST
from unstale.sources.binlog import BinlogFeed
from unstale.sources.capture_config import Config, parse_config

CONFIG = parse_config('[tables.product]\nscopes = ["product:{id}", "tenant:{tenant}"]\n[tables.review]\n')
LOGGED = ("--log-bin=log", "--binlog-format=ROW", "--binlog-row-metadata=FULL")
TABLES = (
    "DROP DATABASE IF EXISTS shop",
    "CREATE DATABASE shop CHARACTER SET utf8mb4",
    "USE shop",
    "CREATE TABLE product (id integer PRIMARY KEY, tenant varchar(50) COLLATE utf8mb4_bin, price integer)",
    "CREATE TABLE review (product integer, number integer, PRIMARY KEY (product, number))",
    "ALTER TABLE review ADD FOREIGN KEY (product) REFERENCES product (id) ON DELETE CASCADE ON UPDATE CASCADE",
    "INSERT INTO product SELECT seq, 'acme', 1 FROM seq_1_to_20",
)


def logging_server(**how: Any) -> MariaDBServer:
    """Give a server whose binary log can be read by the application's user."""
    server = MariaDBServer(**({"options": LOGGED} | how))
    server.sql(f"GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO '{USER}'@'{HOST}'")
    return server


@contextlib.contextmanager
def reading(server: MariaDBServer, config: Config = CONFIG, **how: Any) -> Iterator[BinlogFeed]:
    """Give a feed upon the log, and close it."""
    with contextlib.closing(BinlogFeed(server.url, NAME, config, **how)) as feed:
        yield feed
