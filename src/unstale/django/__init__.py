"""Django: a cache backend that is coherent between processes, and models that tell what is committed.

    CACHES = {"default": {"BACKEND": "unstale.django.Cache", "LOCATION": "redis://localhost:6379/0"}}

The backend keeps values in the process's own memory as well, and no process goes on serving what another has replaced
for longer than `max_staleness`. With `"unstale.django"` in INSTALLED_APPS there is `manage.py unstale`; signals of
models are in `unstale.django.models`.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from unstale.errors import UsageError

try:
    import django  # noqa: F401 - the one thing that this package cannot do without
except ImportError as error:
    msg = "unstale.django needs Django 5 or newer"
    raise UsageError(msg, hint='pip install "unstale[django]"') from error

from unstale.django.backend import Cache
from unstale.django.shared import cache_of

__all__ = ["Cache", "cache_of"]
