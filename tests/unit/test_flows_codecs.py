"""Reads by codecs that are not our own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.scripted import Bench
from unstale.core.codec import SignedPickle
from unstale.core.read import read

KEY = "k:1"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give one server, and its clock."""
    with contextlib.closing(Bench()) as one:
        yield one


class Watched:
    """A codec that notes what it is given to decode."""

    def __init__(self, codec: SignedPickle, seen: list[type]) -> None:
        self.shape, self.encode = codec.shape, codec.encode
        self._decode, self._seen = codec.decode, seen

    def decode(self, data: bytes) -> object:
        """Decode, and note."""
        self._seen.append(type(data))
        return self._decode(data)


@pytest.mark.parametrize("copy", [False, True])
def test_other_codecs_are_given_bytes(bench: Bench, *, copy: bool) -> None:
    """What they were promised, and not a view of all that was fetched; each reader may get a value of its own."""
    codec = SignedPickle(b"0123456789abcdef")
    want = bench.want(KEY, lambda: [1], codec=codec, copy=copy)
    bench.run(read(bench.node("a"), want))
    seen: list[type] = []
    want.codec = Watched(codec, seen)
    assert bench.run(read(bench.node("b"), want)).value == [1]
    assert set(seen) == {bytes}
