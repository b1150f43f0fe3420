"""Commands that are made when it is their turn to be sent."""

from __future__ import annotations

from functools import partial

import pytest

from unstale.engines.redis_commands import Command, in_turn, joined, packed

COMMANDS: tuple[Command, ...] = ((b"SET", b"a", 1), (b"GET", b"a"), (b"PING",))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_command_is_made_when_the_one_before_it_is_sent(count: int) -> None:
    """Piece by piece the bytes are those of all commands, and no command is made before its piece is asked for."""
    made: list[int] = []

    def make(number: int) -> Command:
        made.append(number)
        return COMMANDS[number]

    data = in_turn([partial(make, number) for number in range(count)])
    assert not isinstance(data, bytes)
    sent = b""
    for number, piece in enumerate(data):
        assert made == list(range(number))
        sent += piece()
    assert sent == packed(COMMANDS[:count])


def test_they_are_made_anew_when_they_are_sent_again() -> None:
    """A connection that was found dead costs nothing: all that was sent is there once more."""
    data = in_turn([partial(COMMANDS.__getitem__, number) for number in range(3)])
    assert joined(data) == joined(data) == packed(COMMANDS)


def test_what_has_to_be_sent_at_once_is() -> None:
    """Where what follows is known already, as a WAIT for replicas, all leaves in one write."""
    data = in_turn([partial(COMMANDS.__getitem__, 0), *COMMANDS[1:]])
    assert data == packed(COMMANDS)
    assert joined(data) is data
