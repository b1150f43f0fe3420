"""Codecs: what comes back is what went in, and bytes from a stranger do nothing."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.core.codec import SECRET_BYTES_MIN, Codec, SignedPickle, codec_for
from unstale.errors import ValueTypeError

SECRET = b"a secret of the nodes alone"


class Color(Enum):
    RED = "red"


class Word(StrEnum):
    RED = "red"


class Price(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: Literal["EUR", "USD"]


class Product(msgspec.Struct):
    product_id: int
    name: str | None
    price: Price
    weight: float = 0.0


class Flat(msgspec.Struct):
    value: float


class FlatChild(Flat):
    more: int = 0


class Node(msgspec.Struct, tag=True):
    left: Node | None = None
    right: Node | None = None


class Movie(TypedDict):
    title: str
    year: typing.NotRequired[int]


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Order:
    order_id: UUID
    color: Color
    placed: datetime
    due: date
    at: time
    took: timedelta
    tags: frozenset[str]
    points: tuple[Point, ...]
    raw: bytes
    movies: list[Movie]
    tree: Node


@dataclasses.dataclass(eq=False)
class Incomparable:
    value: float


@dataclasses.dataclass
class Picky:
    value: int

    def __post_init__(self) -> None:
        if self.value == 13:
            raise LookupError("13")


class Custom:
    pass


class Unresolved(msgspec.Struct):
    value: Missing  # type: ignore[name-defined]  # noqa: F821  # as if imported for type checkers only


SMALL = st.integers(-(2**63), 2**64 - 1)
CYCLE: list[object] = []
CYCLE.append(CYCLE)
MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0))
FREE = st.recursive(
    st.none() | st.booleans() | SMALL | st.floats() | st.text() | st.binary() | MOMENTS,
    lambda items: st.lists(items) | st.dictionaries(st.text() | SMALL | st.binary(), items),
)
TREES = st.recursive(st.builds(Node), lambda nodes: st.builds(Node, left=nodes | st.none(), right=nodes | st.none()))
PRODUCTS = st.builds(
    Product,
    product_id=SMALL,
    name=st.none() | st.text(),
    price=st.builds(Price, amount=st.decimals(allow_nan=False, allow_infinity=False), currency=st.just("EUR")),
    weight=st.floats(allow_nan=False),
)
ORDERS = st.builds(
    Order,
    order_id=st.uuids(),
    color=st.just(Color.RED),
    placed=st.datetimes(timezones=st.none() | st.just(UTC)),
    due=st.dates(),
    at=st.times(),
    took=st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000)),
    tags=st.frozensets(st.text()),
    points=st.lists(st.builds(Point, x=SMALL, y=st.floats(allow_nan=False))).map(tuple),
    raw=st.binary(),
    movies=st.lists(st.fixed_dictionaries({"title": st.text()}, optional={"year": SMALL})),
    tree=TREES,
)


@given(FREE)
def test_untyped_values_come_back(value: object) -> None:
    """Without an annotation, what is accepted comes back the same, down to the types and to NaN."""
    codec = codec_for(inspect.Signature.empty, "load")
    assert repr(codec.decode(codec.encode(value))) == repr(value)


@given(PRODUCTS, ORDERS)
def test_typed_values_come_back(product: Product, order: Order) -> None:
    """With an annotation, values come back equal and of their own classes."""
    for annotation, value in ((Product, product), (Order, order), (list[Order], [order]), (dict[str, Any], {"a": [1]})):
        codec = codec_for(annotation, "load")
        back = codec.decode(codec.encode(value))
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (None, None),
        (Any, None),
        (object, {"a": [1, 2.0, "x", b"y", None, True]}),
        (Product | None, None),
        (int | str, "a"),
        (NewType("ProductId", int), 17),
        (typing.Annotated[int, []], 17),
        (typing.Annotated[str, msgspec.Meta(description="a name")], "a"),
        (Color, Color.RED),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2)),
        (set[str], {"a", "b"}),
        (set[Any], {"a", 1}),
        (list[Any], [datetime(2024, 1, 1, tzinfo=UTC)]),
        (dict[int, Point], {1: Point(1, 2.0)}),
        (bytearray, bytearray(b"x")),
        (float, 1),
        (list[float], [1, 2.0]),
        (dict[str, float | Any], {"a": 1}),
        (Node, Node(Node(), Node(None, Node()))),
        (Picky, Picky(1)),
    ],
    ids=str,
)
def test_values_that_match_the_annotation_are_accepted(annotation: object, value: object) -> None:
    """A value of the annotated type comes back equal, and an int may stand for a float."""
    codec = codec_for(annotation, "load")
    assert codec.decode(codec.encode(value)) == value
    assert codec.encode(value) == codec.encode(value)


@pytest.mark.parametrize(
    "value", [math.nan, [math.nan], Flat(math.nan), Incomparable(math.nan), Incomparable(1.0), Decimal("NaN")], ids=repr
)
def test_nan_and_classes_without_equality_are_accepted(value: object) -> None:
    """NaN, which equals nothing, and objects that compare by identity, are compared by what they hold."""
    annotation = list[float] if isinstance(value, list) else type(value)
    codec = codec_for(annotation, "load")
    assert repr(codec.decode(codec.encode(value))).split(" object")[0] == repr(value).split(" object")[0]


@pytest.mark.parametrize(
    ("annotation", "value", "problem", "hint"),
    [
        (Any, (1, 2), "tuple would come back as list", "-> tuple[int, ...]"),
        (Any, {"a": [(1,)]}, "tuple would come back as list", "-> tuple[int, ...]"),
        (Any, {1, 2}, "set would come back as list", "-> set[str]"),
        (Any, Flat(1.0), "Flat would come back as dict", "annotate"),
        (Any, [Word.RED], "Word would come back as str", "annotate"),
        (Any, datetime(2024, 1, 1), "datetime would come back as str", "annotate"),  # noqa: DTZ001
        (set[Any], {Word.RED}, "set would come back as another set", "-> set[str]"),
        (dict[str, Any], {"a": bytearray(b"x")}, "bytearray would come back as bytes", "annotate"),
        (Product, {"product_id": 1}, "returned dict where", "annotate"),
        (Flat, {"value": 1.0}, "dict would come back as Flat", "annotate"),
        (Product, None, "returned NoneType where", "-> ... | None"),
        (None, 1, "returned int where None is annotated", "annotate"),
        (int, True, "returned bool where", "annotate"),
        (str, Word.RED, "Word would come back as str", "annotate"),
        (float, 2**53 + 1, "int would come back as float", "annotate"),
        (Flat, FlatChild(1.0), "FlatChild would come back as Flat", "annotate"),
        (list[Flat], [FlatChild(1.0)], "FlatChild would come back as Flat", "annotate"),
        (Sequence[int], (1, 2), "tuple would come back as list", "-> tuple[int, ...]"),
        (Movie, {"title": "x", "director": "y"}, "dict would come back as another dict", "annotate"),
        (Any, 2**64, "cannot be encoded", "pass codec="),
        (Any, "\ud800", "cannot be encoded", "pass codec="),
        (Any, CYCLE, "cannot be encoded", "pass codec="),
        (Any, Custom(), "cannot be encoded", "pass codec="),
        (Decimal, Decimal("sNaN"), "cannot be encoded", "pass codec="),
    ],
    ids=str,
)
def test_values_that_the_store_would_change_are_refused(
    annotation: object, value: object, problem: str, hint: str
) -> None:
    """A value that would come back as another is refused, with the loader's name and what to annotate."""
    codec = codec_for(annotation, "shop.load")
    for _ in range(2):
        with pytest.raises(ValueTypeError) as refusal:
            codec.encode(value)
        assert refusal.value.message.startswith("shop.load returned ")
        assert problem in refusal.value.message
        assert hint in refusal.value.hint


