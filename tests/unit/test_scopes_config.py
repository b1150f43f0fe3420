from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from unstale.core.keytext import renderer
from unstale.errors import UsageError
from unstale.sources.scopes_config import Changes, Rule, TableConfig, parse_config, read_config

KINDS: dict[str, type] = {"id": int, "name": str, "day": date, "uid": UUID}


def rule(key: tuple[str, ...] = ("id",), **said: Any) -> Rule:
    """Give the rule of a table `product`."""
    return Rule("product", TableConfig(**said), key, KINDS)


@pytest.mark.parametrize("name", ["a:b", "100%", "é", "", "17", "a/b|c#d", "None", "(", "日本", "a b"])
def test_h29_values_are_written_as_in_keys(name: str) -> None:
    """A value has the text that a function's key gives to it whose parameter declares its type."""
    day, uid = date(2024, 2, 29), UUID(int=5)
    found = rule(scopes=("x:{name}:{day}", "u/{uid}")).scopes({"name": name, "day": day, "uid": uid})
    assert found == (f"x:{renderer(str)(name)}:2024-02-29", f"u/{uid}", "table:product")


def test_the_primary_key_is_the_default() -> None:
    """Without templates a row has the scope of its primary key; what is not told of it is not guessed."""
    assert rule().scopes({"id": 17}) == ("product:17", "table:product")
    assert rule(("id", "name")).scopes({"id": 17, "name": "a:b"}) == ("product:17:a%3Ab", "table:product")
    assert rule(("id", "name")).scopes({"id": 17}) is None
    assert rule(("name",)).scopes({"name": "x" * 2000}) is None
    assert rule(("id",)).all == ("product", "table:product")
    assert Rule("app.product", TableConfig(), ("id",), KINDS).scopes({"id": 1}) == (
        "app.product:1",
        "table:app.product",
    )


def test_changes_are_bounded() -> None:
    """Beyond `bulk` rows, and where a row cannot be told, the whole table ends, each scope once."""
    one, other = rule(bulk=2), Rule("tag", TableConfig(whole=True), (), {})
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


def test_what_all_of_a_table_is_can_be_said() -> None:
    """The names before the placeholders, the table's own, or what the configuration says."""
    found = rule(scopes=("product:{id}", "tenant:{name}", "catalog")).all
    assert found == ("product", "tenant", "catalog", "table:product")
    assert rule(all=("*",)).all == ("*",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "tables"),
        ("[tables]", "no table"),
        ("[tables.product", "configuration"),
        ("[tables.product]\nscope = 1", "scope"),
        ("[tables.product]\nbulk = 0", "whole = true"),
        ('[tables.product]\nscopes = ["product:{id"]', "brace"),
        ('[tables.product]\nscopes = ["product:{id}\\n"]', "product"),
        ('[tables.product]\nall = ["product:{id}"]', "brace"),
        ('[tables."a;b"]', "plain name"),
        ("[tables.app.product]", "product"),
    ],
)
def test_what_the_file_cannot_say(text: str, why: str) -> None:
    """A mistake in the file is refused, with what to write."""
    with pytest.raises(UsageError) as refused:
        parse_config(text)
    assert why in str(refused.value)
    assert refused.value.hint


def test_tables_that_need_a_word_more() -> None:
    """A table without a primary key, and a column that is not there or has no text, are refused with the cure."""
    with pytest.raises(UsageError, match="no primary key") as refused:
        rule(())
    assert "whole = true" in refused.value.hint
    with pytest.raises(UsageError, match="no column nothing"):
        rule(scopes=("x:{nothing}",))


def test_files(tmp_path: Path) -> None:
    """The file is read; its digest is another one when anything in it is; one that is not there is told."""
    file = tmp_path / "capture.toml"
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(file)
    file.write_text('[tables.product]\n[tables."app.review"]\nwhole = true')
    config = read_config(file)
    assert list(config.tables) == ["product", "app.review"]
    assert config.digest() == parse_config('[tables."app.review"]\nwhole = true\n[tables.product]').digest()
    assert config.digest() != parse_config("[tables.product]").digest()
