"""Arguments in keys: how each type is written, what is refused, and that none can imitate another."""

from __future__ import annotations

import inspect
import unicodedata
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NewType, Optional
from urllib.parse import unquote
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from unstale.core.keys import Template, escape
from unstale.errors import KeyArgumentError


class Color(Enum):
    RED = "red"
    ROSE = "red"  # noqa: PIE796  # an alias on purpose


class Word(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Right(Flag):
    READ = 1
    WRITE = 2


class Id(int):
    pass


class Slug(str):
    __slots__ = ()


class DriverUUID(UUID):
    """As database drivers have one."""


class NoOffset(tzinfo):
    """As zones with summer time are, where a time is given without a date."""

    def utcoffset(self, moment: datetime | None, /) -> None:
        return None

    def dst(self, moment: datetime | None, /) -> None:
        raise NotImplementedError

    def tzname(self, moment: datetime | None, /) -> None:
        raise NotImplementedError


A_UUID = "12345678-1234-5678-1234-567812345678"


def one(declared: object = None) -> Template:
    """Compile a template with one place whose argument has the annotation."""
    parameter = inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return Template.compile("k:{x}", inspect.Signature([parameter]), {} if declared is None else {"x": declared})


def two(first: object, second: object) -> Template:
    """Compile a template with two places whose arguments have the annotations."""
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("x", "y")]
    return Template.compile("k:{x}:{y}", inspect.Signature(parameters), {"x": first, "y": second})


def key_of(template: Template, *values: object) -> str | None:
    """Give the key of a call, None if a type of an argument is refused."""
    try:
        return template.bind(values, {})
    except KeyArgumentError:
        return None


def meant(hint: object, value: Any) -> Any:
    """Give what a value stands for where a type is declared: an int may be given for a float (PEP 484)."""
    return float(value) if hint is float and type(value) is int else value


def identity(value: Any) -> object:
    """Say what a value is, in type and value: two values are one argument if and only if this is equal."""
    if isinstance(value, Enum):
        return type(value), value.name
    if isinstance(value, tuple | list):
        return type(value), tuple(identity(item) for item in value)
    if isinstance(value, frozenset):
        return frozenset, frozenset(identity(item) for item in value)
    if isinstance(value, datetime | time):
        return type(value), value.replace(tzinfo=None), value.utcoffset()
    return type(value), value


# Texts that look like renderings of other things are what forgery is made of.
TEXTS = st.text(st.sampled_from(":!,()%_.-@~+/|#*{} 017eéß中\U00010fe0\x00"), max_size=4) | st.sampled_from(
    [
        "",
        "None",
        "True",
        "1",
        "17",
        "1.0",
        "1e+16",
        "nan",
        "-inf",
        "(1)",
        "str!17",
        "int!17",
        "%31",
        "RED",
        "red",
        A_UUID,
    ]
)
ZONES = st.none() | st.builds(timezone, st.integers(-1439, 1439).map(lambda minutes: timedelta(minutes=minutes)))
SCALARS = st.one_of(
    TEXTS,
    st.integers(-20, 20) | st.integers(),
    st.booleans(),
    st.none(),
    st.sampled_from([0.0, -0.0, 1.0, 17.0]) | st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=4),
    st.sampled_from([UUID(A_UUID), UUID(int=0)]),
    st.sampled_from([Decimal("1.0"), Decimal("1.00"), Decimal("1E+2"), Decimal(100), Decimal("-0.0"), Decimal(0)])
    | st.decimals(-1000, 1000, allow_nan=False),
    st.dates(),
    st.datetimes(timezones=ZONES),
    st.times(timezones=ZONES),
    st.sampled_from([Color.RED, Word.RED, Number.ONE, Right.READ, Right.READ | Right.WRITE, Right(0)]),
)


def containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Generate values, and tuples, lists and frozensets of them."""
    lists = st.lists(items, max_size=2)
    return items | lists | lists.map(tuple) | st.frozensets(items.filter(lambda v: type(v) is not list), max_size=2)


HASHABLE = SCALARS | st.lists(SCALARS, max_size=2).map(tuple)
VALUES = SCALARS | containers(HASHABLE) | st.lists(containers(HASHABLE), max_size=2)
CLASSES = (str, int, float, bool, bytes, UUID, Decimal, date, datetime, time, Color, Word, Right, tuple, frozenset)
OPEN_HINTS = st.sampled_from([None, Any, int | str])
HINTS = OPEN_HINTS | st.sampled_from([list[int], *CLASSES])


@given(HINTS, st.lists(VALUES, min_size=2, max_size=30))
@example(None, ["17", 17, 17.0, b"17", Decimal(17), True, "True", None, "None", ""])
@example(str, [0.0, -0.0, "0.0", Decimal("1.0"), Decimal("1.00")])
@example(None, [("a", "b"), ("a,b",), ["a", "b"], ("",), (), (("a",), "b"), (("a", "b"),), (("a,b",),)])
@example(tuple, [(1, 2), frozenset({1, 2}), "(1,2)", (), frozenset(), ""])
@example(Color, [Color.RED, Color.ROSE, "RED", "red", Word.RED, Number.ONE, 1, Right.READ])
def test_h29_keys_are_equal_if_and_only_if_arguments_are(hint: object, values: list[Any]) -> None:
    """Arguments that are not refused have one key if and only if they are equal in type and value."""
    template = one(hint)
    values += [tuple(value) if type(value) is list else [*value] for value in values if type(value) in {list, tuple}]
    keys = {(key, identity(meant(hint, value))) for value in values if (key := key_of(template, value)) is not None}
    assert len({key for key, _ in keys}) == len({what for _, what in keys}) == len(keys)


@given(HINTS, VALUES)
def test_h29_no_text_imitates_another_value(hint: object, value: Any) -> None:
    """A text made from the rendering of another argument, or from its repr, has a key of its own."""
    assume(type(value) is not str)
    template = one(hint)
    key = key_of(template, value)
    assume(key is not None)
    assert key is not None
    for forged in (key.removeprefix("k:"), unquote(key.removeprefix("k:")), str(value), repr(value), f"str!{value}"):
        assert key_of(template, forged[:300]) != key


@given(st.tuples(OPEN_HINTS, OPEN_HINTS), st.tuples(VALUES, VALUES), st.tuples(VALUES, VALUES))
def test_h29_lists_of_arguments_have_keys_of_their_own(hints: Any, one_pair: Any, other: Any) -> None:
    """Two lists of arguments have one key if and only if they are equal, place by place."""
    template = two(*hints)
    same = [identity(value) for value in one_pair] == [identity(value) for value in other]
    assert (template.bind(one_pair, {}) == template.bind(other, {})) is same


@given(st.text(max_size=40), st.text(max_size=40))
@example("a:b", "c")
@example("a", "b:c")
@example("a%3Ab", "c")
def test_h29_colons_in_texts_do_not_move_the_border(x: str, y: str) -> None:
    """A key of two texts is taken apart at its colons, and each part decodes to the very argument."""
    assert [unquote(part) for part in two(str, str).bind((x, y), {}).split(":")] == ["k", x, y]


@given(st.text(max_size=100))
def test_h29_escaped_text_decodes_and_separates_nothing(text: str) -> None:
    """An escaped text decodes to the original, and holds none of the characters that structure a key."""
    assert unquote(escape(text)) == text
    assert not set(escape(text)) & set(":/|#!*,(){}\"'\\<>[]=?&;$^` \n\t\x00\x7f")


def test_h29_escaping_is_fixed_for_ever() -> None:
    """Beyond ASCII the letters and digits of Unicode 3.2 stay, on every version of Python; younger ones are escaped."""
    kept = {char for char in map(chr, range(128)) if escape(char) == char}
    assert kept == set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-@~+")
    assert escape("Straße 中") == "Straße%20中"
    assert (unicodedata.category("\U00010fe0"), escape("\U00010fe0")) == ("Lo", "%F0%90%BF%A0")
    assert escape("é") != escape("e\u0301")  # nothing is normalised
    kept_beyond = sum(escape(chr(i)) == chr(i) for i in range(128, 0x30000) if not 0xD800 <= i < 0xE000)
    assert kept_beyond == 90_431


def test_escape_says_what_to_write_for_what_is_no_text() -> None:
    """A number is refused with the call that does it, as early as it is passed."""
    number: Any = 17
    with pytest.raises(KeyArgumentError, match=r"not 17.*") as caught:
        escape(number)
    assert "escape(str(17))" in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (str, "17", "17"),
        (str, "", ""),
        (str, "None", "None"),
        (int, 17, "17"),
        (bool, True, "True"),
        (float, -0.0, "0.0"),
        (float, 17, "17.0"),
        (float, -(2**53), "-9007199254740992.0"),
        (float, 1e16, "1e+16"),
        (None, "blue", "blue"),
        (None, "17", "str!17"),
        (None, "-1.5e-07", "str!-1.5e-07"),
        (None, "True", "str!True"),
        (None, "nan", "str!nan"),
        (None, "", "str!"),
        (None, 17, "17"),
        (None, None, "None"),
        (None, True, "True"),
        (None, 1.5, "1.5"),
        (None, Color.ROSE, f"Enum!{escape(__name__)}!Color!RED"),
        (Color, Color.RED, "RED"),
        (Right, Right.READ | Right.WRITE, "3"),
        (UUID, UUID(A_UUID), A_UUID),
        (UUID, DriverUUID(A_UUID), A_UUID),
        (Decimal, Decimal("1.00"), "1"),
        (Decimal, Decimal("-0.0"), "0"),
        (Decimal, Decimal("1E+2"), "100"),
        (Decimal, Decimal("0.010"), "0.01"),
        (date, date(2024, 2, 29), "2024-02-29"),
        (time, time(12, 30), "12%3A30%3A00"),
        (tuple, ("a", 1), "(a,1)"),
        (tuple[str, ...], ("17",), "(str!17)"),
        (None, [("a,b",), ()], "list!(tuple!(a%2Cb),tuple!())"),
        (frozenset, frozenset({"b", "a"}), "(a,b)"),
        (Annotated[int, "the id"], 17, "17"),
        (NewType("ProductId", int), 17, "17"),
        (SimpleNamespace(__value__=int), 17, "17"),
        (Optional[int], "x", "x"),  # noqa: UP045  # the old spelling is read as well
        (int | str, "17", "str!17"),
        (Literal["a"], "a", "a"),
        (object, "a", "a"),
        ("Unresolved", "a", "a"),
    ],
)
def test_arguments_are_rendered(declared: object, value: object, expected: str) -> None:
    """A value of the declared type is written bare; where none is declared, or several, it may carry its type."""
    assert one(declared).bind((value,), {}) == f"k:{expected}"


@pytest.mark.parametrize(
    ("declared", "value", "problem", "hint"),
    [
        (int, "17", "it is str, and int is annotated", "pass int(x), or annotate"),
        (int, True, "it is bool", "x: int | bool"),
        (int, 17.0, "it is float", "pass int(x)"),
        (int, None, "it is None", "x: int | None"),
        (int, Number.ONE, "it is Number", "pass int(x)"),
        (str, 17, "it is int, and str is annotated", "pass str(x)"),
        (str, None, "it is None", "x: str | None"),
        (str, b"1", "it is bytes", "x: str | bytes"),
        (str, Word.RED, "it is Word", "pass str(x)"),
        (str, UUID(A_UUID), "it is UUID", "pass str(x)"),
        (str, ("a",), "it is tuple", "x: str | tuple"),
        (bool, 1, "it is int, and bool is annotated", "pass bool(x)"),
        (float, "1.5", "it is str, and float is annotated", "pass float(x)"),
        (float, True, "it is bool", "pass float(x)"),
        (float, 2**53 + 1, "it is int", "pass float(x)"),
        (Decimal, 1.5, "it is float", "pass Decimal(x)"),
        (Color, "RED", "it is str, and Color is annotated", "pass Color(x)"),
        (UUID, A_UUID, "it is str, and UUID is annotated", "pass UUID(x)"),
        (date, datetime(2024, 2, 29), "it is datetime, and date is annotated", "x: date | datetime"),  # noqa: DTZ001
        (tuple[int, ...], [1], "it is list, and tuple is annotated", "pass tuple(x)"),
        (Annotated[int, "the id"], "17", "int is annotated", "pass int(x)"),
        (NewType("ProductId", int), "17", "int is annotated", "pass int(x)"),
        (SimpleNamespace(__value__=int), "17", "int is annotated", "pass int(x)"),
    ],
)
def test_arguments_of_another_type_are_refused(declared: object, value: object, problem: str, hint: str) -> None:
    """A value of another type than the one declared would have a key that nobody invalidates: it is refused."""
    with pytest.raises(KeyArgumentError) as refusal:
        one(declared).bind((value,), {})
    assert problem in refusal.value.message
    assert hint in refusal.value.hint


def cyclic() -> list[object]:
    """Make a list that holds itself."""
    items: list[object] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("value", "problem", "hint"),
    [
        (float("nan"), "nan", "pass None"),
        (float("-inf"), "inf", "pass None"),
        (Decimal("NaN"), "not finite", "pass None"),
        (Decimal("1E+999999"), "too long", "pass None"),
        ("\ud800", "surrogate", "strict"),
        (("\ud800",), "surrogate", "strict"),
        ("x" * 1_000_000, "1000000 characters", "hash"),
        ("中" * 400, "key of 'k:{x}' is too long", "hash"),
        (b"x" * 1_000_000, "key of 'k:{x}' is too long", "hash"),
        (10**5_000, "too long", "hash"),
        (10**2_000, "key of 'k:{x}' is too long", "hash"),
        (tuple(range(2_000)), "2000 items", "hash"),
        (tuple(range(1_000)), "items are too long", "hash"),
        (((((1,),),),), "nested", "digest"),
        (cyclic(), "nested", "digest"),
        (time(12, tzinfo=NoOffset()), "no offset", "without a zone"),
        (Id(17), "subclass of int", "plain int"),
        (Slug("a"), "subclass of str", "plain str"),
        (object(), "name object objects", "pass an id"),
        ({"a": 1}, "name dict objects", "ignore=['x']"),
        ({1}, "name set objects", "frozensets"),
    ],
    ids=lambda case: repr(case)[:20] if isinstance(case, str) else type(case).__name__,
)
def test_h29_other_arguments_are_refused(value: object, problem: str, hint: str) -> None:
    """An argument that has no text of its own, or too long a one, is refused with what to pass instead."""
    with pytest.raises(KeyArgumentError) as refusal:
        one().bind((value,), {})
    assert problem in refusal.value.message
    assert hint in refusal.value.hint
    assert refusal.value.fields["template"] == "k:{x}"
    assert len(str(refusal.value)) < 400
