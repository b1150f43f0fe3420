"""What `doctor` looks at on a PostgreSQL: whether it keeps what it acknowledges, and what its replicas mean."""

from __future__ import annotations

from collections.abc import Iterator

from unstale.cli.findings import Finding, ok
from unstale.cli.postgres_look import PostgresLook


def examine_server(look: PostgresLook) -> Iterator[Finding]:
    """Examine the server of a cache.

    Raises:
        EngineError: It does not answer.
    """
    told = look.settings()
    yield ok("server", f"PostgreSQL {told['server_version']}, schema {look.url.schema}")
    unsafe = [name for name in ("fsync", "full_page_writes") if told[name] == "off"]
    if unsafe:
        yield Finding(
            "problem",
            "durable",
            f"{' and '.join(unsafe)} off",
            weakens="a crash of the machine may lose acknowledged invalidations, unnoticed by the nodes",
            mend="; ".join(f"ALTER SYSTEM SET {name} = on" for name in unsafe) + "; SELECT pg_reload_conf()",
        )
    elif told["synchronous_commit"] == "off":
        yield ok("durable", "synchronous_commit is off by default, and on for what the cache appends")
    else:
        yield ok("durable", "what was acknowledged survives a crash")
    replicas, names = int(told["replicas"]), told["synchronous_standby_names"]
    if names and not replicas:
        yield Finding(
            "problem",
            "replicas",
            f"synchronous_standby_names is {names!r}, and no replica is connected",
            weakens="everything: no append is acknowledged, and no lease is renewed",
            mend="start the replica; or ALTER SYSTEM SET synchronous_standby_names = ''",
        )
    elif replicas and not names:
        yield Finding(
            "note",
            "replicas",
            f"{replicas}, all asynchronous",
            weakens="an old primary that is cut off is believed, and a failover loses what was not sent",
            mend="ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'; SELECT pg_reload_conf()",
        )
    else:
        yield ok("replicas", f"{replicas}, synchronous: {names}" if names else "none: it cannot be deposed")
