"""What `doctor` finds out about the servers of a Redis cache: version, memory, disk, replicas, rights, clock, speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from unstale.cli.examine_replicas import examine_replicas
from unstale.cli.findings import Finding, ok, size
from unstale.cli.measures import long_span, span
from unstale.cli.redis_server import Server, servers_of
from unstale.engines.redis import RedisEngine
from unstale.engines.redis_places import Places
from unstale.engines.redis_scripts import HEAD
from unstale.engines.redis_store import Names
from unstale.engines.redis_url import RedisUrl
from unstale.errors import DeniedError, EngineError, UnavailableError

VERSION_MIN: Final = 7
NEARLY_FULL: Final = 0.9
PINGS: Final = 20
SLOW_S: Final = 0.005
CLOCK_S: Final = 1.0
LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})

# Asks the server, in the name of this user, whether it may do what the engine does. ARGV: of each command the number
# of its words, then these. Answer: for each command whether it is denied.
MAY: Final = """#!lua flags=no-writes,allow-oom
local at, answer = 1, {}
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  answer[#answer + 1] = redis.acl_check_cmd(unpack(ARGV, at + 1, at + count)) and 0 or 1
  at = at + 1 + count
end
return answer
"""


def examine_servers(url: RedisUrl, name: str) -> Iterator[Finding]:
    """Examine the servers. It ends with a `problem` named `server` if there is nothing more to look at."""
    names, places = Names(url.prefix, name), Places(url)
    promised = RedisEngine.guarantees
    yield ok("engine", promised.processes)
    try:
        servers = servers_of(places, names)
        for number, address in enumerate(servers):
            with Server(url, address) as server:
                yield from _server(server, names, of_log=not number)
    except EngineError as error:
        yield Finding(
            "problem",
            "server",
            error.message,
            weakens="everything: reads go on by their policy, and nothing can be invalidated",
            mend=error.hint,
        )


def _server(server: Server, names: Names, *, of_log: bool) -> Iterator[Finding]:
    told = server.info("server")
    yield _version(server, told)
    if of_log:
        yield from _rights(server, names)
    memory = server.info("memory")
    yield _memory(server, memory)
    yield _policy(server, memory, limited=memory.get("maxmemory", "0") != "0")
    yield from _disk(server, server.info("persistence"))
    yield from examine_replicas(server, server.info("replication"))
    yield _connections(server, server.info("clients"))
    if of_log:
        yield from _clock(server)
        yield _latency(server)
        yield from _secrecy(server)


def _version(server: Server, told: dict[str, str]) -> Finding:
    valkey = told.get("valkey_version", "")
    version = valkey or told.get("redis_version", "0")
    text = f"{server.place}, {'Valkey' if valkey else 'Redis'} {version}"
    if valkey or int(version.partition(".")[0]) >= VERSION_MIN:
        return ok("version", text)
    return Finding(
        "problem",
        "version",
        text,
        weakens="scripts of the engine fail: nothing can be published or stored",
        mend=f"install Redis {VERSION_MIN} or newer, or any Valkey",
    )


def _needed(names: Names, url: RedisUrl) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Give what the engine sends and its scripts call: with entries, with the log's keys, and without any key."""
    entry, log, meta, mark = (key.decode() for key in (names.entry + b"x", names.log, names.meta, names.mark + b"x"))
    return (
        (("pttl", entry), ("get", entry), ("set", entry, "x", "px", "1"), ("unlink", entry)),
        (
            ("evalsha", HEAD.sha, "1", log), ("xread", "count", "1", "streams", log, "0"), ("get", mark),
            ("hmget", meta, "gen"), ("hget", meta, "gen"), ("hgetall", meta), ("hset", meta, "gen", "x"),
            ("hsetnx", meta, "gen", "x"), ("hincrby", meta, "beat", "1"), ("hdel", meta, "gen"), ("del", log),
            ("xadd", log, "*", "i", "x"), ("xrange", log, "-", "+"), ("xlen", log), ("xtrim", log, "maxlen", "1"),
            ("set", mark, "x", "px", "1"), ("mget", mark), ("exists", mark),
        ),
        (
            ("info", "server"), ("time",), ("wait", "0", "1"), ("ping",),
            *([("select", str(url.db))] if url.db else []), *([("cluster", "slots")] if url.kind == "cluster" else []),
        ),
    )  # fmt: skip


def _rights(server: Server, names: Names) -> Iterator[Finding]:
    groups, user = _needed(names, server.url), server.url.user or "default"
    words = [word for group in groups for one in group for word in (str(len(one)), *one)]
    try:
        verdicts = iter(server.ask(b"EVAL", MAY, b"0", *words))
    except UnavailableError:
        raise
    except EngineError as error:
        yield Finding(
            "problem",
            "permissions",
            f"it cannot be asked what this user may do: {error.message}",
            weakens="whatever it may not do fails",
            mend=error.hint,
        )
        return
    of_entries, of_log, others = ([one[0] for one in group if next(verdicts)] for group in groups)
    missing, patterns = [f"+{'cluster|slots' if name == 'cluster' else name}" for name in others], []
    prefix = server.url.prefix
    for group, denied, keys in (
        (groups[0], of_entries, f"{prefix}:*"), (groups[1], of_log, f"{{{prefix}:*")
    ):  # fmt: skip
        if len(denied) == len(group):  # it is the keys that it may not touch
            patterns.append(f"~{keys}")
        else:
            missing += [f"+{name}" for name in denied]
    if not missing and not patterns:
        yield ok("permissions", f"{user!r} may do all that the engine needs")
        return
    wanted = dict.fromkeys([*missing, *patterns])
    yield Finding(
        "problem",
        "permissions",
        f"{user!r} lacks {' '.join(wanted)}",
        weakens="what needs these fails: reads load, or an invalidation is not published",
        mend=server.command("ACL", "SETUSER", user, *wanted),
    )


def _memory(server: Server, memory: dict[str, str]) -> Finding:
    limit, used = int(memory.get("maxmemory", 0)), int(memory.get("used_memory", 0))
    if not limit:
        return Finding(
            "note",
            "memory",
            f"{size(used)} used, without a limit",
            weakens="entries that nobody reads any more stay for their whole life; the machine's memory is the limit",
            mend=server.command("CONFIG", "SET", "maxmemory", "1gb"),
        )
    if used > NEARLY_FULL * limit:
        return Finding(
            "note",
            "memory",
            f"{size(used)} used of {size(limit)}",
            weakens="entries are evicted before their time: the hit ratio",
            mend=server.command("CONFIG", "SET", "maxmemory", str(2 * limit)),
        )
    return ok("memory", f"{size(used)} used of {size(limit)}")


def _policy(server: Server, memory: dict[str, str], *, limited: bool) -> Finding:
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy == "volatile-ttl":
        return ok("eviction", f"{policy}: what ends soonest goes first, so marks outlive the entries that they judge")
    if policy == "noeviction":
        weakens = "when the memory is full nothing can be stored or invalidated (OOM)"
    elif policy.startswith("allkeys"):
        weakens = "the log itself can be evicted, at any moment: a new generation, which is a cold start for all"
    else:
        weakens = "marks can be evicted before the entries that they judge; such entries are then misses"
    bad = policy.startswith("allkeys") or (policy == "noeviction" and limited)
    mend = server.command("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    return Finding("problem" if bad else "note", "eviction", policy, weakens=weakens, mend=mend)


def _disk(server: Server, told: dict[str, str]) -> Iterator[Finding]:
    rdb, aof = told.get("rdb_last_bgsave_status", "ok"), told.get("aof_last_write_status", "ok")
    stops = server.setting("stop-writes-on-bgsave-error")
    if aof != "ok" or (rdb != "ok" and stops != "no"):
        yield Finding(
            "problem",
            "persistence",
            "the server could not save its data",
            weakens="it refuses writes (MISCONF): nothing can be stored or invalidated",
            mend=server.command("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") + "   # or free some disk space",
        )
        return
    kept = [name for name, on in (("AOF", told.get("aof_enabled") == "1"), ("RDB", server.setting("save"))) if on]
    costs = "a restart is a new generation with or without it"
    text = f"{' and '.join(kept)}: {costs}" if kept else f"none, and none is needed: {costs}"
    yield ok("persistence", text)


def _connections(server: Server, told: dict[str, str]) -> Finding:
    used, most = int(told.get("connected_clients", 0)), int(told.get("maxclients", 0))
    text = f"{used:,} of {most:,} connections"
    if not most or used <= NEARLY_FULL * most:
        return ok("connections", text)
    return Finding(
        "problem",
        "connections",
        text,
        weakens="further processes cannot connect: their reads load, and they cannot invalidate",
        mend=server.command("CONFIG", "SET", "maxclients", str(2 * most)),
    )


def _clock(server: Server) -> Iterator[Finding]:
    before = time.time()
    try:
        seconds, micros = server.ask(b"TIME")
    except DeniedError:  # told above, with what mends it
        return
    ahead_s = int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2
    if abs(ahead_s) < CLOCK_S:
        yield ok("clock", f"the server's is within {long_span(CLOCK_S)} of this machine's")
        return
    yield Finding(
        "note",
        "clock",
        f"the server's is {long_span(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} this machine's",
        weakens="only times that people compare. But when it is set right in one step, entries end early or late by it",
        mend="timedatectl set-ntp true   # on that machine, or on this one",
    )


def _latency(server: Server) -> Finding:
    times = []
    for _ in range(PINGS):
        before = time.perf_counter()
        server.ask(b"PING")
        times.append(time.perf_counter() - before)
    times.sort()
    median_s, worst_s = times[PINGS // 2], times[-1]
    text = f"{span(median_s)} for a round trip, {span(worst_s)} at worst of {PINGS}; timeout={server.url.timeout_s:g}s"
    if worst_s <= server.url.timeout_s / 2 and median_s <= SLOW_S:
        return ok("latency", text)
    return Finding(
        "problem" if worst_s > server.url.timeout_s / 2 else "note",
        "latency",
        text,
        weakens="each read that this process's memory cannot answer; over the timeout it goes on by its policy",
        mend=server.command("--latency") + "   # and SLOWLOG GET; or write a longer timeout= into the URL",
    )


def _secrecy(server: Server) -> Iterator[Finding]:
    if server.url.password or server.address[0] in LOCAL:
        return
    yield Finding(
        "note",
        "password",
        "none, and the server is on another machine",
        weakens="whoever reaches it can forge entries and invalidations",
        mend=server.command("CONFIG", "SET", "requirepass", "...") + "   # then redis://:...@host in the URL",
    )
