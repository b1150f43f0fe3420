"""What a worker of a run does; run as a script, it is one, which writes to a primary and reads from its replica."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

import psycopg

import unstale
from unstale import Cache
from unstale.sources.replicas import PostgresReplica

RAISE: Final = "UPDATE item SET price = price + 1 WHERE id = %s RETURNING price"
PRICE: Final = "SELECT price FROM item WHERE id = %s"
LAG: Final = "1s"  # declared: more than the replica of a run ever is behind
NAME: Final = "own writes"


def scopes_of(ends: str, item: int) -> tuple[str, ...]:
    """Give what a write ends: the key, or only what depends on a tag."""
    return (f"price:{item}", f"declared:{item}") if ends == "key" else (f"row:{item}",)


class Worker:
    """One worker, blocking.

    Args:
        url: Of the caches' engine.
        primary: Of the database that is written to.
        replica: Of its replica.
    """

    def __init__(self, url: str, primary: str, replica: str) -> None:
        self.cache = Cache(url, name=NAME)
        self.measure = PostgresReplica(primary, replica, every="20ms")
        self.there = {
            "primary": psycopg.connect(primary, autocommit=True),
            "replica": psycopg.connect(replica, autocommit=True),
        }
        self.place = ""

        @self.cache.cached("price:{item}", replica=self.measure)
        def measured(item: int) -> int:
            unstale.tag(f"row:{item}")  # nobody knows before the load that it depends on this
            return self._select("primary" if unstale.needs_primary() else "replica", item)

        @self.cache.cached("declared:{item}", replica_lag=LAG)
        def declared(item: int) -> int:
            return self._select("replica", item)

        @measured.writer
        def save(item: int) -> int:
            unstale.tag(f"row:{item}")  # what is written depends on it as well
            return self._raise(item)

        self.reads = {"measured": measured, "declared": declared}
        self.save = save

    def _raise(self, item: int) -> int:
        return int(self.there["primary"].execute(RAISE, [item]).fetchall()[0][0])

    def _select(self, place: str, item: int) -> int:
        self.place = place
        return int(self.there[place].execute(PRICE, [item]).fetchall()[0][0])

    def known(self) -> bool:
        """Say whether the lag of the replica is known, and a lease is held."""
        self.cache.ticket()
        return self.measure() is not None and self.cache.node.lease.proven > 0

    def write(self, item: int, token: str, ends: str) -> tuple[int, str]:
        """Raise a price, for the client with this token: the price, and the token that it gets.

        `ends`: `writer` writes through; `key` and `row` end the key, or only what depends on a tag.
        """
        with unstale.session(token) as session:
            if ends == "writer":
                price = self.save(item)
            else:
                price = self._raise(item)
                self.cache.invalidate(*scopes_of(ends, item))
        return price, session.token

    def read(self, how: str, item: int, token: str) -> tuple[int, str]:
        """Read a price, for the client with this token: the price, and where it came from."""
        if how == "bare":
            return self._select("replica", item), "replica"
        with unstale.session(token), unstale.observe() as reads:
            price = self.reads[how](item)
        return price, self.place if reads[0].source == "load" else reads[0].source

    def serve(self) -> None:
        """Do what one is told, until nothing more is said."""
        for line in sys.stdin:
            name, *args = json.loads(line)
            _tell(getattr(self, name)(*args))


class AsyncWorker:
    """The same in an event loop."""

    def __init__(self, url: str, primary: str, replica: str) -> None:
        self.cache = Cache(url, name=NAME)
        self.measure = PostgresReplica(primary, replica, every="20ms")
        self.urls = {"primary": primary, "replica": replica}
        self.there: dict[str, psycopg.AsyncConnection[Any]] = {}
        self.place = ""

        @self.cache.cached("price:{item}", replica=self.measure)
        async def measured(item: int) -> int:
            unstale.tag(f"row:{item}")
            return await self._select("primary" if unstale.needs_primary() else "replica", item)

        @self.cache.cached("declared:{item}", replica_lag=LAG)
        async def declared(item: int) -> int:
            return await self._select("replica", item)

        @measured.writer
        async def save(item: int) -> int:
            unstale.tag(f"row:{item}")
            return await self._raise(item)

        self.reads = {"measured": measured, "declared": declared}
        self.save = save

    async def _raise(self, item: int) -> int:
        done = await self.there["primary"].execute(RAISE, [item])
        return int((await done.fetchall())[0][0])

    async def _select(self, place: str, item: int) -> int:
        self.place = place
        found = await self.there[place].execute(PRICE, [item])
        return int((await found.fetchall())[0][0])

    async def known(self) -> bool:
        """Say whether the lag of the replica is known, and a lease is held."""
        await self.cache.aticket()
        return self.measure() is not None and self.cache.node.lease.proven > 0

    async def write(self, item: int, token: str, ends: str) -> tuple[int, str]:
        """Raise a price, for the client with this token: the price, and the token that it gets.

        `ends`: `writer` writes through; `key` and `row` end the key, or only what depends on a tag.
        """
        with unstale.session(token) as session:
            if ends == "writer":
                price = await self.save(item)
            else:
                price = await self._raise(item)
                await self.cache.ainvalidate(*scopes_of(ends, item))
        return price, session.token

    async def read(self, how: str, item: int, token: str) -> tuple[int, str]:
        """Read a price, for the client with this token: the price, and where it came from."""
        if how == "bare":
            return await self._select("replica", item), "replica"
        with unstale.session(token), unstale.observe() as reads:
            price = await self.reads[how](item)
        return price, self.place if reads[0].source == "load" else reads[0].source

    async def serve(self) -> None:
        """Do what one is told, until nothing more is said."""
        for place, url in self.urls.items():
            self.there[place] = await psycopg.AsyncConnection.connect(url, autocommit=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *args = json.loads(line)
            _tell(await getattr(self, name)(*args))


def _tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 - the way back


if __name__ == "__main__":
    if sys.argv[1] == "blocking":
        Worker(*sys.argv[2:]).serve()
    else:
        asyncio.run(AsyncWorker(*sys.argv[2:]).serve())
