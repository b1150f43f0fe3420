from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.engines.redis_url import PORT, SENTINEL_PORT, RedisUrl, parse_url
from unstale.errors import DurationError, EngineUrlError

HOSTS = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,5})?", fullmatch=True)
PORTS = st.integers(1, 2**16 - 1)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)

GOOD = (
    ("redis://h", {"kind": "server", "tls": False, "addresses": (("h", PORT),), "db": 0}),
    ("redis://h:", {"addresses": (("h", PORT),)}),
    ("rediss://h:1/2", {"kind": "server", "tls": True, "addresses": (("h", 1),), "db": 2}),
    ("valkey://h", {"kind": "server", "tls": False}),
    ("valkeys+sentinel://h/shop", {"kind": "sentinel", "tls": True, "primary": "shop"}),
    ("redis+cluster://a,b:7", {"kind": "cluster", "addresses": (("a", PORT), ("b", 7))}),
    ("redis+sentinel://a,b:7/my%2Fshop/3", {"addresses": (("a", SENTINEL_PORT), ("b", 7)), "primary": "my/shop"}),
    ("redis+sentinel://a/shop/3", {"primary": "shop", "db": 3}),
    ("redis://[::1]:7", {"addresses": (("::1", 7),)}),
    ("redis://[fe80::1]", {"addresses": (("fe80::1", PORT),)}),
    ("redis://:secret@h", {"user": "", "password": "secret"}),
    ("redis://me:a%40b%3Ac@h", {"user": "me", "password": "a@b:c"}),
    ("redis://h?timeout=250ms", {"timeout_s": 0.25}),
    ("redis://h", {"quorum": None, "prefix": "unstale", "timeout_s": 1.0}),
    ("redis://h?quorum=0", {"quorum": 0}),
    ("redis://h?quorum=2&prefix=p&ca=/etc/ca.crt", {"quorum": 2, "prefix": "p", "ca": "/etc/ca.crt"}),
    ("redis+sentinel://h/x?sentinel_user=u&sentinel_password=p", {"sentinel_user": "u", "sentinel_password": "p"}),
)
BAD = (
    "redis://", "redis:///0", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://a,b", "redis://h/x",
    "redis://h/-1", "redis://h/1/2", "redis+cluster://h/1", "redis+sentinel://h", "redis+sentinel://h/", "redis://h?x",
    "redis://h?timeout=0s", "redis://h?quorum=-1", "redis://h?quorum=x", "redis://h?quorum=", "redis://h?db=1",
    "http://h", "redis+other://h", "redis://[::1", "h:6379", "",
)  # fmt: skip


@pytest.mark.parametrize(("url", "wanted"), GOOD)
def test_urls_are_read(url: str, wanted: dict[str, object]) -> None:
    """What a URL says stands in the fields."""
    read = parse_url(url)
    assert {name: getattr(read, name) for name in wanted} == wanted


@pytest.mark.parametrize("url", BAD)
def test_urls_that_say_nothing_are_refused(url: str) -> None:
    """A URL that cannot be meant is refused, with what to write instead."""
    with pytest.raises(EngineUrlError) as refused:
        parse_url(url)
    assert refused.value.hint


def test_a_timeout_that_is_none_is_refused() -> None:
    """A duration is read as all durations are."""
    with pytest.raises(DurationError):
        parse_url("redis://h?timeout=soon")


@settings(deadline=None)  # a loaded machine is slow
@given(HOSTS, PORTS, TEXTS, TEXTS, st.integers(0, 99))
def test_h29_whatever_is_quoted_comes_back(host: str, port: int, user: str, password: str, db: int) -> None:
    """Users and passwords of any characters come back as they were, when they are quoted."""
    url = parse_url(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{port}/{db}")
    assert (url.user, url.password, url.addresses, url.db) == (user, password, ((host, port),), db)


@settings(deadline=None)  # a loaded machine is slow
@given(st.lists(st.tuples(HOSTS, PORTS), min_size=1, max_size=5))
def test_all_servers_are_read(addresses: list[tuple[str, int]]) -> None:
    """The servers of a cluster come back in their order."""
    url = parse_url(f"redis+cluster://{','.join(f'{host}:{port}' for host, port in addresses)}")
    assert url.addresses == tuple(addresses)


@settings(deadline=None)  # a loaded machine is slow
@given(st.text(max_size=60))
def test_h29_nonsense_is_an_error_of_ours(text: str) -> None:
    """Any text is either read or refused by an error of ours."""
    for start in ("", "redis://", "redis+sentinel://h/", "redis://h?"):
        try:
            assert isinstance(parse_url(start + text), RedisUrl)
        except (EngineUrlError, DurationError):
            continue


@settings(deadline=None)  # a loaded machine is slow
@given(TEXTS)
def test_messages_do_not_tell_the_password(password: str) -> None:
    """The name that a URL has in messages is its servers, without user and password."""
    assert parse_url(f"redis://me:{quote(password, safe='')}@h:1").place == "h:1"
