"""The registry: every module of this package that has a ``SIMULATOR``."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import sim
from sim.base import Simulator


def _found() -> dict[str, Simulator[Any]]:
    names = sorted(module.name for module in pkgutil.iter_modules(sim.__path__) if module.name != "__main__")
    modules = [import_module(f"sim.{name}") for name in names if name != "catalog"]
    return {module.SIMULATOR.name: module.SIMULATOR for module in modules if hasattr(module, "SIMULATOR")}


SIMULATORS = _found()
