from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.postgres_servers import USER, PostgresServer
from tests.support.postgres_shop import MEMBER, Engines, open_engines
from unstale.core.ops import Item
from unstale.errors import BusyError, CorruptError, DeniedError, ReadOnlyError, UnavailableError
from unstale.testing.conformance.suite import InThread, record

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresServer]:
    """Give one server for all tests that harm only what is theirs."""
    with PostgresServer(password_encryption="scram-sha-256") as server:
        yield server


@pytest.fixture
def server(shared: PostgresServer) -> Iterator[PostgresServer]:
    """Give the server without any of our tables."""
    shared.sql("DROP SCHEMA IF EXISTS unstale CASCADE")
    yield shared
    shared.sql("DROP SCHEMA IF EXISTS unstale CASCADE")


@pytest.fixture
def engines() -> Iterator[Engines]:
    """Make engines, and close them."""
    with open_engines() as engines:
        yield engines


def as_user(server: PostgresServer, user: str) -> str:
    """Give the URL with another user."""
    return server.url.replace(f"//{USER}@", f"//{user}@")


def test_a_database_that_is_not_there(server: PostgresServer, engines: Engines) -> None:
    """Who names a database that is not there is told how to make it, in both colours."""
    engine = engines(server.url.replace("/postgres", "/nowhere"))
    with pytest.raises(UnavailableError, match="no such database") as caught:
        engine.read_head()
    assert "createdb" in caught.value.hint
    with pytest.raises(UnavailableError, match="no such database"):
        asyncio.run(engine.aread_head())


def test_a_wrong_password(server: PostgresServer, engines: Engines) -> None:
    """A password that is wrong or missing is named as the cause, and told to nobody."""
    server.sql("DROP ROLE IF EXISTS secretive", "CREATE ROLE secretive LOGIN PASSWORD 'right'")
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all secretive all scram-sha-256\n{before}")
    server.sql("SELECT pg_reload_conf()")
    try:
        for login in ("secretive:wr0ng", "secretive"):
            with pytest.raises(DeniedError) as caught:
                engines(as_user(server, login)).read_head()
            assert "wr0ng" not in str(caught.value)
            assert "password" in caught.value.hint
        server.sql("GRANT CREATE ON DATABASE postgres TO secretive")
        assert engines(as_user(server, "secretive:right")).read_head().head == 0
    finally:
        rules.write_text(before)
        server.sql("SELECT pg_reload_conf()", "DROP OWNED BY secretive CASCADE", "DROP ROLE secretive")


def test_rights_that_are_missing(server: PostgresServer, engines: Engines) -> None:
    """A user without rights is told the GRANTs; with those of the hint for tables that are there it can work."""
    server.sql("DROP ROLE IF EXISTS poor", "CREATE ROLE poor LOGIN")
    poor = engines(as_user(server, "poor"), name="poor")
    with pytest.raises(DeniedError, match="permission denied") as caught:
        poor.read_head()
    assert "GRANT CREATE ON DATABASE" in caught.value.hint
    engines(server.url).read_head()
    with pytest.raises(DeniedError, match="permission denied"):
        poor.read_head()
    granted = caught.value.hint.partition("already: ")[2].replace("<user>", "poor").split(";")
    assert len(granted) == 3
    server.sql(*granted)
    poor.append((record("a"),))
    poor.poll(MEMBER, 0, 10, 0.0)
    poor.store((Item("k", b"x", 10.0),))
    assert poor.lock("k", 1.0) is not None
    assert poor.read_marks(("a",)).marks == {"a": 1}
    poor.leave("n")
    server.sql("DROP OWNED BY poor CASCADE", "DROP ROLE poor")


def test_tables_of_another_version(server: PostgresServer, engines: Engines) -> None:
    """Tables of a format that this version does not know are left alone."""
    engines(server.url).read_head()
    server.sql("UPDATE unstale.format SET version = 2", "DROP FUNCTION unstale.identify_1")
    with pytest.raises(CorruptError, match="format 2"):
        engines(server.url).read_head()
    assert server.sql("SELECT to_regproc('unstale.identify_1') IS NULL") == [(True,)]


