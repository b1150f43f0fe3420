"""A session: the code within it, and whoever gets its token, reads what it has written.

A token is a text of letters, digits, `-` and `_`: base64url (RFC 4648) of a format number and a MessagePack map from a
cache's name to its tickets, each a generation and a position. With a secret, a signature stands before both.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import msgspec
from msgspec.structs import replace

from unstale.core.context import NOTHING, surround, surroundings
from unstale.core.record import Stamp
from unstale.core.session import Tickets
from unstale.engines.seal import Seal, read_secrets
from unstale.errors import UsageError

FORMAT: Final = b"\x01"
TOKEN_CHARS_MAX: Final = 2048
POSITION_MAX: Final = 2**63 - 1
SEALED: Final = "session"
UNKNOWN_LIFE_S: Final = 3600.0

_Token = dict[str, tuple[Stamp, ...]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Token).decode


class Session:
    """A block of code whose reads show what it has published: see `session`."""

    def __init__(self, token: str | None, secrets: Sequence[bytes]) -> None:
        self._seal = Seal(SEALED, secrets) if secrets else None
        self._tickets = Tickets(threading.Lock())
        self._before = 0
        self._entered = False
        self.take(token)

    @property
    def token(self) -> str:
        """The text to hand on: "" while nothing was published and none came in.

        One longer than 2,048 characters leaves out the caches for which nothing was published or taken for longest.
        """
        by_cache = self._tickets.by_cache
        names = list(by_cache)
        while names:
            token = self._written({name: by_cache[name] for name in names})
            if len(token) <= TOKEN_CHARS_MAX:
                return token
            del names[0]
        return ""

    @property
    def raised(self) -> bool:
        """Something was published since the block was entered, so the token has to be handed on anew."""
        return self._tickets.raises > self._before

    @property
    def life_s(self) -> float:
        """After so many seconds nobody needs the token: the largest `max_staleness` of the caches whose tickets it has.

        That of a cache that was not published to here is not known. It counts as an hour: to keep a ticket for too long
        costs nothing but its bytes, to lose one the client its own write.
        """
        if self._tickets.by_cache.keys() > self._tickets.lives.keys():
            return max(UNKNOWN_LIFE_S, *self._tickets.lives.values(), 0.0)
        return max(self._tickets.lives.values(), default=0.0)

    def take(self, token: str | None) -> None:
        """Take in another token: of each cache the higher ticket counts.

        Args:
            token: A text that `token` gave, here or elsewhere. One that cannot be read, or is not signed by the secret,
                counts as none. Tickets of caches that this process has not are passed on unchanged.

        Raises:
            UsageError: It is no text.
        """
        if not (token is None or isinstance(token, str)):
            kind = type(token).__name__
            raise UsageError(f"a token is a text, not {kind}", hint="pass on what session.token gave, or None")
        if token:
            self._tickets.merge(self._read(token))

    def _written(self, by_cache: _Token) -> str:
        data = FORMAT + _encode(by_cache)
        signed = data if self._seal is None else self._seal.sign(SEALED, data)
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    def _read(self, token: str) -> _Token:
        if len(token) > TOKEN_CHARS_MAX:
            return {}
        try:
            signed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            data = signed if self._seal is None else self._seal.open(SEALED, signed)
            if data is None or data[:1] != FORMAT:
                return {}
            by_cache = _decode(data[1:])
        except (ValueError, msgspec.MsgspecError):  # no base64, no MessagePack, or something else within it
            return {}
        known = {name: tuple(filter(_possible, stamps)) for name, stamps in by_cache.items()}
        return {name: stamps for name, stamps in known.items() if stamps}

    def __enter__(self) -> Self:
        """Enter the block.

        Raises:
            UsageError: It was entered before.
        """
        if self._entered:
            raise UsageError("this session was entered before", hint="make one for each block: with unstale.session():")
        self._entered = True
        around = surroundings.get() or NOTHING
        if around.tickets is not None:
            # Within another session: what is published here, that one has to see as well, and the other way round.
            around.tickets.merge(self._tickets.by_cache)
            self._tickets = around.tickets
        self._before = self._tickets.raises
        self._outer = around.tickets
        surround(replace(around, tickets=self._tickets))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        around = surroundings.get()
        # Not in a context that was never in the block: some frameworks tidy up in another one than they began in.
        if around is not None and around.tickets is self._tickets:
            surround(replace(around, tickets=self._outer))


def _possible(stamp: Stamp) -> bool:
    return bool(stamp.generation) and 0 <= stamp.position <= POSITION_MAX


def session(token: str | None = None, *, secret: str | bytes | Sequence[str | bytes] | None = None) -> Session:
    """Let code read what it has written: `with unstale.session(token) as session:`, in sync and async code alike.

    What the code in the block publishes through a cache raises the session's ticket of that cache; each read of that
    cache without an `after=` of its own is done as with `after=` that ticket. Tasks that are started in the block, and
    threads of `asyncio.to_thread`, belong to it, for as long as they run; a `threading.Thread` does not, unless it runs
    in a copy of the context.

    Args:
        token: The token of an earlier session, of this client, in whatever process; None or "" for none.
        secret: Tokens are signed with it, and one without a valid signature counts as none: a text of 16 bytes or more,
            the same in all processes; or two, the new and the old one. A forged token makes its reader load.

    Raises:
        UsageError: The token is no text, or the secret cannot be one.
    """
    return Session(token, read_secrets(secret))
