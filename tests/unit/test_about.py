from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.scripted import Bench
from unstale import Cache, Origin, Policy
from unstale.core import about
from unstale.core.about import POLICIES_BYTES_MAX, About, Profile, decode_about, describe
from unstale.errors import UsageError

SNAPSHOT = Path(__file__).parent / "snapshots" / "about_v1.hex"


def told_by(cache: Cache) -> About:
    """Give what the node of a cache tells."""
    with cache.node.lock:
        return decode_about(cache.node.member().about)


def test_a_policy_is_described_by_what_is_not_as_ever() -> None:
    """The time to live is always told, of all else what is not the default; durations read alike however given."""
    assert describe(Policy()) == {"ttl": "5m"}
    assert describe(Policy(ttl=300, jitter=0.05, lock_ttl="10000ms")) == {"ttl": "5m"}
    assert describe(Policy(grace="1h", stale_if_error=3600, none_ttl="5m")) == {"ttl": "5m", "grace": "1h"}
    assert describe(Policy(grace="1h", stale_if_error="2h", max_staleness="300ms")) == {
        "ttl": "5m", "grace": "1h", "stale_if_error": "2h", "max_staleness": "300ms",
    }  # fmt: skip
    assert describe(Policy(not_found=(KeyError,), errors={OSError: "1s"}))["errors"] == "KeyError:10s OSError:1s"
    assert describe(Policy(origin=Origin(20), soft_timeout="1s", grace=9))["origin"] == "20"
    assert describe(Policy(), consistency="strong", namespace="n", tags=["t:{b}", "t:{a}", "c"]) == {
        "ttl": "5m", "consistency": "strong", "namespace": "n", "tags": "c t:{} t:{}",
    }  # fmt: skip


OTHERS: dict[str, Any] = {
    "ttl": "6m", "jitter": 0.1, "grace": "1h", "stale_if_error": "3h", "soft_timeout": "1s", "hard_timeout": "9s",
    "early": 1.0, "none_ttl": "1s", "not_found": (KeyError,), "not_found_ttl": "11s", "errors": {OSError: "1s"},
    "coalesce": "off", "lock_ttl": "11s", "origin": Origin(3), "max_staleness": "1s", "revalidate": False,
    "unproven": "stale", "store_out": "refuse", "replica_lag": "1s", "ticket_wait": "1s", "copy": True,
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Policy) if field.init])
def test_no_field_of_a_policy_is_left_out(field: str) -> None:
    """Two policies that differ in any field are described differently."""
    common: dict[str, Any] = {"grace": "2h", "not_found": (ValueError,)}
    other = OTHERS | {"replica": lambda: 1.0}
    assert describe(Policy(**common)) != describe(Policy(**common | {field: other[field]}))


def test_what_was_told_is_read() -> None:
    """Name, place, version and policies are read as they were told; what placeholders are called is left out."""
    profile = Profile("web-1", "1.2", lambda: "host:17")
    profile.tell("product:{product_id}", "shop.product", {"ttl": "5m"})
    profile.tell("product:{number}", "shop.other", {"ttl": "1m", "tags": "c"})
    profile.tell("product:{number}", "shop.twin", {"ttl": "5m"})
    several = [{"tags": "c", "ttl": "1m"}, {"ttl": "5m"}]
    assert decode_about(profile.data) == About("web-1", "host:17", "1.2", {"product:{}": several})
    profile.tell("product:{number}", "shop.other", {"ttl": "5m"})  # the function was loaded again
    assert decode_about(profile.data).policies == {"product:{}": [{"ttl": "5m"}]}


def test_nothing_is_encoded_anew_until_it_changes() -> None:
    """Polls tell the same bytes until a function is decorated, or the process was forked."""
    places = iter(["host:1", "host:2", "host:3"])
    profile = Profile("", "1", lambda: next(places))
    assert profile.data is profile.data
    before = profile.data
    profile.tell("a:{b}", "f", {"ttl": "1m"})
    assert profile.data != before
    assert decode_about(profile.data).place == "host:2"
    profile.forget_place()
    assert decode_about(profile.data).place == "host:3"


