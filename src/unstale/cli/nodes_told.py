"""What the nodes of a cache tell about themselves, put together: who has which policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from unstale.cli.look import Look
from unstale.core.about import About, decode_about
from unstale.core.ops import Member, Members

SHOWN_MAX: Final = 4  # nodes named before the others are only counted

# What describes the policies of all functions with keys of one pattern, in a form that can be compared.
Described: TypeAlias = tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class Node:
    """A member, and what it tells about itself.

    Attributes:
        member: The member.
        about: What it tells; nothing of a version that told nothing.
        silent: It has said nothing for as long as its bound.
    """

    member: Member
    about: About
    silent: bool = False

    @property
    def title(self) -> str:
        """What people call it."""
        return self.about.title or self.member.node


def nodes_of(look: Look, members: Members, silent: frozenset[str]) -> list[Node]:
    """Give the members with what they tell, in the order of their names."""
    told = look.read_about(tuple(member.node for member in members.members))
    found = (
        Node(member, decode_about(data), member.node in silent)
        for member, data in zip(members.members, told, strict=True)
    )
    return sorted(found, key=lambda one: (one.title, one.member.node))


def by_policy(nodes: Iterable[Node]) -> dict[str, dict[Described, list[Node]]]:
    """Give, for each pattern of keys, the policies that nodes have for it and who has each.

    A node without functions of a pattern has none for it: it neither loads nor stores such entries.
    """
    found: dict[str, dict[Described, list[Node]]] = {}
    for node in nodes:
        for pattern, several in node.about.policies.items():
            policy = tuple(tuple(facts.items()) for facts in several)
            found.setdefault(pattern, {}).setdefault(policy, []).append(node)
    return found


def written(policy: Described) -> str:
    """Write a policy."""
    return "; ".join(", ".join(f"{name}={text}" for name, text in facts) for facts in policy)


def titles(nodes: Sequence[Node]) -> str:
    """Name nodes: the first few, and how many more there are."""
    names = [node.title for node in nodes[:SHOWN_MAX]]
    return ", ".join(names) + (f" and {len(nodes) - SHOWN_MAX:,} more" if len(nodes) > SHOWN_MAX else "")
