"""The cells of the fault matrix upon Redis: real servers, real nodes, one fault each, and the oracle's verdict.

Two nodes read all the time, one of each colour, and a third one commits and invalidates. Then something happens, for a
while, and ends. No read may be staler than the bound or fail, meanwhile and later; all nodes come to serve the newest
of everything, and their leases come back, without a restart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from tests.support.fault_scene import COLOURS, ITEMS, SOME, WARM, Scene
from tests.support.ports import HOST
from tests.support.proxy import Direction, Proxy
from tests.support.redis_sentinel import NAME, SENTINELS, SentinelTrio
from tests.support.redis_servers import START_S, RedisServer
from tests.support.staleness import Verdict
from tests.support.waiting import until
from tests.support.wall_clock import WallClock
from unstale.clock import boottime

SLOW_S: Final = 0.15  # each way
MINUTE_S: Final = 60
HOUR_S: Final = 60 * MINUTE_S
LOG: Final = "{unstale:shop}:log"


# The faults -----------------------------------------------------------------------------------------------------


def killed(scene: Scene, **config: Any) -> Verdict:
    """Kill the server and start it again."""
    with RedisServer(**config) as server:
        scene.begin(server.url)
        server.kill()
        scene.last()
        server.start()
        return scene.end()


def killed_with_file(scene: Scene) -> Verdict:
    """Kill a server that keeps a file of what it is told, and start it again."""
    return killed(scene, appendonly=True)


def stopped(scene: Scene) -> Verdict:
    """Stop the server."""
    with RedisServer() as server:
        scene.begin(server.url)
        server.stop()
        scene.last()
        server.go_on()
        return scene.end()


def flushed(scene: Scene) -> Verdict:
    """Wipe the server again and again."""
    with RedisServer() as server:
        scene.begin(server.url)
        scene.again_and_again(lambda: server.call("FLUSHALL"))
        return scene.end()


def scripts_flushed(scene: Scene) -> Verdict:
    """Let the server forget all scripts again and again."""
    with RedisServer() as server:
        scene.begin(server.url)
        scene.again_and_again(lambda: server.call("SCRIPT", "FLUSH"), 0.02)
        return scene.end()


def trimmed(scene: Scene) -> Verdict:
    """Cut the log to nothing while a reader is stopped, and a few times more."""
    with RedisServer() as server:
        scene.begin(server.url)
        scene.readers[0].stop()
        scene.some_commits()
        scene.again_and_again(lambda: server.call("XTRIM", LOG, "MAXLEN", 0))
        scene.readers[0].go_on()
        return scene.end()


def evicting(scene: Scene) -> Verdict:
    """Let the memory be small, and fill it, so that the server forgets entries, marks, log and all."""
    with RedisServer() as server, server.client() as client:
        scene.begin(server.url, how={"ttl": "1h"})
        used = server.info("memory")["used_memory"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", used + 2_000_000)

        def fill() -> None:
            with client.pipeline(transaction=False) as many:
                for number in range(2000):
                    many.set(f"other:{number}:{boottime()}", b"x" * 1000)
                many.execute()

        scene.again_and_again(fill, 0.05)
        assert server.info("stats")["evicted_keys"] > 2000
        client.config_set("maxmemory", 0)
        return scene.end()


def clock_stepped(scene: Scene, max_ttl_s: int = HOUR_S + MINUTE_S) -> Verdict:
    """Step the server's wall clock, by which entries and marks expire, while the readers are stopped; others join.

    What must not be: an entry is there, the mark that ends it is not, and who asks takes that for "never invalidated".

    1. The clock is an hour ahead. An entry is stored: it expires at T + 1 h + its time to live.
    2. The clock goes back by the hour. The entry is invalidated: its mark expires at T + 2 x `max_ttl`.
    3. The clock goes ahead again. A node that joins far behind the record, as the log is cut, asks for the mark.

    It is there as long as no step is longer than `max_ttl`, since an entry lives no longer than that, and its mark
    twice as long. Else the server has taken note that the mark has expired.
    """
    with WallClock() as clock, RedisServer(environment=clock.environment) as server:
        scene.cache["max_ttl"] = f"{max_ttl_s}s"
        scene.how["ttl"] = f"{min(max_ttl_s, HOUR_S)}s"
        scene.begin(server.url)
        old = tuple(scene.readers)
        shifts = itertools.cycle((5 * MINUTE_S, HOUR_S, HOUR_S - MINUTE_S, 0, HOUR_S, MINUTE_S, 0, HOUR_S))
        scene.again_and_again(lambda: clock.set(next(shifts)))
        for before, between, after in ((HOUR_S, 0, HOUR_S), (0, HOUR_S, 5 * MINUTE_S)):
            clock.set(before)
            scene.some_commits(ITEMS)
            for reader in old:  # else they would replace what is ended, before anybody else finds it
                reader.stop()
            clock.set(between)
            scene.some_commits(ITEMS)
            clock.set(after)
            server.call("XTRIM", LOG, "MAXLEN", 0)
            new = [scene.read(server.url, colour) for colour in COLOURS]
            until(lambda: all(scene.of(reader)["reads"] > WARM for reader in new))  # noqa: B023 - called at once
            for reader in old:
                reader.go_on()
        return scene.end()


def nodes_stopped(scene: Scene) -> Verdict:
    """Stop the readers for longer than the bound, one after the other."""
    with RedisServer() as server:
        scene.begin(server.url)
        for reader in scene.readers:
            reader.stop()
            over = boottime() + max(scene.fault_s / 2, 1.6 * scene.bound_s)
            until(lambda: boottime() > over)  # noqa: B023 - it is called at once
            reader.go_on()
        return scene.end()


def nodes_forked(scene: Scene) -> Verdict:
    """Fork the readers while they read: parents and children go on."""
    with RedisServer() as server:
        scene.begin(server.url)
        for reader, colour in zip(scene.readers, COLOURS, strict=True):
            reader.ask("fork", colour)
            scene.children.append(reader)
        scene.last()
        return scene.end()


# Networks -------------------------------------------------------------------------------------------------------


def network(scene: Scene, harm: Callable[[Proxy, RedisServer], object], **settings: Any) -> Verdict:
    """Harm the network between the readers and the server; the writer has another."""
    with RedisServer() as server, Proxy(server.port) as proxy:
        scene.begin(f"redis://{HOST}:{proxy.port}", server.url, **settings)
        harm(proxy, server)
        before = scene.of(scene.writer)["commits"]
        scene.last()
        assert scene.of(scene.writer)["commits"] > before, "the writer is not concerned"
        proxy.heal()
        return scene.end()


def cut(direction: Direction) -> Callable[[Scene], Verdict]:
    """Give the fault in which bytes vanish."""
    return lambda scene: network(scene, lambda proxy, _server: proxy.cut(direction))


def slowed(scene: Scene) -> Verdict:
    """Delay whatever is sent."""
    return network(scene, lambda proxy, _server: proxy.slow(SLOW_S))


def held(scene: Scene) -> Verdict:
    """Hold back whatever is sent, and deliver it later, as TCP does: replies from before arrive after the fault."""
    return network(scene, lambda proxy, _server: proxy.hold())


def half_open(scene: Scene) -> Verdict:
    """Cut, and let the server forget the connections, which the readers believe to be open."""

    def harm(proxy: Proxy, server: RedisServer) -> None:
        proxy.cut()
        for client in server.client().client_list():
            if client["name"] == "":
                server.cli("CLIENT", "KILL", "ID", client["id"])

    return network(scene, harm)


def refused(scene: Scene) -> Verdict:
    """Reset the connections, and refuse others."""

    def harm(proxy: Proxy, _server: RedisServer) -> None:
        proxy.refuse()
        proxy.close_all()

    return network(scene, harm)


def unbounded(scene: Scene) -> Verdict:
    """Cut, before readers that asked for no bound: the oracle must notice."""
    return network(scene, lambda proxy, _server: proxy.cut(), how={"consistency": "eventual"})


# Replicas -------------------------------------------------------------------------------------------------------


def failover(scene: Scene, quorum: str) -> Verdict:
    """Cut the replica off, then kill the primary: what it acknowledged meanwhile is lost."""
    with SentinelTrio() as trio:
        old, replica = trio.primary(), trio.replica()
        with Proxy(old.port) as proxy:
            for sentinel in trio.sentinels:  # they would mend the replica's way to its primary
                sentinel.call("SENTINEL", "SET", NAME, "failover-timeout", 60_000)
            replica.replica_of(old, proxy.port)
            scene.begin(trio.url + quorum)
            proxy.cut()
            before = scene.of(scene.writer)["commits"]
            over = boottime() + scene.bound_s
            until(lambda: boottime() > over)
            lost = scene.of(scene.writer)["commits"] - before
            assert lost > SOME if quorum else lost <= 1, f"{lost} were acknowledged without the replica"
            old.kill()
            trio.wait_for_failover(old)
        scene.some_commits()
        trio.wait_for_return(old)
        return scene.end()


def failover_without_quorum(scene: Scene) -> Verdict:
    """See `failover`; appends are acknowledged by the primary alone."""
    return failover(scene, "?quorum=0")


def failover_with_quorum(scene: Scene) -> Verdict:
    """See `failover`; appends need the replica."""
    return failover(scene, "")


class SplitTrio(SentinelTrio):
    """A primary whose replica and Sentinels reach it through a proxy, which cuts it off from both at once."""

    def __init__(self) -> None:
        self.servers = []
        self.sentinels = []
        try:
            for _ in range(2):
                self.servers.append(RedisServer())
            first, second = self.servers
            self.proxy = Proxy(first.port)
            second.replica_of(first, self.proxy.port)
            seen = cast("RedisServer", SimpleNamespace(port=self.proxy.port, login=("", "")))
            self.sentinels += [self._sentinel(seen) for _ in range(SENTINELS)]
            until(lambda: all(self._knows_all(sentinel) for sentinel in self.sentinels), START_S)
        except BaseException:  # a skip too
            self.end()
            raise

    def told(self) -> set[int]:
        """Give the ports that the Sentinels tell as the primary's."""
        return {self._told_by(sentinel) for sentinel in self.sentinels}

    def end(self) -> None:
        """End all."""
        if hasattr(self, "proxy"):
            self.proxy.close()
        super().end()


