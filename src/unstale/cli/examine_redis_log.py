"""What `doctor` finds out about the log of a Redis cache: its chain, and how far it reaches back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from unstale.cli.findings import Finding, ok
from unstale.cli.measures import long_span
from unstale.cli.redis_look import Meta, RedisLook
from unstale.cli.redis_server import Server
from unstale.engines.memory import RECORDS_MAX

REACH: Final = 10.0  # the log should reach back for so many times the largest bound


def examine_log(look: RedisLook) -> Iterator[Finding]:
    """Examine the log and the marks of a cache that is there."""
    meta = look.read_meta()
    with Server(look.url, look.servers[0]) as server:
        yield _chain(look, server, meta)
        yield _retention(look, server, meta)
        yield _marks(server, meta)
        yield from _seen_replicas(server, meta)


def _chain(look: RedisLook, server: Server, meta: Meta) -> Finding:
    last = server.ask(b"XREVRANGE", look.names.log, b"+", b"-", b"COUNT", 1)
    position = int(last[0][0].partition(b"-")[0]) if last else meta.identity.head
    if position <= look.read_head().head:
        return ok("chain", "the stream ends where the log says that it does")
    return Finding(
        "problem",
        "chain",
        f"the stream goes on to {position:,}, but the log ends at {meta.identity.head:,}: another program wrote to it",
        weakens="nothing can be invalidated any more",
        mend=server.command("DEL", look.names.meta.decode()) + "   # a new generation begins: a cold start",
    )


def _retention(look: RedisLook, server: Server, meta: Meta) -> Finding:
    length = server.ask(b"XLEN", look.names.log)
    text = f"{length:,} records are kept, by default of at most {RECORDS_MAX:,}"
    if length < RECORDS_MAX:
        return ok("log", text)
    first = look.after(meta.identity.head - length, 1).records
    reach_s = time.time() - first[0].record.at if first and first[0].record.at else float("inf")
    if reach_s > REACH * meta.bound_s:
        return ok("log", f"{text}; they reach back {long_span(reach_s)}" if reach_s < float("inf") else text)
    return Finding(
        "problem",
        "log",
        f"{text}; they reach back {long_span(reach_s)} only",
        weakens="a node that was away for longer drops its memory: a cold start",
        mend="publish less: wider scopes, linger= in the URL, or RedisEngine(..., records_max=1_000_000)",
    )


def _marks(server: Server, meta: Meta) -> Finding:
    if not meta.evicted and meta.start <= 1:
        return ok("marks", "none was evicted: they cover the whole log")
    start = meta.identity.head + 1 if meta.evicted else meta.start
    return Finding(
        "note",
        "marks",
        f"the server has evicted keys: marks count from position {start:,} on",
        weakens="entries with an older stamp are misses for a process that has not followed the log since then",
        mend=server.command("CONFIG", "SET", "maxmemory-policy", "volatile-ttl") + "   # and more maxmemory",
    )


def _seen_replicas(server: Server, meta: Meta) -> Iterator[Finding]:
    told = server.info("replication")
    there = int(told.get("connected_slaves", 0))
    if there < meta.replicas and told.get("role") == "master":  # a replica has the primary's notes, and says so itself
        yield Finding(
            "problem",
            "replicas",
            f"{there} connected; this generation was seen with {meta.replicas}",
            weakens="with none of them nothing is acknowledged: invalidations fail, and all leases lapse",
            mend=server.command("INFO", "replication") + "   # then start those that are missing",
        )
