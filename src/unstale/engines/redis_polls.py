"""What a poll of the Redis engine tells of its member, and what of its answer the next one needs."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from unstale.core.ops import Batch, Member

# The latest poll that led to the head: its member, the generation and the position, and the answer there.
AtHead: TypeAlias = tuple[tuple[str, str, int], Batch | None]
NOWHERE: Final[AtHead] = (("", "", -1), None)


class Told(msgspec.Struct, array_like=True):
    """What a member tells of itself; `beat` is another one each time."""

    beat: str
    generation: str
    applied: int
    bound_s: float


encode_told = msgspec.msgpack.Encoder().encode
_decode_told = msgspec.msgpack.Decoder(Told).decode


def decode_told(data: bytes) -> Told | None:
    """Read what a member told; None for what no member has written."""
    try:
        return _decode_told(data)
    except msgspec.MsgspecError:
        return None


def led_to(member: Member, position: int, batch: Batch) -> AtHead:
    """Give where the answer to a poll leads its member, if that is the head.

    Args:
        member: Who asked.
        position: After which position it asked.
        batch: The answer.
    """
    identity, reached, at_id = batch.identity, position, batch.at_id
    if batch.records:
        reached, at_id = batch.records[-1].position, batch.records[-1].id
    if reached != identity.head or identity.generation != member.generation:
        return NOWHERE
    return (member.node, identity.generation, reached), Batch(identity, at_id, ())
