"""What triggers have told: read by a relay, out of a real database, into a real log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.outboxes import NAME, told
from unstale import Cache
from unstale.core.record import Record
from unstale.sources.capture import Capture
from unstale.sources.capture_config import Asked, Config
from unstale.sources.capture_plan import Captured
from unstale.sources.relay import Relay

ANOTHER_LIFE = "the source's timeline changed"


def capturing(url: str, *tables: str, **asked: Sequence[str] | Asked) -> list[Captured]:
    """Capture tables, with the scopes that are asked for by table, and give those that were not captured before."""
    scopes = {name: one if isinstance(one, Asked) else Asked(scopes=tuple(one)) for name, one in asked.items()}
    with Capture(url) as capture:
        return capture.install(capture.plan([*tables, *scopes], Config(tables=scopes), [NAME]))


class Told:
    """Gives the records that are new since it was last asked, by reading the outbox to its end.

    Args:
        cache: The cache.
        database: The database.
    """

    def __init__(self, cache: Cache, database: str) -> None:
        self._cache = cache
        self._relay = Relay(cache, database)
        self._known: set[str] = set()

    def records(self) -> list[Record]:
        """Give the records."""
        self._relay.once()
        found = [one for one in told(self._cache) if one.why != ANOTHER_LIFE and one.id not in self._known]
        self._known |= {one.id for one in found}
        return found

    def scopes(self) -> set[str]:
        """Give all their scopes."""
        return {scope for record in self.records() for scope in record.scopes}


def config_file(folder: Path, text: str) -> str:
    """Write a file of what is to be captured: its path."""
    path = folder / "capture.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)
