from __future__ import annotations

import pytest

from unstale.errors import PolicyError
from unstale.testing import FakeClock, disabled, fake_cache


def test_a_fake_clock_ends_a_life() -> None:
    """With a fake clock an entry expires when the test says so, and not before."""
    clock, loads = FakeClock(), []
    with fake_cache(clock) as cache:

        @cache.cached("product:{product_id}", ttl="5m", jitter=0)
        def product(product_id: int) -> int:
            loads.append(product_id)
            return len(loads)

        assert [product(17), product(17)] == [1, 1]
        clock.advance("4m59s")
        assert product(17) == 1
        clock.advance("2s")
        assert product(17) == 2


def test_a_disabled_cache_always_loads() -> None:
    """While a cache is disabled each call runs the function."""
    loads = []
    with fake_cache(FakeClock()) as cache:

        @cache.cached("product:{product_id}")
        def product(product_id: int) -> int:
            loads.append(product_id)
            return len(loads)

        assert product(17) == 1
        with disabled(cache):
            assert [product(17), product(17)] == [2, 3]
        assert product(17) in {1, 4}


def test_h17_a_source_that_lags_more_than_the_bound_is_refused() -> None:
    """What is loaded from a replica that lags by more than `max_staleness` would be too old when it arrives."""
    with fake_cache(FakeClock(), max_staleness="1s") as cache, pytest.raises(PolicyError, match="replica_lag"):
        cache.cached("product:{product_id}", replica_lag="2s")
