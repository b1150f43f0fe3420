"""Replays: the comparison of the demo, on a trace of what a real service read and changed."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unstale.cli.compare import compare
from unstale.cli.plan import STRATEGIES, Name, Plan, Settings, trace_plan
from unstale.cli.runner import workspace
from unstale.cli.target import end_all, shown, usable
from unstale.cli.trace import Trace, read_trace
from unstale.core.durations import seconds as parse_seconds
from unstale.errors import UsageError

NAME = "replay"
SHARE_MAX = 0.9


class PolicyName(StrEnum):
    """The presets of a policy."""

    default = "default"
    reference = "reference"
    owned = "owned"
    shared = "shared"
    derived = "derived"


class StrategyName(StrEnum):
    """The strategies, or all of them."""

    all = "all"
    none = "none"
    ttl = "ttl"
    delete = "delete"
    unstale = "unstale"


def _share(text: str) -> float:
    """Read a share: `5%` or `0.05`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        msg = f"{text!r} is not a share"
        raise typer.BadParameter(f"{msg}; write 5% or 0.05")
    return value


def replay(
    trace: Annotated[
        Path, typer.Argument(help="CSV with the columns time,op,key,size[,tag]; plain, .gz or .xz.", show_default=False)
    ],
    *,
    url: Annotated[
        str, typer.Option(help="The cache of unstale. Default: a file of its own, deleted at the end.")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the trace.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.5, max=3600, help="How long each strategy works.")] = 10.0,
    writes: Annotated[
        float | None,
        typer.Option(
            parser=_share,
            metavar="SHARE",
            show_default=False,
            help="Add changes until they are this share of all requests, e.g. 2%. Default: 1% if the trace has none.",
        ),
    ] = None,
    policy: Annotated[PolicyName, typer.Option(help="The policy of unstale.")] = PolicyName.default,
    strategy: Annotated[StrategyName, typer.Option(help="One strategy, or all.")] = StrategyName.all,
    max_staleness: Annotated[str, typer.Option(metavar="DURATION", help="The bound of unstale.")] = "1s",
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="The life of an entry of TTL only.")] = "2s",
    capacity: Annotated[
        float | None,
        typer.Option(
            parser=_share,
            metavar="SHARE",
            show_default=False,
            help="Entries that each process has room for in its memory: a share of the keys, e.g. 5%. Default: all.",
        ),
    ] = None,
    origin: Annotated[
        str, typer.Option(metavar="DURATION", help="Each load takes so much longer: the way to a database elsewhere.")
    ] = "1ms",
    seed: Annotated[int, typer.Option(help="The same seed adds the same changes.")] = 1,
    report: Annotated[Path, typer.Option(dir_okay=False, help="Where the plots go.")] = Path("replay-report.html"),
) -> None:
    """Compare the strategies on a trace of your own.

    Worker k of n takes the requests k, k + n, k + 2n ... of the trace in their order, as fast as it can, and begins
    anew when it is through before the time is over. `get` reads an entry, `set` changes it in the truth, which is an
    SQLite database. Entries with one tag are one object: a change ends them all, by one invalidation of the tag.

    Exits with 1 if unstale served anything beyond its bound.
    """
    original = read_trace(trace)
    share = writes if writes is not None else 0.0 if original.writes else 0.01
    if share > SHARE_MAX:
        msg = f"a trace that changes things in {share:.0%} of its requests leaves nothing to measure"
        raise UsageError(msg, hint="write --writes 5%, and at most 90%")
    names: list[Name] = [name for name in STRATEGIES if strategy in {StrategyName.all, name}]
    bound_s = parse_seconds(max_staleness, "--max-staleness")
    work = original.with_writes(share, seed) if share else original
    entries_max = len(work.keys) if capacity is None else max(1, round(capacity * len(work.keys)))
    with workspace("replay") as folder:
        settings = Settings(
            seconds=seconds,
            bound=max_staleness,
            bound_s=bound_s,
            url=usable(url or f"sqlite:///{folder}/replay.cache"),
            name=NAME,
            policy=policy.value,
            entries_max=entries_max,
            ttl_s=parse_seconds(ttl, "--ttl"),
            origin_s=parse_seconds(origin, "--origin"),
        )
        if "unstale" in names:
            end_all(settings, "a replay begins")
        plan = trace_plan(work, workers)
        raise typer.Exit(
            compare(
                names,
                plan,
                list(work.sizes),
                folder,
                settings,
                seed=seed,
                title=f"{trace.name}: {workers} processes, {seconds:g} s each",
                setting=_describe(original, work, share, seed, settings, plan, url),
                report=report,
                console=Console(),
            )
        )


def _describe(  # noqa: PLR0917 - all of it is told
    original: Trace, work: Trace, share: float, seed: int, settings: Settings, plan: Plan, url: str
) -> list[tuple[str, str]]:
    own = len(original.requests) - original.writes
    added = work.writes - original.writes
    parts = [f"{own:,} reads and {original.writes:,} changes of {len(work.keys):,} entries"]
    if work.tagged:
        parts.append(f"{len(work.objects):,} objects, by tag")
    if added:
        parts.append(f"{added:,} changes added ({share:.3g} of all requests, seed {seed})")
    rest = (
        f"{settings.batch} of them, a pause of {settings.pause_s * 1e3:g} ms, and so on, over and over while there is "
        f"time; from a cold start, with room for {settings.entries_max:,} entries"
    )
    store = f"a shared store, {settings.shared_ttl_s:g} s, and a copy in each process, {settings.copy_ttl_s:g} s"
    cache = f'Cache("{shown(url) or "sqlite:///..."}", max_staleness="{settings.bound}"), policy {settings.policy}'
    return [
        ("Trace", "; ".join(parts)),
        (
            "Workers",
            f"each takes every {len(plan.requests)}th request, {max(map(len, plan.requests)):,} in all; {rest}",
        ),
        ("Truth", f"SQLite; a load takes {settings.origin_s * 1e3:g} ms longer than its query"),
        ("TTL only", f"a dict in each process, {settings.ttl_s:g} s"),
        ("Delete on write", f"{store}; who writes deletes after the commit"),
        ("unstale", f"{cache}, invalidated after the commit"),
    ]
