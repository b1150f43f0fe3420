"""What `nodes` and `doctor` tell of real processes: who they are, what they run, and how their policies differ."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.processes import Process
from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale._version import __version__
from unstale.cli.app import app
from unstale.cli.examine_nodes import FINDINGS_MAX, examine_nodes
from unstale.cli.nodes_told import Node
from unstale.core.about import About
from unstale.core.ops import Identity, Member, Members

ROLE = Path(__file__).with_name("node_role.py")
Start = Callable[..., Process]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.real)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a fresh cache on each engine that processes share."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shop.cache"
        return
    with RedisServer(maxmemory="64mb", maxmemory_policy="volatile-ttl") as server:
        yield server.url


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Start nodes; all are ended at last."""
    made: list[Process] = []

    def one(node_name: str, **settings: Any) -> Process:
        made.append(Process(ROLE, url, node_name, json.dumps(settings)))
        made[-1].hear()
        return made[-1]

    yield one
    for process in made:
        process.end()


def call(command: str, url: str, *arguments: str) -> str:
    """Run a command in this process: its output."""
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app, [command, url, "--name", "shop", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def change(folder: Path, *statements: str) -> None:
    """Change the file of a cache behind its back."""
    with contextlib.closing(sqlite3.connect(folder / "shop.cache", timeout=30.0)) as db, db:
        for statement in statements:
            db.execute(statement)


def findings(url: str) -> list[dict[str, str]]:
    """Give what doctor finds of versions and policies."""
    return [one for one in json.loads(call("doctor", url, "--json")) if one["subject"] in {"versions", "policies"}]


def test_nodes_are_told_by_name(url: str, start: Start) -> None:
    """Each process is listed with its name, where it runs, its version, and what it has applied."""
    processes = {name: start(name, ttl="5m") for name in ("web-1", "")}
    told = {one["name"]: one for one in json.loads(call("nodes", url, "--json"))}
    assert set(told) == set(processes)
    for name, process in processes.items():
        assert told[name]["place"].endswith(f":{process.popen.pid}")
        assert (told[name]["version"], told[name]["applied"], told[name]["behind"]) == (__version__, 0, 0)
        assert told[name]["policies"] == {"*": [{"ttl": "5m"}], "product:{}": [{"ttl": "5m"}]}
    lines = call("nodes", url).splitlines()
    assert lines[0].split() == ["node", "name", "version", "applied", "behind", "bound"]
    (line,) = (line for line in lines if "web-1 (" in line)
    assert line.split()[-5:] == [__version__, "0", "0", "2", "s"]
    assert [(one["level"], one["text"]) for one in findings(url)] == [
        ("ok", f"all nodes run unstale {__version__}"),
        ("ok", "2, the same on all nodes that have them"),
    ]


def test_policies_that_differ_are_found(url: str, start: Start) -> None:
    """Two processes with other policies for the same keys are told by name, with what that weakens."""
    start("web-1", ttl="5m", grace="1h")
    start("web-2", ttl=300, grace=3600)
    start("worker", ttl="1h", grace="1h")
    versions, differs = findings(url)
    assert (versions["level"], differs["level"]) == ("ok", "note")
    what, told = differs["text"].split(": ", 1)
    assert what == "the policy of product:{} differs in ttl"
    longer, shorter = sorted(told.split("; "))
    assert longer.startswith("grace=1h, ttl=1h on worker (")
    assert shorter.startswith("grace=1h, ttl=5m on web-1 (")
    assert "web-2 (" in shorter
    assert differs["weakens"] == "an entry lives as long as the node that stored it says, also for those that say less"
    assert "deploy the same code to web-1 (" in differs["mend"]
    assert "worker (" in differs["mend"]
    listed = call("nodes", url, "--policies")
    policies = listed[listed.index("product:{}") :]
    assert "  grace=1h, ttl=1h   worker (" in policies
    assert "  grace=1h, ttl=5m   web-1 (" in policies


def test_what_is_decorated_later_is_told_too(url: str, start: Start) -> None:
    """A function that is decorated while the service runs is told of within a poll."""
    process = start("web-1", ttl="5m", max_staleness="300ms")
    assert process.ask("more") == "a"
    until(lambda: "late:{}" in json.loads(call("nodes", url, "--json"))[0]["policies"])


def test_versions_that_differ_are_found(url: str, start: Start) -> None:
    """Processes that run several versions are a note, as during every deploy; who has ended is left out of it."""
    start("web-1", ttl="5m", max_staleness="300ms")
    old = start("web-2", ttl="1h", max_staleness="300ms", version="0.0.9")
    found = {one["subject"]: one for one in findings(url)}
    assert found["versions"]["level"] == "note"
    assert "0.0.9 on web-2 (" in found["versions"]["text"]
    assert f"{__version__} on web-1 (" in found["versions"]["text"]
    old.end()
    until(lambda: [one["level"] for one in findings(url)] == ["ok", "ok"])


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_file_of_an_older_version_tells_nothing(tmp_path: Path, start: Start, url: str) -> None:
    """Members that told nothing about themselves are listed by their ids, and nothing is said of their policies."""
    process = start("web-1", ttl="5m")
    process.stop()
    change(tmp_path, "DROP TABLE about", "DROP TRIGGER about_gone", "UPDATE member SET until = until + 1000")
    (told,) = json.loads(call("nodes", url, "--json"))
    assert (told["name"], told["version"], told["policies"]) == ("", "", {})
    assert call("nodes", url).splitlines()[1].split()[:3] == [told["node"], "-", "-"]
    assert findings(url) == []
    change(tmp_path, "UPDATE member SET until = until - 1000")
    process.go_on()
    until(lambda: json.loads(call("nodes", url, "--json"))[0]["name"] == "web-1")


# Without processes --------------------------------------------------------------------------------------------------


def node(name: str, **policies: dict[str, str]) -> Node:
    """Give a node that tells of policies."""
    told = {f"{pattern}:{{}}": [facts] for pattern, facts in policies.items()}
    return Node(Member(name, "g", 0, 2.0), About(name, "", "1", told))


def examined(*nodes: Node) -> list[tuple[str, str, str]]:
    """Give what is found of policies: level, text, and what suffers."""
    members = Members(Identity("g", 0, ""), tuple(one.member for one in nodes), 100.0, 2.0)
    found = examine_nodes(list(nodes), members)
    return [(one.level, one.text, one.weakens) for one in found if one.subject == "policies"]


@pytest.mark.parametrize(
    ("one", "other", "fields", "weakens"),
    [
        ({"tags": "a", "ttl": "1m"}, {"ttl": "5m"}, "tags, ttl", "an invalidation of a tag or namespace ends only"),
        ({"replica_lag": "1s"}, {}, "replica_lag", "what a node with the shorter lag loads"),
        ({"max_staleness": "1s"}, {"max_staleness": "2s"}, "max_staleness", "how stale a value may be"),
        ({"grace": "1h"}, {}, "grace", "what is kept to be served stale"),
        ({"origin": "20"}, {"origin": "5"}, "origin", "the origin gets more loads"),
        ({"copy": "True"}, {}, "copy", "the same call behaves differently"),
    ],
)
def test_what_differing_policies_weaken(one: dict[str, str], other: dict[str, str], fields: str, weakens: str) -> None:
    """Of several fields that differ, what the worst of them weakens is told."""
    ((level, text, told),) = examined(node("n1", a=one), node("n2", a=other))
    assert level == "note"
    assert text.startswith(f"the policy of a:{{}} differs in {fields}: ")
    assert told.startswith(weakens)


def test_nodes_without_a_function_do_not_differ() -> None:
    """Who never decorated a function of some keys has no policy for them, and so none that differs."""
    assert [level for level, *_rest in examined(node("n1", a={"ttl": "1m"}), node("n2", b={"ttl": "2m"}))] == ["ok"]


def test_many_differences_are_counted() -> None:
    """Beyond a number of findings the others are only counted, and of many nodes only a few are named."""
    names = [f"a{number}" for number in range(FINDINGS_MAX + 3)]
    nodes = [node(f"n{number}", **{key: {"ttl": f"{number // 8}m"} for key in names}) for number in range(16)]
    found = examined(*nodes)
    assert len(found) == FINDINGS_MAX + 1
    assert "ttl=0m on n0, n1, n2, n3 and 4 more" in found[0][1]
    assert found[-1][1].startswith("3 more patterns")


def test_policies_may_differ_in_what_belongs_together() -> None:
    """Two nodes whose functions of the same keys have the same facts, but paired otherwise, differ nevertheless."""
    pairs = [{"ttl": "1m", "grace": "1h"}, {"ttl": "2m"}], [{"ttl": "1m"}, {"ttl": "2m", "grace": "1h"}]
    nodes = [Node(Member(f"n{number}", "g", 0, 2.0), About(policies={"a": pair})) for number, pair in enumerate(pairs)]
    ((_level, text, _weakens),) = examined(*nodes)
    assert text.startswith("the policy of a differs in grace, ttl: ")
