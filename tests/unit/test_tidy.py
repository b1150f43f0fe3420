"""Keeps the tree tidy: import directions, a pure core, short modules, docstrings, no sleeping, no leftovers."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "src/unstale/"

# A part may import itself and the parts of earlier layers. Parts of one layer do not know each other.
# "unstale" is the package's own `__init__`; `testing` may import everything, and nothing may import it.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"_version", "clock", "errors"}),
    frozenset({"core"}),
    frozenset({"engines"}),
    frozenset({"drivers"}),
    frozenset({"loading", "plans", "requests", "runtime", "session"}),
    frozenset({"hitpath", "sources", "writers"}),
    frozenset({"cached"}),
    frozenset({"cache"}),
    frozenset({"unstale"}),
    frozenset({"carrier"}),
    frozenset({"behind", "celery", "flask", "http", "observe", "sqlalchemy", "starlette"}),
    frozenset({"cli", "web", "__main__"}),
    frozenset({"django"}),  # an integration with a command of its own, which calls the command line
    frozenset({"testing"}),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

# What the core must not know: clocks, the network, threads, loops, chance, files, logs, and ways round this list.
BANNED_IN_CORE = frozenset(
    {"_thread", "asyncio", "concurrent", "importlib", "io", "logging", "multiprocessing", "os", "pathlib", "queue"}
    | {"random", "secrets", "select", "selectors", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile"}
    | {"threading", "time", "uuid"}
)
THIRD_PARTY_IN_CORE = frozenset({"msgspec", "unstale"})

LINES_MAX = 400
LINES_SOFT_MAX = 300
# Modules that may exceed the soft limit, each with its reason. A module that has shrunk must leave the list.
LONG_MODULES: dict[str, str] = {
    "src/unstale/cache.py": "every public method, twice: blocking and asynchronous",
    "src/unstale/core/keys.py": "one grammar of templates, and all that it refuses",
    "src/unstale/core/node.py": "all locked steps of a node in one place, to be read together",
    "src/unstale/core/table.py": "the table and its queues, to be read together",
    "src/unstale/django/backend.py": "every method of Django's interface, twice: blocking and asynchronous",
    "src/unstale/engines/memory.py": "one plain server and its two ports",
    "src/unstale/testing/faults.py": "one function a fault",
    "src/unstale/testing/simulator.py": "one run from its start to its last check",
    "src/unstale/testing/world.py": "one driver, as long as the two real ones",
}

CODE_FOLDERS = ("src", "tests", "benchmarks", "examples")
TEXT_SUFFIXES = frozenset({"", ".cfg", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".typed", ".yaml", ".yml"})
OUTPUT_FOLDERS = frozenset({"__pycache__", "build", "dist", "htmlcov", "site"})
VISIBLE_DOT_NAMES = frozenset({".ci", ".editorconfig", ".gitattributes", ".github", ".gitignore"})

LEFTOVER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work)" + "/")
ONE_SENTENCE = re.compile(r"\S(?:(?![.!?] [A-Z`]).)*[.!?]")
UNEXPLAINED = re.compile(r'^ {4}"(?:[A-Z]{1,4}\d{0,4}|[\w.\[\]-]+[<>=~!][^"]*)",(?! {2}# \S)')

Check = Callable[[str, str], Iterator[str]]


def only_for_types(source: str) -> set[int]:
    """Give the lines that only a type checker reads: names of what lies further out may stand there."""
    blocks = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If))
    typed = (block for block in blocks if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING")
    return {line for block in typed for line in range(block.lineno, (block.end_lineno or block.lineno) + 1)}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything imported, wherever in the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def part_of(path: str) -> str:
    """Name the part of the package that a module belongs to: `core`, `cache`, `unstale` for its `__init__`."""
    name = PurePosixPath(path.removeprefix(PACKAGE)).parts[0].removesuffix(".py")
    return "unstale" if name == "__init__" else name


def check_import_directions(path: str, source: str) -> Iterator[str]:
    """Imports go one way: errors <- core <- drivers, engines <- cache <- integrations <- cli, web."""
    if not path.startswith(PACKAGE):
        return
    part = part_of(path)
    if part not in RANK:
        yield f"{path}:1: give {part!r} its place in LAYERS"
        return
    for_types = only_for_types(source)
    for line, name in imports(source):
        if line in for_types:
            continue
        if name.startswith("."):
            yield f"{path}:{line}: write the import from the root: unstale..."
        elif name.split(".")[0] == "unstale":
            second = name.split(".")[1] if "." in name else "unstale"
            target = second if second in RANK else "unstale"
            if target != part and RANK[target] >= RANK[part]:
                yield f"{path}:{line}: {part} must not import {name}"


def check_core_is_pure(path: str, source: str) -> Iterator[str]:
    """The core imports no clock, socket, thread, loop, chance or log, and of others' packages msgspec alone."""
    if not path.startswith(PACKAGE + "core/"):
        return
    for line, name in imports(source):
        top = name.split(".")[0]
        if top in BANNED_IN_CORE or (top and top not in sys.stdlib_module_names | THIRD_PARTY_IN_CORE):
            yield f"{path}:{line}: core must not import {top}; make it an op, or hand it in"


