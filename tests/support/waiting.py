"""Waiting for a condition, which is the only way in which a test may wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

DEADLINE_S = 60.0
PAUSE_S = 0.001


def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: It does not hold in time.
    """
    limit = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < limit, "it did not come in time"
        pause.wait(PAUSE_S)
