from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from unstale.carrier import TOKENS_MAX, Carrier
from unstale.errors import UsageError


def token_of(cache: str, position: int) -> str:
    """Give a token as a service in another language might write it."""
    packed = msgspec.msgpack.encode({cache: [["g", position]]})
    return base64.urlsafe_b64encode(b"\x01" + packed).decode().rstrip("=")


def tickets(headers: list[str], cookie: str | None = None) -> dict[str, int]:
    """Give the positions that a request asks for, by cache."""
    token = Carrier().begin(headers, cookie).token
    found = msgspec.msgpack.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[1:]) if token else {}
    return {cache: stamps[0][1] for cache, stamps in found.items()}


def test_h05_a_request_asks_for_all_that_it_brings() -> None:
    """Tokens come in a cookie and in headers; a proxy may join several headers to one, with commas."""
    one, two, three = token_of("a", 1), token_of("b", 2), token_of("a", 3)
    assert tickets([one, two], three) == {"a": 3, "b": 2}
    assert tickets([f"{one}, {two} ,{three}"]) == {"a": 3, "b": 2}
    assert tickets([], one) == {"a": 1}
    assert tickets([]) == {}


def test_h27_of_a_header_so_many_tokens_are_read() -> None:
    """A client that sends more means no good; those before them count."""
    many = ",".join(token_of(f"c{number}", 1) for number in range(TOKENS_MAX + 5))
    assert list(tickets([many])) == [f"c{number}" for number in range(TOKENS_MAX)]


@pytest.mark.parametrize("how", [{"header": "a b"}, {"cookie": ""}, {"cookie": "a;b"}, {"path": "x"}, {"path": "/;"}])
def test_names_that_cannot_be(how: dict[str, Any]) -> None:
    """What no browser would take is refused when the application starts."""
    with pytest.raises(UsageError, match="cannot be a"):
        Carrier(**how)
