"""The commands of the log: `invalidate` and `tail`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from unstale.cache import Cache
from unstale.cli.inspect_cmds import Json, Name, Url
from unstale.cli.look import SIGNING, Look, opened, secrets_of, sqlite_path
from unstale.cli.measures import span
from unstale.cli.sqlite_look import SQLiteLook
from unstale.core.record import Logged
from unstale.errors import UnavailableError, UsageError

LIMIT: Final = 512
EVERY_S: Final = 0.05
LAST: Final = 10
INTERRUPTED: Final = 130


def invalidate(
    url: Url,
    scopes: Annotated[
        list[str],
        typer.Argument(metavar="SCOPE...", help="Keys, tags, namespaces, or * for everything.", show_default=False),
    ],
    *,
    name: Name = "default",
    soft: Annotated[
        bool, typer.Option("--soft", help="What ends may be served within its grace while it is refreshed.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when no process can serve what ended.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for those who read the log.")] = "by hand",
) -> None:
    """End all entries that depend on any of the scopes, in all processes."""
    secret = secrets_of(url)
    with opened(
        url, name
    ) as look:  # an invalidation of a cache that does not exist is a mistake in the URL or the name
        if secret is None and getattr(look, "signed", bool)():
            msg = "the cache is signed: its nodes would skip what is not"
            raise UsageError(msg, hint=f"give the secret of the services in the environment variable {SIGNING}")
    with Cache(url, name=name, secret=secret) as cache:
        receipt = cache.invalidate(*scopes, soft=soft, wait=wait, reason=reason)
        console = Console()
        done = "Softly invalidated" if soft else "Invalidated"
        ended, position = escape(", ".join(receipt.scopes)), receipt.stamp.position
        console.print(f"{done} [bold]{ended}[/] at position {position:,}.", soft_wrap=True)
        if receipt.complete:
            others = len([node for node in receipt.nodes if node != cache.node.id])
            told = f"No process can serve it any more, after {span(receipt.took_s)}."
            console.print(f"{told} Confirmed by {others} others." if others else told)


def tail(
    url: Url,
    *,
    name: Name = "default",
    start: Annotated[
        int | None,
        typer.Option("--from", min=1, metavar="POSITION", show_default=False, help="Begin at this position."),
    ] = None,
    last: Annotated[
        int | None, typer.Option(min=0, show_default=False, help=f"Begin with so many records. Default: {LAST}.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes.")] = True,
    json: Json = False,
) -> None:
    """Print the records of the log, and go on as new ones come.

    Each line gives the position, when and by whom it was written, its scopes, and why. Ctrl-C ends it.
    """
    if start is not None and last is not None:
        msg = "--from and --last say two different places to begin at"
        raise UsageError(msg, hint="leave one of them out")
    console = Console(highlight=False)
    remarks = Console(stderr=True, highlight=False)
    try:
        with opened(url, name) as look:
            head = look.read_head()
            position = start - 1 if start is not None else max(0, head.head - (LAST if last is None else last))
        for logged, generation in _records(url, name, head.generation, position, follow=follow):
            if isinstance(logged, str):
                remarks.print(f"[dim]{escape(logged)}[/]", soft_wrap=True)
            elif json:
                typer.echo(_as_json(logged, generation))
            else:
                console.print(_line(logged), soft_wrap=True)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _records(
    url: str, name: str, generation: str, position: int, *, follow: bool
) -> Iterator[tuple[Logged | str, str]]:
    """Yield records, and remarks where the log has a gap or begins anew."""
    for look in _looks(url, name, follow=follow):
        if isinstance(look, str):
            yield look, generation
            continue
        told = False
        while _there(look):
            try:
                batch = look.after(position, LIMIT)
            except UnavailableError as error:
                if not follow or isinstance(look, SQLiteLook):
                    raise
                if not told:
                    yield f"{error.message}; waiting until it is back", generation
                told = True
                time.sleep(EVERY_S)
                continue
            told = False
            if batch.identity.generation != generation:
                generation, position = batch.identity.generation, 0
                yield f"the log began anew: generation {generation}", generation
                continue
            for logged in batch.records:
                if logged.position > position + 1:
                    yield f"positions {position + 1:,} to {logged.position - 1:,} are no longer kept", generation
                yield logged, generation
                position = logged.position
            if len(batch.records) < LIMIT:
                if not follow:
                    return
                time.sleep(EVERY_S)


def _looks(url: str, name: str, *, follow: bool) -> Iterator[Look | str]:
    """Yield a look at the cache; another one each time that its file was replaced, once the new one is there."""
    told = True
    while True:
        try:
            with opened(url, name) as look:
                yield look
        except UnavailableError as error:
            if not follow or told:
                raise
            yield f"{error.message}; waiting for a new one"
            told = True
            while not Path(sqlite_path(url)).exists():
                time.sleep(EVERY_S)
        else:
            told = False


def _there(look: Look) -> bool:
    return not isinstance(look, SQLiteLook) or look.intact()


def _line(logged: Logged) -> str:
    record = logged.record
    when = datetime.fromtimestamp(record.at).astimezone().strftime("%H:%M:%S.%f")[:-3] if record.at else " " * 12
    if record.covers is not None:
        return f"[dim]{logged.position:>8,}  {when}  pulse that covers {record.covers.position:,}[/]"
    parts = [f"{logged.position:>8,}", f"[dim]{when}[/]", f"[bold]{escape(' '.join(record.scopes))}[/]"]
    parts += ["[yellow]soft[/]"] if record.soft else []
    parts += [f"version {record.version.value}"] if record.version else []
    parts += [escape(record.why)] if record.why else []
    parts += [f"[dim]{escape(record.who)}[/]"] if record.who else []
    return "  ".join(parts)


def _as_json(logged: Logged, generation: str) -> str:
    record = logged.record
    told = {
        "generation": generation,
        "position": logged.position,
        "id": record.id,
        "at": datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds") if record.at else None,
        "who": record.who,
        "why": record.why,
        "scopes": record.scopes,
        "soft": record.soft,
        "version": record.version.value if record.version else None,
        "covers": record.covers.position if record.covers else None,
        "trace": record.trace,
    }
    return msgspec.json.encode(told).decode()
