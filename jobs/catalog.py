"""The registry: each module of ``jobs.datasets`` with a ``DATASET``, each of ``jobs.features`` with a ``TABLE``."""

from __future__ import annotations

import pkgutil
from graphlib import TopologicalSorter
from importlib import import_module
from types import ModuleType
from typing import TypeVar

from jobs import datasets, features
from jobs.lake.tables import Dataset, GoldTable, Grouped

T = TypeVar("T", Dataset, GoldTable)


def _found(package: ModuleType, name: str, kind: type[T]) -> dict[str, T]:
    modules = [import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    items = [item for item in (getattr(module, name, None) for module in modules) if isinstance(item, kind)]
    return {item.name: item for item in sorted(items, key=lambda item: item.name)}


def _in_order(tables: dict[str, GoldTable]) -> dict[str, GoldTable]:
    """The tables with those that a table reads before it."""
    reads = {t.name: t.how.inputs if isinstance(t.how, Grouped) else () for t in tables.values()}
    graph = {name: {i.removeprefix("gold/") for i in inputs if i.startswith("gold/")} for name, inputs in reads.items()}
    return {name: tables[name] for name in TopologicalSorter(graph).static_order()}


DATASETS = _found(datasets, "DATASET", Dataset)
GOLD = _in_order(_found(features, "TABLE", GoldTable))