@pytest.mark.parametrize(
    ("annotation", "item"), [(list[Flat], {"value": 1.0}), (Any, (1,)), (int | list[Flat], {})], ids=str
)
def test_an_empty_list_vouches_for_nothing(annotation: object, item: object) -> None:
    """What a list holds is looked at each time, not only the first time that a list is seen."""
    codec = codec_for(annotation, "load")
    assert codec.encode([]) == b"\x90"
    with pytest.raises(ValueTypeError):
        codec.encode([item])


def test_a_closed_class_is_proven_once() -> None:
    """An object whose annotation leaves nothing open is decoded again only the first time that its class is seen."""
    codec = codec_for(Picky | None, "load")
    codec.encode(Picky(1))
    unlucky = Picky(1)
    unlucky.value = 13
    assert codec.encode(unlucky)
    with pytest.raises(ValueTypeError, match="13"):
        codec_for(Picky, "load").encode(unlucky)


@pytest.mark.parametrize(
    ("annotation", "hint"),
    [
        (Custom, "pydantic"),
        (list[Custom], "pydantic"),
        (dict[str, tuple[Custom, int]], "pydantic"),
        (Flat | Product, "pass codec="),
        (list[int] | set[int], "pass codec="),
        (typing.NoReturn, "pass codec="),
        (AsyncIterator[int], "pass codec="),
        (Callable[[], int], "pass codec="),
        ("Product", "TYPE_CHECKING"),
        (Unresolved, "TYPE_CHECKING"),
    ],
    ids=str,
)
def test_annotations_that_cannot_be_decoded_are_refused(annotation: object, hint: str) -> None:
    """A return type that could not be made from bytes is refused when the function is decorated."""
    with pytest.raises(ValueTypeError) as refusal:
        codec_for(annotation, "shop.load")
    assert refusal.value.message.startswith("shop.load is annotated ")
    assert hint in refusal.value.hint


