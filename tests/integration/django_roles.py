"""What another process does in the tests of Django's backend: it calls methods of the cache, as it is told."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.support.django_project import node


def main(url: str, name: str, bound: str) -> None:
    """Answer each line `[method, argument, ...]` with what the method gave; `many` repeats one."""
    cache = node(url, name=name, max_staleness=bound)
    cache.get("nothing")
    print(json.dumps("ready"), flush=True)  # noqa: T201 - the way back
    for line in sys.stdin:
        method, *args = json.loads(line)
        times = 1
        if method == "many":
            times, method, *args = args
        answers: list[Any] = [getattr(cache, method)(*args) for _ in range(times)]
        print(json.dumps(answers if times > 1 else answers[0]), flush=True)  # noqa: T201 - the way back


if __name__ == "__main__":
    main(*sys.argv[1:])
