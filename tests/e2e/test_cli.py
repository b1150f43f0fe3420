"""The commands that look at a cache and act on it, on real files."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import unstale.cli
from unstale import Cache, SignedPickle, __version__
from unstale.cli import log_cmds
from unstale.cli.app import app
from unstale.core.record import Record, Stamp

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60
COMMANDS = (
    "demo", "replay", "get", "explain", "tail", "nodes", "doctor", "invalidate", "relay", "outbox", "capture", "behind",
    "wire",
)  # fmt: skip


class Shop:
    """A cache in a file, filled by a service that is still running."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.cache"
        self.url = f"sqlite:///{self.path}"
        self.cache = Cache(self.url)
        loads = self.cache.cached("product:{number}", tags=["catalog"], ttl="10m", grace="1h")(self.load)
        self.product: Any = loads

    @staticmethod
    def load(number: int) -> dict[str, int]:
        return {"number": number}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give a cache that is in use, with two entries."""
    place = Shop(tmp_path)
    place.product(17)
    place.product(18)
    yield place
    place.cache.close()


def call(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: exit code, output, error output."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def members(shop: Shop) -> int:
    """Count the members."""
    return len(shop.cache.ports.log.read_members().members)


# get and explain ----------------------------------------------------------------------------------------------------


def test_get_prints_the_value(shop: Shop) -> None:
    """What may be served is printed as JSON, and nothing else is."""
    assert call("get", shop.url, "product:17") == (0, '{"number":17}\n', "")


def test_get_tells_what_may_not_be_served(shop: Shop) -> None:
    """What was invalidated is not printed: the reason is, with exit code 1."""
    shop.product.invalidate(17)
    code, output, errors = call("get", shop.url, "product:17")
    assert (code, output) == (1, "")
    assert "may not be served: ended by product:17 after its stamp" in errors
    code, output, errors = call("get", shop.url, "product:99")
    assert (code, output) == (1, "")
    assert "nothing is stored under 'product:99'" in errors


def test_get_finds_all_shapes(shop: Shop) -> None:
    """One key may be stored in several shapes, after a deploy that changed the type: each is found."""
    shop.cache.get_or_load("product:17", lambda: "seventeen", type=str)
    code, output, _errors = call("get", shop.url, "product:17", "--json")
    assert code == 0
    assert sorted(str(found["value"]) for found in json.loads(output)) == ["seventeen", "{'number': 17}"]
    assert len({found["shape"] for found in json.loads(output)}) == 2


def test_get_shows_what_only_the_application_can_read(shop: Shop) -> None:
    """Bytes are printed in base 64; a value in a form of the application's own is told by its size."""
    shop.cache.get_or_load("blob:1", lambda: b"\xff\xfe", type=bytes)
    assert call("get", shop.url, "blob:1") == (0, '"//4="\n', "")

    @shop.cache.cached("signed:{number}", codec=SignedPickle(b"a secret of many bytes"))
    def signed(number: int) -> complex:
        return complex(number)

    assert signed(1) == 1
    code, output, errors = call("get", shop.url, "signed:1")
    assert (code, output) == (0, "")
    assert "bytes that only the application can read" in errors
    assert "opaque_bytes" in call("explain", shop.url, "signed:1")[1]


def test_explain_shows_stamp_scopes_and_marks(shop: Shop) -> None:
    """Everything that decides is shown: stamp, life, scopes and their last invalidations."""
    shop.cache.invalidate("catalog", soft=True)
    code, output, errors = call("explain", shop.url, "product:17")
    assert (code, errors) == (1, "")
    assert "may not be served: softly ended by catalog after its stamp" in output
    assert "position 0, 1 before the head of the log" in output
    assert "left, then 1 h of grace" in output
    assert [line.split() for line in output.splitlines() if line.startswith("catalog")] == [
        ["catalog", "never", "1", "after", "the", "stamp"]
    ]


def test_explain_agrees_with_the_library(shop: Shop) -> None:
    """The command says of a key what `explain()` says within a service."""
    for invalidate in (lambda: None, lambda: shop.product.invalidate(17), lambda: shop.product.refresh(17)):
        invalidate()
        known = shop.product.explain(17)
        code, output, _errors = call("explain", shop.url, "product:17", "--json")
        (found,) = json.loads(output)
        assert (found["servable"], found["why"]) == (known.servable, known.why)
        assert code == (0 if known.servable else 1)
        assert found["stamp"]["position"] == known.stamp.position


def test_explain_of_nothing(shop: Shop) -> None:
    """A key without an entry still has marks."""
    shop.cache.invalidate("product:99")
    code, output, _errors = call("explain", shop.url, "product:99")
    assert code == 1
    assert "nothing is stored" in output
    assert [line.split()[1] for line in output.splitlines() if line.startswith("product:99 ")][-1] == "1"


