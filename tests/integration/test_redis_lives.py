"""The account that a Redis server keeps of how long marks live, while its wall clock goes on, or to and fro."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from tests.support.redis_servers import RedisServer
from tests.support.redis_shop import MEMBER, TAG
from tests.support.wall_clock import WallClock
from unstale.cli.redis_look import RedisLook
from unstale.core.marks import full
from unstale.core.ops import MarksReply
from unstale.core.record import Record
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_append_scripts import APPEND
from unstale.engines.redis_lua import RANGES_MAX, SHARE
from unstale.engines.redis_url import parse_url

pytestmark = pytest.mark.real

MAX_TTL_S: Final = 600.0
LIFE_S: Final = 2 * MAX_TTL_S
PAIR_BYTES: Final = 5 + 9  # MessagePack's form of a position and a moment, at most


class OneEngine:
    """Positions and marks of a log upon the server."""

    hash = f"{TAG}:meta"
    late = False
    scripts: tuple[str, ...] = ("publish", "poll", "marks")

    def __init__(self, clock: WallClock, server: RedisServer) -> None:
        self.step = clock.set
        self.server = server
        self.engine = RedisEngine(parse_url(server.url), name="shop", max_ttl_s=MAX_TTL_S)
        self.head = 0

    def publish(self, *scopes: str) -> int:
        """Publish the next record."""
        (logged,) = self.engine.append((Record(f"r{self.head + 1}", scopes),)).records
        self.head = logged.position
        return self.head

    def begin_anew(self) -> None:
        """Begin another generation."""
        self.server.call("HDEL", self.hash, "server")

    def poll(self) -> None:
        """Poll as nodes do, at the head."""
        self.engine.poll(MEMBER, self.head, 10, 0.0)

    def marks(self, *scopes: str) -> MarksReply:
        """Ask for marks."""
        return self.engine.read_marks(scopes)

    def noted(self) -> list[int]:
        """Give what the server has noted of the lives of marks."""
        packed = self.server.call("HGET", self.hash, "lives")
        noted: list[int] = msgspec.msgpack.decode(packed)
        return noted


class TwoEngines(OneEngine):
    """Positions of a log that is elsewhere, and their marks upon the server."""

    hash = f"{TAG}:covered"
    scripts = ("publish", "marks")

    def __init__(self, clock: WallClock, server: RedisServer) -> None:
        super().__init__(clock, server)
        self.engine = RedisEngine(parse_url(server.url), name="shop", max_ttl_s=MAX_TTL_S, own=False)
        self.generation = "g"
        self.told: list[tuple[str, ...]] = []

    def begin_anew(self) -> None:
        """Begin another generation."""
        self.generation, self.head, self.told = "h", 0, []

    def publish(self, *scopes: str) -> int:
        """Write the marks of the next record; where nodes are late, now and then those of some before too."""
        self.told.append(scopes)
        self.head += 1
        self.extend(self.head - self.late * (self.head % 3), self.head)
        if self.late and self.head % 5 == 0:
            self.extend(self.head - 7, self.head - 2)
        return self.head

    def extend(self, start: int, upto: int) -> None:
        """Write the marks of some records."""
        start = max(1, start)
        marks = {scope: at for at in range(start, upto + 1) for scope in self.told[at - 1]}
        self.engine.extend_marks(self.generation, start, upto, marks)


@pytest.fixture(scope="module")
def clock() -> Iterator[WallClock]:
    """Give the clock of the server."""
    with WallClock() as clock:
        yield clock


@pytest.fixture(scope="module")
def server(clock: WallClock) -> Iterator[RedisServer]:
    """Give a server whose clock can be stepped."""
    with RedisServer(environment=clock.environment) as server:
        yield server


@pytest.fixture(params=[OneEngine, TwoEngines])
def log(request: pytest.FixtureRequest, clock: WallClock, server: RedisServer) -> Iterator[OneEngine]:
    """Give positions and marks, from the first one on."""
    clock.set(0)
    server.call("FLUSHALL")
    log: OneEngine = request.param(clock, server)
    yield log
    log.engine.close()


@pytest.mark.parametrize("seed", range(6))
def test_h22_a_mark_that_is_missing_is_not_covered(log: OneEngine, seed: int) -> None:
    """However the clock goes, as long as some script sees where it was, what is covered has its marks."""
    chance = random.Random(seed)
    shift_s, lost, log.late = 0.0, 0, True
    scope_of: dict[int, str] = {}
    for _ in range(150):
        step_s = chance.choice((0.0, 1.0, LIFE_S / 50, LIFE_S / 3, 1.1 * LIFE_S, 5 * LIFE_S))
        shift_s += chance.choice((-1, 1)) * step_s
        log.step(shift_s)
        what = chance.choice(log.scripts)
        if what == "publish":
            scope = f"s{chance.randrange(20)}"
            scope_of[log.publish(scope)] = scope
        elif what == "poll":
            log.poll()
        reply = log.marks(*dict.fromkeys(scope_of.values())) if what == "marks" else None
        if reply is not None:
            assert reply.upto == log.head
            for position in range(reply.start, reply.upto + 1):
                mark = reply.marks.get(scope_of[position])
                assert mark is not None, (position, reply, log.noted())
                assert full(mark).last >= position
            lost += reply.start > 1
    assert lost


def test_h22_h13_late_joiners_stay_warm(log: OneEngine) -> None:
    """While the clock goes as it should, what is covered reaches back for longer than any entry lives."""
    chance = random.Random(7)
    now_s = 0.0
    published: list[float] = []
    start = 1
    for _ in range(150):
        busy = chance.random() < 0.9
        now_s += chance.uniform(0, LIFE_S / 60) if busy else chance.uniform(LIFE_S / SHARE, 0.9 * LIFE_S)
        log.step(now_s)
        start = log.marks("a").start
        stamp = sum(moment < now_s - MAX_TTL_S for moment in published)  # of the oldest entry that may be alive
        assert start <= stamp + 1
        for _ in range(chance.choice((1, 50))):
            log.publish("a")
            published.append(now_s)
    assert start > 1, "and what nobody needs any more is forgotten"
    log.step(now_s + 3 * LIFE_S)  # all is quiet, and the newest entries are stamped with the head
    assert log.marks("a").start == log.head + 1


def test_h27_what_is_noted_does_not_grow(log: OneEngine) -> None:
    """After 1,000 steps to and fro, short ones and long ones, no more is noted than before."""
    chance = random.Random(1)
    for number in range(1000):
        log.step((number % 2) * chance.choice((1.0, LIFE_S / 20, LIFE_S / 2, 2 * LIFE_S)) + number * chance.random())
        log.publish(f"s{number % 7}")
    assert log.server.call("HSTRLEN", log.hash, "lives") <= RANGES_MAX * PAIR_BYTES


def test_h27_h29_what_is_noted_does_not_grow_by_lives_of_all_lengths(clock: WallClock, server: RedisServer) -> None:
    """Whatever lives strangers give to marks, the ranges are no more than so many, and the oldest end first."""
    clock.set(0)
    server.call("FLUSHALL")
    log = OneEngine(clock, server)
    keys = [f"{TAG}:{kind}" for kind in ("meta", "log", "ids", "members", "m:a")]
    client: Any = server.client()
    life_s = 1e5
    for number in range(3 * RANGES_MAX):
        client.eval(
            APPEND.text, len(keys), *keys, "g", 1000, int(life_s * 1000), f"r{number}", b"\xc1", "h", "", "", 1, 5
        )
        life_s += life_s / (SHARE - 2)
    noted = log.noted()
    assert len(noted) == 2 * RANGES_MAX
    assert noted[::2] == sorted(noted[::2])
    assert noted[1::2] == sorted(noted[1::2])
    clock.set(1.1e5)
    assert log.marks("a").start == 2 * RANGES_MAX + 2, "the oldest ranges, now one, end as the first of them"
    log.engine.close()


@pytest.mark.parametrize("bad", [None, b"", b"x", b"\xc1", b"\x91\x01", b"\x92\xa1a\xa1b", b"\x07"])
def test_h28_h29_marks_of_unknown_life_are_not_covered(log: OneEngine, bad: bytes | None) -> None:
    """Where nothing sensible is noted, as in a log of an older version, nothing so far is covered; later marks are."""
    for number in range(3):
        log.publish(f"s{number}")
    assert log.marks("s0").start == 1
    for fields in (("lives",), ("lives", "due", "until")):
        for field in fields:
            log.server.call("HDEL", log.hash, field)
        if bad is not None:
            log.server.call("HSET", log.hash, "lives", bad)
        reply = log.marks("s0")
        assert (reply.start, reply.upto) == (log.head + 1, log.head)
        at = log.publish("a")
        reply = log.marks("a", "s0")
        assert (reply.start, reply.upto) == (at, at)
        log.publish("b")
        assert log.marks("a").start == at


def test_h22_a_poll_sees_where_the_clock_was(clock: WallClock, server: RedisServer) -> None:
    """Where nothing is published, polls take note of what has expired before the clock goes back."""
    _sees(clock, server, OneEngine.poll)


def test_h22_a_publication_sees_where_the_clock_was(clock: WallClock, server: RedisServer) -> None:
    """Where nobody polls, a publication takes note of what has expired before the clock goes back."""
    _sees(clock, server, lambda log: log.publish("c"))


def _sees(clock: WallClock, server: RedisServer, script: Callable[[OneEngine], object]) -> None:
    """Check that a script sees the clock go a little way, to where the first mark has expired and the next has not."""
    clock.set(0)
    server.call("FLUSHALL")
    log = OneEngine(clock, server)
    log.publish("a")
    clock.set(0.985 * LIFE_S)
    log.publish("b")
    clock.set(1.005 * LIFE_S)
    script(log)
    clock.set(0.985 * LIFE_S)
    assert log.marks("a").start == 2
    log.engine.close()


def test_h10_h13_another_generation_begins_its_own_account(log: OneEngine) -> None:
    """What was noted of one generation makes nothing of the next one expire too early."""
    for number in range(10):
        log.step(number * LIFE_S / 20)
        log.publish("a")
    log.step(0.9 * LIFE_S)
    log.begin_anew()
    for _ in range(3):
        log.publish("a")
    for lives in (1.2, 1.8):
        log.step(lives * LIFE_S)
        reply = log.marks("a")
        assert (reply.start, reply.upto) == (1, 3)


def test_h22_a_look_covers_no_more_than_the_engine(clock: WallClock, server: RedisServer) -> None:
    """Who only looks takes for covered what a node would, and writes nothing."""
    clock.set(0)
    server.call("FLUSHALL")
    log = OneEngine(clock, server)
    log.publish("a")
    look = RedisLook(parse_url(server.url), "shop")
    starts = []
    for number in range(31):
        clock.set(number * LIFE_S / 7)
        if number % 3 == 0:
            log.publish("a")
        before = server.call("HGETALL", log.hash)
        start = look.read_marks(("a",)).start
        assert server.call("HGETALL", log.hash) == before
        starts.append(start)
        assert start == log.marks("a").start
    assert starts == sorted(starts)
    assert starts[-1] > 1
    look.close()
    log.engine.close()
