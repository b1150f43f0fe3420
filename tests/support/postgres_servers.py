"""Private PostgreSQL servers: on free ports of this machine alone, in folders of their own, gone after the test."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.ports import HOST, Port
from tests.support.private_server import PrivateServer, unavailable
from tests.support.waiting import DEADLINE_S, until

START_S = 60.0
USER = "app"  # owns the server, and so may do everything in it
TAIL_CHARS = 3000


@functools.cache
def programs() -> Path | None:
    """Give the folder of the server's programs; a distribution may not have them in PATH."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    folders.sort(key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
    found = shutil.which("initdb")
    return folders[-1] if folders else Path(found).resolve().parent if found else None


@functools.cache
def account() -> pwd.struct_passwd | None:
    """Give who runs servers: they refuse to be run by root. None for whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    found = [entry for entry in pwd.getpwall() if entry.pw_name in {"postgres", "nobody"}]
    if not found:
        unavailable("run the tests as another user than root, or make the user postgres: PostgreSQL refuses root")
    return max(found, key=lambda entry: entry.pw_name)


def program(name: str) -> str:
    """Give the path of a program of the server."""
    folder = programs()
    if folder is None:
        unavailable("install the server: apt install postgresql")
    return str(folder / name)


def run(*command: object) -> str:
    """Run a program of the server to its end, as who runs servers."""
    done = subprocess.run(
        [program(str(command[0])), *map(str, command[1:])], **_as_account(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=START_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-TAIL_CHARS:]
    return str(done.stdout)


def _as_account() -> dict[str, Any]:
    who = account()
    if who is None:
        return {"cwd": "/"}
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": [], "cwd": "/"}


def _folder() -> Path:
    """Give a new folder that belongs to who runs servers."""
    folder = Path(tempfile.mkdtemp(prefix="unstale-postgres-"))
    who = account()
    if who is not None:
        os.chown(folder, who.pw_uid, who.pw_gid)
    return folder


@functools.cache
def _template() -> Path:
    """Make the data of an empty server, once for all that are copied from it."""
    folder = _folder()
    # Also at the end of a process that multiprocessing has started, which `atexit` does not see.
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=0)
    run("initdb", "-D", folder / "data", "-U", USER, "--auth", "trust", "-E", "UTF8", "--locale", "C", "-N")
    return folder / "data"


class PostgresServer(PrivateServer):
    """A real server, started at once.

    Args:
        of: Copies the data of a running server, whose replica it is then.
        config: Lines of its configuration, as `fsync=True`. It does without fsync unless it is told otherwise: that
            is for the power to fail, and no test does that.
    """

    def __init__(self, *, of: PostgresServer | None = None, **config: object) -> None:
        program("postgres")
        self.folder = _folder()
        self.data = self.folder / "data"
        self._config = {"fsync": False, "max_connections": 60, "shared_buffers": "16MB", "lc_messages": "C"} | config
        self._popen: subprocess.Popen[bytes] | None = None
        self._port = Port()
        self.port = self._port.number
        try:
            if of is None:
                run("initdb", "--version")
                self._copy(_template())
            else:
                run("pg_basebackup", "-D", self.data, "-h", HOST, "-p", of.port, "-U", USER, "-c", "fast", "-R")
            self.start()
        except BaseException:  # a skip too
            self.end()
            raise

    def _copy(self, template: Path) -> None:
        subprocess.run(["cp", "-a", template, self.data], **_as_account(), timeout=START_S, check=True)

    @property
    def url(self) -> str:
        """Where it is, for a client."""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._popen is not None, "the server is down"
        return self._popen.pid

    def start(self) -> None:
        """Start it where it is down, and wait until it answers."""
        assert self._popen is None, "the server is up"
        lines = {"port": self.port, "listen_addresses": HOST, "unix_socket_directories": self.folder} | self._config
        options = [part for name, value in lines.items() for part in ("-c", f"{name}={value}")]
        log = os.open(self.folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        try:
            self._popen = subprocess.Popen(
                [program("postgres"), "-D", str(self.data), *options], **_as_account(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
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
        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def log_tail(self) -> str:
        """Give the end of what the server has logged."""
        return (self.folder / "log").read_text(errors="replace")[-TAIL_CHARS:]

    def client(self, **options: Any) -> psycopg.Connection[Any]:
        """Give a connection, to be closed."""
        mine: dict[str, Any] = {
            "host": HOST,
            "port": self.port,
            "user": USER,
            "dbname": "postgres",
            "connect_timeout": 5,
        }
        return psycopg.connect(**(mine | options), autocommit=True)

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, and give the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with self.client() as client:
            for statement in statements:
                cursor = client.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def _family(self) -> list[int]:
        """Give all processes of the server: each leads a session of its own."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [self.pid, *map(int, children.read_text().split())]

    def kill(self) -> None:
        """Kill it with all its processes, stopped or not, without a chance to save anything; nothing, if it is down."""
        if self._popen is None:
            return
        if self._popen.poll() is None:
            os.kill(self.pid, signal.SIGSTOP)  # so that it makes no more of them
            self._signal(signal.SIGKILL)
        self._popen.wait(DEADLINE_S)
        self._popen = None
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop_in_order(self) -> None:
        """Shut it down, ending all sessions."""
        os.kill(self.pid, signal.SIGINT)
        assert self._popen is not None
        self._popen.wait(START_S)
        self._popen = None

    def stop(self) -> None:
        """Stop it with all its processes, as a debugger or a full machine would."""
        os.kill(self.pid, signal.SIGSTOP)
        self._signal(signal.SIGSTOP)
        assert os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT) is not None

    def go_on(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in reversed(self._family()):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def promote(self) -> None:
        """Make a replica a primary."""
        assert self.sql("SELECT pg_promote()") == [(True,)]

    def caught_up_with(self, primary: PostgresServer) -> None:
        """Wait until all that the primary has now is here."""
        ((there,),) = primary.sql("SELECT pg_current_wal_flush_lsn()::text")
        applied = f"SELECT pg_last_wal_replay_lsn() >= '{there}'::pg_lsn"
        until(lambda: self.sql(applied) == [(True,)], START_S)