def test_wildcards_in_keys_are_letters(shop: Shop) -> None:
    """A key with % or _ finds itself and nothing else."""
    shop.cache.get_or_load("product:1_", lambda: 1, type=int)
    assert call("get", shop.url, "product:1_")[1] == "1\n"
    assert call("get", shop.url, "product:%")[0] == 1


# Looking leaves no trace --------------------------------------------------------------------------------------------


def test_looking_does_not_join(shop: Shop) -> None:
    """Commands that only look are no members, so no waiting invalidation waits for them."""
    before = members(shop)
    for command in (["get", shop.url, "product:17"], ["explain", shop.url, "product:17"], ["doctor", shop.url]):
        call(*command)
        assert members(shop) == before
    call("tail", shop.url, "--no-follow")
    call("nodes", shop.url)
    assert members(shop) == before


def test_nodes_are_listed(shop: Shop) -> None:
    """Each process that uses the cache is listed with what it has applied, and how far that is behind the head."""
    shop.cache.invalidate("a:1", wait=True)
    code, output, errors = call("nodes", shop.url)
    assert (code, errors) == (0, "")
    assert shop.cache.node.id in output
    assert "1 node; generation" in output
    (found,) = json.loads(call("nodes", shop.url, "--json")[1])
    assert (found["node"], found["applied"], found["behind"]) == (shop.cache.node.id, 1, 0)
    assert (found["max_staleness_s"], found["silent"]) == (2.0, False)


@pytest.mark.parametrize(
    "command", [["get", "product:1"], ["explain", "product:1"], ["tail"], ["nodes"], ["invalidate", "product"]]
)
def test_missing_files_and_names_are_not_made(command: list[str], shop: Shop, tmp_path: Path) -> None:
    """A URL or a name that leads nowhere is an error with a hint; neither a file nor a cache is made."""
    name, *rest = command
    code, _output, errors = call(name, f"sqlite:///{tmp_path}/other.cache", *rest)
    assert code == 1
    assert "there is no file" in errors
    assert "hint" in errors
    assert not (tmp_path / "other.cache").exists()
    code, _output, errors = call(name, shop.url, *rest, "--name", "other")
    assert code == 1
    assert "holds no cache named 'other'; it holds 'default'" in errors
    with sqlite3.connect(shop.path) as db:
        assert db.execute("SELECT name FROM cache").fetchall() == [("default",)]
    db.close()


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    """Other engines, other programs' files and memory are told apart."""
    assert call("get", "memory://", "a")[0] == 2
    assert "there is no engine for gopher" in call("get", "gopher://there", "a")[2]
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    code, _output, errors = call("get", f"sqlite:///{tmp_path}/other.db", "a")
    assert code == 1
    assert "is a database of another program" in errors
    (tmp_path / "text").write_text("no database at all, but a text that is long enough to be looked at\n" * 40)
    code, _output, errors = call("get", f"sqlite:///{tmp_path}/text", "a")
    assert code == 1
    assert "is not a database" in errors


# invalidate and tail ------------------------------------------------------------------------------------------------


def test_invalidate_ends_entries_in_running_services(shop: Shop) -> None:
    """After `--wait`, a service that runs does not serve what was invalidated."""
    assert shop.product(17) == {"number": 17}
    code, output, errors = call("invalidate", shop.url, "catalog", "product:18", "--wait", "--reason", "price list")
    assert (code, errors) == (0, "")
    assert "Invalidated catalog, product:18 at position 1." in output
    assert "No process can serve it any more" in output
    assert shop.product.peek(17) is None


def test_invalidate_softly(shop: Shop) -> None:
    """`--soft` leaves what was stored to its grace."""
    code, output, _errors = call("invalidate", shop.url, "catalog", "--soft")
    assert code == 0
    assert "Softly invalidated catalog" in output
    assert "softly ended" in call("explain", shop.url, "product:17")[1]


@pytest.mark.parametrize("arguments", [["a*b"], ["", "x"], []])
def test_invalidate_refuses_what_is_no_scope(arguments: list[str], shop: Shop) -> None:
    """A scope that cannot be one, or none at all, is a mistake of the caller: exit code 2."""
    assert call("invalidate", shop.url, *arguments)[0] == 2


def test_tail_prints_records(shop: Shop) -> None:
    """Position, scopes, why and how are printed, the last ones first asked for."""
    shop.cache.invalidate("a:1", "b:2", reason="[bold]why[/]")
    shop.cache.invalidate("c:3", soft=True)
    shop.cache.set("d:4", 1, version=9)
    code, output, errors = call("tail", shop.url, "--no-follow")
    assert (code, errors) == (0, "")
    first, second, third = (line.split() for line in output.splitlines())
    assert [first[0], *first[2:5]] == ["1", "a:1", "b:2", "[bold]why[/]"]
    assert [second[0], *second[2:4]] == ["2", "c:3", "soft"]
    assert [third[0], *third[2:6]] == ["3", "d:4", "version", "9", "write"]
    assert [line.split()[0] for line in call("tail", shop.url, "--no-follow", "--from", "2")[1].splitlines()] == [
        "2",
        "3",
    ]
    assert [line.split()[0] for line in call("tail", shop.url, "--no-follow", "--last", "1")[1].splitlines()] == ["3"]
    assert call("tail", shop.url, "--no-follow", "--from", "1", "--last", "1")[0] == 2


