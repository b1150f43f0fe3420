from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():  # some of what it imports is old
    warnings.simplefilter("ignore")
    from celery import Celery, chain  # type: ignore[import-untyped]
    from celery.contrib.testing import worker as workers  # type: ignore[import-untyped]

import unstale
import unstale.celery
from tests.support.lagging import Shop, shops
from unstale.core.context import surroundings
from unstale.errors import UsageError

PATIENCE_S = 30
SECRET = "a secret of some length"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Give two nodes, of which one is late."""
    with shops(tmp_path) as one:
        yield one
    assert surroundings.get() is None  # no task leaves its session to the thread


@pytest.fixture
def connected() -> Iterator[None]:
    """Let tasks carry tickets."""
    unstale.celery.connect()
    yield
    unstale.celery.disconnect()


def tasks_of(shop: Shop, *, eager: bool = False) -> Celery:
    """Give tasks that write by one node and read by the other, as if two machines ran them."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        task_always_eager=eager,
        broker_connection_retry_on_startup=False,
        broker_transport_options={"polling_interval": 0.02},
        worker_enable_remote_control=False,
    )

    @app.task(name="read", shared=False)  # type: ignore[untyped-decorator]
    def read(*_before: object) -> int:
        return shop.read(17)

    @app.task(name="write", shared=False)  # type: ignore[untyped-decorator]
    def write(price: int) -> dict[str, Any]:
        shop.write(price)
        return {"ticket": unstale.celery.token()}

    @app.task(name="write and start", shared=False)  # type: ignore[untyped-decorator]
    def write_and_start(price: int) -> str:
        shop.write(price)
        return str(read.delay().id)

    @app.task(name="fail once", shared=False, bind=True, max_retries=1)  # type: ignore[untyped-decorator]
    def fail_once(self: Any, price: int) -> int:
        if self.request.retries == 0:
            shop.write(price)
            raise self.retry(countdown=0)
        return shop.read(17)

    @app.task(name="fail", shared=False)  # type: ignore[untyped-decorator]
    def fail() -> None:
        raise LookupError

    return app


@pytest.fixture
def running(shop: Shop) -> Iterator[Celery]:
    """Give an application with a worker in a thread."""
    app = tasks_of(shop)
    with workers.start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=PATIENCE_S):
        yield app


def result(sent: Any) -> Any:
    """Wait for what a task gives."""
    return sent.get(timeout=PATIENCE_S, disable_sync_subtasks=False)


def test_h05_without_it_a_task_reads_what_was_before(shop: Shop, running: Celery) -> None:
    """The control: a task that was sent after a write, and runs on a node that is late, does not see it."""
    shop.read(17)
    with unstale.session():
        shop.write(2)
        assert result(running.tasks["read"].delay()) == 1


@pytest.mark.usefixtures("connected")
def test_h05_a_task_reads_what_its_sender_wrote(shop: Shop, running: Celery) -> None:
    """The ticket travels with the message; a task that was sent outside of the session has none."""
    shop.read(17)
    with unstale.session():
        shop.write(2)
        assert result(running.tasks["read"].delay()) == 2
    shop.write(3)
    assert result(running.tasks["read"].delay()) == 2


@pytest.mark.usefixtures("connected")
def test_h05_a_task_hands_its_writes_on(shop: Shop, running: Celery) -> None:
    """What a task wrote is seen by the tasks that it sends, by the next of a chain, and by its own retry."""
    shop.read(17)
    assert result(running.AsyncResult(result(running.tasks["write and start"].delay(2)))) == 2
    assert result(chain(running.tasks["write"].s(3), running.tasks["read"].s()).delay()) == 3
    assert result(running.tasks["fail once"].delay(4)) == 4


@pytest.mark.usefixtures("connected")
def test_h05_a_result_brings_the_token_of_its_task(shop: Shop, running: Celery) -> None:
    """Whoever waits for a task takes its token, and sees what it wrote."""
    shop.read(17)
    with unstale.session() as session:
        ticket = result(running.tasks["write"].delay(2))["ticket"]
        assert shop.read(17) == 1
        session.take(ticket)
        assert shop.read(17) == 2


@pytest.mark.usefixtures("connected")
def test_h24_tasks_do_not_share_a_session(shop: Shop, running: Celery) -> None:
    """A worker runs one task after the other: what one wrote, or how it failed, is nothing to the next."""
    shop.read(17)
    with pytest.raises(LookupError):
        result(running.tasks["fail"].delay())
    result(running.tasks["write"].delay(2))
    assert result(running.tasks["read"].delay()) == 1


@pytest.mark.usefixtures("connected")
def test_h05_eager_tasks_are_part_of_the_session_around_them(shop: Shop) -> None:
    """A task that runs at once reads what its caller wrote, and the caller what the task wrote."""
    tasks = tasks_of(shop, eager=True).tasks
    shop.read(17)
    with unstale.session() as session:
        shop.write(2)
        assert tasks["read"].delay().get() == 2
        tasks["write"].delay(3)
        assert session.raised
        assert shop.read(17) == 3
        assert tasks["fail once"].delay(4).get() == 4
        with pytest.raises(LookupError):
            tasks["fail"].delay().get()
        assert tasks["write"].delay(5).get()["ticket"] == session.token
    assert unstale.celery.token() == ""


def test_h29_a_message_with_a_forged_ticket(shop: Shop, running: Celery) -> None:
    """With a secret, a ticket of somebody who has it not, or of another type, counts as none."""
    shop.read(17)
    with unstale.session() as forger:
        shop.write(2)
    unstale.celery.connect()
    unstale.celery.connect(secret=SECRET)
    try:
        for ticket in (forger.token, 7):
            assert result(running.tasks["read"].apply_async(headers={"unstale_ticket": ticket})) == 1
        with unstale.session(forger.token):
            assert result(running.tasks["read"].delay()) == 2
    finally:
        unstale.celery.disconnect()
    with pytest.raises(UsageError):
        unstale.celery.connect(secret="short")
