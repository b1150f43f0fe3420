"""What `doctor` finds out about the replicas of a Redis server, and what these prove."""

from __future__ import annotations

from collections.abc import Iterator

from unstale.cli.findings import Finding, ok
from unstale.cli.redis_server import Server


def examine_replicas(server: Server, told: dict[str, str]) -> Iterator[Finding]:
    """Examine a server by what INFO replication tells."""
    if told.get("role") != "master":
        yield Finding(
            "problem",
            "replicas",
            f"{server.place} is a replica of {told.get('master_host')}:{told.get('master_port')}",
            weakens="nothing can be stored or invalidated there (READONLY)",
            mend="name the primary in the URL, or the sentinels: redis+sentinel://host:26379/primary-name",
        )
        return
    links = [value for name, value in told.items() if name.startswith("slave") and "state=" in value]
    there, quorum = sum("state=online" in link for link in links), server.url.quorum
    needed = int(server.setting("min-replicas-to-write") or 0)
    if needed > there:
        yield Finding(
            "problem",
            "replicas",
            f"{there} online, and min-replicas-to-write is {needed}",
            weakens="the server refuses writes (NOREPLICAS): nothing can be stored or invalidated",
            mend=server.command("CONFIG", "SET", "min-replicas-to-write", str(there)) + "   # or start the replicas",
        )
    if quorum and quorum > there:
        yield Finding(
            "problem",
            "replicas",
            f"{there} online, and quorum={quorum} have to acknowledge",
            weakens="nothing is acknowledged: invalidations fail, and all leases lapse",
            mend=f"start the replicas, or write quorum={there} into the URL",
        )
    if not links:
        yield ok("replicas", "none: the server cannot be deposed, and polls prove leases")
        return
    if quorum == 0:
        yield Finding(
            "problem",
            "replicas",
            f"{there} online, and quorum=0",
            weakens="a primary that was cut off and deposed is believed until it is told: its nodes serve what others "
            "have invalidated",
            mend="leave quorum out of the URL, or write quorum=1",
        )
    elif (quorum or 1) < there:
        yield Finding(
            "note",
            "replicas",
            f"{there} online, of which {quorum or 1} acknowledge",
            weakens="a deposed primary is believed as long as it still has so many replicas on its side",
            mend=f"write quorum={there} into the URL",
        )
    else:
        yield ok("replicas", f"{there} online, and {quorum or 1} acknowledge; leases rest on pulses")
    if not needed:
        yield Finding(
            "note",
            "min-replicas-to-write",
            "0",
            weakens="a primary that is cut off goes on taking writes of other programs, which are lost when it returns",
            mend=server.command("CONFIG", "SET", "min-replicas-to-write", "1"),
        )
    else:
        lag = server.setting("min-replicas-max-lag")
        yield ok("min-replicas-to-write", f"{needed}, heard of within {lag} s")
