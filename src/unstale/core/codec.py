"""Codecs: how a value becomes bytes, and how it is made sure that the same value comes back."""

from __future__ import annotations

import dataclasses
import hmac
import inspect
import pickle
from typing import Any, Final, Protocol

import msgspec
from msgspec.inspect import AnyType, CollectionType, CustomType, DictType, Type, type_info

from unstale.core.shape import digest, nodes_of, shape_of
from unstale.errors import ValueTypeError

SECRET_BYTES_MIN: Final = 16
"""The shortest secret that signs pickles, in bytes."""

_PICKLE_PROTOCOL: Final = 5  # every Python that we support reads it
_SIGNATURE_BYTES: Final = 32
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_RETURN_TYPES: Final = (
    "return a dataclass, msgspec.Struct, TypedDict, NamedTuple or built-in type (turn a pydantic model or a database "
    "row into one of these), or pass codec="
)
_UNRESOLVED: Final = "import what the annotation names at run time, not under `if TYPE_CHECKING:`, or pass codec="
_ANNOTATE: Final = "annotate the return type with what is returned, or pass codec="
_COME_BACK: Final = {
    tuple: "annotate the return type, e.g. -> tuple[int, ...]",
    set: "annotate the return type, e.g. -> set[str]",
    frozenset: "annotate the return type, e.g. -> frozenset[str]",
    type(None): "None may be returned, so say so in the annotation: -> ... | None",
}


class Codec(Protocol):
    """What turns the values of one cached function into bytes, and back."""

    @property
    def shape(self) -> str:
        """Eight hex digits that stand in the stored key, so that bytes of another shape are never read."""

    def encode(self, value: object) -> bytes:
        """Encode a value, or raise `ValueTypeError`."""

    def decode(self, data: bytes) -> object:
        """Decode bytes, or raise `ValueError` (as `msgspec.DecodeError` is one): the caller takes that for a miss."""


class TypedCodec:
    """MessagePack for the values of one return annotation; made by `codec_for`.

    A value is decoded again and compared before its bytes are given out. Where the annotation is fixed down to its
    leaves, that is done once for each class of values; where it leaves something open (`Any`, or the items of a list
    or dict: an empty list would vouch for all) it is done each time. `None`, numbers, texts and bytes need no proof
    where nothing is annotated. An aware datetime comes back as the same moment, in UTC.

    Attributes:
        shape: Eight hex digits that change with the structure of the annotated type.
    """

    __slots__ = ("_annotation", "_decode", "_encode", "_has_any", "_known", "_owner", "_stays_open", "shape")

    def __init__(self, decoder: msgspec.msgpack.Decoder[Any], root: Type, *, owner: str, annotation: str) -> None:
        self.shape = shape_of(root)
        self._owner = owner
        self._annotation = annotation
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = decoder.decode
        nodes = nodes_of(root)
        self._has_any = any(isinstance(node, AnyType) for node in nodes)
        self._stays_open = self._has_any or any(isinstance(node, CollectionType | DictType) for node in nodes)
        self._known: set[type] = set(_SCALARS) if isinstance(root, AnyType) else set()

    def encode(self, value: object) -> bytes:
        """Encode a value, and make sure that it comes back equal.

        Args:
            value: What the loader returned.

        Returns:
            MessagePack.

        Raises:
            ValueTypeError: It cannot be encoded, or would come back as something else.
        """
        kind = type(value)
        try:
            data = self._encode(value)
            if kind not in self._known:
                self._prove(value, data)
        except ValueTypeError:
            raise
        except (TypeError, ValueError, ArithmeticError, RecursionError) as problem:
            raise self._refusal(f"returned {kind.__qualname__} that cannot be encoded: {problem}") from problem
        return data

    def decode(self, data: bytes | memoryview) -> object:
        """Decode what `encode` returned.

        Args:
            data: Bytes from a store, which anyone may have written.

        Returns:
            The value, of the annotated type.

        Raises:
            ValueError: The bytes are not the encoding of such a value.
        """
        try:
            return self._decode(data)
        except ValueError:
            raise
        except Exception as problem:  # deep nesting, or whatever a class raises in its __post_init__
            raise msgspec.DecodeError(f"the value cannot be built: {problem!r}") from problem

    def _prove(self, value: object, data: bytes) -> None:
        kind = type(value)
        try:
            back = self.decode(data)
        except ValueError as problem:
            message = f"returned {kind.__qualname__} where {self._annotation} is annotated: {problem}"
            raise self._refusal(message, _COME_BACK.get(kind, _ANNOTATE)) from problem
        # An annotated type brings its own classes back, so that `==` sees all that matters, and sees it fast.
        # Under Any a subclass would come back as its base, and still be equal to it.
        if self._has_any or type(back) is not kind or back != value:
            difference = _difference(value, back)
            if difference is not None:
                was, will_be = (type(side).__qualname__ for side in difference)
                change = f"{was} would come back as {'another ' if was == will_be else ''}{will_be}"
                hint = _COME_BACK.get(type(difference[0]), _ANNOTATE)
                raise self._refusal(f"returned {kind.__qualname__} that the store would change: {change}", hint)
        if not self._stays_open:
            self._known.add(kind)

    def _refusal(self, message: str, hint: str | None = None) -> ValueTypeError:
        return ValueTypeError(f"{self._owner} {message}", hint=hint or _RETURN_TYPES, owner=self._owner)


