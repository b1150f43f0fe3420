from __future__ import annotations

import threading

import pytest

from unstale.engines.breaker import WAIT_MAX_S, WAIT_MIN_S, Breaker, Breakers

PATIENCE_S = 5.0


class Scene:
    """A breaker, its clock, and its chance."""

    def __init__(self, failures_max: int = 2) -> None:
        self.now = 100.0
        self.chance = 1.0
        self.breaker = Breaker(failures_max, clock=lambda: self.now, random=lambda: self.chance)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed()

    def due(self) -> bool:
        return self.breaker.due(PATIENCE_S)


@pytest.fixture
def scene() -> Scene:
    """Give a breaker that two failures open."""
    return Scene()


def test_closed_it_admits_all(scene: Scene) -> None:
    """A breaker that has seen no failure, or one too few in a row, admits every call, and needs no probe."""
    assert scene.breaker.admits()
    scene.fail()
    assert scene.breaker.admits()
    assert not scene.breaker.open
    assert not scene.due()
    assert scene.breaker.refused == 0


def test_a_success_between_failures_keeps_it_closed(scene: Scene) -> None:
    """Only failures in a row open it."""
    for _ in range(10):
        scene.fail()
        scene.breaker.succeeded()
    assert not scene.breaker.open


def test_open_it_refuses_all(scene: Scene) -> None:
    """An open breaker refuses every call, and counts them, however much time passes."""
    scene.fail(2)
    assert scene.breaker.open
    for seconds in (0.0, 1.0, 1000.0):
        scene.now += seconds
        assert not scene.breaker.admits()
    assert scene.breaker.refused == 3


def test_one_probe_is_due_at_a_time(scene: Scene) -> None:
    """After its wait one caller is told to probe, and no other one until that is over or takes too long."""
    scene.fail(2)
    assert not scene.due()
    scene.now += WAIT_MIN_S
    assert [scene.due(), scene.due(), scene.due()] == [True, False, False]
    scene.now += PATIENCE_S - 0.001
    assert not scene.due()
    scene.now += 0.001
    assert scene.due()


def test_a_probe_that_fails_makes_the_wait_longer(scene: Scene) -> None:
    """The wait doubles with each further failure, up to its limit."""
    scene.fail(2)
    waits = []
    for _ in range(10):
        began = scene.now
        while not scene.due():
            scene.now += 0.001
        waits.append(scene.now - began)
        scene.fail()
    wanted = [min(WAIT_MIN_S * 2**number, WAIT_MAX_S) for number in range(10)]
    assert waits == pytest.approx(wanted, abs=0.0015)


def test_a_part_of_the_wait_is_chance(scene: Scene) -> None:
    """Between half and all of the wait is drawn, so that nodes do not come back together."""
    scene.chance = 0.0
    scene.fail(2)
    scene.now += WAIT_MIN_S / 2
    assert scene.due()


def test_a_success_closes_it(scene: Scene) -> None:
    """Whoever succeeds, a probe or a call that asks the server anyway, closes it, and the next wait is short again."""
    scene.fail(12)
    scene.breaker.succeeded()
    assert scene.breaker.admits()
    scene.fail(2)
    scene.now += WAIT_MIN_S
    assert scene.due()


def test_failures_of_calls_under_way_count_once(scene: Scene) -> None:
    """A hundred calls that time out together make the wait no longer than one."""
    scene.fail(100)
    scene.now += WAIT_MIN_S
    assert scene.due()


def test_one_failure_may_be_enough() -> None:
    """How many failures open it is the caller's choice."""
    scene = Scene(1)
    scene.fail()
    assert not scene.breaker.admits()


def test_of_many_threads_one_probes(scene: Scene) -> None:
    """Of threads that ask at the same moment one is told to probe."""
    scene.fail(2)
    scene.now += WAIT_MIN_S
    told: list[bool] = []
    go = threading.Barrier(16)

    def ask() -> None:
        go.wait()
        told.append(scene.due())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 15 + [True]


def test_h23_a_child_has_a_lock_and_a_probe_of_its_own(scene: Scene) -> None:
    """A child forked while another thread held the lock, and a probe was under way, can use its breaker."""
    scene.fail(2)
    scene.now += WAIT_MIN_S
    assert scene.due()
    with scene.breaker._lock:
        scene.breaker.reborn()
        assert scene.due()


# Many of them -------------------------------------------------------------------------------------------------------


def out(breakers: Breakers, address: str) -> Breaker:
    """Give the breaker of an address, open."""
    breaker = breakers.at(address)
    while not breaker.open:
        breaker.failed()
    return breaker


def test_h26_each_address_has_a_breaker_of_its_own() -> None:
    """What becomes of calls to one address neither opens nor closes the breaker of another."""
    breakers = Breakers()
    out(breakers, "a")
    breakers.at("b").succeeded()
    assert breakers.open == {"a"}
    assert not breakers.at("a").admits()
    assert breakers.at("b").admits()
    assert (breakers.failures("a"), breakers.failures("b"), breakers.failures("c")) == (2, 0, 0)


def test_a_forgotten_address_begins_anew() -> None:
    """Addresses at which nothing lies any more are forgotten; what was refused stays counted."""
    breakers = Breakers()
    for address in "abc":
        assert not out(breakers, address).admits()
    breakers.keep({"a", "d"})
    assert breakers.open == {"a"}
    assert breakers.at("b").admits()
    assert breakers.refused == 3


def test_h27_there_are_only_so_many_breakers() -> None:
    """However many addresses are asked, the oldest are forgotten."""
    breakers = Breakers(breakers_max=10)
    for number in range(100):
        out(breakers, f"a{number}")
    assert breakers.open == {f"a{number}" for number in range(90, 100)}


def test_h23_all_breakers_survive_a_fork() -> None:
    """A child can use every breaker, whatever lock was held, and still knows who is out."""
    breakers = Breakers()
    locked = [out(breakers, address) for address in "ab"]
    with locked[0]._lock, locked[1]._lock:
        breakers.reborn()
        for breaker in locked:
            breaker.succeeded()
    assert not breakers.open
