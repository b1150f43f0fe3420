"""The demo and a replay as users run them: processes, a real file, a table, a report, and nothing left behind."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.redis_servers import RedisServer, require_redis

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
COMMAND = [sys.executable, "-m", "unstale.cli"]
TRACE = "time,op,key,size,tag\n" + "".join(
    f"{n},{'set' if n % 10 == 3 else 'get'},t{n % 7}:{n % 3},100,t{n % 7}\n" for n in range(4000)
)

pytestmark = pytest.mark.real


def environment(temporary: Path) -> dict[str, str]:
    """Give what a process of the command finds around it."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(temporary),
        "COLUMNS": "120",
    }


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a folder of its own for what is temporary, and one to work in."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(temporary),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert list(temporary.iterdir()) == [], "nothing may be left behind"
    return done


def row(output: str, name: str) -> list[str]:
    """Give the cells of a row of the table."""
    line = next(line for line in output.splitlines() if line.strip().startswith(name))
    return re.split(r"\s{2,}", line.strip())[1:]


class Page(HTMLParser):
    """Collects what a page would load, and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href"}]


def check_report(path: Path, strategies: int) -> None:
    """Make sure that a report has its plots, and loads nothing from elsewhere."""
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.loaded == []
    assert "url(" not in text
    assert page.tags.count("svg") == 2
    assert page.tags.count("polyline") == 2 * strategies


def test_demo_shows_what_it_promises(tmp_path: Path) -> None:
    """The demo prints its table and report; others serve stale values, and ours none beyond the bound."""
    done = run(tmp_path, "demo", "--seconds", "1.5", "--report", "plots.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert row(done.stdout, "stale for over 1s")[3] == "0"
    none, ttl, delete, _ours = (int(cell.replace(",", "")) for cell in row(done.stdout, "stale reads"))
    assert none == 0
    assert ttl > 0
    assert delete > 0
    assert all(int(cell.replace(",", "")) > 0 for cell in row(done.stdout, "reads a second"))
    assert f"Plots: {tmp_path / 'plots.html'}" in done.stdout
    check_report(tmp_path / "plots.html", 4)


def test_replay_of_a_trace_with_tags(tmp_path: Path) -> None:
    """A replay reads a trace, ends whole objects by their tags, and serves nothing beyond the bound."""
    (tmp_path / "own.csv").write_text(TRACE, encoding="utf-8")
    arguments = (
        "--seconds",
        "1",
        "--workers",
        "2",
        "--strategy",
        "unstale",
        "--policy",
        "derived",
        "--capacity",
        "50%",
    )
    done = run(tmp_path, "replay", "own.csv", "--url", "sqlite:///own.cache", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert row(done.stdout, "stale for over 1s") == ["0"]
    assert "3,600 reads and 400 changes of 21 entries; 7 objects, by tag" in done.stdout
    assert (tmp_path / "own.cache").exists()
    check_report(tmp_path / "replay-report.html", 1)


def test_replay_adds_changes(tmp_path: Path) -> None:
    """For a trace that only reads, changes are added from a seed, and the same cache can be used again."""
    (tmp_path / "own.csv").write_text(TRACE.replace("set", "get"), encoding="utf-8")
    for _ in range(2):
        arguments = ("--seconds", "0.5", "--workers", "2", "--strategy", "unstale", "--writes", "5%", "--origin", "0s")
        done = run(tmp_path, "replay", "own.csv", "--url", "sqlite:///own.cache", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"\d\d\d changes added \(0.05 of all requests, seed 1\)", done.stdout)


def test_demo_on_redis(tmp_path: Path) -> None:
    """With a URL, the workers share a cache on that server, whatever an earlier demo left in it."""
    with RedisServer() as server:
        for _ in range(2):
            done = run(tmp_path, "demo", "--seconds", "1", "--workers", "2", "--url", server.url)
            assert (done.returncode, done.stderr) == (0, "")
            assert row(done.stdout, "stale for over 1s")[3] == "0"
            assert row(done.stdout, "hit ratio")[3] != "0 %"
            assert f'Cache("{server.url}", max_staleness="1s")' in done.stdout
        assert server.client().xlen("{unstale:demo}:log") > 100, "every change was published there"


def test_replay_on_redis(tmp_path: Path) -> None:
    """A replay's workers share a cache on a server; the password in its URL stands in no output and no report."""
    (tmp_path / "own.csv").write_text(TRACE, encoding="utf-8")
    with RedisServer(requirepass="a-secret-of-ours") as server:
        arguments = ("--seconds", "1", "--workers", "2", "--strategy", "unstale", "--url", server.url)
        done = run(tmp_path, "replay", "own.csv", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert row(done.stdout, "stale for over 1s") == ["0"]
        assert server.client().exists("{unstale:replay}:log")
        report = (tmp_path / "replay-report.html").read_text(encoding="utf-8")
        assert f":***@127.0.0.1:{server.port}" in report
        assert "a-secret-of-ours" not in done.stdout + report


def test_demo_without_a_server(tmp_path: Path) -> None:
    """A server that is not there is told at once, with what to do."""
    done = run(tmp_path, "demo", "--seconds", "1", "--url", "redis://127.0.0.1:1")
    assert done.returncode == 1
    assert "127.0.0.1:1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def private(folder: Path, *words: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """Run a command with a private server, as `make demo-redis` does."""
    temporary = folder / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "private_redis.py"), *words],
        cwd=folder, env={**environment(temporary), "PATH": path}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert list(temporary.iterdir()) == [], "nothing may be left behind"
    return done


def test_private_server_of_the_demo(tmp_path: Path) -> None:
    """What `make demo-redis` does: it starts a server, runs the command with its URL, and ends the server."""
    require_redis()
    done = private(tmp_path, *COMMAND, "demo", "--seconds", "0.5", "--workers", "2", "--url", "{url}")
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"redis://127\.0\.0\.1:(\d+)/0", done.stdout)
    assert found is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(found[1])), timeout=1.0)


def test_private_server_without_a_program(tmp_path: Path) -> None:
    """Without a server's program in PATH it is said how to install one."""
    done = private(tmp_path, "true", path=str(tmp_path))
    assert done.returncode == 2
    assert "sudo apt install redis-server" in done.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle(ending: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, or a request to terminate, ends all processes, leaves no file, and shows no traceback."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [*COMMAND, "demo", "--seconds", "60"],
        cwd=tmp_path,
        env=environment(temporary),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            workers = wait_for_workers(process, temporary)
            process.send_signal(ending)
            _output, errors = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == 128 + ending
    assert "Traceback" not in errors
    assert list(temporary.iterdir()) == []
    assert [pid for pid in workers if alive(pid)] == []


def wait_for_workers(process: subprocess.Popen[str], temporary: Path) -> list[int]:
    """Wait until the workers work, and give their ids: the progress file of the first strategy counts their reads."""
    assert process.stdout is not None
    for _ in range(DEADLINE_S * 10):
        select.select([], [], [], 0.1)
        counters = list(temporary.glob("*/none/progress"))
        if counters and any(counters[0].read_bytes()):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            return [int(pid) for pid in children.read_text().split()] if children.exists() else []
    pytest.fail("the demo did not start")


def alive(pid: int) -> bool:
    """Say whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
