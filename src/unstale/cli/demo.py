"""The demo: the same work without a cache, with two common kinds of cache, and with unstale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unstale.cli.compare import compare
from unstale.cli.plan import LIST_SHARE, STRATEGIES, Settings, shop_plan
from unstale.cli.runner import workspace
from unstale.cli.target import end_all, shown, usable
from unstale.cli.truth import CATEGORIES, PRODUCTS
from unstale.core.durations import seconds as parse_seconds

BOUND = "1s"
NAME = "demo"


def demo(
    *,
    url: Annotated[
        str, typer.Option(help="The cache of unstale. Default: a file of its own, deleted at the end.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long each of the four strategies works.")] = 8.0,
    workers: Annotated[int, typer.Option(min=2, max=64, help="Processes that read.")] = 4,
    writers: Annotated[int, typer.Option(min=1, max=16, help="Processes that change the truth.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed draws the same work.")] = 1,
    report: Annotated[Path, typer.Option(dir_okay=False, help="Where the plots go.")] = Path("demo-report.html"),
) -> None:
    """Do the same work four times: no cache, TTL only, delete on write, unstale.

    A small shop lives in an SQLite database. Workers read its pages and lists through the cache while writers commit
    changes all the time. At the end every read is compared with the versions that had been committed before it.

    Exits with 1 if unstale served anything beyond its bound.
    """
    with workspace("demo") as folder:
        settings = Settings(
            seconds=seconds,
            bound=BOUND,
            bound_s=parse_seconds(BOUND, "bound"),
            url=usable(url or f"sqlite:///{folder}/shop.cache"),
            name=NAME,
        )
        if url:
            end_all(settings, "a demo begins")
        raise typer.Exit(
            compare(
                list(STRATEGIES),
                shop_plan(workers, writers, seed),
                [],
                folder,
                settings,
                seed=seed,
                title=f"{workers} processes read, {writers} change, {seconds:g} s each",
                setting=describe(settings, writers, url),
                report=report,
                console=Console(),
            )
        )


def describe(settings: Settings, writers: int, url: str) -> list[tuple[str, str]]:
    """Say how the demo is done."""
    rate = settings.changes_per_s * writers
    return [
        (
            "Truth",
            (
                f"SQLite, {PRODUCTS:,} products in {CATEGORIES} categories; {LIST_SHARE:.0%} of the reads are lists, "
                f"the rest pages, by Zipf's law; {rate:g} commits a second, each changes a page and a list"
            ),
        ),
        ("Workers", f"{settings.batch} reads, a pause of {settings.pause_s * 1e3:g} ms, and so on, from a cold start"),
        ("TTL only", f"a dict in each process, {settings.ttl_s:g} s"),
        (
            "Delete on write",
            (
                f"a shared store, {settings.shared_ttl_s:g} s, and a copy in each process, {settings.copy_ttl_s:g} s; "
                "writers delete after the commit"
            ),
        ),
        (
            "unstale",
            f'Cache("{shown(url) or "sqlite:///..."}", max_staleness="{settings.bound}"), invalidated after the commit',
        ),
    ]
