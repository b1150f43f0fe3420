from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_cells import CELLS, CONTROL, header, row
from tests.support.fault_scene import BOUND_S, FAULT_S, Scene
from tests.support.staleness import Verdict

pytestmark = pytest.mark.real


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give the nodes of one cell."""
    with Scene(tmp_path) as scene:
        yield scene


def clean(scene: Scene, name: str) -> Verdict:
    """Run a cell: no read was staler than the bound, none failed, and all nodes came to serve the newest."""
    verdict = CELLS[name].run(scene)
    print(row(CELLS[name], verdict))  # noqa: T201 - shown when it fails
    assert (verdict.beyond, verdict.errors) == ({}, {})
    assert verdict.reads > 10_000
    return verdict


def test_h08_the_oracle_notices_readers_without_a_bound(scene: Scene) -> None:
    """The oracle is not blind: readers that asked for no bound are found beyond it, while they are cut off."""
    verdict = CONTROL.run(scene)
    assert verdict.beyond
    assert max(verdict.beyond.values()) == verdict.oldest_s > BOUND_S


@pytest.mark.parametrize("file", ["", "_with_file"])
def test_h10_h12_a_server_is_killed_and_restarted(scene: Scene, file: str) -> None:
    """A server that comes back, empty or with what its file has kept, is a new generation for every node."""
    clean(scene, f"killed{file}")
    assert all(scene.of(node)["discontinuities"] == 2 for node in scene.readers), "the first join, and the restart"


def test_h08_a_server_is_stopped(scene: Scene) -> None:
    """While a server stands still nobody serves what is past the bound, and its first answers revive nothing."""
    clean(scene, "stopped")


def test_h12_a_server_is_wiped(scene: Scene) -> None:
    """After a FLUSHALL, which nothing tells of, each node notices another generation within the bound."""
    clean(scene, "flushed")
    assert all(scene.of(node)["discontinuities"] > FAULT_S for node in scene.readers)


def test_h12_scripts_are_forgotten(scene: Scene) -> None:
    """A script that the server has forgotten is sent anew, unnoticed by all."""
    clean(scene, "scripts_flushed")
    assert all(scene.of(node)["discontinuities"] == 1 for node in scene.readers), "only the first join"


def test_h09_a_log_is_cut_under_a_reader(scene: Scene) -> None:
    """A reader that wakes behind the first record of the log drops what it holds; those at the head do not care."""
    clean(scene, "trimmed")
    assert scene.of(scene.readers[0])["discontinuities"] == 2


def test_h14_memory_is_full_and_anything_is_evicted(scene: Scene) -> None:
    """Whatever the server evicts, entries, marks, the log or its head, nothing stale is served for it."""
    clean(scene, "evicting")


@pytest.mark.parametrize("far", ["", "_far"])
def test_h22_h13_the_wall_clock_of_a_server_is_stepped(scene: Scene, far: str) -> None:
    """Steps of the server's wall clock, however long against `max_ttl`, revive nothing that was ended."""
    clean(scene, f"clock_stepped{far}")
    assert len(scene.readers) == 6, "four have joined meanwhile"


def test_h22_readers_are_stopped(scene: Scene) -> None:
    """A process that was stopped for longer than the bound serves nothing from before when it wakes."""
    clean(scene, "nodes_stopped")


def test_h23_readers_are_forked(scene: Scene) -> None:
    """Parents and children of a fork go on with connections and leases of their own."""
    clean(scene, "nodes_forked")
    assert len(scene.children) == 2


@pytest.mark.parametrize("way", ["cut_both", "cut_to_server", "cut_to_client"])
def test_h08_the_network_is_cut(scene: Scene, way: str) -> None:
    """Readers whose network is cut, in either direction, serve nothing past the bound, and replay later."""
    clean(scene, way)
    assert all(scene.of(node)["discontinuities"] == 1 for node in scene.readers), "replay, not a cold start"


@pytest.mark.parametrize("how", ["slowed", "half_open", "refused"])
def test_h08_the_network_is_ill(scene: Scene, how: str) -> None:
    """Readers whose network is slow, half open or closed serve nothing past the bound."""
    clean(scene, how)


def test_h08_h33_replies_arrive_long_after(scene: Scene) -> None:
    """Replies that the network has held back prove nothing when they arrive."""
    clean(scene, "held")


def test_h10_a_failover_loses_acknowledged_records(scene: Scene) -> None:
    """With quorum=0 records may be lost in a failover, but the promoted server is a new generation for every node."""
    clean(scene, "failover_without_quorum")


def test_h10_h11_a_failover_with_a_quorum(scene: Scene) -> None:
    """By default nothing is acknowledged that the replica does not have, so a failover loses nothing acknowledged."""
    clean(scene, "failover_with_quorum")


def test_h11_readers_with_an_isolated_old_primary(scene: Scene) -> None:
    """Readers that only reach an isolated old primary lose their leases, though it answers all that they ask."""
    clean(scene, "split")


def test_table_has_a_column_for_each_value() -> None:
    """The rows of the table fit its head."""
    verdict = Verdict(1000, 10, 0.25, {}, {}, 0.1)
    head, *_ = header()
    assert row(CONTROL, verdict).count(" | ") == head.count(" | ")
