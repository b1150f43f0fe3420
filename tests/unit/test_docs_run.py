"""Runs every Python block of the README and the documentation, page by page, each page in a process of its own."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
PAGE_TIMEOUT_S = 120

FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>.*)")
PYTHON = re.compile(r"\{?[ .]*(?:python|py|python3)\b", re.IGNORECASE)
NO_RUN = re.compile(r"[ \t]*<!--\s*no-run\b:?(?P<reason>.*?)-->[ \t]*")


class Block(NamedTuple):
    """One Python block of a page."""

    line: int
    source: str
    runs: bool


def blocks(page: str) -> Iterator[Block]:
    """Yield the Python blocks of a page in order; one that does not run must say why on the line before it."""
    lines = page.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.fullmatch(lines[number])
        mark = NO_RUN.fullmatch(lines[number])
        number += 1
        if mark:
            follower = FENCE.fullmatch(lines[number]) if number < len(lines) else None
            if not (follower and PYTHON.match(follower["info"])):
                message = f"line {number}: no Python block follows this no-run mark"
                raise ValueError(message)
            if not mark["reason"].strip():
                message = f"line {number}: say why: <!-- no-run: needs ... -->"
                raise ValueError(message)
        if not opening:
            continue
        start = number
        closing = re.compile(rf"[ \t]*{opening['fence'][0]}{{{len(opening['fence'])},}}[ \t]*")
        while number < len(lines) and not closing.fullmatch(lines[number]):
            number += 1
        if PYTHON.match(opening["info"]):
            source = textwrap.dedent("\n".join(lines[start:number])) + "\n"
            marked = start >= 2 and NO_RUN.fullmatch(lines[start - 2])
            yield Block(start + 1, source, runs=not marked)
        number += 1


def run_page(path: Path) -> None:
    """Execute the blocks of one page in order, in one namespace and on one event loop.

    The namespace is a real `__main__` module, so that types defined on the page can be looked up by name. Each block is
    compiled at its own place in the page: a traceback names the page's file and line. A block with a top-level `await`
    runs inside the loop, any other one outside of it, so that it may call `asyncio.run`.
    """
    page = types.ModuleType("__main__")
    page.__file__ = str(path)
    sys.modules["__main__"] = page
    with asyncio.Runner() as runner:
        for block in blocks(path.read_text(encoding="utf-8")):
            if not block.runs:
                continue
            code = compile(
                "\n" * (block.line - 1) + block.source,
                str(path),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            result = eval(code, page.__dict__)
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(result)


def run_in_process(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one page in a fresh interpreter in a folder of its own, where a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", __file__, str(path)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PAGE_TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page_runs(path: Path, tmp_path: Path) -> None:
    """Every Python block of the page runs."""
    if not any(block.runs for block in blocks(path.read_text(encoding="utf-8"))):
        return
    done = run_in_process(path, tmp_path)
    assert done.returncode == 0, f"{path.relative_to(ROOT)} fails:\n{done.stdout}{done.stderr}"


GOOD_PAGE = """
# A page

```python
import asyncio, dataclasses, pathlib, typing
x = 1
async def double(n):
    await asyncio.sleep(0)
    return 2 * n

@dataclasses.dataclass
class Point:
    x: "int"
assert typing.get_type_hints(Point) == {"x": int}
```

=== "Await"

    ```python title="app.py"
    loop = asyncio.get_running_loop()
    x = await double(x)
    ```

```python
assert asyncio.run(double(x)) == 4
if __name__ == "__main__":
    pathlib.Path("here").write_text(str(x))
```

~~~ python
async with asyncio.timeout(60):
    assert loop is asyncio.get_running_loop()
assert await double(x) == 4
~~~

<!-- no-run: needs a server -->
```python
raise SystemExit("was run")
```

```console
$ not python
```

````markdown
```python
raise SystemExit("is an example of Markdown")
```
````
"""


def test_blocks_share_a_namespace_and_a_loop(tmp_path: Path) -> None:
    """Blocks run in order in one namespace, with top-level await, `asyncio.run`, indentation and skipped blocks."""
    page = tmp_path / "page.md"
    page.write_text(GOOD_PAGE, encoding="utf-8")
    done = run_in_process(page, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "here").read_text() == "2"


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("await nothing()", "NameError"),
        ("x = = 1", "SyntaxError"),
        ("import warnings; warnings.warn('old')", "UserWarning"),
    ],
)
def test_failing_block_is_reported(failing: str, error: str, tmp_path: Path) -> None:
    """A block that fails is reported with the page's file and the line in it."""
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n```python\nx = 1\n```\n\n```python\n\n{failing}\n```\n", encoding="utf-8")
    done = run_in_process(page, tmp_path)
    assert done.returncode != 0
    assert f'File "{page}", line 9' in done.stderr
    assert error in done.stderr


def test_pages_share_nothing(tmp_path: Path) -> None:
    """A page sees no name of another one."""
    first, second = tmp_path / "1.md", tmp_path / "2.md"
    first.write_text("```python\nx = 1\n```\n", encoding="utf-8")
    second.write_text("```python\nprint(x)\n```\n", encoding="utf-8")
    assert [run_in_process(page, tmp_path).returncode for page in (first, second)] == [0, 1]


@pytest.mark.parametrize("mark", ["<!-- no-run -->", "<!-- no-run: -->"])
def test_no_run_needs_a_reason(mark: str) -> None:
    """A block that is not run says why."""
    with pytest.raises(ValueError, match="line 1: say why"):
        list(blocks(f"{mark}\n```python\n```\n"))


def test_no_run_needs_a_block() -> None:
    """A no-run mark that stands before nothing is a mistake."""
    with pytest.raises(ValueError, match="line 2: no Python block"):
        list(blocks("text\n<!-- no-run: needs Redis -->\n\n```python\n```\n"))


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
