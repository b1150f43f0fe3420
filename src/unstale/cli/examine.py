"""What `doctor` looks at: the engine, its file, the log and its members, and how full it is."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from typing import Final

from unstale.cli.examine_file import examine_contents, examine_file
from unstale.cli.examine_nodes import examine_nodes
from unstale.cli.findings import Finding, ok, size
from unstale.cli.look import Look, is_postgres, is_redis, opened, sqlite_path
from unstale.cli.measures import long_span, span
from unstale.cli.nodes_told import nodes_of
from unstale.cli.sqlite_look import CacheFacts, file_facts
from unstale.core.ops import Identity, Members
from unstale.engines.connect import connect
from unstale.engines.memory import BYTES_MAX, ENTRIES_MAX, RECORDS_MAX
from unstale.engines.sqlite import MARKS_MAX, SQLiteEngine
from unstale.errors import EngineError

NEARLY_FULL: Final = 0.9
LAG_MAX: Final = 4096
AHEAD_S: Final = 60.0


def examine(url: str, name: str) -> list[Finding]:
    """Examine a cache.

    Raises:
        EngineUrlError: The URL names nothing that can be looked at from outside.
    """
    if is_redis(url):
        return list(_redis(url, name))
    if is_postgres(url):
        return list(_postgres(url, name))
    path = sqlite_path(url)
    if not path:
        with opened(url, name) as look:
            return list(_log(look))
    findings = [*_engine(), *examine_file(path)]
    if _broken(findings, "file"):
        return findings
    try:
        facts = file_facts(path)
        findings += examine_contents(facts, name)
        if not _broken(findings, "contents") and not _broken(findings, "cache"):
            with opened(url, name) as look:
                findings += _log(look)
            findings += _limits(next(cache for cache in facts.caches if cache.name == name))
    except EngineError as error:
        everything = "everything: no process can use the cache"
        findings.append(Finding("problem", "file", error.message, weakens=everything, mend=error.hint))
    return findings


def _redis(url: str, name: str) -> Iterator[Finding]:
    connect(url, name=name, max_ttl_s=1.0)  # tells mistakes in the URL, and a missing package
    from unstale.cli.examine_redis import examine_servers
    from unstale.cli.examine_redis_log import examine_log
    from unstale.cli.redis_look import RedisLook
    from unstale.engines.redis_url import parse_url

    findings = [*_boot_clock(), *examine_servers(parse_url(url), name)]
    yield from findings
    if _broken(findings, "server"):
        return
    try:
        with opened(url, name) as look:
            yield from _log(look)
            assert isinstance(look, RedisLook), "its URL says so"
            yield from examine_log(look)
    except EngineError as error:
        if error.fields.get("unused"):
            yield Finding("note", "cache", error.message, weakens="nothing but the hit ratio of the first minutes")
            return
        nothing = "whoever uses that name shares nothing with the others, or cannot go on"
        yield Finding("problem", "cache", error.message, weakens=nothing, mend=error.hint)


def _postgres(url: str, name: str) -> Iterator[Finding]:
    try:
        with opened(url, name) as look:
            from unstale.cli.examine_postgres import examine_server
            from unstale.cli.postgres_look import PostgresLook

            yield from _boot_clock()
            assert isinstance(look, PostgresLook), "its URL says so"
            yield from examine_server(look)
            yield from _log(look)
    except EngineError as error:
        unused = bool(error.fields.get("unused"))
        weakens = "nothing but the hit ratio of the first minutes" if unused else "everything: no process can use it"
        yield Finding(
            "note" if unused else "problem", "cache" if unused else "server", error.message,
            weakens=weakens, mend="" if unused else error.hint,
        )  # fmt: skip


def _broken(findings: list[Finding], subject: str) -> bool:
    return any(finding.level == "problem" and finding.subject == subject for finding in findings)


def _engine() -> Iterator[Finding]:
    promised = SQLiteEngine.guarantees
    yield ok("engine", f"SQLite {sqlite3.sqlite_version}: {promised.processes}")
    yield ok("durable", promised.durable)
    yield from _boot_clock()


def _boot_clock() -> Iterator[Finding]:
    if hasattr(time, "CLOCK_BOOTTIME"):
        yield ok("clock", "CLOCK_BOOTTIME: it counts the time that the machine is suspended")
        return
    yield Finding(
        "note",
        "clock",
        "this system's clock may stand still while the machine is suspended",
        weakens="a process that was suspended may take its lease for valid when it wakes",
        mend="run services that must not serve anything stale on Linux",
    )


def _log(look: Look) -> Iterator[Finding]:
    head = look.read_head()
    yield ok("generation", f"{head.generation}, head at position {head.head:,}")
    newest = look.after(max(0, head.head - 1), 1).records
    ahead_s = newest[-1].record.at - time.time() if newest else 0.0
    if ahead_s > AHEAD_S:
        yield Finding(
            "note",
            "wall clocks",
            f"the newest record is dated {long_span(ahead_s)} ahead of this machine's clock",
            weakens="only the times that `unstale tail` shows: no wall clock decides anything",
        )
    silent = look.silent()  # it may listen for a while: the members are read after it
    members = look.read_members()
    nodes = nodes_of(look, members, silent)
    yield from _members(members, head, {node.member.node: node.title for node in nodes})
    yield from examine_nodes(nodes, members)


def _members(members: Members, head: Identity, titles: Mapping[str, str]) -> Iterator[Finding]:
    if not members.members:
        yield Finding("note", "members", "no process uses the cache now")
        return
    for member in members.members:
        lag = head.head - member.applied
        title = titles[member.node]
        told = f"{title}: applied {member.applied:,}, lag {lag:,}, bound {span(member.max_staleness_s)}"
        if member.generation != head.generation:
            yield Finding(
                "note",
                "member",
                f"{title}: of another generation, bound {span(member.max_staleness_s)}",
                weakens="nothing: it has not noticed yet that the log began anew; its lease lapses within its bound",
            )
        elif lag > LAG_MAX:
            yield Finding(
                "problem",
                "member",
                told,
                weakens="its lease lapses: it serves nothing from its memory until it has caught up",
                mend="look at that process: is it stopped, or starved of processor time?",
            )
        else:
            yield ok("member", told)
    if members.age_s < members.bound_s:
        yield Finding(
            "note",
            "members",
            f"the list is {span(members.age_s)} old, younger than the longest bound",
            weakens="waiting invalidations take the full bound until it is older",
        )


def _limits(mine: CacheFacts) -> Iterator[Finding]:
    yield ok("log", f"{mine.head - mine.trimmed:,} records are kept, by default of at most {RECORDS_MAX:,}")
    marks = f"{mine.marks:,}, by default of at most {MARKS_MAX:,}, each kept for {long_span(2 * mine.max_ttl_s)}"
    if mine.marks <= NEARLY_FULL * MARKS_MAX:
        yield ok("marks", marks)
    else:
        yield Finding(
            "problem",
            "marks",
            marks,
            weakens="the oldest are forgotten, and entries from before them are misses",
            mend="invalidate fewer, wider scopes: a tag or a namespace in place of many keys",
        )
    entries = f"{mine.entries:,} with {size(mine.bytes)}, by default of at most {ENTRIES_MAX:,} with {size(BYTES_MAX)}"
    if mine.entries <= NEARLY_FULL * ENTRIES_MAX and mine.bytes <= NEARLY_FULL * BYTES_MAX:
        yield ok("entries", entries)
    else:
        yield Finding(
            "note",
            "entries",
            entries,
            weakens="the hit ratio: the oldest writes make room",
            mend="shorten the TTLs, or cache less",
        )
