"""Values of Django's cache: whatever can be pickled, signed, and given to each caller as an object of its own."""

from __future__ import annotations

import hashlib
import hmac
import pickle
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from unstale.core.shape import digest

SIGNATURE_BYTES: Final = 32
PROTOCOL: Final = 5  # every Python that we support reads it
IMMUTABLE: Final = frozenset({type(None), bool, int, float, str, bytes})


class Pickled:
    """A value as L1 holds it: no caller can change what the next one gets (H30)."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


def opened(held: Any) -> Any:
    """Give a caller's own object of what L1 holds."""
    return pickle.loads(held.payload) if type(held) is Pickled else held  # noqa: S301 - signed, and by us


class SignedValues:
    """Pickles, of which none is loaded before its signature has been checked (H29).

    Args:
        secrets: The first one signs; all of them are accepted, while they are being exchanged.
    """

    __slots__ = ("_keys",)

    shape: Final = digest("unstale.django 1")

    def __init__(self, secrets: Sequence[str | bytes]) -> None:
        # A key of its own: no other use of the same SECRET_KEY gives a signature that is valid here.
        raw = (secret.encode() if isinstance(secret, str) else secret for secret in secrets)
        self._keys = [hashlib.sha256(b"unstale.django.values:" + secret).digest() for secret in raw]

    def hold(self, value: object) -> tuple[Any, bytes]:
        """Give a value as L1 holds it, and its signed pickle.

        Raises:
            Exception: It cannot be pickled; the error is pickle's own, as with Django's backends.
        """
        payload = pickle.dumps(value, PROTOCOL)
        held = value if type(value) in IMMUTABLE else Pickled(payload)
        return held, _signature(self._keys[0], payload) + payload

    def encode(self, held: object) -> bytes:
        """Sign what L1 holds."""
        payload = held.payload if type(held) is Pickled else pickle.dumps(held, PROTOCOL)
        return _signature(self._keys[0], payload) + payload

    def decode(self, data: bytes) -> object:
        """Check the signature, then give the value as L1 holds it.

        Raises:
            ValueError: The signature is missing or wrong, and nothing was unpickled; or a class in it is gone.
        """
        signature, payload = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(signature, _signature(key, payload)) for key in self._keys):
            raise msgspec.DecodeError("the pickle is not signed with our secret")
        try:
            value = pickle.loads(payload)  # noqa: S301 - signed by us
        except Exception as problem:  # its classes may have changed since, and raise anything: then it is a miss
            raise msgspec.DecodeError(f"the pickle cannot be loaded: {problem!r}") from problem
        return value if type(value) in IMMUTABLE else Pickled(payload)


def _signature(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")
