"""Signatures of what lies in an engine: for stores and logs that others can write to as well.

An HMAC (RFC 2104) of SHA-256 over the cache's name, what the bytes are (an entry and its key, a record and its id) and
the bytes themselves, cut to 128 bits. The first secret signs; each of them is believed, so that one can follow another
without a moment in which nodes do not believe each other.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Final

from unstale.errors import CorruptError, UsageError

SIGNED: Final = b"\xf5"  # begins neither an entry nor a record that is not signed
LENGTH: Final = 16
SECRET_MIN: Final = 16
SECRETS_MAX: Final = 2
EXAMPLE: Final = 'write secret=os.environ["CACHE_SECRET"], or secret=[new, old] while one follows another'

OnForged = Callable[[str, BaseException], None]


class Seal:
    """Signs what is stored, and tells what was signed from what was not.

    Args:
        name: Of the cache.
        secrets: Shared by all its nodes: the first signs.

    Attributes:
        on_forged: Is told of what has no valid signature.
    """

    def __init__(self, name: str, secrets: Sequence[bytes]) -> None:
        self._name = name.encode()
        self._secrets = tuple(secrets)
        self.on_forged: OnForged = lambda _what, _error: None

    def sign(self, what: str, data: bytes) -> bytes:
        """Give bytes with their signature."""
        return SIGNED + self._code(self._secrets[0], what, data) + data

    def open(self, what: str, signed: bytes) -> bytes | None:
        """Give the bytes without their signature; None, and a report, if it is wrong or missing."""
        code, data = signed[1 : 1 + LENGTH], signed[1 + LENGTH :]
        if signed[:1] == SIGNED and any(
            hmac.compare_digest(code, self._code(secret, what, data)) for secret in self._secrets
        ):
            return data
        kind, _, name = what.partition("|")
        hint = "who writes to this cache without the secret? It was skipped, and nothing else was done"
        self.on_forged(f"forged {kind}", CorruptError(f"{kind} without a valid signature: {name}", hint=hint))
        return None

    def _code(self, secret: bytes, what: str, data: bytes) -> bytes:
        head = what.encode()
        framed = b"%d|%s%d|%s%s" % (len(self._name), self._name, len(head), head, data)
        return hmac.digest(secret, framed, "sha256")[:LENGTH]


def read_secrets(secret: object) -> tuple[bytes, ...]:
    """Read the argument `secret=`: a text, bytes, or a sequence of at most two of them; none for none.

    Raises:
        UsageError: It is something else, or too short to be one.
    """
    if secret is None:
        return ()
    given = [secret] if isinstance(secret, str | bytes) else list(secret) if isinstance(secret, list | tuple) else []
    if not 0 < len(given) <= SECRETS_MAX or not all(isinstance(one, str | bytes) for one in given):
        raise UsageError("secret is a text, or two of them", hint=EXAMPLE)
    secrets = tuple(one.encode() if isinstance(one, str) else bytes(one) for one in given)
    if any(len(one) < SECRET_MIN for one in secrets):
        msg = f"a secret of less than {SECRET_MIN} bytes can be guessed"
        raise UsageError(msg, hint="make one by: python -c 'import secrets; print(secrets.token_hex(32))'")
    return secrets
