"""Private Redis servers: on free ports of this machine alone, in folders of their own, gone after the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.certificates import make_certificates
from tests.support.ports import HOST, Port
from tests.support.private_server import PrivateServer, unavailable
from tests.support.waiting import DEADLINE_S, until

START_S = 30.0  # a server is up in 50 ms where nothing else wants the processor
SOCKET_S = 5.0
TAIL_CHARS = 2000
PROGRAMS = ("redis-server", "valkey-server")


def missing() -> str:
    """Say what to do where no server can be started; nothing, where one can."""
    if program():
        return ""
    return "install redis-server: apt install redis-server"


def program() -> str:
    """Give the path of the server's program, empty without one."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), "")


def require_redis() -> None:
    """Skip, or under CI=true fail, where no server can be started."""
    if cure := missing():
        unavailable(cure)


def config_lines(config: dict[str, object]) -> list[str]:
    """Write options as the server's file has them: `maxmemory_policy=x`; a list is one line for each item."""
    lines = []
    for option, value in config.items():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            text = ("yes" if item else "no") if isinstance(item, bool) else str(item)
            lines.append(f"{option.replace('_', '-')} {text}")
    return lines


class RedisServer(PrivateServer):
    """A real server, started at once, and without persistence unless it is asked for.

    Args:
        appendonly: Keep every write in a file, so that a restart brings it back.
        tls: Speak TLS only, with a certificate of its own authority, whose path is `ca`.
        login: User (may be empty) and password of this server's clients; by default what `requirepass` says.
        environment: Variables of its environment beside those that all inherit.
        config: Lines of its configuration, as `maxmemory="12mb"`, `maxmemory_policy="allkeys-lru"` or
            `user=["default off", "app on >secret ~* +@all"]`. `sentinel=[...]` makes it a Sentinel.
    """

    def __init__(
        self,
        *,
        appendonly: bool = False,
        tls: bool = False,
        login: tuple[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        **config: object,
    ) -> None:
        require_redis()
        self._environment = os.environ | dict(environment or {})
        self.login = login or ("", str(config.get("requirepass", "")))
        self.tls = tls
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="unstale-redis-"))
        self.ca = self.folder / "ca.crt"
        self._clients: list[redis.Redis] = []
        self._popen: subprocess.Popen[bytes] | None = None
        self._port = Port()
        try:
            self.port = self._port.number
            self._conf = self._write_conf(
                {"save": '""', "appendonly": appendonly, "repl_diskless_sync_delay": 0} | config
            )
            self.start()
        except BaseException:  # a skip too
            self.end()
            raise

    def _write_conf(self, config: dict[str, object]) -> Path:
        """Write the configuration once: a server may rewrite it, and finds that again after a restart."""
        where: dict[str, object] = {"bind": HOST, "dir": self.folder, "port": self.port}
        if self.tls:
            if not shutil.which("openssl"):
                unavailable("install openssl: apt install openssl")
            make_certificates(self.folder, HOST)
            where |= {"port": 0, "tls_port": self.port, "tls_ca_cert_file": self.ca, "tls_auth_clients": "no"}
            where |= {"tls_cert_file": self.folder / "server.crt", "tls_key_file": self.folder / "server.key"}
            where |= {"tls_replication": "yes"}
        if self.login[1] and "sentinel" not in config:
            where |= {"masterauth": self.login[1]} | ({"masteruser": self.login[0]} if self.login[0] else {})
        conf = self.folder / "server.conf"
        conf.write_text("\n".join(config_lines(where | config)) + "\n")
        self._mode = ["--sentinel"] if "sentinel" in config else []
        return conf

    @property
    def url(self) -> str:
        """Where it is, for a client."""
        user, password = self.login
        login = f"{quote(user)}:{quote(password, safe='')}@" if password else ""
        return f"{'rediss' if self.tls else 'redis'}://{login}{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._running().pid

    @property
    def is_up(self) -> bool:
        """Whether it was started and not killed; it may be stopped."""
        return self._popen is not None

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None, "the server is down"
        return self._popen

    def start(self) -> None:
        """Start it where it is down, and wait until it answers."""
        assert self._popen is None, "the server is up"
        with (self.folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [program(), str(self._conf), *self._mode],
                cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            until(lambda: self._popen is None or self._popen.poll() is not None or self._answers(), START_S)
        except AssertionError:
            self.kill()
        if self._popen is None or self._popen.poll() is not None:
            self.kill()
            if self.tls and "tls-port" in self.log_tail():
                unavailable(f"install a server with TLS: {program()} has none")
            pytest.fail(f"no server came up on port {self.port}:\n{self.log_tail()}")

    def _answers(self) -> bool:
        """Send a PING by hand; an error is an answer too, but not that it still loads its data."""
        try:
            with socket.create_connection((HOST, self.port), SOCKET_S) as plain, self._wrapped(plain) as stream:
                stream.sendall(b"PING\r\n")
                reply = stream.recv(64)
        except OSError:
            return False
        return reply.startswith((b"+", b"-")) and not reply.startswith(b"-LOADING")

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        if not self.tls:
            return plain
        return ssl.create_default_context(cafile=self.ca).wrap_socket(plain, server_hostname=HOST)

    def log_tail(self) -> str:
        """Give the end of what the server has logged."""
        return (self.folder / "log").read_text(errors="replace")[-TAIL_CHARS:]

    def kill(self) -> None:
        """Kill it, stopped or not, without a chance to save anything; nothing, if it is down."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(DEADLINE_S)
            self._popen = None

    def stop(self) -> None:
        """Stop it, as a debugger or a full machine would."""
        os.kill(self.pid, signal.SIGSTOP)
        assert os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT) is not None

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def cli(self, *args: object) -> str:
        """Give what the server's own client prints for a command; its errors are text too."""
        path = shutil.which(Path(program()).name.replace("-server", "-cli"))
        if path is None:
            unavailable("install redis-cli: apt install redis-tools")
        user, password = self.login
        options = ["-h", HOST, "-p", str(self.port), *(["--tls", "--cacert", str(self.ca)] if self.tls else [])]
        options += [
            *(["--user", user] if user else []),
            *(["--pass", password, "--no-auth-warning"] if password else []),
        ]
        done = subprocess.run(
            [path, *options, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        return (done.stdout or done.stderr).rstrip("\n")

    def client(self, **options: Any) -> redis.Redis:
        """Give a client that neither retries nor waits for long, to be closed with the server.

        Args:
            options: More options of the client, or other ones.
        """
        user, password = self.login
        mine: dict[str, Any] = {"host": HOST, "port": self.port, "username": user or None, "password": password or None}
        mine |= {"retry": Retry(NoBackoff(), 0), "socket_timeout": SOCKET_S, "socket_connect_timeout": SOCKET_S}
        mine |= {"ssl": True, "ssl_ca_certs": str(self.ca)} if self.tls else {}
        self._clients.append(redis.Redis(**(mine | options)))
        return self._clients[-1]

    def call(self, *command: object) -> Any:
        """Give the reply to one command, on a connection of its own."""
        with self.client() as client:
            self._clients.remove(client)
            return cast("Any", client).execute_command(*command)

    def role(self) -> str:
        """Give `master` or `slave`, nothing while it cannot be asked: Sentinel ends connections of those it turns."""
        try:
            return str(self.info("replication")["role"])
        except (redis.ConnectionError, redis.TimeoutError):
            return ""

    def info(self, section: str = "everything") -> dict[str, Any]:
        """Give what the server says about itself."""
        found: dict[str, Any] = self.call("INFO", section)
        return found

    def replica_of(self, primary: RedisServer, port: int | None = None) -> None:
        """Make it a replica, and wait until the link is up and all that the primary has now is here.

        Args:
            primary: What it is to follow.
            port: The port of a proxy in front of the primary.
        """
        user, password = primary.login
        if password:
            self.call("CONFIG", "SET", "masterauth", password)
            self.call("CONFIG", "SET", "masteruser", user)
        if self.tls:
            self.call("CONFIG", "SET", "tls-ca-cert-file", str(primary.ca))
        self.call("REPLICAOF", HOST, port or primary.port)
        self.caught_up_with(primary)

    def caught_up_with(self, primary: RedisServer) -> None:
        """Wait until all that the primary has now is here, and the primary counts this replica as its own."""
        theirs = primary.info("replication")
        until(lambda: self._applied() >= theirs["master_repl_offset"], START_S)
        until(lambda: self._counts_for(primary.info("replication")), START_S)

    def _applied(self) -> int:
        """Give how far a replica has got, nothing while its link is down."""
        mine = self.info("replication")
        return int(mine["slave_repl_offset"]) if mine.get("master_link_status") == "up" else -1

    def _counts_for(self, theirs: dict[str, Any]) -> bool:
        """Whether a primary sends to this replica, and has enough of them to write where it needs some."""
        links = [link for name, link in theirs.items() if name.startswith("slave") and isinstance(link, dict)]
        mine = any(link["port"] == self.port and link["state"] == "online" for link in links)
        return mine and bool(theirs.get("min_slaves_good_slaves", True))

    def promote(self) -> None:
        """Make a replica a primary by hand."""
        self.call("REPLICAOF", "NO", "ONE")
        assert self.info("replication")["role"] == "master"

    def end(self) -> None:
        """Kill it, close its clients and remove its folder; a second time, nothing."""
        while self._clients:
            self._clients.pop().close()
        super().end()
