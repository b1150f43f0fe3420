"""Runs the tests that Django has for all its cache backends against ours, from the sources of Django.

Usage: python -m tests.support.django_suite DJANGO_SOURCES CACHE_URL

`pip download --no-binary :all: --no-deps Django==<the version installed>` fetches them; nothing of them is kept here.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import copy
import sys
import unittest
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any


def configure(sources: Path, url: str) -> None:
    """Set Django up as its own tests do, with our backend in place of the others."""
    import django
    from django.conf import settings

    sys.path.insert(0, str(sources / "tests"))
    backend = {"BACKEND": "unstale.django.Cache", "LOCATION": url}
    settings.configure(
        SECRET_KEY="django_tests_secret_key",
        CACHES={"default": backend},
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["cache"],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        ROOT_URLCONF="",
        USE_TZ=False,
    )
    django.setup()


def suite(url: str) -> unittest.TestSuite:
    """Give the tests that hold for every backend, upon the aliases that they want."""
    from django.test import TestCase, override_settings

    theirs: Any = import_module("cache.tests")
    base = {"BACKEND": "unstale.django.Cache", "LOCATION": url}
    # The two aliases that are culled are of backends that count their entries themselves.
    aliases = theirs.caches_setting_for_tests(base=copy.deepcopy(base), exclude={"cull", "zero_cull"})
    made = type("UnstaleCacheTests", (theirs.BaseCacheTests, TestCase), {"__module__": __name__})
    return unittest.defaultTestLoader.loadTestsFromTestCase(override_settings(CACHES=aliases)(made))


def main(argv: list[str]) -> int:
    """Run them: 0 if none failed."""
    sources, url = argv
    configure(Path(sources), url)
    from django.test.utils import setup_databases, setup_test_environment

    warnings.simplefilter("default")
    setup_test_environment()
    setup_databases(verbosity=0, interactive=False)
    result = unittest.TextTestRunner(verbosity=2).run(suite(url))
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
