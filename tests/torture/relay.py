"""A relay of a torture run: it relays for one cache until it is killed."""

from __future__ import annotations

from typing import Any

from tests.torture.roles import Role, Scene
from tests.torture.shop import CAPTURED, CONFIG, open_cache
from unstale.sources.relay import Relay
from unstale.sources.slot import SlotFeed


class Relaying(Role):
    """A relay.

    Args:
        scene: Where it takes place.
        name: Of the cache that it relays for.
    """

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene)
        cache = open_cache(scene.url, name, trouble=self.trouble)
        slot = lambda: SlotFeed(scene.database, CAPTURED, CONFIG, trouble=self.trouble)  # noqa: E731 - opened anew
        self.relay = Relay(cache, slot if name == CAPTURED else scene.database)

    def begin(self) -> None:
        """Relay."""
        self.relay.start()

    def seen(self) -> dict[str, Any]:
        """Tell what it has published."""
        return super().seen() | {"published": self.relay.published, "pulses": self.relay.pulses}