def test_who_has_nothing_to_tell_tells_nothing() -> None:
    """A node without a name, version and policies tells no bytes at all."""
    assert Profile().data == b""
    assert Bench().node().member().about == b""


def test_what_is_told_is_bounded() -> None:
    """Names are cut, and of very many policies as many are told as fit: how many are left out is told."""
    profile = Profile("n" * 1000, "1", lambda: "p" * 1000)
    for number in range(5000):
        profile.tell(f"key{number}:{{a}}", "f", {"ttl": "5m", "tags": "t" * 100_000})
    assert len(profile.data) < POLICIES_BYTES_MAX + 1000
    told = decode_about(profile.data)
    assert (len(told.name), len(told.place)) == (200, 200)
    assert len(told.policies) > 10
    assert told.left_out == 5000 - len(told.policies)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", msgspec.msgpack.encode("text")])
def test_h29_what_no_node_has_written_is_nothing(data: bytes) -> None:
    """Bytes that cannot be read are taken for nothing told."""
    assert decode_about(data) == About()


def test_what_is_told_can_be_printed() -> None:
    """Who can write to the log cannot send commands to the terminal of who looks at it, nor flood it."""
    evil = "\x1b[2J\n\u202e"
    told = About(evil, evil, evil, {evil: [{evil: evil + "x" * 1000}]})
    shown = decode_about(msgspec.msgpack.encode(told))
    texts = [shown.name, shown.place, shown.version, *shown.policies]
    for pattern in shown.policies.values():
        texts += [text for facts in pattern for pair in facts.items() for text in pair]
    assert all(text.isprintable() and len(text) <= 200 for text in texts)
    assert shown.name == "?[2J??"


def test_old_bytes_are_read() -> None:
    """What nodes of the first version tell is read, and a field that a later one may add is passed over."""
    told = About("web-1", "host:17", "0.1.0", {"product:{}": [{"ttl": "5m", "grace": "1h"}], "*": [{"ttl": "5m"}]}, 3)
    data = bytes.fromhex(SNAPSHOT.read_text(encoding="ascii"))
    assert decode_about(data) == told
    assert msgspec.msgpack.encode(told) == data
    assert decode_about(b"\x96" + data[1:] + b"\xc0") == told
    assert decode_about(b"\x91\xa1n") == About("n")


@pytest.mark.parametrize(
    ("told", "title"),
    [(About("web", "h:1"), "web (h:1)"), (About("", "h:1"), "h:1"), (About("web"), "web"), (About(), "")],
)
def test_a_title_is_for_people(told: About, title: str) -> None:
    """A node is called by its name, and by where it runs."""
    assert told.title == title


def test_a_node_tells_of_functions_decorated_later() -> None:
    """What is decorated after the first polls is told with the next one."""
    with Cache("memory://", name="later", node_name="web-1", policy=Policy(ttl="1m")) as cache:
        cache.get("a:1")
        assert told_by(cache).name == "web-1"
        assert told_by(cache).policies == {"*": [{"ttl": "1m"}]}

        @cache.cached("product:{number}", tags=["catalog"], grace="1h", consistency="eventual")
        def product(number: int) -> int:
            return number

        facts = {"consistency": "eventual", "grace": "1h", "tags": "catalog", "ttl": "1m"}
        assert told_by(cache).policies == {"*": [{"ttl": "1m"}], "product:{}": [facts]}
        assert product(1) == 1


@pytest.mark.parametrize("name", [None, 7, b"web", "a\nb", "x" * 101])
def test_names_that_nodes_cannot_have(name: Any) -> None:
    """What is no short printable text is refused, with what to write instead."""
    with pytest.raises(UsageError) as refusal:
        Cache("memory://", node_name=name)
    assert refusal.value.hint == 'write node_name="web-1"'
    assert about.pattern_of("a") == "a"
