"""Turbofan: what normal engines teach, the health of each engine, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa

from bench.script.base import Run, first_of, listed, own, within, write_arrow
from jobs.datasets.turbofan import DATASET, SENSORS, SETTINGS, TurbofanSettings
from jobs.features.degradation import HealthSettings
from jobs.features.engine_health import ENGINE, by_subset, describe_normal, health_of, learn, summarise, with_scales
from jobs.features.engine_summary import SummarySettings

_UNITS = 16  # numbers of engines that a process takes at once


def bring_up(run: Run) -> int:
    """Make silver and gold; return the rows of silver."""
    rows = run.write(run.silver(DATASET.name), silver(run))
    write_arrow(health(run), run.gold("engine_health"))
    run.write(run.gold("engine_summary"), summary(run))
    return rows


def silver(run: Run) -> str:
    """Rows that pass, once each."""
    limits = TurbofanSettings()
    hive = "{'subset': VARCHAR, 'split': VARCHAR}"
    return f"""
        SELECT subset, split, unit_number, cycle, {listed(SETTINGS)}, {listed(SENSORS)}, remaining_useful_life
        FROM {run.bronze(DATASET.name, hive)}
        WHERE regexp_full_match(subset, 'FD00[1-4]|SIM') AND split IN ('train', 'test')
            AND unit_number >= 1 AND cycle BETWEEN 1 AND {limits.max_cycle}
            AND {within(dict.fromkeys(SETTINGS, (-limits.setting_limit, limits.setting_limit)))}
            AND {within(dict.fromkeys(SENSORS, (0, limits.sensor_limit)))}
        {first_of(DATASET.key)}"""


def health(run: Run) -> pa.Table:
    """Health engine by engine, by what those that ran to failure teach."""
    settings, file = HealthSettings(), run.silver(DATASET.name)
    (last,) = run.db.execute(f"SELECT max(unit_number) FROM '{file}'").fetchall()[0]
    firsts = range(1, last + 1, _UNITS)

    def each(kernel: Callable[[pa.Table], pa.Table], splits: tuple[str, ...]) -> pa.Table:
        return pa.concat_tables(run.pool.map(partial(of_engines, file, kernel, splits), firsts))

    summaries = by_subset(each(partial(summarise, settings=settings), ("train",)))
    levels = {subset: learn(table, settings) for subset, table in summaries.items()}
    normal = by_subset(each(partial(describe_normal, known=levels, settings=settings), ("train",)))
    known = {subset: with_scales(table, normal[subset], settings) for subset, table in levels.items()}
    return each(partial(health_of, known=known, settings=settings), ("train", "test"))


def of_engines(file: str, kernel: Callable[[pa.Table], pa.Table], splits: tuple[str, ...], first: int) -> pa.Table:
    """What the kernel finds of each of some engines."""
    centres = [
        f"floor(setting_{number}::DOUBLE / {step} + 0.5) * {step}"
        for number, step in enumerate(HealthSettings().condition_steps, start=1)
    ]
    rows = own().sql(
        f"""SELECT *, printf('%.0f/%.2f/%.0f', {listed(centres)}) AS operating_condition
        FROM '{file}' WHERE unit_number BETWEEN {first} AND {first + _UNITS - 1}
            AND split IN ({listed(splits, "'{}'")})
        ORDER BY {listed(ENGINE)}, cycle"""
    )
    return pa.concat_tables(kernel(engine) for engine in one_by_one(rows.to_arrow_table()))


def one_by_one(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows of each engine, which lie together."""
    keys = np.stack([np.unique(rows[name].to_numpy(), return_inverse=True)[1] for name in ENGINE])
    borders = np.flatnonzero(np.diff(keys).any(axis=0)) + 1
    for start, end in pairwise([0, *borders.tolist(), rows.num_rows]):
        yield rows.slice(start, end - start)


def summary(run: Run) -> str:
    """One row an engine."""
    return f"""
        WITH ends AS (
            SELECT *, max(cycle) OVER (PARTITION BY {listed(ENGINE)}) AS last FROM '{run.gold("engine_health")}'
        )
        SELECT {listed(ENGINE)}, count(*)::INT AS cycles, arg_max_null(health_index, cycle) AS last_health,
            regr_slope(health_index, cycle) FILTER (cycle > last - {SummarySettings().trend_cycles}) AS health_trend,
            sum(is_anomaly::INT)::INT AS anomalies
        FROM ends GROUP BY ALL"""
