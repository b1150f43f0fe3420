from __future__ import annotations

import threading
from collections.abc import Callable

from unstale.core.signal import Signal

DEADLINE_S = 20.0


class Interrupted(list[Callable[[], object]]):
    """Callbacks of a signal that is fired right after one has been registered."""

    def __init__(self, signal: Signal) -> None:
        self.signal = signal

    def append(self, callback: Callable[[], object]) -> None:
        super().append(callback)
        self.signal.fire()


def test_firing_wakes_all_who_wait() -> None:
    """Every callback is called when the signal fires, and not before."""
    signal, called = Signal(), []
    signal.watch(lambda: called.append("a"))
    signal.watch(lambda: called.append("b"))
    assert (signal.fired, called) == (False, [])
    signal.fire()
    assert (signal.fired, called) == (True, ["a", "b"])


def test_a_late_watcher_is_called_at_once() -> None:
    """Who begins to wait after the signal has fired is not left waiting."""
    signal, called = Signal(), []
    signal.fire()
    signal.watch(lambda: called.append("late"))
    assert called == ["late"]


def test_an_unwatched_callback_is_not_called() -> None:
    """Who has given up is not called any more; giving up twice, or without having watched, is harmless."""
    signal, called = Signal(), []

    def callback() -> None:
        called.append("gone")

    signal.watch(callback)
    signal.watch(lambda: called.append("stays"))
    signal.unwatch(callback)
    signal.unwatch(callback)
    signal.fire()
    assert called == ["stays"]


def test_a_signal_that_fires_while_one_begins_to_watch_is_not_missed() -> None:
    """Fired between the registration of a callback and the look at `fired`, the signal makes the call."""
    signal, called = Signal(), []
    signal._callbacks = Interrupted(signal)
    signal.watch(lambda: called.append("at least once"))
    assert set(called) == {"at least once"}


def test_callbacks_may_watch_and_unwatch() -> None:
    """A callback may register another, which is called, or take itself out."""
    signal, called = Signal(), []

    def first() -> None:
        signal.unwatch(first)
        signal.watch(lambda: called.append("second"))

    signal.watch(first)
    signal.watch(lambda: called.append("third"))
    signal.fire()
    assert called == ["second", "third"]
    signal.fire()  # firing again is harmless: callbacks are idempotent
    assert set(called) == {"second", "third"}


def test_h24_threads_never_miss_a_signal() -> None:
    """However watching and firing interleave in threads, every waiter is woken."""
    for _ in range(200):
        signal, start = Signal(), threading.Barrier(3)
        woken = [threading.Event() for _ in range(2)]

        def wait(event: threading.Event, signal: Signal = signal, start: threading.Barrier = start) -> None:
            start.wait(DEADLINE_S)
            signal.watch(event.set)

        threads = [threading.Thread(target=wait, args=(event,)) for event in woken]
        for thread in threads:
            thread.start()
        start.wait(DEADLINE_S)
        signal.fire()
        assert all(event.wait(DEADLINE_S) for event in woken)
        for thread in threads:
            thread.join(DEADLINE_S)
