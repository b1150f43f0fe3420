"""The application: `"unstale.django"` in INSTALLED_APPS brings the command `manage.py unstale`."""

# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

from django.apps import AppConfig


class UnstaleConfig(AppConfig):
    """Has no models of its own, and does nothing by itself."""

    name = "unstale.django"
    label = "unstale"
    verbose_name = "unstale"
