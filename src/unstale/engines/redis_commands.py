"""Commands as they are sent to Redis: some are made only when it is their turn.

An append of many records is several commands of one write. While the server works on the first one, the second is made:
else each of the two would wait for the other in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import hiredis

Command: TypeAlias = tuple[bytes | str | int | float, ...]
Commands: TypeAlias = Sequence[Command | Callable[[], Command]]  # some are made when they are sent
Data: TypeAlias = bytes | tuple[Callable[[], bytes], ...]  # what is sent: at once, or piece by piece


def made(command: Command | Callable[[], Command]) -> Command:
    """Give a command that may have to be made first."""
    return command() if callable(command) else command


def packed(commands: Commands) -> bytes:
    """Give the bytes of commands."""
    return b"".join([hiredis.pack_command(made(command)) for command in commands])  # type: ignore[arg-type]


def in_turn(commands: Commands) -> Data:
    """Give the bytes of commands, piece by piece if there are any to be made."""
    if not callable(commands[-1]):
        return packed(commands)
    return tuple(partial(packed, (command,)) for command in commands)


def joined(data: Data) -> bytes:
    """Give all that is sent as one."""
    return data if isinstance(data, bytes) else b"".join(piece() for piece in data)
