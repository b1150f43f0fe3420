"""Memory that processes share: for each row a number, and a ring of its latest versions with a moment each."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final, NamedTuple

WORD: Final = 8


class Rings(NamedTuple):
    """The parts of the memory.

    Attributes:
        numbers: One for each row.
        versions: `ring` for each row, row after row.
        moments: As many.
    """

    numbers: memoryview[int]
    versions: memoryview[int]
    moments: memoryview[float]


def mapped(path: Path, rows: int, ring: int) -> Rings:
    """Map a file that all processes map; it is made where it is missing, and is zero at first."""
    size = WORD * rows * (1 + 2 * ring)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.fstat(file).st_size < size:
        os.ftruncate(file, size)
    view = memoryview(mmap.mmap(file, size))
    os.close(file)
    numbers, versions = WORD * rows, WORD * rows * (1 + ring)
    return Rings(view[:numbers].cast("q"), view[numbers:versions].cast("q"), view[versions:].cast("d"))