def test_tables_of_another_program(server: PostgresServer, engines: Engines) -> None:
    """A schema in which another program has tables of our names is left as it is."""
    server.sql("CREATE SCHEMA unstale", "CREATE TABLE unstale.log (theirs int)")
    with pytest.raises(CorruptError, match="another program"):
        engines(server.url).append((record("a"),))
    assert server.sql("SELECT to_regclass('unstale.cache') IS NULL") == [(True,)]
    assert engines(f"{server.url}?schema=elsewhere").append((record("a"),)).identity.head == 1
    server.sql("DROP SCHEMA elsewhere CASCADE")


def test_a_read_only_server(server: PostgresServer, engines: Engines) -> None:
    """A server whose sessions may not write is told as such."""
    server.sql("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN SUPERUSER")
    server.sql("ALTER ROLE reader SET default_transaction_read_only = on")
    with pytest.raises(ReadOnlyError, match="takes no writes"):
        engines(as_user(server, "reader")).append((record("a"),))
    server.sql("DROP ROLE reader")


def test_too_many_connections(server: PostgresServer, engines: Engines) -> None:
    """A server that has no room for another connection is told as such, and asked again later."""
    server.sql("DROP ROLE IF EXISTS crowd", "CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    with pytest.raises(UnavailableError, match="no room for another connection") as caught:
        engines(as_user(server, "crowd")).read_head()
    assert "max_connections" in caught.value.hint
    server.sql("DROP ROLE crowd")


def test_who_holds_a_lock_on_our_tables_is_not_waited_for(server: PostgresServer, engines: Engines) -> None:
    """Where another session keeps our tables locked, a call gives up in time, and has done nothing."""
    engine = engines(f"{server.url}?timeout=500ms")
    engine.append((record("a"),))
    with server.client() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE unstale.cache")
        with pytest.raises(BusyError, match="gave up"):
            engine.append((record("a"),))
        other.execute("ROLLBACK")
    assert engine.append((record("b"),)).identity.head == 2


def test_connections_that_the_server_has_ended_are_replaced(server: PostgresServer, engines: Engines) -> None:
    """Connections that an administrator or a firewall has ended while idle are made anew, unnoticed."""
    engine = engines(server.url)

    async def both() -> None:
        for _ in range(3):
            assert await engine.aread_head() == engine.read_head()
            waiting = InThread(lambda: engine.poll(MEMBER, 0, 10, 0.05))
            server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'unstale'")
            waiting._thread.join()

    asyncio.run(both())


def test_several_loops_and_threads_share_an_engine(server: PostgresServer, engines: Engines) -> None:
    """Each loop has its own connections, many tasks share them, and none gets the answer of another."""
    engine = engines(server.url)
    engine.store(tuple(Item(f"k{number}", f"{number}".encode(), 60.0) for number in range(40)))

    async def one(number: int) -> None:
        (found,) = await engine.afetch((f"k{number}",))
        assert found is not None
        assert found.data == f"{number}".encode()

    async def many() -> None:
        for _ in range(3):
            await asyncio.gather(*(one(number) for number in range(40)))

    calls = [InThread(lambda: asyncio.run(many())) for _ in range(3)]
    calls.append(InThread(lambda: [engine.fetch(("k1",)) for _ in range(50)] and None))
    for call in calls:
        call.result(type(None))
    ((open_,),) = server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'unstale'")
    assert open_ <= 3 * 8 + 16


def test_a_cancelled_task_leaves_no_answer_behind(server: PostgresServer, engines: Engines) -> None:
    """A task that is cancelled while its answer is on its way gives its connection to nobody."""
    engine = engines(server.url)
    engine.store(tuple(Item(f"k{number}", f"{number}".encode(), 60.0) for number in range(10)))

    async def main() -> None:
        await engine.aread_head()
        for number in range(50):
            task = asyncio.ensure_future(engine.afetch((f"k{number % 10}",)))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
            (found,) = await engine.afetch((f"k{(number + 1) % 10}",))
            assert found is not None
            assert found.data == f"{(number + 1) % 10}".encode()

    asyncio.run(main())
