from __future__ import annotations

import inspect
import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.core.keys import Template
from unstale.core.keytext import escape
from unstale.core.record import EVERYTHING
from unstale.errors import KeyArgumentError, UsageError
from unstale.sources.capture_change import KINDS, read_change, scopes_of
from unstale.sources.capture_config import Asked, Config
from unstale.sources.capture_plan import Found, capture
from unstale.sources.feed import Part, Row
from unstale.sources.relay import records_of

FOUND = Found("product", "unstale_outbox", ("id",), {"id": "int", "tenant": "text", "shop": "text"}, {})
TOLD: dict[str, Any] = {
    "unstale": 1, "table": "product", "op": "UPDATE", "who": "clerk", "at": 5.0, "ends": ["table:product"],
    "unknown": ["product", "table:product"], "kinds": {"id": "int"}, "ended": {"product:{id}": [[17], [18]]},
}  # fmt: skip


def key(declared: object, value: object) -> str:
    """Give the key of a function that declares its parameter so."""
    places = inspect.Signature([inspect.Parameter("v", inspect.Parameter.KEYWORD_ONLY)])
    return Template.compile("t:{v}", places, {"v": declared}).render({"v": value})


ODD = (
    ("int", 17, 17), ("int", -1, -1), ("int", 2**63, 2**63), ("bool", True, True), ("bool", False, False),
    ("text", "a:b", "a:b"), ("text", "100%", "100%"), ("text", "", ""), ("text", "Ünï©ode 漢字 🎈", "Ünï©ode 漢字 🎈"),
    ("text", "None", "None"), ("text", "17", "17"), ("text", "1e5", "1e5"), ("text", "True", "True"),
    ("text", "a\nb\x00", "a\nb\x00"), ("text", "a!b,(c)*", "a!b,(c)*"), ("text", " a ", " a "),
    ("uuid", "12345678-1234-5678-1234-567812345678", uuid.UUID(int=0x12345678123456781234567812345678)),
    ("date", "2026-11-21", date(2026, 11, 21)), ("numeric", "1.50", Decimal("1.5")), ("numeric", "0.00", Decimal(0)),
    ("timestamp", "2026-11-21T10:00:00.5", datetime(2026, 11, 21, 10, 0, 0, 500000)),  # noqa: DTZ001 - it has none
    ("timestamp", "2026-11-21 10:00:00", datetime(2026, 11, 21, 10)),  # noqa: DTZ001 - it has none
    ("bytes", "00FF", b"\x00\xff"),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "told", "value"), ODD)
def test_h31_a_scope_is_the_key_of_the_same_value(kind: str, told: object, value: object) -> None:
    """Whether a function declares the type of its parameter or none, its key is among the scopes of the row."""
    scopes = list(scopes_of("t:{v}", {"v": kind}, [told]))
    assert set(scopes) == {key(type(value), value), key(object, value)}
    assert key(type(value) | None, value) in scopes
    assert list(scopes_of("t:{v}", {"v": kind}, [None])) == [key(str | None, None)] == ["t:None"]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50))
def test_h29_no_value_can_name_another_row(text: str) -> None:
    """Any text gives the scope that `escape` gives, so that none is the scope of another row."""
    assert f"t:{escape(text)}:x" in set(scopes_of("t:{v}:x", {"v": "text"}, [text]))


def test_h27_what_no_key_can_hold_ends_nothing() -> None:
    """A value too long to be part of a key, or that is no number, is in no key: nothing can depend on it."""
    for kind, told, value in (("text", "x" * 2000, "x" * 2000), ("numeric", "NaN", Decimal("NaN"))):
        with pytest.raises(KeyArgumentError):
            key(type(value), value)
        assert list(scopes_of("t:{v}", {"v": kind}, [told])) == []
    assert list(scopes_of("t:{v}", {"v": "text"}, ["ü:" * 400])) == []


