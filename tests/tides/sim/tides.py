"""Tide gauges: the level of the sea, once a minute."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from sim.base import Parameters, Simulator, Unit
from sim.faults import FaultSchema
from sim.randomness import entity_id, generator

MINUTE = 60_000_000
PERIOD_MINUTES = 745.2  # of the principal lunar tide, M2: 12.42 h


class TideParameters(Parameters):
    """What to simulate.

    Attributes:
        days: How many days, from 2026-01-01.
    """

    extent: ClassVar[frozenset[str]] = frozenset({"entities", "days"})

    days: int = Field(default=2, ge=1)


def units(params: TideParameters) -> list[Unit]:
    """A gauge and a day each."""
    days = [(entity, day) for entity in range(params.entities) for day in range(params.days)]
    return [Unit(f"gauge{entity:04d}_day{day:04d}", entity, 1440 * day, 1440 * (day + 1)) for entity, day in days]


def range_m(params: TideParameters, entity: int) -> float:
    """Half the height between high and low water at a gauge."""
    return float(generator(params.seed, "tides", "range", entity).uniform(0.5, 3))


def table(params: TideParameters, unit: Unit) -> pa.Table:
    """Levels of a gauge in a day."""
    minute = np.arange(unit.start, unit.stop)
    noise = generator(params.seed, "tides", "noise", unit.entity, unit.start).normal(0, 0.01, len(minute))
    level = range_m(params, unit.entity) * np.sin(2 * np.pi * minute / PERIOD_MINUTES) + noise
    first = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    return pa.table(
        {
            "gauge_id": pa.array([entity_id(params.seed, "tides", unit.entity)] * len(minute)).dictionary_encode(),
            "event_time": pa.array(first + minute * MINUTE, pa.timestamp("us", tz="UTC")),
            "level_m": pa.array(level, pa.float64()),
        }
    )


def truth(params: TideParameters) -> pa.Table:
    """The tidal range of each gauge."""
    gauges = range(params.entities)
    return pa.table(
        {
            "gauge_id": [entity_id(params.seed, "tides", entity) for entity in gauges],
            "range_m": [range_m(params, entity) for entity in gauges],
        }
    )


SIMULATOR = Simulator(
    name="tides",
    parameters=TideParameters,
    partition_by=("gauge_id",),
    units=units,
    table=table,
    truth=truth,
    faults=FaultSchema(key=("gauge_id", "event_time"), measured={"level_m": (-20.0, 20.0)}),
)
