from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale import Cache
from unstale.core.entry import FORMAT as ENTRY_FORMAT
from unstale.core.record import Record, encode_record
from unstale.engines.seal import LENGTH, SIGNED, Seal, read_secrets
from unstale.errors import EngineUrlError, UsageError

OLD, NEW = b"the old secret of the shop", b"the new secret of the shop"


@given(st.binary(max_size=200), st.text(max_size=40), st.text(max_size=40))
def test_h29_what_was_signed_is_believed_as_what_it_was_signed_as(data: bytes, what: str, other: str) -> None:
    """The same bytes as another key's entry, another record, or another cache's, are not."""
    seal = Seal("shop", [NEW])
    signed = seal.sign(what, data)
    assert seal.open(what, signed) == data
    if what != other:
        assert seal.open(other, signed) is None
    assert Seal("shop2", [NEW]).open(what, signed) is None
    assert Seal("shop", [OLD]).open(what, signed) is None


@given(st.binary(max_size=60), st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_h29_a_flipped_bit_is_not_believed(data: bytes, at: int, flip: int) -> None:
    """Whatever byte is another one, of the signature or of what was signed."""
    seal = Seal("shop", [NEW])
    signed = bytearray(seal.sign("entry|k", data))
    signed[at % len(signed)] ^= flip
    assert seal.open("entry|k", bytes(signed)) is None


@given(st.binary(max_size=100))
def test_h29_any_bytes_are_forged(data: bytes) -> None:
    """Bytes that nobody signed are reported, and never raise."""
    seal = Seal("shop", [NEW, OLD])
    told: list[tuple[str, str]] = []
    seal.on_forged = lambda what, error: told.append((what, str(error)))
    assert seal.open("record|r1", data) is None
    assert told[0][0] == "forged record"
    assert told[0][1].startswith("record without a valid signature: r1")


def test_one_secret_follows_another() -> None:
    """While nodes have both, in either order, they believe each other; a node with only the old one no longer."""
    old, both, new = Seal("shop", [OLD]), Seal("shop", [NEW, OLD]), Seal("shop", [NEW])
    assert both.open("entry|k", old.sign("entry|k", b"x")) == b"x"
    assert new.open("entry|k", both.sign("entry|k", b"x")) == b"x"
    assert old.open("entry|k", both.sign("entry|k", b"x")) is None


def test_what_is_signed_looks_like_nothing_that_is_not() -> None:
    """A node without the secret takes signed entries for misses, and records for those of another version."""
    assert SIGNED[0] != ENTRY_FORMAT
    assert encode_record(Record("r", ("a",)))[:1] != SIGNED
    assert len(Seal("shop", [NEW]).sign("entry|k", b"")) == 1 + LENGTH


@pytest.mark.parametrize(
    ("secret", "read"),
    [(None, ()), ("x" * 16, (b"x" * 16,)), (b"y" * 16, (b"y" * 16,)), (["x" * 16, b"y" * 16], (b"x" * 16, b"y" * 16))],
)
def test_secrets_are_read(secret: Any, read: tuple[bytes, ...]) -> None:
    """A text, bytes, or two of them."""
    assert read_secrets(secret) == read


@pytest.mark.parametrize("secret", ["", "short", 17, [], [1], ["x" * 16] * 3, {"a": 1}, True])
def test_what_is_no_secret_is_refused(secret: Any) -> None:
    """With what to write instead."""
    with pytest.raises(UsageError, match="secret"):
        read_secrets(secret)


def test_an_engine_that_signs_nothing_says_so() -> None:
    """What can only be written to by programs of this machine has file permissions."""
    with pytest.raises(EngineUrlError, match="signs nothing"):
        Cache("sqlite:///shop.cache", secret="x" * 16)
