"""Connections for blocking code: one for each call under way, kept for the next."""

from __future__ import annotations

from collections import deque
from os import getpid
from typing import Any, Final

from unstale.engines.redis_calls import Ask, Refresh, Steps, T, follow
from unstale.engines.redis_commands import Data
from unstale.engines.redis_errors import ErrorReply
from unstale.engines.redis_places import Places, connection_to, unreached
from unstale.engines.redis_url import Address
from unstale.engines.redis_wire import BREAKS, Wire
from unstale.errors import EngineError

IDLE_MAX: Final = 32  # connections to a server that are kept for later


class Link:
    """Makes the calls of one engine in threads.

    Args:
        places: Where the keys lie.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.reborn()

    def reborn(self) -> None:
        """Start anew in a forked child: the connections are its parent's."""
        self._pid = getpid()
        self._breaker = self._places.breakers.at(self._places.only)
        self._idle: dict[Address, deque[Wire]] = {}
        self._polls: dict[str, Wire] = {}
        self._asking: deque[None] = deque()
        self.closed = False

    def run(self, steps: Steps[T]) -> T:
        """Make the calls of a method.

        Raises:
            EngineError: One of them failed.
        """
        if getpid() != self._pid:
            self._places.reborn()
            self.reborn()
        try:
            call = next(steps)
            while True:
                try:
                    replies = None if call.wait_s else self.ask_at_hand(call.bytes(), len(call.commands))
                except EngineError as error:
                    call = steps.throw(error)
                    continue
                if replies is None or ErrorReply in map(type, replies):
                    break  # what was refused is sent once more, and its error dealt with
                call = steps.send(replies)
            moves = follow(steps, call, self._places)
            move = next(moves)
            while True:
                try:
                    answer = self._ask(move) if isinstance(move, Ask) else self._refresh(move)
                except EngineError as error:
                    move = moves.throw(error)
                else:
                    move = moves.send(answer)
        except StopIteration as done:
            value: T = done.value
            return value

    def ask_at_hand(self, data: Data, count: int) -> list[Any] | None:
        """Ask the one server that there is, by a connection that is at hand: the usual case, without any detour.

        Returns:
            The replies, errors among them; None where the case is not so usual, or the connection had died: then `run`
            sees to it.

        Raises:
            EngineError: The server does not answer in time.
        """
        address, breaker = self._places.only, self._breaker
        if address is None or breaker.failures or getpid() != self._pid:
            return None
        idle = self._idle.get(address)
        if not idle:
            return None
        try:
            wire = idle.pop()
        except IndexError:  # another thread was quicker
            return None
        try:
            replies = wire.ask(data, count, 0.0)
        except BREAKS as error:
            self._drop(address, wire)
            if not isinstance(error, TimeoutError):
                return None
            breaker.failed()
            raise unreached(address, self._places.url, error) from error
        except BaseException:  # interrupted: its reply may still come
            self._drop(address, wire)
            raise
        self._give_back(address, wire)
        return replies

    def _refresh(self, move: Refresh) -> list[Any]:
        try:
            self._places.refresh()
        except EngineError:
            if move.needed:
                raise
        return []

    def _ask(self, ask: Ask) -> list[Any]:
        """Ask one server. A connection that was kept may have died meanwhile: then once more, by a new one.

        That is harmless: nothing that we send does anything else when it is done twice.
        """
        address, node = ask.address, ask.call.node if ask.call.wait_s else ""
        while True:
            wire: Wire | None = None
            try:
                wire = self._take(address)
                if node:
                    self._polls[node] = wire
                replies = wire.ask(ask.data, ask.replies, ask.call.wait_s)
            except BREAKS as error:
                dead = wire is not None and wire.used and not isinstance(error, TimeoutError) and not self.closed
                self._drop(address, wire)
                if not dead:
                    raise unreached(address, self._places.url, error) from error
            except BaseException:  # interrupted: its reply may still come
                self._drop(address, wire)
                raise
            else:
                self._give_back(address, wire)
                return replies
            finally:
                if node:
                    self._polls.pop(node, None)

    def _take(self, address: Address) -> Wire:
        idle = self._idle.get(address)
        if idle:
            try:
                return idle.pop()
            except IndexError:  # another thread was quicker
                pass
        return Wire(connection_to(self._places.url, address), self._places.url.timeout_s, self._asking)

    def _give_back(self, address: Address, wire: Wire) -> None:
        idle = self._idle.get(address)
        if idle is None:
            idle = self._idle.setdefault(address, deque())
        if self.closed or len(idle) >= IDLE_MAX:
            wire.close()
        else:
            idle.append(wire)

    def _drop(self, address: Address, wire: Wire | None = None) -> None:
        """Close all idle connections to a server: if one has died, so have the others."""
        if wire is not None:
            wire.close()
        idle = self._idle.pop(address, None)
        while idle:
            idle.pop().close()

    def end_poll(self, node: str) -> None:
        """End the poll of a node that is under way."""
        wire = self._polls.get(node)
        if wire is not None:
            wire.cut()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.closed = True
        for address in list(self._idle):
            self._drop(address)
