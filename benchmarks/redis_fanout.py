"""What one Redis carries: its processor time for a poll, for a record told to a node, and for a record appended.

Polls are those of the engine, byte for byte; but what comes back is only counted, or the clients would be measured.
"""

from __future__ import annotations

import math
import socket
import time
from typing import Any

import hiredis

from benchmarks.figures import Figure, Options, figure
from benchmarks.stats import median, slope
from tests.support.ports import HOST
from tests.support.redis_servers import RedisServer
from unstale.core.ops import Member
from unstale.core.record import Record
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_commands import Command, packed
from unstale.engines.redis_log import LogSteps
from unstale.engines.redis_store import Names
from unstale.engines.redis_url import parse_url

GROUP = "redis fan-out"
NODES = 50
FULL = 512
RATES = (1_000, 10_000, 50_000)
FLEETS = (10, 100, 1_000)
SPLIT = 50
FOLLOWED = 2


class Nodes:
    """Connections that poll as nodes do, each for one member, and throw away what they are told.

    Args:
        server: The server.
        name: The cache.
        count: How many.
    """

    def __init__(self, server: RedisServer, name: str, count: int) -> None:
        url = parse_url(server.url)
        self.names = Names(url.prefix, name)
        ids = iter(range(1, 1 << 40))
        self._log = LogSteps(url, self.names, 100_000, 1000, time.monotonic, lambda: f"{next(ids):016x}", print)
        self._sockets = [socket.create_connection((HOST, server.port)) for _ in range(count)]
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)
        self._server: Any = server.client()

    def poll(self, generation: str, position: int, limit: int, wait_s: float, at_head: Any = None) -> bytes:
        """Give the bytes of the engine's own poll: the one that waits, if it is told what the one before brought."""
        member = Member("node", generation, position, 2.0)
        steps = self._log.poll(member, position, limit, wait_s)
        call = next(steps)
        if at_head is not None:
            call = steps.send(at_head)
        steps.close()
        return packed(call.commands)

    def ask(self, data: bytes) -> None:
        """Let all ask."""
        for one in self._sockets:
            one.sendall(data)

    def receive(self, count: int) -> tuple[list[Any], int]:
        """Let the first take so many replies, and all others as many bytes: the replies, and the number of bytes."""
        reader, size = hiredis.Reader(), 0
        replies: list[Any] = []
        while len(replies) < count:
            received = self._sockets[0].recv(1 << 20)
            size += len(received)
            reader.feed(received)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        for one in self._sockets[1:]:
            left = size
            while left:
                left -= one.recv_into(self._buffer, min(left, len(self._buffer)))
        return replies, size

    def used_s(self) -> float:
        """Give the processor time that the server has used so far."""
        info = self._server.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def close(self) -> None:
        """Close all."""
        for one in self._sockets:
            one.close()


def fanout(options: Options, server: RedisServer) -> list[Figure]:
    """Measure the server's costs, and reckon from them how they grow."""
    engine = RedisEngine(parse_url(f"{server.url}?timeout=5s"), name="fan-out")
    append_us = _append_us(engine, server, 20_000 if options.quick else 90_000)
    head = engine.read_head()
    engine.poll(Member("node", head.generation, head.head, 2.0), head.head, FULL, 0.0)  # the server has the script now
    nodes = Nodes(server, "fan-out", NODES)
    try:
        rounds = 12 if options.quick else 60
        points = [(float(size), *_poll_us(nodes, head, size, rounds)) for size in (1, 16, 128, FULL)]
        bare_us = _xread_us(nodes, head, rounds * 4)
        wake_us, told_per_s = _wakes(nodes, engine, 300 if options.quick else 2000)
    finally:
        nodes.close()
        engine.close()
    record_us = slope([(size, us) for size, us, _bytes in points])
    poll_us = max(0.0, median([us - size * record_us for size, us, _bytes in points[:2]]))
    bytes_each = slope([(size, float(length)) for size, _us, length in points])
    note = f"{bare_us:.1f} us without the renewal of its membership"
    figures = [
        figure(GROUP, "a record appended, 500 a call", [append_us], "us", note="the server's processor time, as below"),
        figure(GROUP, "a poll of a node", [poll_us], "us", note=note),
        figure(GROUP, "each record that it brings", [record_us], "us", note=f"{bytes_each:.0f} bytes each"),
        figure(GROUP, f"a record told to one of {NODES} nodes that wait, one by one", [wake_us], "us"),
        figure(GROUP, "told one by one to nodes that wait", [told_per_s], "records x nodes/s", note="by the clock"),
        figure(GROUP, "one Redis carries, one record a poll", [1e6 / wake_us], "records x nodes/s"),
        figure(GROUP, f"one Redis carries, {FULL} records a poll", [1e6 / points[-1][1] * FULL], "records x nodes/s"),
    ]  # fmt: skip
    for rate in RATES:
        for fleet in FLEETS:
            cores = _cores(rate, fleet, append_us, poll_us, record_us)
            traffic, late_ms = rate * fleet * bytes_each / 1e6, _late_ms(rate, fleet, append_us, poll_us, record_us)
            how = f"{math.ceil(cores):,} Redis" if late_ms is None else f"one Redis, and records {late_ms:.1f} ms late"
            note = f"{traffic:,.0f} MB/s to the nodes; {how}"
            figures.append(figure(GROUP, f"{rate:,} records/s to {fleet:,} nodes", [cores], "cores", note=note))
    part = _cores(RATES[-1] / SPLIT, FLEETS[-1] * FOLLOWED / SPLIT, append_us, poll_us, record_us)
    name = f"{RATES[-1]:,} records/s over {SPLIT} caches, {FLEETS[-1]:,} nodes that follow {FOLLOWED} of them each"
    figures.append(figure(GROUP, name, [part * SPLIT], "cores", note=f"{part:.2f} cores for each cache"))
    return figures