WRONG: dict[str, list[object]] = {
    "int": ["17", 1.5, True], "bool": [2, "true", 1.0], "text": [17, True], "uuid": ["x", 5],
    "date": ["44-03-15 BC", 1],
    "timestamp": ["infinity", "2026-11-21T10:00:00+01:00", 5], "numeric": ["x", 5], "bytes": ["0", 5],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_h31_what_is_of_another_kind_ends_all_rows(kind: str) -> None:
    """A value that is none of the column's kind names no row: all of the table end."""
    for value in WRONG[kind]:
        told = TOLD | {"kinds": {"id": kind}, "ended": {"product:{id}": [[value]]}}
        record = read_change(msgspec.json.encode(told), "a")
        assert record is not None
        assert set(record.scopes) == {"product", "table:product"}


def test_h31_a_record_says_who_did_what() -> None:
    """What a trigger told becomes a record under the id of its row; too many rows end all rows."""
    record = read_change(msgspec.json.encode(TOLD), "a")
    assert record is not None
    assert record.scopes == ("table:product", "product:17", "product:18")
    assert (record.id, record.who, record.why, record.at) == ("a", "clerk", "UPDATE product", 5.0)
    many = read_change(msgspec.json.encode(TOLD | {"ended": {"product:{id}": None}}), "a")
    assert many is not None
    assert many.scopes == ("table:product", "product")
    both = TOLD | {"kinds": {"a": "int", "b": "text"}, "ended": {"t:{a}:{b}:{a}": [[1, "x"]]}}
    twice = read_change(msgspec.json.encode(both), "a")
    assert twice is not None
    assert twice.scopes == ("table:product", "t:1:x:1")


@pytest.mark.parametrize("told", [b"", b"{", b"\xff", b"[" * 5000, b"{}", msgspec.json.encode(TOLD | {"unstale": 2}),
                                  msgspec.json.encode(TOLD | {"ended": {"t:{id}": [17]}}),
                                  msgspec.json.encode(TOLD | {"ends": [5]})])  # fmt: skip
def test_h28_what_cannot_be_read_ends_everything(told: bytes) -> None:
    """What another version has written, or is damaged, is put aside, and everything ends."""
    assert read_change(told, "a") is None
    (record,), unreadable = records_of(Part((Row("a", told),)))
    assert record.scopes == (EVERYTHING,)
    assert list(unreadable) == ["a"]


@pytest.mark.parametrize("row", [[], [1, 2]])
def test_h31_a_row_of_another_length_ends_all_rows(row: list[int]) -> None:
    """Values that do not fit the template name no row."""
    record = read_change(msgspec.json.encode(TOLD | {"ended": {"product:{id}": [row]}}), "a")
    assert record is not None
    assert record.scopes == ("table:product", "product")


def test_a_table_is_captured_by_its_key_unless_the_file_says_more() -> None:
    """The row's scope comes from the primary key; scopes of the file stand in its place."""
    plain = capture("product", FOUND, Config(), ["shop"])
    assert (plain.scopes, plain.ends, plain.unknown) == (
        ("product:{id}",), ("table:product",), ("product", "table:product"),
    )  # fmt: skip
    config = Config(bulk=7, tables={"product": Asked(scopes=("p:{id}", "tenant:{tenant}"))})
    asked = capture("product", FOUND, config, ["shop", "shop", "other"])
    assert (asked.bulk, asked.caches, asked.kinds) == (7, ("shop", "other"), {"id": "int", "tenant": "text"})
    assert asked.unknown == ("p", "tenant", "product", "table:product")


def test_a_column_may_hold_for_python_what_it_is_not_for_the_database() -> None:
    """A UUID that is kept as a text is one; what a column cannot hold, or no scope names, is refused."""

    def kinds(**given: str) -> dict[str, str]:
        asked = Asked(scopes=("product:{id}", "tenant:{tenant}"), kinds=given)
        return capture("product", FOUND, Config(tables={"product": asked}), ["shop"]).kinds

    assert kinds(tenant="uuid") == {"id": "int", "tenant": "uuid"}
    for wrong in ({"tenant": "int"}, {"shop": "uuid"}, {"id": "float"}):
        with pytest.raises(UsageError, match="cannot be"):
            kinds(**wrong)