def check_length(path: str, source: str) -> Iterator[str]:
    """A module has at most 400 lines, and one of the package over 300 gives its reason."""
    lines = len(source.splitlines())
    if lines > LINES_MAX:
        yield f"{path}:{lines}: {lines} lines, and {LINES_MAX} are the limit; split it by subject"
    elif lines > LINES_SOFT_MAX and path.startswith(PACKAGE) and path not in LONG_MODULES:
        yield f"{path}:{lines}: {lines} lines, over {LINES_SOFT_MAX}; split it, or give the reason in LONG_MODULES"
    elif lines <= LINES_SOFT_MAX and path in LONG_MODULES:
        yield f"{path}:{lines}: short again; take it out of LONG_MODULES"


def check_docstring(path: str, source: str) -> Iterator[str]:
    """Every public module opens with a docstring whose first line is one sentence."""
    parts = PurePosixPath(path.removesuffix(".py")).parts
    if not path.startswith(PACKAGE) or any(part.startswith("_") and part != "__init__" for part in parts):
        return
    docstring = ast.get_docstring(ast.parse(source)) or ""
    if not ONE_SENTENCE.fullmatch(docstring.partition("\n")[0]):
        yield f"{path}:1: open the module with a docstring whose first line is one sentence"


def check_no_sleep(path: str, source: str) -> Iterator[str]:
    """No test sleeps to be right: it waits on a condition with a deadline, or uses the simulator's clock."""
    if not path.startswith("tests/"):
        return
    tree = ast.parse(source)
    full_names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full_names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full_names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        base, dot, rest = ast.unparse(node.func).partition(".")
        name = full_names.get(base, base) + dot + rest
        only_yields = [ast.unparse(argument) for argument in node.args[:1]] in (["0"], ["0.0"])
        if name in {"time.sleep", "asyncio.sleep"} and not only_yields:
            yield f"{path}:{node.lineno}: {name} in a test; wait on a condition with a deadline"


def check_no_leftovers(path: str, source: str) -> Iterator[str]:
    """What is left to do is an issue, not a comment."""
    for line, text in enumerate(source.splitlines(), start=1):
        if match := LEFTOVER.search(text):
            yield f"{path}:{line}: {match[0]}: do it, or open an issue"


def check_no_machine_paths(path: str, source: str) -> Iterator[str]:
    """Nothing in the tree depends on, or tells of, the machine where it was written."""
    for line, text in enumerate(source.splitlines(), start=1):
        if match := MACHINE_PATH.search(text):
            yield f"{path}:{line}: a path of one machine: {match[0]}"


