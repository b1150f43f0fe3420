from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale import Cache
from unstale.clock import boottime
from unstale.core.about import decode_about
from unstale.core.ops import Member
from unstale.core.record import Record
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_append_scripts import APPEND, INVALIDATE
from unstale.engines.redis_log import ABOUT_S
from unstale.engines.redis_url import parse_url
from unstale.errors import EngineError, FullError, UnavailableError

pytestmark = pytest.mark.real


def members(server: RedisServer, name: str) -> set[Any]:
    """Give the names of the members, as they stand on the server."""
    return set(server.client().hkeys(f"{{unstale:{name}}}:members")) - {b"list"}


def test_h36_who_left_stays_away(redis_server: RedisServer) -> None:
    """A cache that was closed is no member any more, whatever poll was under way: nobody waits for it."""
    for _ in range(20):
        with Cache(redis_server.url, name="short") as cache:
            cache.invalidate("a:1")
    assert members(redis_server, "short") == set()


def test_a_node_polls_once_for_what_it_is_told_of() -> None:
    """The poll that brings the newest record is followed by one that waits; only who is waited for tells first."""
    with RedisServer() as server, Cache(server.url, name="once", max_staleness="60s") as cache:
        log = RedisEngine(parse_url(server.url), name="once")
        cache.get("nothing")

        def polls(*records: Record) -> int:
            until(lambda: server.info("clients")["blocked_clients"] == 1)
            before = server.info("commandstats")["cmdstat_xread"]["calls"]
            for record in records:
                head = log.append((record,)).identity.head
                until(lambda: cache.node.applied == head)  # noqa: B023 - called at once
                until(lambda: server.info("clients")["blocked_clients"] == 1)
            return int(server.info("commandstats")["cmdstat_xread"]["calls"] - before)

        count = 10
        assert polls(*(Record(f"plain{number}", ("a",)) for number in range(count))) == count
        assert polls(*(Record(f"ack{number}", ("a",), ack=True) for number in range(count))) == 2 * count
        log.close()


@pytest.mark.parametrize("left", [True, False])
def test_h02_an_append_that_failed_half_way_can_be_repeated(*, left: bool) -> None:
    """An id without its entry says nothing, be it left behind by a script that failed: its record is appended anew."""
    tag = "{unstale:half}"
    with RedisServer() as server:
        client = server.client()
        engine = RedisEngine(parse_url(server.url), name="half")
        engine.append((Record("first", ("a",)),))
        client.rename(f"{tag}:log", f"{tag}:aside")
        client.set(f"{tag}:log", "of another type")
        with pytest.raises(EngineError):
            engine.append((Record("second", ("a",)),))
        assert client.hkeys(f"{tag}:ids") == [b"first"], "what nobody would ever take off is not left"
        client.rename(f"{tag}:aside", f"{tag}:log")
        if left:
            client.hset(f"{tag}:ids", "second", 2)
        engine.append((Record("third", ("a",)),))
        (again,) = engine.append((Record("second", ("a",)),)).records
        assert (again.position, again.prev) == (3, "third")
        engine.close()


def test_h29_a_mark_of_another_type_is_written_anew() -> None:
    """What a stranger has put in a mark's place does not keep an invalidation from being known."""
    with RedisServer() as server:
        server.client().rpush("{unstale:odd}:m:a", "of another type")
        engine = RedisEngine(parse_url(server.url), name="odd")
        engine.append((Record("first", ("a",)),))
        assert engine.read_marks(("a",)).marks == {"a": 1}
        engine.close()


def test_h23_parent_and_child_are_two_members(redis_server: RedisServer) -> None:
    """A forked child is a member of its own with connections of its own, and each sees what the other changes."""
    with Cache(redis_server.url + "?linger=1ms", name="forked") as cache:
        assert cache.get_or_load("a:1", lambda: 1) == 1
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                cache.set("b:1", cache.get("a:1"))
                cache.invalidate("a:1", wait=True)
                os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        until(lambda: os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOWAIT | os.WNOHANG))
        assert (cache.get("b:1"), cache.get("a:1")) == (1, None)
        assert len(members(redis_server, "forked")) == 2
        both = tuple(one.node for one in cache.ports.log.read_members().members)
        places = {decode_about(told).place.rpartition(":")[2] for told in cache.ports.log.read_about(both)}
        assert places == {str(os.getpid()), str(child)}
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("life", ["0", "-5", "1.5", "x"])
@pytest.mark.parametrize("script", [APPEND, INVALIDATE])
def test_h29_what_a_stranger_passes_breaks_the_log_for_nobody_else(
    redis_server: RedisServer, script: Any, life: str, request: pytest.FixtureRequest
) -> None:
    """A life that no mark can have harms none but its caller."""
    name = request.node.name
    tag = f"{{unstale:{name}}}"
    keys = [f"{tag}:{kind}" for kind in ("meta", "log", "ids", "members")] + [f"{tag}:m:a:1"]
    args = [
        "g1",
        "1000",
        life,
        "r1",
        *(("h", "", "", f"{tag}:m:") if script is INVALIDATE else ("x", "h", "", "", 1, 5)),
    ]
    with contextlib.suppress(redis.ResponseError):
        redis_server.client().eval(script.text, len(keys), *keys, *args)
    with Cache(redis_server.url, name=name) as cache:
        cache.set("a:1", 1)
        cache.invalidate("a:1")
        assert cache.get("a:1") is None


