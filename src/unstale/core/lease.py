"""The lease: up to which moment, on its own boot-time clock, a node is known to have applied everything.

Proof comes in two ways. Where the log is one server that cannot be deposed, a poll sent at t that ended at the head
proves t. Where an old leader could still answer, or where the truth lies behind a relay, only pulses prove: having
applied a pulse that covers h, the node is proven as of the send time of its latest poll that ended below h. At that
moment h did not exist, and the source was read to its end only after h was acknowledged (H11, H19).
"""

from __future__ import annotations

from collections import deque

# Clocks may run apart by the slewing that NTP allows (500 ppm); twice that is taken off every bound (H22).
DRIFT = 0.001
POLLS_MAX = 4096


class Lease:
    """Proof of freshness, as a moment on the node's own clock.

    Attributes:
        proven: The moment as of which everything is known to be applied, in seconds; -inf when nothing is.
        pulsed: Only pulses prove.
    """

    __slots__ = ("_polls", "proven", "pulsed")

    def __init__(self, *, pulsed: bool = False) -> None:
        self.pulsed = pulsed
        self.proven = float("-inf")
        self._polls: deque[tuple[int, float]] = deque(maxlen=POLLS_MAX)

    def proves(self, moment: float, bound_s: float) -> bool:
        """Say whether all that was acknowledged `bound_s` seconds before `moment` has been applied."""
        return moment < self.proven + bound_s

    def polled(self, sent: float, head: int) -> None:
        """Note a poll sent at `sent` that ended at `head` with everything up to it applied."""
        if not self.pulsed:
            self.proven = max(self.proven, sent)
            return
        if self._polls and self._polls[-1][0] >= head:
            last, at = self._polls[-1]
            if last == head and at < sent:  # the latest poll at a head says all that earlier ones at it did
                self._polls[-1] = (head, sent)
            return
        self._polls.append((head, sent))

    def pulse(self, covers: int) -> None:
        """Note that a pulse covering position `covers` has been applied."""
        while self._polls and self._polls[0][0] < covers:
            _head, sent = self._polls.popleft()
            self.proven = max(self.proven, sent)

    def drop(self) -> None:
        """Prove nothing any more."""
        self.proven = float("-inf")
        self._polls.clear()
