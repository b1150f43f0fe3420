"""Tools for tests, this project's and its users': a fake clock, a disabled mode, the simulator, conformance suites.

The suites are in `unstale.testing.conformance`; subclass them to test an engine of your own.
"""

from unstale.testing.clock import FakeClock, fake_cache
from unstale.testing.disabled import disabled
from unstale.testing.simulator import Outcome, Simulator

__all__ = ["FakeClock", "Outcome", "Simulator", "disabled", "fake_cache"]
