from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import pytest
import redis

from tests.support.redis_servers import RedisServer
from tests.support.waiting import until
from unstale import Cache
from unstale.clock import boottime
from unstale.core.ops import Member
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_scripts import APPEND, INVALIDATE
from unstale.engines.redis_url import parse_url
from unstale.errors import UnavailableError

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
