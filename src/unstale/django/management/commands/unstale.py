"""The command `manage.py unstale`: the command line of unstale, upon the cache behind an alias."""

# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from django.core.cache import caches
from django.core.management.base import BaseCommand, CommandError, CommandParser

from unstale.django.shared import Shared

ACTIONS: Final = ("doctor", "explain", "get", "invalidate", "nodes", "tail")


class Command(BaseCommand):
    """Calls the command line with the alias's LOCATION and name in place of a URL."""

    help = (
        "Look at the cache behind an alias, and act on it: " + ", ".join(ACTIONS) + ". What follows the action is what "
        "`unstale ACTION` takes after the URL, as in: manage.py unstale invalidate product:17 --wait"
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the alias, which comes first, then the action and what belongs to it."""
        parser.add_argument("--alias", default="default", help="of CACHES; stands before the action. Default: default")
        parser.add_argument("action", choices=ACTIONS)
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see: manage.py unstale ACTION --help")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run it; what is not well ends with its exit code.

        Raises:
            CommandError: The alias has another backend, or the extra `cli` is missing.
        """
        shared = getattr(caches[options["alias"]], "shared", None)
        if not isinstance(shared, Shared):
            raise CommandError(f"the cache {options['alias']!r} is none of unstale.django.Cache")
        try:
            from unstale.cli.app import app
            from unstale.cli.look import SIGNING
        except ImportError as error:
            raise CommandError('the command line is missing: pip install "unstale[cli]"') from error
        if shared.secrets:
            os.environ.setdefault(SIGNING, " ".join(shared.secrets))
        cache = shared.cache
        try:
            app([options["action"], "--name", cache.name, cache.url, *options["arguments"]], prog_name="unstale")
        except SystemExit as end:
            if end.code:
                raise
