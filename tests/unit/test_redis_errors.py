from __future__ import annotations

import pytest
import redis

from unstale.engines.redis_errors import DENIED, OUT, PASSING, ErrorReply, reply_error
from unstale.engines.redis_places import unreached
from unstale.engines.redis_url import parse_url
from unstale.errors import (
    CorruptError,
    DeniedError,
    EngineError,
    FullError,
    ReadOnlyError,
    UnavailableError,
)

PLACE = "h:6379"
IN_SCRIPT = " script: 9bc7f80768576fffb212303764955938a4a98e2f, on @user_script:4."
REPLIES: tuple[tuple[str, type[EngineError], str], ...] = (
    ("NOAUTH Authentication required.", DeniedError, "password"),
    ("WRONGPASS invalid username-password pair or user is disabled.", DeniedError, "password"),
    ("NOPERM this user has no permissions to run the 'evalsha' command", DeniedError, "ACL SETUSER"),
    ("ERR The user executing the script can't run this command or subcommand" + IN_SCRIPT, DeniedError, "ACL SETUSER"),
    ("DENIED Redis is running in protected mode", DeniedError, "protected mode"),
    ("READONLY You can't write against a read only replica.", ReadOnlyError, "redis+sentinel://"),
    ("READONLY You can't write against a read only replica." + IN_SCRIPT, ReadOnlyError, "redis+sentinel://"),
    ("OOM command not allowed when used memory > 'maxmemory'.", FullError, "maxmemory"),
    ("ERR OOM command not allowed when used memory > 'maxmemory'." + IN_SCRIPT, FullError, "maxmemory"),
    ("MISCONF Redis is configured to save RDB snapshots", FullError, "disk"),
    ("WRONGTYPE Operation against a key holding the wrong kind of value" + IN_SCRIPT, CorruptError, "prefix="),
    (
        "ERR The ID specified in XADD is equal or smaller than the target stream top item" + IN_SCRIPT,
        CorruptError, ":meta",
    ),
    ("LOADING Redis is loading the dataset in memory", UnavailableError, "soon"),
    ("BUSY Redis is busy running a script.", UnavailableError, "SCRIPT KILL"),
    ("MASTERDOWN Link with MASTER is down", UnavailableError, "replica-serve-stale-data"),
    ("CLUSTERDOWN The cluster is down", UnavailableError, "CLUSTER INFO"),
    ("UNBLOCKED force unblock from blocking operation", UnavailableError, "replica now"),
    ("NOREPLICAS Not enough good replicas to write.", UnavailableError, "min-replicas-to-write"),
    ("ERR max number of clients reached", UnavailableError, "maxclients"),
    ("ERR unknown command 'EVALSHA', with args", EngineError, "Redis 7"),
    ("ERR something new", EngineError, "log"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "cure"), REPLIES)
def test_each_reply_has_its_error_and_its_cure(text: str, kind: type[EngineError], cure: str) -> None:
    """What a server replies becomes the error that fits, names the server and what was replied, and says what to do."""
    error = reply_error(ErrorReply(text), PLACE)
    assert type(error) is kind
    assert cure in error.hint
    assert PLACE in error.message


def test_the_code_of_a_reply_is_its_first_word() -> None:
    """Some parsers keep the minus before it."""
    assert ErrorReply("-LOADING Redis is").code == ErrorReply("LOADING").code == "LOADING"


def test_only_who_answers_nobody_counts_as_away() -> None:
    """An error reply tells the breaker that the server is there, unless it says that it answers nobody now."""
    for word in PASSING:
        for minus in ("", "-"):
            reply = ErrorReply(f"{minus}{word} x")
            assert isinstance(reply_error(reply, PLACE), UnavailableError) or minus
            assert reply.out == (word in OUT)
    assert set(PASSING) >= OUT


def test_what_fails_while_connecting_has_its_cure_too() -> None:
    """A connection that is refused for the password is no server that is away, nor is one without room."""
    url = parse_url("redis://me:secret@h:1")
    denied = unreached(("h", 1), url, redis.AuthenticationError("invalid username-password pair"))
    assert (type(denied), denied.hint) == (DeniedError, DENIED["WRONGPASS"])
    full = unreached(("h", 1), url, redis.ConnectionError("max number of clients reached"))
    assert (type(full), full.hint) == (UnavailableError, PASSING["ERR max"])
    away = unreached(None, url, TimeoutError())
    assert type(away) is UnavailableError
    assert "h:1 does not answer: TimeoutError" in away.message
    assert not any("secret" in str(error) for error in (denied, full, away))
