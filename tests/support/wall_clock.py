"""A wall clock that tests can step: of one server alone, by a library that is loaded into it before all others."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.private_server import unavailable
from tests.support.waiting import DEADLINE_S

SOURCE: Final = Path(__file__).with_name("wall_clock.c")
MICROS: Final = 1_000_000
CURE: Final = "install a C compiler: apt install build-essential"


class WallClock:
    """The wall clock of the programs that are started with `environment`; their other clocks are not concerned."""

    def __init__(self) -> None:
        if sys.platform != "linux":
            unavailable("run it on Linux: elsewhere a server's wall clock cannot be stepped")
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            unavailable(CURE)
        self.folder = Path(tempfile.mkdtemp(prefix="unstale-clock-"))
        try:
            library, shift = self.folder / "wall_clock.so", self.folder / "shift"
            built = subprocess.run(
                [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
            )  # fmt: skip
            if built.returncode:
                unavailable(f"{CURE} ({built.stderr.strip()})")
            shift.write_bytes(bytes(8))
            file = os.open(shift, os.O_RDWR)
            self._map = mmap.mmap(file, 8)
            os.close(file)
        except BaseException:  # a skip too
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._shift_us = memoryview(self._map).cast("q")
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_SHIFT": str(shift)}

    def set(self, shift_s: float) -> None:
        """Let it be so many seconds from the true time, at once."""
        self._shift_us[0] = int(shift_s * MICROS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shift_us.release()
        self._map.close()
        shutil.rmtree(self.folder, ignore_errors=True)