def split(scene: Scene) -> Verdict:
    """Isolate the primary with two readers on its side; the others get the replica as the new primary."""
    with SplitTrio() as trio:
        old, new = trio.servers
        scene.begin(old.url, trio.url)
        scene.read(trio.url, COLOURS[0])
        scene.at_work()
        stuck = tuple(scene.readers[:2])
        assert all(scene.of(reader)["pulsed"] for reader in stuck)
        trio.proxy.cut()
        until(lambda: trio.told() == {new.port})
        scene.some_commits()
        scene.last()
        assert old.role() == "master", "it does not know yet"
        assert not any(scene.of(reader)["proven"] for reader in stuck), (
            "the lease of who hears the old one alone lapses"
        )
        scene.some_commits()
        trio.proxy.heal()
        until(lambda: old.role() == "slave")
        return scene.end(without_lease=stuck)


class Cell(NamedTuple):
    """One row of the matrix.

    Attributes:
        name: What happens.
        hazards: The numbers of the hazards that it shows to be defeated.
        run: Makes it happen.
    """

    name: str
    hazards: str
    run: Callable[[Scene], Verdict]


CELLS: Final = {
    "killed": Cell("server killed and restarted, without a file", "H10 H12", killed),
    "killed_with_file": Cell("server killed and restarted, with `appendonly`", "H10", killed_with_file),
    "stopped": Cell("server stopped (SIGSTOP)", "H8", stopped),
    "flushed": Cell("`FLUSHALL`, again and again", "H12", flushed),
    "scripts_flushed": Cell("`SCRIPT FLUSH`, again and again", "", scripts_flushed),
    "trimmed": Cell("log cut to nothing (`XTRIM`), a reader stopped", "H9", trimmed),
    "evicting": Cell("memory full, `allkeys-lru`", "H14", evicting),
    "clock_stepped": Cell("server's wall clock stepped by an hour and by minutes, both ways", "H22", clock_stepped),
    "clock_stepped_far": Cell(
        "the same, `max_ttl` 10 minutes, and so shorter than the steps",
        "H22",
        partial(clock_stepped, max_ttl_s=10 * MINUTE_S),
    ),
    "nodes_stopped": Cell("readers stopped (SIGSTOP)", "H22", nodes_stopped),
    "nodes_forked": Cell("readers forked", "H23", nodes_forked),
    "cut_both": Cell("network of the readers cut, both ways", "H8", cut("both")),
    "cut_to_server": Cell("network of the readers cut, to the server", "H8", cut("to_server")),
    "cut_to_client": Cell("network of the readers cut, from the server", "H8", cut("to_client")),
    "slowed": Cell(f"network of the readers slow, {SLOW_S * 1000:.0f} ms each way", "H8", slowed),
    "held": Cell("network of the readers holds all back, delivers it later", "H8 H33", held),
    "half_open": Cell("connections half open: the server forgot them", "H8", half_open),
    "refused": Cell("connections reset, others refused", "H8", refused),
    "failover_without_quorum": Cell("failover loses acknowledged records, `quorum=0`", "H10", failover_without_quorum),
    "failover_with_quorum": Cell("failover, replica cut off before, default quorum", "H10", failover_with_quorum),
    "split": Cell("two readers with an isolated old primary, default quorum", "H11", split),
}
CONTROL: Final = Cell('control: network cut, readers with `consistency="eventual"`', "", unbounded)


def row(cell: Cell, verdict: Verdict) -> str:
    """Give the line of the table."""
    cells = (
        cell.name, cell.hazards or "-", f"{verdict.reads:,}", f"{verdict.stale:,}", f"{1000 * verdict.oldest_s:.0f} ms",
        str(len(verdict.beyond)), str(sum(verdict.errors.values())), f"{1000 * verdict.slowest_s:.0f} ms",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def header() -> Iterator[str]:
    """Give the head of the table."""
    titles = ("what happens", "hazards", "reads", "stale", "oldest", "beyond the bound", "errors", "slowest read")
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