def test_h12_the_first_poll_after_an_outage_does_not_wait() -> None:
    """A node that was at the head of a server which died hears of the new log as soon as the server is back."""
    with RedisServer() as server:
        engine = RedisEngine(parse_url(server.url), name="shop")
        generation = engine.read_head().generation
        me = Member("n", generation, 0, 60.0)
        assert engine.poll(me, 0, 10, 0.2).identity.generation == generation
        server.kill()
        with pytest.raises(UnavailableError):
            engine.poll(me, 0, 10, 0.2)
        server.restart()
        began = boottime()
        assert engine.poll(me, 0, 10, 60.0).identity.generation != generation
        assert boottime() - began < 30.0, "it was answered, not waited out"
        engine.close()


# What members tell about themselves -----------------------------------------------------------------------------------

ABOUT = "{unstale:told}:about:n"


@contextlib.contextmanager
def told_engine(server: RedisServer, **how: Any) -> Iterator[RedisEngine]:
    """Give an engine on fresh data, through which nobody has told anything yet."""
    client = server.client()
    client.delete(*client.scan_iter("{unstale:told}:*"), "unused")
    with contextlib.closing(RedisEngine(parse_url(server.url), name="told", **how)) as engine:
        yield engine


def poll(engine: RedisEngine, about: bytes = b"told", node: str = "n", bound_s: float = 2.0) -> None:
    """Poll as a member that tells about itself."""
    engine.poll(Member(node, "", 0, bound_s, about=about), 0, 10, 0.0)


def writes(server: RedisServer) -> int:
    """Give how many strings were ever set."""
    return int(server.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"])


def test_polls_send_what_is_known_already_no_more(redis_server: RedisServer) -> None:
    """What a member tells about itself costs the polls nothing: it is sent once, and when it has changed."""
    with told_engine(redis_server) as engine:
        poll(engine)
        before = writes(redis_server)
        for _ in range(20):
            poll(engine)
        assert writes(redis_server) == before
        poll(engine, b"more")
        assert writes(redis_server) == before + 1
        assert engine.read_about(("n",)) == (b"more",)


def test_what_was_told_expires_by_itself_unless_it_is_told_again(redis_server: RedisServer) -> None:
    """It lives for an hour or as long as a member that seldom polls, and is told again after half of that."""
    now = 1000.0
    with told_engine(redis_server, clock=lambda: now) as engine:
        poll(engine)
        client = redis_server.client()
        assert 0.9 * ABOUT_S < client.pttl(ABOUT) / 1000 <= ABOUT_S
        client.pexpire(ABOUT, 60_000)
        now += 0.4 * ABOUT_S
        poll(engine)
        assert client.pttl(ABOUT) <= 60_000
        now += 0.2 * ABOUT_S
        poll(engine)
        assert client.pttl(ABOUT) / 1000 > 0.9 * ABOUT_S
        poll(engine, node="slow", bound_s=2 * ABOUT_S)
        assert client.pttl("{unstale:told}:about:slow") / 1000 > 7 * ABOUT_S


def test_h22_what_a_dead_member_told_is_taken_off_with_it(redis_server: RedisServer) -> None:
    """Who has said nothing for long is taken off the list by others, with what it told; who speaks is not."""
    now = 1000.0
    with told_engine(redis_server, clock=lambda: now) as engine:
        poll(engine, node="dead")
        poll(engine, node="alive")
        engine.read_members()
        now += 20.0
        poll(engine, node="alive")
        assert [one.node for one in engine.read_members().members] == ["alive"]
        assert engine.read_about(("dead", "alive")) == (b"", b"told")
        poll(engine, node="dead")  # it was only stopped: it is new on the list,
        poll(engine, node="dead")  # and so tells all again
        assert engine.read_about(("dead", "alive")) == (b"told", b"told")


def test_a_full_memory_costs_no_lease(redis_server: RedisServer) -> None:
    """A member that tells about itself is renewed also where nothing else can be stored."""
    with RedisServer(maxmemory_policy="noeviction") as server, told_engine(server) as engine:
        generation = engine.read_head().generation
        server.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(FullError):
            engine.lock("any", 1.0)
        poll(engine, b"x" * 16_000)
        assert engine.read_head().generation == generation
        assert engine.read_about(("n",)) == (b"x" * 16_000,)
