"""The pages of the reference say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from unstale import Policy, errors
from unstale.engines.ports import Guarantees

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(name="generator")
def load_generator() -> ModuleType:
    """Load the script that writes the table of guarantees; it is no module of the package."""
    spec = importlib.util.spec_from_file_location("generate_engines", DOCS / "generate_engines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_engines_page_has_what_engines_declare(generator: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of guarantees is the one that the engines declare."""
    assert generator.main(["--check"]) == 0, capsys.readouterr().err


def test_engines_table_leaves_nothing_out(generator: ModuleType) -> None:
    """Every guarantee has a row, but the engine's name and what only the asynchronous driver wants to know."""
    assert set(generator.ROWS) == set(Guarantees.__dataclass_fields__) - {"name", "quick", "native"}


def test_another_table_is_noticed(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page with another table fails the check until the script has written it."""
    page = tmp_path / "engines.md"
    page.write_text(f"before\n{generator.BEGIN}\n| old |\n\n{generator.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(generator, "PAGE", page)
    assert generator.main(["--check"]) == 1
    assert "run python docs/generate_engines.py" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    assert page.read_text(encoding="utf-8").startswith("before\n")
    assert page.read_text(encoding="utf-8").endswith("after\n")


def test_errors_page_has_the_tree() -> None:
    """The tree of errors on its page is the one in the docstring of the module."""
    assert errors.__doc__ is not None
    tree = [line.removeprefix("    ") for line in errors.__doc__.splitlines() if line.startswith("    ")]
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert "```text\n" + "\n".join(tree) + "\n```" in page


def test_policies_are_explained() -> None:
    """Every field of a policy is explained on a page of the concepts."""
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "concepts").glob("*.md")))
    fields = [name for name, field in Policy.__dataclass_fields__.items() if field.init]
    assert [name for name in fields if not re.search(rf"`{name}[`=]", pages)] == []
