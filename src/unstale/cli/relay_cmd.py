"""The command `unstale relay`: publishes what a database tells, and the pulses that prove it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from unstale.cache import Cache
from unstale.cli.inspect_cmds import Name, Url
from unstale.cli.look import secrets_of
from unstale.cli.measures import span
from unstale.cli.target import shown
from unstale.errors import UnstaleError, UsageError
from unstale.sources.capture_config import read_config
from unstale.sources.dialects import TABLE
from unstale.sources.feed import Feed
from unstale.sources.relay import Relay
from unstale.sources.slot import SlotFeed

TELL_EVERY_S = 60.0


class Source(StrEnum):
    """What tells of changes in a database."""

    outbox = "outbox"
    slot = "slot"
    binlog = "binlog"


def relay(
    url: Url,
    *,
    database: Annotated[str, typer.Option(help="The database: postgresql://host/shop.", show_default=False)],
    name: Name = "default",
    source: Annotated[Source, typer.Option(help="What tells of changes there.")] = Source.outbox,
    config: Annotated[
        str, typer.Option(help="For slot and binlog: what is captured, and what it ends.")
    ] = "capture.toml",
    slot: Annotated[str, typer.Option(help="The slot's name; by default that of the cache.", show_default=False)] = "",
    table: Annotated[str, typer.Option(help="The name of the outbox's table.")] = TABLE,
    max_staleness: Annotated[str, typer.Option(help="The smallest bound of all nodes: pulses come for it.")] = "2s",
    interval: Annotated[str | None, typer.Option(help="Between two pulses.", show_default=False)] = None,
    once: Annotated[bool, typer.Option("--once", help="Publish what waits, and one pulse, and end.")] = False,
) -> None:
    """Publish what a database tells, by its outbox or its own log, and the pulses that prove it was read.

    Run two or more, on different machines: one leads, another takes over within a second. Ctrl-C or SIGTERM ends it.
    """
    console = Console(stderr=True, highlight=False)

    def tell(what: str, error: BaseException) -> None:
        told = error.message if isinstance(error, UnstaleError) else repr(error)
        if told not in said:
            console.print(f"[yellow]{escape(what)}[/]: {escape(shown(told))}", soft_wrap=True)
        said.clear()
        said.add(told)

    said: set[str] = set()
    with Cache(
        url, name=name, max_staleness=max_staleness, truth="outbox", secret=secrets_of(url), on_trouble=tell
    ) as cache:
        opened = feed_of(source, cache, database, config, slot)
        one = Relay(cache, opened, table=table, interval=interval)
        if once:
            count = one.once()
            typer.echo(f"Published {count:,} {'record' if count == 1 else 'records'}, and a pulse.")
            return
        stopped = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
        try:
            one.start()
            _report(one, stopped, console)
        finally:
            one.stop()
            signal.signal(signal.SIGTERM, before)


def feed_of(source: Source, cache: Cache, database: str, config: str, slot: str) -> str | Callable[[], Feed]:
    """Give what a relay reads; what cannot be read as it is shows here, and at once.

    Raises:
        UsageError: The configuration says what cannot be, or the database is of another kind.
        SourceError: The source cannot be read.
    """
    if source is Source.outbox:
        return database
    said = read_config(config)

    def opened() -> Feed:
        trouble = cache.node.trouble
        if source is Source.slot:
            return SlotFeed(database, cache.name, said, slot=slot, trouble=trouble)
        try:
            from unstale.sources.binlog import BinlogFeed
        except ImportError as error:
            raise UsageError(f"the binary log needs {error.name}", hint='pip install "unstale[binlog]"') from error
        return BinlogFeed(database, cache.name, said, trouble=trouble)

    opened().close()
    return opened


def _report(relay: Relay, stopped: threading.Event, console: Console) -> None:
    """Say when it begins and ceases to lead, and now and then how it goes."""
    led, told_at, clock = False, float("-inf"), relay.cache.node.clock
    console.print(f"Relaying for [bold]{escape(relay.cache.name)}[/], a pulse each {span(relay.interval_s)}.")
    while not stopped.wait(0.1):
        leads = relay.leads and relay.pulses > 0
        if leads != led:
            console.print("It leads." if leads else "Another relay leads; this one waits.")
        if leads and clock() - told_at >= TELL_EVERY_S:
            told_at = clock()
            lag = f"the oldest was {span(relay.lag_s)} old" if relay.lag_s else "nothing waits"
            console.print(f"[dim]{relay.published:,} records, {relay.pulses:,} pulses; {lag}[/]")
        led = leads
    console.print("Stopped.")