def codec_for(annotation: object, owner: str) -> TypedCodec:
    """Make the codec for a loader.

    Args:
        annotation: Its resolved return annotation; `inspect.Signature.empty`, `Any` and `object` leave values untyped.
        owner: The loader's name; errors begin with it.

    Returns:
        The codec.

    Raises:
        ValueTypeError: Values so annotated could not be decoded from bytes.
    """
    wanted: Any = Any if annotation is inspect.Signature.empty or annotation is object else annotation
    shown = inspect.formatannotation(wanted)
    message = f"{owner} is annotated {shown}, which cannot be cached"
    try:
        root = type_info(wanted)
        decoder = msgspec.msgpack.Decoder(wanted)
    except (TypeError, ValueError, NameError, AttributeError) as problem:
        hint = _UNRESOLVED if isinstance(problem, NameError) or isinstance(wanted, str) else _RETURN_TYPES
        raise ValueTypeError(f"{message}: {problem}", hint=hint, owner=owner) from problem
    for node in nodes_of(root):
        if isinstance(node, CustomType):
            raise ValueTypeError(f"{message}: {node.cls!r} is not decodable", hint=_RETURN_TYPES, owner=owner)
    return TypedCodec(decoder, root, owner=owner, annotation=shown)


class SignedPickle:
    """Pickle, for those who ask for it: nothing is unpickled before its signature has been checked.

    Whoever knows the secret can run code in every process that reads the store. A signature tells who wrote the bytes,
    not under which key: who can write to the store without the secret can still put one entry in another's place.

    Args:
        secret: At least 16 bytes (or characters) that only the nodes know.
        previous: The secret before this one, still accepted while secrets are being exchanged.

    Raises:
        ValueTypeError: A secret is too short, or neither bytes nor text.
    """

    __slots__ = ("_secrets",)

    shape: Final = digest("pickle")  # a pickle carries its own structure; a constant, for every hit compares it

    def __init__(self, secret: bytes | str, *, previous: bytes | str | None = None) -> None:
        self._secrets = [_secret_bytes(given) for given in ([secret] if previous is None else [secret, previous])]

    def encode(self, value: object) -> bytes:
        """Pickle and sign a value.

        Args:
            value: Anything that can be pickled.

        Returns:
            The signature, then the pickle.

        Raises:
            ValueTypeError: It cannot be pickled.
        """
        try:
            payload = pickle.dumps(value, _PICKLE_PROTOCOL)
        except Exception as problem:  # `__reduce__` may raise anything
            message = f"{type(value).__qualname__} cannot be pickled: {problem!r}"
            raise ValueTypeError(message, hint="return data, not open files, locks or local classes") from problem
        return _signature(self._secrets[0], payload) + payload

    def decode(self, data: bytes) -> object:
        """Check the signature, then unpickle.

        Args:
            data: Bytes from a store, which anyone may have written.

        Returns:
            The value.

        Raises:
            ValueError: The signature is missing or wrong, and nothing was unpickled; or a class in it is gone.
        """
        signature, payload = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(signature, _signature(secret, payload)) for secret in self._secrets):
            raise ValueError("the pickle is not signed with our secret")
        try:
            return pickle.loads(payload)  # noqa: S301  # signed by us
        except Exception as problem:  # the classes may have changed since, and raise anything
            raise ValueError(f"the pickle cannot be loaded: {problem!r}") from problem


def _secret_bytes(secret: bytes | str) -> bytes:
    given = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(given, bytes) or len(given) < SECRET_BYTES_MIN:
        hint = "make one with secrets.token_hex(32), and keep it out of the code"
        raise ValueTypeError(f"a secret for pickles has at least {SECRET_BYTES_MIN} bytes", hint=hint)
    return given


def _signature(secret: bytes, payload: bytes) -> bytes:
    """Sign for this purpose alone: no other use of the secret yields a signature that is valid here."""
    return hmac.digest(secret, b"unstale pickle 1:" + payload, "sha256")


def _difference(value: object, back: object) -> tuple[object, object] | None:
    """Find the first parts that differ in type or value; NaN is itself, and an int may stand for a float (PEP 484)."""
    if type(value) is not type(back):
        return None if type(value) is int and type(back) is float and value == back else (value, back)
    parts, others = _parts(value), _parts(back)
    if len(parts) != len(others):
        return value, back
    for part, other in zip(parts, others, strict=True):
        if type(part) is type(other) and type(part) in _SCALARS and part == other:
            continue  # as nearly all parts are: spare them a call
        difference = _difference(part, other)
        if difference is not None:
            return difference
    if parts:
        return None
    if isinstance(value, set | frozenset) and isinstance(back, set | frozenset):
        same = {(type(item), item) for item in value} == {(type(item), item) for item in back}
    else:
        same = value == back or (value != value and back != back)  # noqa: PLR0124  # NaN, as float or Decimal
    return None if same else (value, back)


def _parts(value: object) -> list[object]:
    """List what a value is made of, in an order that its encoding keeps; nothing for what has no parts."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return []