def test_tail_prints_json(shop: Shop) -> None:
    """One object a line, for programs."""
    shop.cache.invalidate("a:1", reason="because", trace="00-11-22-01")
    shop.cache.ports.log.append((Record("p1", (), covers=Stamp("g", 1)),))
    first, second = (json.loads(line) for line in call("tail", shop.url, "--no-follow", "--json")[1].splitlines())
    assert (first["position"], first["scopes"], first["why"]) == (1, ["a:1"], "because")
    assert (first["soft"], first["version"], first["trace"]) == (False, None, "00-11-22-01")
    assert (second["position"], second["covers"], second["at"]) == (2, 1, None)
    assert "pulse that covers 1" in call("tail", shop.url, "--no-follow")[1]


def test_tail_tells_of_gaps(shop: Shop) -> None:
    """Where records are no longer kept, that is said."""
    for number in range(4):
        shop.cache.invalidate(f"a:{number}")
    with sqlite3.connect(shop.path) as db:
        db.execute("DELETE FROM log WHERE position <= 2")
        db.execute("UPDATE cache SET trimmed = 2")
    db.close()
    _code, output, errors = call("tail", shop.url, "--no-follow", "--from", "1")
    assert "positions 1 to 2 are no longer kept" in errors
    assert [line.split()[0] for line in output.splitlines()] == ["3", "4"]


@pytest.mark.real
def test_tail_follows_into_a_new_file(shop: Shop, tmp_path: Path) -> None:
    """What comes is printed as it comes, also after the file was replaced; Ctrl-C ends it without a traceback."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "unstale.cli", "tail", shop.url, "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            shop.cache.invalidate("one:1")
            assert json.loads(process.stdout.readline())["scopes"] == ["one:1"]
            shop.cache.close()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{shop.path}{suffix}").unlink(missing_ok=True)
            with Cache(shop.url) as cache:
                cache.invalidate("two:2")
                assert json.loads(process.stdout.readline())["scopes"] == ["two:2"]
            process.send_signal(signal.SIGINT)
            _output, errors = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == log_cmds.INTERRUPTED
    assert "the log began anew" in errors
    assert "Traceback" not in errors


# The command itself -------------------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    """The version is printed, and every command has a line in the help and a help of its own."""
    assert call("--version") == (0, f"unstale {__version__}\n", "")
    _code, output, _errors = call("--help")
    for command in COMMANDS:
        assert command in output
        assert call(command, "--help")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "nothing.csv"], "there is no file nothing.csv"),
        (["replay", "own.csv", "--url", "memory://"], "lives in one process"),
        (["replay", "own.csv", "--writes", "95%"], "leaves nothing to measure"),
        (["replay", "own.csv", "--max-staleness", "soon"], "max-staleness"),
        (["replay", "own.csv", "--report", "no/such/folder.html"], "is no folder that this user may write to"),
    ],
)
def test_mistakes_of_a_replay(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be replayed is refused before anything starts: exit code 2, a hint, no traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("time,op,key,size\n0,get,a,1\n")
    code, _output, errors = call(*arguments)
    assert code == 2
    assert message in errors
    assert "hint" in errors


@pytest.mark.parametrize("option", ["--writes", "--capacity"])
@pytest.mark.parametrize("share", ["much", "120%", "-1", "nan"])
def test_shares_that_are_none(option: str, share: str) -> None:
    """A share is written as 5% or 0.05."""
    code, _output, errors = call("replay", "own.csv", option, share)
    assert code == 2
    assert "is not a share" in errors


def test_without_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without typer or rich, the command says how to install them."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "typer" else found(name))
    with pytest.raises(SystemExit) as caught:
        unstale.cli.main()
    assert caught.value.code == 2
    assert 'the command line needs typer. Install it by: pip install "unstale[cli]"' in capsys.readouterr().err


def test_reference_knows_every_option() -> None:
    """Each command and each option stands in the reference page, in the command's own section."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    sections = dict(section.split("\n", 1) for section in page.split("\n## ")[1:])
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(sections) == set(COMMANDS)
    for name, command in commands.items():
        parts = [command]
        for part in parts:  # a group's commands too, and those of the groups among them
            parts += getattr(part, "commands", {}).values()
        parameters = [parameter for part in parts for parameter in part.params]
        options = {option for parameter in parameters for option in parameter.opts if option.startswith("--")}
        assert {option for option in options - {"--help"} if option not in sections[name]} == set()