def check_reasons(path: str, source: str) -> Iterator[str]:
    """In pyproject.toml each dependency has an upper bound, and each dependency and ignored rule a reason."""
    if path != "pyproject.toml":
        return
    for line, text in enumerate(source.splitlines(), start=1):
        if UNEXPLAINED.match(text):
            yield f"{path}:{line}: say why, in a comment on the same line: {text.strip()}"
    project = tomllib.loads(source).get("project", {})
    for requirement in sum(project.get("optional-dependencies", {}).values(), project.get("dependencies", [])):
        if "<" not in requirement:
            yield f"{path}:1: no upper bound: {requirement}"


CHECKS_OF_CODE: tuple[Check, ...] = (
    check_import_directions,
    check_core_is_pure,
    check_length,
    check_docstring,
    check_no_sleep,
)
CHECKS_OF_TEXT: tuple[Check, ...] = (check_no_leftovers, check_no_machine_paths, check_reasons)


def text_files(folder: Path = ROOT) -> Iterator[Path]:
    """Yield every text file of the tree, but not what tools have left in it."""
    for path in sorted(folder.iterdir()):
        if path.name in OUTPUT_FOLDERS or (path.name.startswith(".") and path.name not in VISIBLE_DOT_NAMES):
            continue
        if path.is_dir():
            yield from text_files(path)
        elif path.suffix in TEXT_SUFFIXES:
            yield path


@pytest.fixture(scope="module")
def tree() -> dict[str, str]:
    """Give the text of every file by its path in the tree."""
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in text_files()}


@pytest.mark.parametrize("check", CHECKS_OF_CODE)
def test_code_is_tidy(check: Check, tree: dict[str, str]) -> None:
    """Every Python file passes the check."""
    code = {path: text for path, text in tree.items() if path.endswith(".py") and path.startswith(CODE_FOLDERS)}
    assert [complaint for path, source in code.items() for complaint in check(path, source)] == []


@pytest.mark.parametrize("check", CHECKS_OF_TEXT)
def test_tree_is_tidy(check: Check, tree: dict[str, str]) -> None:
    """Every text file passes the check."""
    assert [complaint for path, source in tree.items() for complaint in check(path, source)] == []


def test_tree_is_seen(tree: dict[str, str]) -> None:
    """The checks look at the package, the tests, the settings and the files without a suffix."""
    assert {"src/unstale/errors.py", "tests/unit/test_tidy.py", "pyproject.toml", "Makefile", ".ci/run"} <= set(tree)


def test_long_modules_exist(tree: dict[str, str]) -> None:
    """The list of long modules names no module that is gone."""
    assert set(LONG_MODULES) <= set(tree)


