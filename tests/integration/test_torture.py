from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.redis_servers import RedisServer
from tests.torture.defences import DEFENCES
from tests.torture.run import PATHS, Told, show, torture
from tests.torture.shop import KINDS

SECONDS = 12.0  # `make torture` runs a minute
SHORT_S = 6.0
PAGE = Path(__file__).resolve().parents[2] / "docs" / "internals" / "faults.md"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give a server that serves the caches of all runs, one after the other."""
    with RedisServer() as server:
        yield server


def tortured(server: RedisServer, seconds: float, without: str = "") -> Told:
    """Run it on an empty server."""
    server.call("FLUSHALL")
    told = torture(server.url, seconds, print, without)
    show(told, Console(width=140), without)  # shown when it fails
    return told


@pytest.mark.real
def test_h01_h02_h16_h17_h18_h19_h20_h21_h31_torture(server: RedisServer) -> None:
    """Whoever writes, whatever is killed, dropped or late: no reader by any path is served beyond the bound."""
    told = tortured(server, SECONDS)
    assert told.beyond == 0
    assert sum(counts["stale"] for counts in told.reads.values()) > 0, "readers and writers meet"
    for path in PATHS:
        assert told.reads[path]["reads"] > told.reads[path]["loaded"] > 0, f"{path}: some is served, some is loaded"
    for kind in (*KINDS, "rolled back", "savepoints rolled back", "relays killed", "slots dropped", "replica in time"):
        assert told.done[kind] > 0 or kind == "all of them", f"{kind}: it did not happen"


@pytest.mark.real
@pytest.mark.parametrize("without", ["outbox", "triggers"])
def test_h02_h31_torture_without_a_defence(server: RedisServer, without: str) -> None:
    """Without a row in the outbox, or without triggers, the same run shows reads beyond the bound."""
    assert tortured(server, SHORT_S, without).beyond > 0


def test_each_defence_is_documented() -> None:
    """The page names every defence that can be taken out, with its hazard."""
    page = PAGE.read_text(encoding="utf-8")
    missing = [name for name, one in DEFENCES.items() if f"| `{name}` | {one.hazard} | {one.without} |" not in page]
    assert missing == []
