"""The kinds of scenario: every module of this package that has ``KINDS``."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from chaos.trial import Kind


def _found() -> dict[str, Kind]:
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {kind.name: kind for module in modules for kind in module.KINDS}


KINDS = _found()