@st.composite
def corrupted(draw: st.DrawFn, encoded: bytes) -> bytes:
    """Cut, change or extend bytes somewhere."""
    at = draw(st.integers(0, len(encoded)))
    return encoded[:at] + draw(st.binary(max_size=6)) + encoded[at + draw(st.integers(0, 6)) :]


CODECS: tuple[tuple[Codec, st.SearchStrategy[Any]], ...] = (
    (codec_for(Any, "load"), FREE),
    (codec_for(Product, "load"), PRODUCTS),
    (codec_for(list[Order], "load"), st.lists(ORDERS, max_size=2)),
    (SignedPickle(SECRET), FREE),
)


@pytest.mark.parametrize(("codec", "values"), CODECS, ids=["untyped", "struct", "dataclasses", "pickle"])
@given(data=st.data())
def test_h29_corrupt_bytes_are_a_value_error_or_a_value(codec: Codec, values: Any, data: st.DataObject) -> None:
    """Bytes from a stranger give a value of the type or a `ValueError`, and no other exception."""
    encoded = codec.encode(data.draw(values))
    try:
        back = codec.decode(data.draw(corrupted(encoded) | st.binary()))
    except ValueError:
        return
    assert codec is not CODECS[1][0] or type(back) is Product


@pytest.mark.parametrize("nested", [b"\x91" * 100_000, b"\x81\xa1a" * 100_000, b"\xdd\xff\xff\xff\xff", b""], ids=len)
def test_h29_bytes_that_exhaust_are_a_decode_error(nested: bytes) -> None:
    """Endless nesting, or the claim of four billion items, is a `DecodeError`."""
    for annotation in (Any, Node, list[Any]):
        with pytest.raises(msgspec.DecodeError):
            codec_for(annotation, "load").decode(nested)


def test_h29_what_a_class_raises_while_decoding_is_a_decode_error() -> None:
    """A class that refuses what was stored, with whatever exception, makes a miss."""
    with pytest.raises(msgspec.DecodeError, match="LookupError"):
        codec_for(Picky, "load").decode(msgspec.msgpack.encode({"value": 13}))


WENT_OFF: list[str] = []


class Bomb:
    """A value that leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return explode, ("boom",)


def explode(sound: str) -> None:
    """Leave the trace."""
    WENT_OFF.append(sound)


@given(data=st.data())
def test_h29_tampered_pickles_run_no_code(data: st.DataObject) -> None:
    """Bytes that are not exactly what a node signed are refused before anything in them runs."""
    signed = SignedPickle(SECRET).encode(Bomb())
    forged = data.draw(corrupted(signed) | st.sampled_from([signed[32:], bytes(32) + signed[32:], signed[:32], b""]))
    WENT_OFF.clear()
    if forged != signed:
        with pytest.raises(ValueError, match="not signed"):
            SignedPickle(SECRET).decode(forged)
    for other in (b"another secret of 16", "another secret of 16"):
        with pytest.raises(ValueError, match="not signed"):
            SignedPickle(other).decode(signed)
    assert WENT_OFF == []


def test_a_signed_pickle_does_run_code() -> None:
    """What a node signed is unpickled, side effects included: the proof that the test above could fail."""
    WENT_OFF.clear()
    SignedPickle(SECRET).decode(SignedPickle(SECRET).encode(Bomb()))
    assert WENT_OFF == ["boom"]


@given(FREE)
def test_pickled_values_come_back(value: object) -> None:
    """Signed pickles come back, also to nodes that know the secret as the previous one, or as text."""
    data = SignedPickle(SECRET).encode(value)
    for codec in (SignedPickle(SECRET.decode()), SignedPickle("the next secret of all", previous=SECRET)):
        assert repr(codec.decode(data)) == repr(value)
        assert codec.shape == SignedPickle(b"x" * SECRET_BYTES_MIN).shape


@pytest.mark.parametrize("secret", [b"", b"x" * 15, "x" * 15, None, 17, bytearray(16)], ids=repr)
def test_weak_secrets_are_refused(secret: Any) -> None:
    """A secret that is short or no text is refused, as the present and as the previous one, and not shown."""
    with pytest.raises(ValueTypeError, match="at least 16 bytes") as refusal:
        SignedPickle(secret)
    assert "token_hex" in refusal.value.hint
    with pytest.raises(ValueTypeError, match="at least 16 bytes"):
        SignedPickle(SECRET, previous=secret or b"")


def test_what_cannot_be_pickled_is_refused() -> None:
    """A value that pickle refuses is a `ValueTypeError`."""
    with pytest.raises(ValueTypeError, match="cannot be pickled"):
        SignedPickle(SECRET).encode(lambda: None)


def test_a_pickle_whose_class_is_gone_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy that moved a class makes its old pickles misses; and no secret is shown."""
    codec = SignedPickle(SECRET)
    data = codec.encode(Custom())
    monkeypatch.delitem(globals(), "Custom")
    with pytest.raises(ValueError, match="cannot be loaded") as refusal:
        codec.decode(data)
    assert SECRET.decode() not in repr(codec) + str(refusal.value)
