"""The example application as people start it: by `make shop`, in a process group of its own, ended by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.shop.http import ask
from tests.support.ports import Port
from tests.support.waiting import until

ROOT: Final = Path(__file__).resolve().parents[2]
SABOTAGE: Final = Path(__file__).parent / "sabotage"
START_S: Final = 120.0
END_S: Final = 30.0


class RunningShop:
    """A shop with three workers on a free port.

    Args:
        folder: For its files, and its output.
        database: URL of its database; empty: the default, in that folder.
        cache: URL of its cache, or `none`; empty: the default, in that folder.
        products: How many products it is to have.
        sabotage: What is taken out of all its processes, see `sabotage/sitecustomize.py`.
    """

    def __init__(
        self, folder: Path, *, database: str = "", cache: str = "", products: int = 10_000, sabotage: str = ""
    ) -> None:
        port = Port()
        self.port = port.number
        port.free()
        self.folder = folder
        self.database = database or f"sqlite:///{folder}/shop.db"
        self.output = folder / "output"
        paths = [*([str(SABOTAGE)] if sabotage else []), str(ROOT / "src")]
        # The interpreter of the tests, in which everything is installed already.
        where = [f"BIN={Path(sys.executable).parent}", "INSTALLED="]
        chosen = [*([f"DATABASE={database}"] if database else []), *([f"CACHE={cache}"] if cache else [])]
        with self.output.open("wb") as output:
            self.popen = subprocess.Popen(
                ["make", "shop", f"PORT={self.port}", *chosen, *where],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "SHOP_FOLDER": str(folder),
                    "SHOP_PRODUCTS": str(products),
                    "SABOTAGE": sabotage,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            until(self._answers, START_S)
        except BaseException:
            self.end()
            raise

    def _answers(self) -> bool:
        assert self.popen.poll() is None, self.said()
        try:
            return ask(self.port, "GET", "/").status == 307
        except OSError:
            return False

    def said(self) -> str:
        """Give what it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def interrupt(self) -> None:
        """Press Ctrl-C, which reaches all processes at once, and wait until all of them have ended."""
        os.killpg(self.popen.pid, signal.SIGINT)
        self.popen.wait(END_S)
        until(lambda: not self.left(), END_S)

    def left(self) -> list[int]:
        """Give the processes that are left of it."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.popen.pid and fields[0] != "Z":  # its session
                found.append(int(entry.parent.name))
        return found

    def end(self) -> None:
        """End what is left of it."""
        if self.popen.poll() is None:
            try:
                self.interrupt()
            except (subprocess.TimeoutExpired, AssertionError):
                self.popen.kill()
                self.popen.wait(END_S)
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
