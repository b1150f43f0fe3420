"""A cache that is switched off for a while, for tests of the code around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unstale.cache import Cache


@contextmanager
def disabled(cache: Cache) -> Iterator[Cache]:
    """Disable a cache within a block: every read loads, and no engine is asked.

    Loaders and writers run as they always do, and may call `unstale.tag` and its like. `get` gives its default, `peek`
    None, `refresh` loads. `invalidate`, `delete`, `set` and `write` tell nobody: a receipt's stamp then has the
    generation "disabled". What was resident in this process's memory is gone.

    Args:
        cache: The cache; it may be in use by other threads, which see it disabled too.

    Yields:
        The same cache, which is as it was before when the block ends.
    """
    before = cache.disabled
    cache.disabled = True
    try:
        yield cache
    finally:
        cache.disabled = before
