"""What `doctor` finds out by comparing the nodes of a cache: their versions, bounds and policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from unstale.cli.findings import Finding, ok
from unstale.cli.measures import span
from unstale.cli.nodes_told import Described, Node, by_policy, titles, written
from unstale.core.ops import Members

FINDINGS_MAX: Final = 20

# Of what weakens a cache the worst comes first: by fields of a policy, what differing ones bring about.
WEAKENS: Final = (
    ({"tags", "namespace"},
     "an invalidation of a tag or namespace ends only what was stored by nodes that give it to their entries"),
    ({"replica_lag", "replica"},
     "what a node with the shorter lag loads from a late replica is taken for newer than it is, by all nodes"),
    ({"ttl", "none_ttl", "errors", "jitter"},
     "an entry lives as long as the node that stored it says, also for those that say less"),
    ({"max_staleness", "consistency", "ticket_wait", "revalidate", "unproven", "store_out"},
     "how stale a value may be, and what is served when that cannot be proven, depends on the node that is asked"),
    ({"grace", "stale_if_error"},
     "what is kept to be served stale depends on the node that stored it, and whether it is on the one that is asked"),
    ({"coalesce", "lock_ttl", "origin"},
     "the origin gets more loads than the strictest node allows: the others do not wait for one another"),
)  # fmt: skip
OTHERWISE: Final = "the same call behaves differently on each node"


def examine_nodes(nodes: list[Node], members: Members) -> Iterator[Finding]:
    """Compare the nodes of a cache; who says nothing any more is only named."""
    for node in nodes:
        if node.silent:
            yield Finding(
                "note",
                "silent",
                f"{node.title} has said nothing for {span(node.member.max_staleness_s)}: it has ended, or is stopped",
                weakens="waiting invalidations wait for it, for the largest bound at most",
                mend="if it is stopped, end it; if it has ended, the others take it off the list within a minute",
            )
    yield from _bounds(members)
    speaking = [node for node in nodes if not node.silent]
    yield from _versions(speaking)
    yield from _policies(speaking)


def _bounds(members: Members) -> Iterator[Finding]:
    bounds = sorted({member.max_staleness_s for member in members.members})
    if len(bounds) > 1:
        yield Finding(
            "note",
            "drift",
            f"members differ in max_staleness: {', '.join(map(span, bounds))}",
            weakens="waiting invalidations take up to the largest, and clients see older values on some nodes",
            mend="give the cache the same max_staleness in all services",
        )
    elif bounds and members.bound_s > bounds[-1]:
        yield Finding(
            "note",
            "drift",
            f"a member once told a bound of {span(members.bound_s)}; those of now: {span(bounds[-1])}",
            weakens="waiting invalidations wait for up to the largest bound ever told in this generation",
            mend="if it was a mistake, invalidate without waiting until a new generation begins",
        )


def _versions(nodes: list[Node]) -> Iterator[Finding]:
    by_version: dict[str, list[Node]] = {}
    for node in nodes:
        by_version.setdefault(node.about.version, []).append(node)
    if len(by_version) == 1:
        (version,) = by_version
        if version:
            yield ok("versions", f"all nodes run unstale {version}")
    elif by_version:
        told = (f"{version or 'unknown'} on {titles(having)}" for version, having in sorted(by_version.items()))
        yield Finding(
            "note",
            "versions",
            f"nodes run several versions of unstale: {'; '.join(told)}",
            weakens="nothing that is promised: they read one another's records and entries. But defaults may differ",
            mend="when the deploy is over, pip install the same version on all nodes",
        )


def _policies(nodes: list[Node]) -> Iterator[Finding]:
    told = by_policy(nodes)
    differing = {pattern: policies for pattern, policies in sorted(told.items()) if len(policies) > 1}
    for pattern, policies in list(differing.items())[:FINDINGS_MAX]:
        yield _differing(pattern, policies)
    if len(differing) > FINDINGS_MAX:
        yield Finding(
            "note",
            "policies",
            f"{len(differing) - FINDINGS_MAX:,} more patterns of keys have policies that differ",
            weakens="as above",
            mend="unstale nodes URL --policies   # lists them all",
        )
    if told and not differing:
        yield ok("policies", f"{len(told):,}, the same on all nodes that have them")


def _differing(pattern: str, policies: Mapping[Described, list[Node]]) -> Finding:
    what = "the cache's own policy" if pattern == "*" else f"the policy of {pattern}"
    told = (f"{written(policy)} on {titles(having)}" for policy, having in policies.items())
    fields = _fields(policies)
    weakens = next((text for names, text in WEAKENS if names & fields), OTHERWISE)
    every = [node for having in policies.values() for node in having[:1]]
    return Finding(
        "note",
        "policies",
        f"{what} differs in {', '.join(sorted(fields))}: {'; '.join(told)}",
        weakens=weakens,
        mend=f"deploy the same code to {titles(every)}; unstale nodes URL --policies lists all",
    )


def _fields(policies: Iterable[Described]) -> set[str]:
    """Give the fields in which policies differ; all, where only what belongs together does."""
    facts: list[frozenset[tuple[str, str]]] = [frozenset().union(*policy) for policy in policies]
    every, common = frozenset[tuple[str, str]]().union(*facts), facts[0].intersection(*facts)
    return {name for name, _text in every - common or every}