CORE = PACKAGE + "core/x.py"
BAD: tuple[tuple[Check, str, str], ...] = (
    (check_import_directions, PACKAGE + "errors.py", "from unstale.core.marks import Mark"),
    (check_import_directions, CORE, "def f():\n    from unstale import drivers"),
    (check_import_directions, CORE, "import unstale"),
    (check_import_directions, CORE, "from unstale import Cache"),
    (check_import_directions, CORE, "from . import marks"),
    (check_import_directions, PACKAGE + "engines/memory.py", "import unstale.drivers"),
    (check_import_directions, PACKAGE + "__init__.py", "from unstale import testing"),
    (check_import_directions, PACKAGE + "cli/demo.py", "import unstale.testing.sim"),
    (check_import_directions, PACKAGE + "helpers.py", ""),
    *((check_core_is_pure, CORE, f"import {name}") for name in sorted(BANNED_IN_CORE)),
    (check_core_is_pure, CORE, "if True:\n    from os.path import join"),
    (check_core_is_pure, CORE, "import requests"),
    (check_length, CORE, "\n" * (LINES_SOFT_MAX + 1)),
    (check_length, "tests/unit/test_x.py", "\n" * (LINES_MAX + 1)),
    (check_docstring, CORE, "x = 1"),
    (check_docstring, CORE, '"""No end"""'),
    (check_docstring, CORE, '"""One. Two."""'),
    (check_docstring, PACKAGE + "core/__init__.py", '"""A sentence over\ntwo lines."""'),
    (check_no_sleep, "tests/x.py", "import time\ntime.sleep(1)"),
    (check_no_sleep, "tests/x.py", "import time as t\nt.sleep(delay_s)"),
    (check_no_sleep, "tests/x.py", "import asyncio\nasync def f():\n    await asyncio.sleep(0.1)"),
    (check_no_sleep, "tests/x.py", "from time import sleep as nap\nnap(1)"),
    (check_no_leftovers, "docs/x.md", "TO" + "DO: write"),
    (check_no_leftovers, "src/x.py", "# FIX" + "ME"),
    (check_no_machine_paths, "Makefile", "cd /" + "work/main"),
    (check_no_machine_paths, "docs/x.md", "sqlite:////" + "home/me/x.cache"),
    (check_no_machine_paths, "benchmarks/x.json", '"/' + 'root/bin/python"'),
    (check_reasons, "pyproject.toml", 'dependencies = [\n    "msgspec>=0.22,<1",\n]'),
    (check_reasons, "pyproject.toml", 'ignore = [\n    "E501",\n]'),
    (check_reasons, "pyproject.toml", '[project]\ndependencies = ["msgspec"]'),
)
GOOD: tuple[tuple[Check, str, str], ...] = (
    (check_import_directions, CORE, "import math\nfrom unstale import errors\nfrom unstale.core.marks import Mark"),
    (check_import_directions, PACKAGE + "cli/demo.py", "from unstale import Cache\nfrom unstale.engines import sqlite"),
    (check_import_directions, PACKAGE + "testing/sim.py", "import unstale.cli, unstale.core"),
    (check_core_is_pure, CORE, "import contextvars, hashlib, msgspec\nfrom unstale.core.signal import Signal"),
    (check_core_is_pure, PACKAGE + "drivers.py", "import threading, time"),
    (check_length, CORE, "\n" * LINES_SOFT_MAX),
    (check_docstring, CORE, '"""One sentence, e.g. this one.\n\nThen. More."""'),
    (check_docstring, PACKAGE + "_private.py", ""),
    (check_no_sleep, "tests/x.py", "import asyncio, time\ntime.sleep(0)\nasync def f():\n    await asyncio.sleep(0)"),
    (check_no_sleep, PACKAGE + "testing/wait.py", "import time\ntime.sleep(1)"),
    (check_no_leftovers, "docs/x.md", "a MAST" + "ODON"),
    (check_no_machine_paths, "docs/x.md", "frame" + "work/x https://example.com/" + "home/ /tmp/x"),
    (check_reasons, "pyproject.toml", 'ignore = [\n    "E501",  # a reason\n]'),
)


@pytest.mark.parametrize(("check", "path", "source"), BAD)
def test_check_can_fail(check: Check, path: str, source: str) -> None:
    """The check complains once about a bad source, and says where."""
    (complaint,) = check(path, source)
    assert complaint.startswith(f"{path}:")


@pytest.mark.parametrize(("check", "path", "source"), GOOD)
def test_check_can_pass(check: Check, path: str, source: str) -> None:
    """The check has nothing against a good source."""
    assert list(check(path, source)) == []


def test_every_check_is_shown_to_fail_and_to_pass() -> None:
    """No check stands here that could never fail."""
    assert set(CHECKS_OF_CODE + CHECKS_OF_TEXT) == {case[0] for case in BAD} == {case[0] for case in GOOD}


def test_long_list_goes_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may be long with a reason, and must leave the list when it is short again."""
    monkeypatch.setitem(LONG_MODULES, CORE, "one table that must be read as a whole")
    assert list(check_length(CORE, "\n" * LINES_MAX)) == []
    (complaint,) = check_length(CORE, "")
    assert "short again" in complaint