def _cores(rate: float, fleet: float, append_us: float, poll_us: float, record_us: float) -> float:
    """Reckon the cores that a rate to a fleet takes, with full polls, and at least one poll a second of each node."""
    polls = max(1.0, rate / FULL)
    return (rate * append_us + fleet * (polls * poll_us + rate * record_us)) / 1e6


def _late_ms(rate: float, fleet: float, append_us: float, poll_us: float, record_us: float) -> float | None:
    """Reckon how long a record waits for its poll in one Redis, of one core; None if it cannot carry them.

    A busy server answers late, so its nodes ask for more at a time: until what all polls cost is what it can bear.
    """
    left = 1 - (rate * append_us + rate * fleet * record_us) / 1e6
    if left <= 0:
        return None
    records = max(1.0, rate * fleet * poll_us / 1e6 / left)
    return None if records > FULL else records / rate * 1e3 if records > 1 else fleet * poll_us / 1e3


def _append_us(engine: RedisEngine, server: RedisServer, count: int) -> float:
    client: Any = server.client()

    def used_s() -> float:
        info = client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    before = used_s()
    for start in range(0, count, 500):
        numbers = range(start, start + 500)
        engine.append(tuple(Record(f"{n:020x}", (f"product:{n}",), who="host:1", at=time.time()) for n in numbers))
    return (used_s() - before) / count * 1e6


def _poll_us(nodes: Nodes, head: Any, size: int, rounds: int) -> tuple[float, int]:
    """Let all nodes fetch so many records, again and again: the server's time for one poll, and its bytes."""
    rounds = max(rounds, 4 * rounds // size)
    data = nodes.poll(head.generation, head.head - size, size, 0.0)
    length, before = 0, nodes.used_s()
    for _ in range(rounds):
        nodes.ask(data)
        _replies, length = nodes.receive(2)
    return (nodes.used_s() - before) / rounds / NODES * 1e6, length


def _xread_us(nodes: Nodes, head: Any, rounds: int) -> float:
    command: Command = (b"XREAD", b"COUNT", 1, b"STREAMS", nodes.names.log, f"{head.head - 1}-0")
    data, before = packed((command,)), nodes.used_s()
    for _ in range(rounds):
        nodes.ask(data)
        nodes.receive(1)
    return (nodes.used_s() - before) / rounds / NODES * 1e6


def _wakes(nodes: Nodes, engine: RedisEngine, rounds: int) -> tuple[float, float]:
    """Let all nodes wait at the head, and append a record, again and again: the server's time a node, and the rate.

    After it a node asks at once whether there is more, which tells what it has applied; then it waits again.
    """
    head = engine.read_head()
    position, before, began = head.head, nodes.used_s(), time.perf_counter()
    for number in range(rounds):
        look = nodes.poll(head.generation, position, FULL, 0.0)
        nodes.ask(look)
        replies, _size = nodes.receive(2)
        nodes.ask(nodes.poll(head.generation, position, FULL, 0.5, replies))
        position = engine.append((Record(f"wake{number:016x}", (f"row:{number}",), who="host:1"),)).identity.head
        ((log, *_other), _renewed), _size = nodes.receive(2)
        if int(log[1][0][0].partition(b"-")[0]) != position:
            msg = "what the nodes waited for is not what they were told"
            raise RuntimeError(msg)
    took_s = time.perf_counter() - began
    return (nodes.used_s() - before) / rounds / NODES * 1e6, rounds * NODES / took_s
