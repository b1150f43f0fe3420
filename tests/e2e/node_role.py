"""A node that follows a cache until it is told to end; run as a script, with what it is called and its settings."""

from __future__ import annotations

import json
import sys
from typing import Any

from unstale import Cache, requests
from unstale._version import __version__


def work(url: str, node_name: str, settings: dict[str, Any]) -> None:
    """Serve products with a policy, say so, and end when there is nobody to listen any more."""
    vars(requests)["__version__"] = settings.pop("version", __version__)
    with Cache(url, name="shop", node_name=node_name, max_staleness=settings.pop("max_staleness", "2s")) as cache:

        @cache.cached("product:{number}", **settings)
        def product(number: int) -> int:
            return number

        product(17)
        print(json.dumps(cache.node.id), flush=True)  # noqa: T201 - the way back
        for _line in sys.stdin:

            @cache.cached("late:{name}", ttl="1m")
            def late(name: str) -> str:
                return name

            print(json.dumps(late("a")), flush=True)  # noqa: T201 - the way back


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
