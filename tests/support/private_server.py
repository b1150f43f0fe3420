"""What the private servers of tests have in common: a port and a folder of their own, killed and removed at the end."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

from tests.support.ports import Port


def unavailable(cure: str) -> NoReturn:
    """Skip the test that lacks something, or fail it where CI=true: there everything must be installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(cure)
    pytest.skip(cure)


class Ended(ABC):
    """Something that is ended with its block."""

    @abstractmethod
    def end(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class PrivateServer(Ended):
    """A server on a free port, with a folder of its own.

    Attributes:
        folder: Where its files are.
    """

    folder: Path
    _port: Port

    @abstractmethod
    def start(self) -> None:
        """Start it."""

    @abstractmethod
    def kill(self) -> None:
        """Kill it."""

    def restart(self) -> None:
        """Kill it and start it again, on the same port and with the same data."""
        self.kill()
        self.start()

    def end(self) -> None:
        """Kill it and remove its folder; a second time, nothing."""
        self.kill()
        self._port.free()
        shutil.rmtree(self.folder, ignore_errors=True)
