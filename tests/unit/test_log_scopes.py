from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

import pytest

from unstale.core.keytext import renderer
from unstale.errors import UsageError
from unstale.sources.capture_change import scopes_of
from unstale.sources.capture_config import Asked, Config, parse_config
from unstale.sources.capture_plan import Found, capture
from unstale.sources.log_scopes import Changes, Rule, check_tables

KINDS: dict[str, type] = {"id": int, "name": str, "day": date, "uid": UUID, "blob": bytes}


def rule(key: tuple[str, ...] = ("id",), **said: Any) -> Rule:
    """Give the rule of a table `product`."""
    return Rule("product", Config(tables={"product": Asked(**said)}), key, KINDS)


@pytest.mark.parametrize("name", ["a:b", "100%", "é", "", "17", "a/b|c#d", "None", "(", "日本", "a b"])
def test_h29_values_are_written_as_in_keys(name: str) -> None:
    """A value has the texts that functions' keys give to it, whether their parameters declare its type or several."""
    uid = UUID(int=5)
    found = rule(scopes=("x:{name}", "u/{uid}")).scopes({"name": name, "uid": uid})
    forms = dict.fromkeys((renderer(str)(name), renderer(str | None)(name)))
    assert found == (*(f"x:{form}" for form in forms), f"u/{uid}", f"u/UUID!{uid}", "table:product")


@pytest.mark.parametrize(
    ("column", "kind", "values"),
    [
        ("id", "int", {17: 17, None: None}),
        ("name", "text", {one: one for one in ("None", None, "17", "a:b", "x" * 2000)}),
        ("day", "date", {"2024-02-29": date(2024, 2, 29)}),
        ("uid", "uuid", {str(UUID(int=5)): UUID(int=5)}),
        ("blob", "bytes", {"00ff": b"\x00\xff"}),
    ],
)
def test_h31_both_captures_end_the_same(column: str, kind: str, values: dict[Any, object]) -> None:
    """One file, one row: what a trigger has told of it and what the log tells of it end the same scopes."""
    template = f"x:{{{column}}}"
    for told, value in values.items():
        by_trigger = tuple(scopes_of(template, {column: kind}, [told]))
        assert rule(scopes=(template,)).scopes({column: value}) == (*by_trigger, "table:product")


@pytest.mark.parametrize("said", [{}, {"scopes": ()}, {"scopes": ("p:{id}", "flags:all")}, {"unknown": ("*",)}])
def test_h31_both_captures_end_the_same_for_unknown_rows(said: Any) -> None:
    """One file, unknown rows: both end what the file says, or the namespaces, and always the table's queries."""
    found = Found("product", "unstale_outbox", ("id",), {"id": "int"}, {})
    by_trigger = capture("product", found, Config(tables={"product": Asked(**said)}), ["shop"])
    assert set(rule(**said).unknown) == {*by_trigger.unknown, *by_trigger.ends}


def test_a_column_may_hold_what_it_is_not_for_the_database() -> None:
    """A UUID kept as a text is one, as for triggers; a value that is none, or of another type, ends all rows."""
    uid = UUID(int=5)
    for column, value in (("name", str(uid)), ("blob", uid.bytes)):
        found = rule(scopes=(f"s:{{{column}}}",), kinds={column: "uuid"})
        assert found.scopes({column: value}) == (f"s:{uid}", f"s:UUID!{uid}", "table:product")
        assert found.scopes({column: value[:5]}) is None
        assert found.scopes({column: 5}) is None
    with pytest.raises(UsageError, match="cannot be"):
        rule(kinds={"id": "uuid"})


def test_the_primary_key_is_the_default() -> None:
    """Without templates a row has the scope of its primary key; what is not told of it is not guessed."""
    assert rule().scopes({"id": 17}) == ("product:17", "table:product")
    assert rule(("id", "name")).scopes({"id": 17, "name": "a:b"}) == ("product:17:a%3Ab", "table:product")
    assert rule(("id", "name")).scopes({"id": 17}) is None
    assert rule().scopes({"id": "17"}) is None
    assert Rule("app.product", Config(), ("id",), KINDS).scopes({"id": 1}) == ("app.product:1", "table:app.product")


def test_changes_are_bounded() -> None:
    """Beyond `bulk` rows, and where a row cannot be told, the whole table ends, each scope once."""
    one, other = rule(bulk=2), Rule("tag", Config(tables={"tag": Asked(scopes=())}), (), {})
    changes = Changes()
    assert changes.row(one, {"id": 1}, {"id": 1})
    assert changes.row(one, None, {"id": 2})
    assert changes.told() == ("product:1", "table:product", "product:2")
    assert changes.row(other, {}, {})
    assert changes.row(one, {"id": 3}, None)
    assert changes.row(one, {"id": 4}, None)
    assert changes.told() == ("tag", "table:tag", "product", "table:product")
    changes = Changes()
    assert not changes.row(one, {"id": 1}, {})
    assert changes.told() == ("product", "table:product")
    assert Changes().told() == ()


def test_a_rule_heeds_the_bulk_of_the_file() -> None:
    """What the file says for all tables holds, unless it says something else of one."""
    config = parse_config("bulk = 7\n[tables.product]\n[tables.tag]\nbulk = 9\n[tables.setting]\nscopes = []")
    assert [Rule(name, config, ("id",), KINDS).bulk for name in config.tables] == [7, 9, 0]


def test_tables_that_need_a_word_more() -> None:
    """A table without a primary key, and a column that is not there or has no text, are refused with the cure."""
    with pytest.raises(UsageError, match="no primary key") as refused:
        rule(())
    assert "[] ends all" in refused.value.hint
    with pytest.raises(UsageError, match="no column nothing"):
        rule(scopes=("x:{nothing}",))


@pytest.mark.parametrize(
    ("text", "why"), [("", "no table"), ("[tables]", "no table"), ('[tables."a;b"]', "plain name")]
)
def test_the_log_is_asked_for_tables_by_plain_names(text: str, why: str) -> None:
    """Triggers may be given tables elsewhere; the log's capture has the file alone, and names as the log has them."""
    with pytest.raises(UsageError, match=why):
        check_tables(parse_config(text))
