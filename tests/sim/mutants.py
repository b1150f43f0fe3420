"""Mutants: each takes one defence out of the code, and the simulator has to notice.

A mutant names a function, a piece of its source that stands there exactly once, and what to put in its place. Its code
object is replaced in place, so every caller sees it, and put back afterwards.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """One defence taken out.

    Attributes:
        name: Its name; the hazard's number first, or `design` for a sentence of the protocol marked (!).
        defence: The defence, as one sentence.
        edits: Functions as `module:qualname`, the source that is replaced, and what replaces it.
        mixes: The mixes that are aimed at it.
    """

    name: str
    defence: str
    edits: tuple[tuple[str, str, str], ...]
    mixes: tuple[str, ...] = ("all",)

    @property
    def hazards(self) -> list[str]:
        """The hazards it stands for."""
        return [part.upper() for part in self.name.split("_") if part[0] == "h" and part[1:].isdigit()]


def function_of(path: str) -> FunctionType:
    """Give the function at `module:qualname`."""
    module, _, qualname = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = inspect.getattr_static(found, name)
    found = getattr(found, "__func__", found)
    found = found.fget if isinstance(found, property) else found
    assert isinstance(found, FunctionType), path
    return found


def mutated(path: str, edits: list[tuple[str, str]]) -> tuple[FunctionType, FunctionType]:
    """Give a function and its mutated form."""
    function = function_of(path)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in edits:
        count = source.count(old)
        assert count == 1, f"{path} holds {old!r} {count} times: the mutant has to follow the code"
        source = source.replace(old, new)
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    definition.decorator_list = []
    scope: dict[str, object] = {}
    flags = __future__.annotations.compiler_flag
    exec(compile(tree, f"<mutant of {path}>", "exec", flags=flags, dont_inherit=True), function.__globals__, scope)
    mutant = scope[definition.name]
    assert isinstance(mutant, FunctionType)
    assert mutant.__code__.co_freevars == function.__code__.co_freevars
    return function, mutant


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Take a defence out for the length of a block."""
    edits: dict[str, list[tuple[str, str]]] = {}
    for path, old, new in mutant.edits:
        edits.setdefault(path, []).append((old, new))
    changed = [mutated(path, pairs) for path, pairs in edits.items()]
    originals = [(function, function.__code__) for function, _mutant in changed]
    for function, other in changed:
        function.__code__ = other.__code__
    try:
        yield
    finally:
        for function, code in originals:
            function.__code__ = code


def read_mutants() -> tuple[Mutant, ...]:
    """Read the mutants from the file beside this one."""
    with (Path(__file__).parent / "mutants.toml").open("rb") as file:
        found = tomllib.load(file)["mutant"]
    return tuple(
        Mutant(one["name"], one["defence"], tuple(map(tuple, one["edits"])), tuple(one["mixes"])) for one in found
    )


MUTANTS = read_mutants()
