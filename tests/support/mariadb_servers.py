"""Private MariaDB servers: on free ports of this machine alone, in folders of their own, gone after the test."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.support.ports import HOST, Port
from tests.support.private_server import PrivateServer, unavailable
from tests.support.waiting import DEADLINE_S, until

START_S = 60.0
USER = "app"
TAIL_CHARS = 3000
QUICK = ("--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M")


def program(*names: str) -> str:
    """Give the path of a program of the server."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = next((found for name in names if (found := shutil.which(name, path=path))), None)
    if found is None:
        unavailable("install the server: apt install mariadb-server")
    return found


def account() -> tuple[str, ...]:
    """Give the option that says who runs the server: it refuses root unless that is told."""
    return (f"--user={pwd.getpwuid(os.geteuid()).pw_name}",)


@functools.cache
def _template() -> Path:
    """Make the data of an empty server, once for all that are copied from it."""
    folder = Path(tempfile.mkdtemp(prefix="unstale-mariadb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    install = program("mariadb-install-db", "mysql_install_db")
    done = subprocess.run(
        [install, "--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal",
         "--skip-test-db", *account()],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=START_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-TAIL_CHARS:]
    return folder / "data"


class MariaDBServer(PrivateServer):
    """A real server with a database `shop` and a user `app` without a password, started at once.

    Args:
        server_id: Its number among the servers that replicate each other.
        options: More options of its command line.
    """

    def __init__(self, *, server_id: int = 1, options: Sequence[str] = ()) -> None:
        program("mariadbd", "mysqld")
        self.folder = Path(tempfile.mkdtemp(prefix="unstale-mariadb-"))
        self.data = self.folder / "data"
        self.server_id = server_id
        self._options = options
        self._popen: subprocess.Popen[bytes] | None = None
        self._port = Port()
        self.port = self._port.number
        try:
            shutil.copytree(_template(), self.data)
            self.start()
            self.sql(
                "CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4",
                f"CREATE USER IF NOT EXISTS '{USER}'@'{HOST}'",
                f"GRANT ALL ON shop.* TO '{USER}'@'{HOST}'",
            )
        except BaseException:  # a skip too
            self.end()
            raise

    @property
    def url(self) -> str:
        """Where it is, for a client."""
        return f"mysql://{USER}@{HOST}:{self.port}/shop"

    def start(self) -> None:
        """Start it where it is down, and wait until it answers."""
        assert self._popen is None, "the server is up"
        log = os.open(self.folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        try:
            self._popen = subprocess.Popen(
                [program("mariadbd", "mysqld"), "--no-defaults", f"--datadir={self.data}", f"--port={self.port}",
                 f"--bind-address={HOST}", f"--socket={self.folder}/socket", f"--pid-file={self.folder}/pid",
                 f"--tmpdir={self.folder}", f"--server-id={self.server_id}", "--skip-name-resolve", *QUICK,
                 *self._options, *account()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        finally:
            os.close(log)
        try:
            until(lambda: self._popen is None or self._popen.poll() is not None or self._answers(), START_S)
        except AssertionError:
            self.kill()
        if self._popen is None or self._popen.poll() is not None:
            self.kill()
            pytest.fail(f"no server came up on port {self.port}:\n{self.log_tail()}")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as one:  # PyMySQL leaves a socket open where it finds no server
            if one.connect_ex(f"{self.folder}/socket"):
                return False
        try:
            self.sql("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def log_tail(self) -> str:
        """Give the end of what the server has logged."""
        return (self.folder / "log").read_text(errors="replace")[-TAIL_CHARS:]

    def client(self, **options: Any) -> Any:
        """Give a connection of the application, to be closed."""
        return pymysql.connect(host=HOST, port=self.port, user=USER, password="", database="shop", **options)

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the server's administrator, and give the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with (
            pymysql.connect(unix_socket=f"{self.folder}/socket", user="root", password="", autocommit=True) as client,
            client.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
                rows = list(cursor.fetchall()) if cursor.description else []
        return rows

    def kill(self) -> None:
        """Kill it, without a chance to save anything; nothing, if it is down."""
        if self._popen is None:
            return
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(DEADLINE_S)
        self._popen = None
        (self.folder / "socket").unlink(missing_ok=True)
