"""The drivers: background threads that cannot block one another, forks, and the end of the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from unstale import Cache, Origin
from unstale.drivers import Background
from unstale.errors import UsageError

DEADLINE_S = 30.0


def fresh(**settings: object) -> Cache:
    """Make a cache of its own."""
    return Cache(f"memory://{uuid.uuid4()}", **settings)  # type: ignore[arg-type]


def eventually(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a deadline."""
    until = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < until, "it did not come in time"
        pause.wait(0.002)


def threads_of(what: str) -> list[threading.Thread]:
    """Give the background threads that have done such a job last."""
    return [thread for thread in threading.enumerate() if thread.name == f"unstale: {what}"]


def test_loads_in_the_background_cannot_block_one_another() -> None:
    """64 loads at once, each of which waits for another load in the background, all end."""
    count = 64
    together = threading.Barrier(count)
    with fresh() as cache:

        @cache.cached("inner:{n}", soft_timeout="10s", grace="1h")
        def inner(n: int) -> int:
            return n

        @cache.cached("outer:{n}", soft_timeout="10s", grace="1h")
        def outer(n: int) -> int:
            together.wait(DEADLINE_S)
            return inner(n) + 1

        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(outer, range(count), timeout=DEADLINE_S)) == [n + 1 for n in range(count)]


def test_loads_within_loads_of_one_origin_end() -> None:
    """Many loads of an origin with one place, each with a load of the same origin within it, all end."""
    origin = Origin(1, wait=DEADLINE_S)
    with fresh() as cache:

        @cache.cached("inner:{n}", hard_timeout="30s", origin=origin)
        def inner(n: int) -> int:
            return n

        @cache.cached("outer:{n}", hard_timeout="30s", origin=origin)
        def outer(n: int) -> int:
            return inner(n) + 1

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(outer, range(16), timeout=DEADLINE_S)) == [n + 1 for n in range(16)]


def test_an_idle_thread_is_used_again() -> None:
    """Jobs one after the other run in one thread."""
    background, used = Background(idle_s=DEADLINE_S), set[int]()
    for _ in range(20):
        done = threading.Event()

        def job(done: threading.Event = done) -> None:
            used.add(threading.get_ident())
            done.set()

        background.submit(job, "one of a burst")
        assert done.wait(DEADLINE_S)
        eventually(lambda: background._idle == 1)
    assert len(used) == 1


def test_idle_threads_end_by_themselves() -> None:
    """A thread that has had nothing to do for a while is gone."""
    background = Background(idle_s=0.01)
    for _ in range(5):
        background.submit(lambda: None, "brief")
    eventually(lambda: not threads_of("brief"))
    assert (background._idle, len(background._jobs)) == (0, 0)


def test_a_failing_job_spoils_no_thread() -> None:
    """A job that raises ends alone: its thread takes the next one."""
    background, done = Background(idle_s=DEADLINE_S), threading.Event()

    def fail() -> None:
        raise LookupError

    background.submit(fail, "failing")
    eventually(lambda: background._idle == 1)
    background.submit(done.set, "next")
    assert done.wait(DEADLINE_S)


def test_no_job_waits_for_another() -> None:
    """However many jobs are submitted at once, all run at the same time, idle threads or not."""
    background, together = Background(idle_s=DEADLINE_S), threading.Barrier(41)
    for _ in range(3):
        for _ in range(40):
            background.submit(lambda: together.wait(DEADLINE_S), "crowd")
        together.wait(DEADLINE_S)


def test_without_a_thread_the_caller_does_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no more threads, a load with a timeout runs in its caller's."""

    def refuse(_thread: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with fresh() as cache:
        cache.set("warm", 1)

        @cache.cached("n:{n}", hard_timeout="10s")
        def load(n: int) -> int:
            return threading.get_ident()

        monkeypatch.setattr("unstale.drivers.BACKGROUND", Background())
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert load(1) == threading.get_ident()


def test_a_blocking_call_cannot_await() -> None:
    """A function that turns out to need an await is refused, its coroutine is closed, and the twin is named."""

    async def later() -> int:
        return 1

    with fresh() as cache, pytest.raises(UsageError, match="has to be awaited") as refusal:
        cache.get_or_load("n:1", lambda: later())  # noqa: PLW0108 - that is what people write
    assert "aget_or_load" in refusal.value.hint


def test_a_failing_on_trouble_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What is called on trouble may fail itself: that is logged, and the cache goes on."""

    def fail(what: str, error: BaseException) -> None:
        raise LookupError(what)

    with fresh(on_trouble=fail) as cache:
        cache.node.trouble("tail", LookupError())
        assert cache.get_or_load("k", lambda: 17) == 17
    assert "on_trouble failed when it was told of tail" in caplog.text


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, where warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_end_of_the_interpreter_waits_for_nothing() -> None:
    """With a load under way and idle threads, the interpreter ends at once and without a word."""
    done = run_script("""
        import threading
        from unstale import Cache, errors
        cache = Cache("memory://")
        @cache.cached("n:{n}", hard_timeout="10ms")
        def load(n: int) -> int:
            return threading.Event().wait(3600) or n
        @cache.cached("m:{n}", hard_timeout="10s")
        def quick(n: int) -> int:
            return n
        try:
            load(1)
        except errors.LoadTimeoutError:
            print(quick(2))
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """After a fork, loads in the background run in the child and in the parent, though idle threads were not copied."""
    done = run_script("""
        import os, warnings
        from unstale import Cache
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = Cache("memory://")
        @cache.cached("n:{n}", hard_timeout="20s")
        def load(n: int) -> int:
            return n
        load(1)
        child = os.fork()
        if not child:
            os._exit(load(2) + load(3))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), load(4))
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 4\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
def test_an_interrupted_wait_leaves_a_usable_cache() -> None:
    """Ctrl-C while a read waits for a load is a KeyboardInterrupt in that thread alone; the next read goes on."""
    done = run_script("""
        import signal, sys, threading, time, traceback
        from unstale import Cache
        cache = Cache("memory://")
        go_on, main = threading.Event(), threading.get_ident()
        @cache.cached("n:{n}", hard_timeout="20s")
        def load(n: int) -> int:
            return n + go_on.wait(20)
        def interrupt():
            while "_wait" not in [frame.name for frame in traceback.extract_stack(sys._current_frames()[main])]:
                time.sleep(0.001)
            signal.pthread_kill(main, signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            load(1)
        except KeyboardInterrupt:
            go_on.set()
            print("interrupted", load(1), load(2))
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted 2 3\n", "")


@pytest.mark.parametrize("interrupted", ["_start", "_work"])
def test_an_interrupted_start_is_made_again(interrupted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the first call starts the tail, which may run by then, leaves no tail that nobody would stop."""
    start, begun = threading.Thread.start, list[threading.Thread]()

    def interrupt(thread: threading.Thread) -> None:
        begun.append(thread)
        if interrupted == "_work":
            start(thread)
        raise KeyboardInterrupt

    with fresh() as cache:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupt)
            with pytest.raises(KeyboardInterrupt):
                cache.get("k")
        assert cache.get_or_load("k", lambda: 17) == cache.get("k") == 17
        eventually(lambda: not begun[0].is_alive())
