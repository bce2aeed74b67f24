"""The options of a simulation, shared by ``python -m sim`` and the Spark job."""

from __future__ import annotations

import argparse

from sim.base import validated
from sim.errors import ParameterError
from sim.faults import FaultParameters

# Options that are parameters of a dataset: named like its fields, so that one it lacks is refused by name.
_FIELD_OPTIONS = {
    "entities": "how many sensors or engines",
    "seed": "everything random follows from it",
    "start": "first instant, such as 2026-01-01T00:00:00Z",
    "duration": "such as 90s, 10m, 1h30m or 2d",
    "rate_hz": "samples per second",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`parameter_values` and :func:`fault_parameters` read."""
    for field, text in _FIELD_OPTIONS.items():
        parser.add_argument(f"--{field.replace('_', '-')}", dest=field, help=text)
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="any other field; may be repeated"
    )
    parser.add_argument("--faults", metavar="SHARE", help="share of rows and of files to spoil, such as 0.01")


def parameter_values(options: argparse.Namespace) -> dict[str, object]:
    """Collect the values of the fields that were given.

    Raises:
        ParameterError: A ``--param`` has no value, or a field is given twice.
    """
    given = [(field, getattr(options, field)) for field in _FIELD_OPTIONS]
    values: dict[str, object] = {field: value for field, value in given if value is not None}
    for text in options.param:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"--param {text}", why="it has no '='", remedy="give --param name=value")
        field = name.strip().replace("-", "_")
        if field in values:
            raise ParameterError(f"{field} is given twice", remedy="give it once")
        values[field] = value.strip()
    return values


def fault_parameters(options: argparse.Namespace, seed: int) -> FaultParameters | None:
    """What ``--faults`` asks for: that share of the rows and of the files, or None if it was not given."""
    if options.faults is None:
        return None
    share = {"rows": options.faults, "files": options.faults}
    return validated(FaultParameters, {"seed": seed, **share}, f"--faults {options.faults}")
