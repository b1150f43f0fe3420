"""The boot-time clock: elapsed seconds that no NTP step changes, and that go on while the machine sleeps (H22).

`CLOCK_BOOTTIME` where there is one (Linux). macOS's `CLOCK_MONOTONIC` counts sleep as well. Elsewhere `time.monotonic`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final

if hasattr(time, "clock_gettime"):
    # The reading of a clock takes one argument, so that the hit path can call the C function itself.
    read: Callable[[int], float] = time.clock_gettime
    BOOT: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
else:  # pragma: no cover - Windows

    def read(_clock: int) -> float:
        """Give the seconds since boot."""
        return time.monotonic()

    BOOT: Final[int] = 0  # type: ignore[misc,no-redef]


boottime: Final[Callable[[], float]] = functools.partial(read, BOOT)
"""Give the seconds since boot."""
