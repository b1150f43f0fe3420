"""Takes out of every process that finds this module first what the application rests on: see SABOTAGE.

`untracked`: nobody tells the cache what sessions commit. `late`: each node hears late of what others publish.
`ticketless`: no cookie carries what a visitor has written. `mortal`: who has committed is killed before it tells
anybody. `mute`: who has committed tells nobody. `outboxless`: and nothing in the database tells it in its place.
"""

import os
import signal
import threading
from typing import Any

LATE_S = 0.8  # within the bound: leases hold


def untracked() -> None:
    """Follow no session."""
    import unstale.sqlalchemy

    def nothing(*_args: Any, **_how: Any) -> None:
        pass

    vars(unstale.sqlalchemy).update(track=nothing, touched=nothing)


def late() -> None:
    """Delay the tail of each cache; who asks the log without waiting is answered."""
    import unstale.cache
    from unstale.runtime import Runtime

    class Late(Runtime):
        def __init__(self, node: Any, ports: Any, name: str) -> None:
            poll, pause = ports.log.poll, threading.Event()

            def held(member: Any, position: int, limit: int, wait_s: float) -> Any:
                if wait_s:
                    pause.wait(LATE_S)
                return poll(member, position, limit, 0.0)

            ports.log.poll = held
            super().__init__(node, ports, name)

    vars(unstale.cache).update(Runtime=Late)


def ticketless() -> None:
    """Give the application without its sessions."""
    import unstale.starlette

    vars(unstale.starlette).update(SessionMiddleware=lambda app, **_how: app)


def mortal() -> None:
    """Kill a worker between its commit and its publishing."""
    from unstale.sqlalchemy.publishing import Publisher

    publish = Publisher.publish

    def die_or_publish(self: Publisher, transaction: Any) -> None:
        if transaction.committed:
            os.kill(os.getpid(), signal.SIGKILL)
        publish(self, transaction)

    setattr(Publisher, "publish", die_or_publish)  # noqa: B010 - a method that type checkers let nobody assign


def mute() -> None:
    """Publish nothing of what sessions have committed."""
    from unstale.sqlalchemy.publishing import Publisher

    setattr(Publisher, "publish", lambda _self, _transaction: None)  # noqa: B010 - see above


def outboxless() -> None:
    """Track sessions without an outbox."""
    import unstale.sqlalchemy

    track = unstale.sqlalchemy.track

    def without(target: Any, cache: Any, **how: Any) -> None:
        track(target, cache, **how | {"outbox": False})

    vars(unstale.sqlalchemy).update(track=without)


for word in os.environ.get("SABOTAGE", "").split():
    globals()[word]()
