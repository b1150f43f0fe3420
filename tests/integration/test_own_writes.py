"""Clients read their own writes through other workers while a replica lags: a short run of `make own-writes`."""

from __future__ import annotations

import pytest

from tests.own_writes.run import DELAY_S, own_writes
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.real

TIMES = 150


def test_h37_a_client_reads_its_own_writes_while_the_replica_lags() -> None:
    """With the ticket no read is older than the write before it; what comes from the replica is."""
    with RedisServer() as server:
        measured, without, declared, bare = own_writes(TIMES, url=server.url, delay_s=DELAY_S)
    assert (measured.reads, measured.older) == (TIMES, 0)
    assert measured.sources["primary"] > 0
    assert "replica" not in measured.sources, "it is 100 ms behind, and was asked at once"
    assert without.reads == TIMES
    assert min(declared.older, bare.older) > TIMES / 2, "the replica did lag"
