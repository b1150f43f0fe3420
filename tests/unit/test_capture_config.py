from __future__ import annotations

from pathlib import Path

import pytest

from unstale.errors import UsageError
from unstale.sources.capture_config import Asked, Config, parse_config, read_config, unknown_of
from unstale.sources.row_scopes import names_of

ALL_OF_IT = """
caches = ["shop"]
bulk = 100
notify = false

[tables.product]
scopes = ["product:{id}", "tenant:{tenant}"]
bulk = 1000
unknown = ["*"]
kinds = {id = "uuid"}

[tables."app.review"]
scopes = []
"""


def test_all_that_the_file_may_say(tmp_path: Path) -> None:
    """Both captures read one file; without one everything is as it is by default."""
    path = tmp_path / "capture.toml"
    path.write_text(ALL_OF_IT)
    product = Asked(("product:{id}", "tenant:{tenant}"), 1000, ("*",), {"id": "uuid"})
    config = read_config(path)
    assert config == Config(("shop",), 100, notify=False, tables={"product": product, "app.review": Asked(())})
    assert [config.bulk_of(table) for table in ("product", "app.review", "other")] == [1000, 100, 100]
    assert read_config(None) == Config() == parse_config("")
    assert Config().bulk == 500


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "cannot be read"),
        ("tables = 5", "cannot be read"),
        ("bulk = 'x'", "cannot be read"),
        ("[tables.product]\nscope = []", "cannot be read"),
        ("[tables.product]\nwhole = true", "cannot be read"),
        ("[tables.app.product]", "cannot be read"),
        ("bulk = 0", "out of range"),
        ("bulk = 1001\n[tables.product]\nbulk = 5", "out of range"),
        ("[tables.product]\nbulk = 0", "out of range"),
        ("[tables.product]\nbulk = 1001", "out of range"),
        ('[tables.product]\nscopes = ["product:{id"]', "cannot stand in the template"),
        ('[tables.product]\nscopes = ["product:{id}\\n"]', "cannot stand in the template"),
        ('[tables.product]\nscopes = ["product:{id}-{number}"]', "nothing tells the end"),
        ('[tables.product]\nscopes = ["product:{order id}"]', "no plain name"),
        ('[tables.product]\nscopes = ["{id}"]', "begin with a namespace"),
        (f"[tables.product]\nscopes = {['p:{id}'] * 11}", "11 scopes"),
        ('[tables.product]\nunknown = ["product:{id}"]', "brace"),
        ('[tables.product]\nunknown = ["product*"]', "holds a"),
    ],
)
def test_what_the_file_cannot_say(text: str, why: str) -> None:
    """A mistake in the file is refused, with what to write, before any database is asked."""
    with pytest.raises(UsageError, match=why) as refused:
        parse_config(text)
    assert refused.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read is told."""
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "capture.toml")


def test_the_digest_is_of_what_the_log_heeds() -> None:
    """The log tells something else when the file does, and not when it says something else to triggers."""
    plain = parse_config("[tables.product]\n[tables.review]\nscopes = []").digest()
    assert parse_config("[tables.review]\nscopes = []\n[tables.product]").digest() == plain
    same = parse_config('caches = ["shop"]\nnotify = false\n[tables.product]\n[tables.review]\nscopes = []')
    assert same.digest() == plain
    for said in ('unknown = ["*"]', "bulk = 7", 'scopes = ["product:{id}"]', 'kinds = {id = "uuid"}'):
        assert parse_config(f"[tables.review]\nscopes = []\n[tables.product]\n{said}").digest() != plain
    assert parse_config("bulk = 7\n[tables.product]\n[tables.review]\nscopes = []").digest() != plain


def test_what_ends_where_rows_are_not_known() -> None:
    """The namespaces of templates with columns, all of those without, the table's own; or what the file says."""
    scopes = ("product:{id}", "tenant-{name}", "catalog:all")
    found = unknown_of("product", Asked(), scopes)
    assert found == ("product", "tenant", "catalog:all", "table:product")
    assert unknown_of("app.product", Asked(), ("x:{id}",)) == ("x", "app.product", "table:app.product")
    assert unknown_of("product", Asked(unknown=("*",)), scopes) == ("*",)


def test_names_are_those_of_sessions() -> None:
    """A table's names are the ones by which sessions of SQLAlchemy name it."""
    assert names_of("product") == ("product", "table:product")
    assert names_of("app.price list") == ("app.price_list", "table:app.price_list")
