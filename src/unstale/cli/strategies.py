"""The four strategies by name, and the one that this package is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from unstale.cache import Cache
from unstale.cli.baselines import DeleteOnWrite, NoCache, TtlOnly
from unstale.cli.plan import Plan, Settings
from unstale.cli.truth import PRODUCTS, Block, Change, Listing, Product, Truth
from unstale.core.keytext import escape
from unstale.core.policy import Policy
from unstale.errors import UsageError
from unstale.loading import tag

POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "default": Policy,
    "reference": Policy.reference,
    "owned": Policy.owned,
    "shared": Policy.shared,
    "derived": Policy.derived,
}


class Strategy(Protocol):
    """One way to read."""

    def read(self, entry: int) -> int:
        """Read an entry: the version of what was served."""

    def changed(self, changes: Sequence[Change]) -> None:
        """Do what this strategy does after a commit."""

    def close(self) -> None:
        """Release what it holds."""


class Unstale:
    """What this package is for: cached functions, and an invalidation after each commit.

    Args:
        truth: The source of truth.
        plan: The work.
        settings: How it is done.
        on_trouble: Called with what failed without anybody seeing it.
    """

    def __init__(
        self, truth: Truth, plan: Plan, settings: Settings, on_trouble: Callable[[str, BaseException], None]
    ) -> None:
        self._cache = Cache(
            settings.url,
            name=settings.name,
            max_staleness=settings.bound,
            entries_max=settings.entries_max,
            policy=POLICIES[settings.policy](),
            on_trouble=on_trouble,
        )
        functions = _shop_functions if plan.kind == "shop" else _trace_functions
        self.read, self._scope = functions(self._cache, truth, plan)

    def changed(self, changes: Sequence[Change]) -> None:
        """Invalidate what changed."""
        self._cache.invalidate(*[self._scope(change.object) for change in changes])

    def close(self) -> None:
        """Leave the cache."""
        self._cache.close()


Functions = tuple[Callable[[int], int], Callable[[int], str]]


def _shop_functions(cache: Cache, truth: Any, _plan: Plan) -> Functions:
    @cache.cached("product:{product_id}")
    def product(product_id: int) -> Product:
        page: Product = truth.load(product_id)
        return page

    @cache.cached("list:{category_id}", tags=["category:{category_id}"])
    def listing(category_id: int) -> Listing:
        page: Listing = truth.load(PRODUCTS + category_id)
        return page

    def read(entry: int) -> int:
        return product(entry).version if entry < PRODUCTS else listing(entry - PRODUCTS).version

    def scope(number: int) -> str:
        return f"product:{number}" if number < PRODUCTS else f"category:{number - PRODUCTS}"

    return read, scope


def _trace_functions(cache: Cache, truth: Any, plan: Plan) -> Functions:
    names, objects, object_of = plan.names, plan.objects, plan.object_of
    index = {name: number for number, name in enumerate(names)}

    @cache.cached("item:{name}")
    def item(name: str) -> Block:
        entry = index[name]
        if plan.tagged:
            tag(f"object:{escape(objects[object_of[entry]])}")
        block: Block = truth.load(entry)
        return block

    def read(entry: int) -> int:
        return item(names[entry]).version

    def scope(number: int) -> str:
        return f"object:{escape(objects[number])}" if plan.tagged else item.key(objects[number])

    return read, scope


def open_strategy(
    name: str,
    truth: Truth,
    plan: Plan,
    settings: Settings,
    *,
    folder: Path,
    seed: int,
    on_trouble: Callable[[str, BaseException], None],
) -> Strategy:
    """Give a strategy by its name."""
    if name == "none":
        return NoCache(truth)
    if name == "ttl":
        return TtlOnly(truth, plan, settings, seed)
    if name == "delete":
        return DeleteOnWrite(truth, plan, settings, folder, seed)
    if name == "unstale":
        return Unstale(truth, plan, settings, on_trouble)
    msg = f"there is no strategy {name!r}"
    raise UsageError(msg, hint="write none, ttl, delete or unstale")
