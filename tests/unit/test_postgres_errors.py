from __future__ import annotations

import pytest

from unstale.engines.postgres_errors import ServerError, server_error, unreached
from unstale.errors import (
    BusyError,
    CorruptError,
    DeniedError,
    EngineError,
    FullError,
    ReadOnlyError,
    UnavailableError,
)


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        ("42501", DeniedError, "GRANT CREATE ON DATABASE"),
        ("28P01", DeniedError, "password"),
        ("3D000", UnavailableError, "createdb"),
        ("25006", ReadOnlyError, "primary"),
        ("53100", FullError, "room on its disk"),
        ("53300", UnavailableError, "max_connections"),
        ("53200", FullError, "memory"),
        ("54000", FullError, "gigabyte"),
        ("57014", BusyError, "pg_locks"),
        ("40P01", BusyError, "pg_locks"),
        ("57P03", UnavailableError, "soon"),
        ("58030", UnavailableError, "log"),
        ("XX001", CorruptError, "restore"),
        ("23505", CorruptError, "DROP SCHEMA cache CASCADE"),
        ("42804", CorruptError, "DROP SCHEMA cache CASCADE"),
        ("UN001", CorruptError, "version"),
        ("UN002", CorruptError, "?schema="),
        ("99999", EngineError, "log"),
    ],
)
def test_each_answer_has_its_cure(code: str, kind: type[EngineError], hint: str) -> None:
    """What a server answers becomes the error of ours that it means, with what to do about it."""
    told = server_error(ServerError(code, "what it says"), "host/shop", "cache")
    assert type(told) is kind
    assert hint in told.hint
    assert "host/shop" in told.message
    assert "what it says" in told.message
    assert "{schema}" not in told.hint


def test_an_unlogged_table_on_a_replica_is_told_from_what_is_not_supported() -> None:
    """PostgreSQL has one code for both."""
    text = "cannot access temporary or unlogged relations during recovery"
    assert type(server_error(ServerError("0A000", text), "host", "s")) is ReadOnlyError
    assert type(server_error(ServerError("0A000", "no such feature"), "host", "s")) is EngineError


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ('FATAL: database "shop" does not exist', UnavailableError, "createdb"),
        ("FATAL: sorry, too many clients already", UnavailableError, "max_connections"),
        ('FATAL: password authentication failed for user "me"', DeniedError, "password"),
        ("no password supplied", DeniedError, "password"),
        ('FATAL: role "me" does not exist', DeniedError, "user"),
        ("session is read-only", ReadOnlyError, "primary"),
        ("Connection refused", UnavailableError, "look whether it runs"),
    ],
)
def test_why_there_is_no_connection(text: str, kind: type[EngineError], hint: str) -> None:
    """What libpq says of a connection that it could not make leads to the cure as well."""
    told = unreached("host/shop", text)
    assert type(told) is kind
    assert hint in told.hint
