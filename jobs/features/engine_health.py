"""gold/engine_health: health and anomalies per engine and cycle, learned from run-to-failure engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, DoubleType, ShortType, StringType, StructField, StructType

from jobs.features.degradation import (
    Departures,
    Floats,
    HealthSettings,
    Learned,
    Places,
    anomaly_score,
    departures,
    health,
    normal_departures,
    quantile_of,
    rolling_statistics,
    wear,
)
from jobs.lake.tables import GoldTable, Grouped, column

SENSORS: tuple[int, ...] = tuple(range(1, 22))
STATISTICS: tuple[str, ...] = ("mean", "std", "slope")
ENGINE: tuple[str, ...] = ("subset", "split", "unit_number")
KEY: tuple[str, ...] = (*ENGINE, "cycle")
SILVER = "silver/turbofan"

_ENGINES_AT_ONCE = 16
_SENSOR_COLUMNS = [f"sensor_{number}" for number in SENSORS]

_LEARNED_LEVELS = ("level", "noise", "change", "separation", "low", "high")
_SCALES = ("spike_scale", "step_scale", "drift_scale")
_SUMMARY_LISTS = (
    "new_n",
    "new_mean",
    "new_spread",
    "failed_n",
    "failed_mean",
    "failed_spread",
    "low",
    "high",
)


def _columns(names: Sequence[str], kind: str) -> str:
    return ", ".join(f"{name} {kind}" for name in names)


_SUMMARY = (
    f"subset string, unit_number smallint, operating_condition string, {_columns(_SUMMARY_LISTS, 'array<double>')}"
)
_NORMAL = f"subset string, {_columns((*_SCALES, 'repeated', 'readings'), 'array<double>')}"
_EMPTY_REFERENCE = pa.schema(
    [
        ("subset", pa.string()),
        ("operating_condition", pa.string()),
        ("sensor", pa.int16()),
        *((name, pa.float64()) for name in _LEARNED_LEVELS),
        ("informative", pa.bool_()),
        *((name, pa.float64()) for name in (*_SCALES, "repeated")),
    ]
).empty_table()


def _statistic_fields() -> list[StructField]:
    comments = {
        "mean": ("sigma", "rolling mean, as departure from new engines in the same operating condition"),
        "std": ("sigma", "rolling sample standard deviation"),
        "slope": ("sigma/cycle", "rolling least-squares slope"),
    }
    return [
        column(f"sensor_{number}_{name}", DoubleType(), f"Sensor {number}: {said}", unit)
        for number in SENSORS
        for name, (unit, said) in comments.items()
    ]


SCHEMA = StructType(
    [
        column("subset", StringType(), "C-MAPSS subset, FD001 to FD004, or SIM.", nullable=False),
        column("split", StringType(), "train (run to failure) or test (cut off before).", nullable=False),
        column("unit_number", ShortType(), "Engine within subset and split.", nullable=False),
        column("cycle", ShortType(), "Flight of the engine, from 1.", "cycle", nullable=False),
        column("operating_condition", StringType(), "Altitude (1,000 ft)/Mach/throttle, binned."),
        column("health_index", DoubleType(), "1 new, 0 failed; smoothed over the last cycles.", "1"),
        column("is_anomaly", BooleanType(), "Whether the score reaches the threshold."),
        column("anomaly_score", DoubleType(), "Largest sudden departure of any sensor.", "sigma"),
        column("remaining_useful_life", ShortType(), "Cycles left before failure, where known.", "cycle"),
        *_statistic_fields(),
    ]
)


def operating_condition(settings: HealthSettings) -> Column:
    """Return the label of a row's operating condition, such as ``42/0.84/100``.

    Each setting is rounded to its nearest multiple of ``condition_steps``. The label depends on the row
    alone, so it stays the same whatever other rows there are.
    """
    centres = [
        F.floor(F.col(f"setting_{number}").cast("double") / step + 0.5) * F.lit(step)
        for number, step in enumerate(settings.condition_steps, start=1)
    ]
    known = reduce(Column.__and__, (centre.isNotNull() for centre in centres))
    return F.when(known, F.format_string("%.0f/%.2f/%.0f", *centres))


def learn(summaries: pa.Table, settings: HealthSettings) -> pa.Table:
    """Pool the engines of one subset into level, noise, change, separation, band and verdict.

    Args:
        summaries: Rows of ``_SUMMARY``, one per engine and condition.
        settings: Thresholds.

    Returns:
        The levels of :func:`reference`, one row per condition and sensor, in that order.
    """
    summaries = summaries.sort_by([("operating_condition", "ascending"), ("unit_number", "ascending")])
    labels = np.array(summaries["operating_condition"].to_pylist())
    conditions = sorted(set(labels.tolist()))
    pooled = []
    for condition in conditions:
        engines = {name: _lists(summaries, name)[labels == condition] for name in _SUMMARY_LISTS}
        pooled.append(_pooled(engines, settings.engine_quantile))
    separation = np.array([one["separation"] for one in pooled])
    rows = np.array([one["new_n"] for one in pooled])
    with np.errstate(divide="ignore", invalid="ignore"):
        average = (np.nan_to_num(separation) * rows).sum(axis=0) / rows.sum(axis=0)
    columns = {name: np.concatenate([one[name] for one in pooled]) for name in _LEARNED_LEVELS}
    count = len(conditions)
    return pa.table(
        {
            "subset": pa.array([summaries["subset"][0].as_py()] * count * len(SENSORS), pa.string()),
            "operating_condition": pa.array(np.repeat(conditions, len(SENSORS)), pa.string()),
            "sensor": pa.array(np.tile(SENSORS, count), pa.int16()),
            **{name: pa.array(column, from_pandas=True) for name, column in columns.items()},
            "informative": pa.array(np.tile(average >= settings.minimum_separation, count)),
        }
    )


def _pooled(engines: dict[str, Floats], quantile: float) -> dict[str, Floats]:
    """Pool the engines of one condition, each array (engines, sensors); see :func:`reference`."""

    def moments(stage: str) -> tuple[Floats, Floats, Floats]:
        n, mean, spread = (engines[f"{stage}_{name}"] for name in ("n", "mean", "spread"))
        total = n.sum(axis=0)
        centre = (n * np.nan_to_num(mean)).sum(axis=0) / total
        between = np.where(n > 0, n * (np.nan_to_num(mean) - centre) ** 2, 0.0)
        return total, centre, (spread + between).sum(axis=0) / (total - 1)

    with np.errstate(divide="ignore", invalid="ignore"):
        new_n, level, new_variance = moments("new")
        _, failed, failed_variance = moments("failed")
        noise = np.sqrt(engines["new_spread"].sum(axis=0) / (new_n - (engines["new_n"] > 0).sum(axis=0)))
        # A spread that float32 cannot hold is the rounding of a constant.
        noise = np.where(noise <= np.finfo(np.float32).eps * abs(level), 0.0, noise)
        change = failed - level
        separation = np.where(noise > 0, change**2 / (new_variance + failed_variance), np.nan)
    return {
        "new_n": new_n,
        "level": level,
        "noise": noise,
        "change": change,
        "separation": separation,
        "low": quantile_of(engines["low"], 1 - quantile),
        "high": quantile_of(engines["high"], quantile),
    }


def _lists(table: pa.Table, name: str) -> Floats:
    """A column of lists, one value per sensor, as an array of shape (rows, sensors); null is NaN."""
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(-1, len(SENSORS))


def _as_lists(rows: Sequence[Floats]) -> pa.Array:
    """The inverse of :func:`_lists`."""
    return pa.array([np.asarray(row, dtype=np.float64) for row in rows], pa.list_(pa.float64()))


def _readings(rows: pa.Table) -> Floats:
    """The readings of a table of silver rows, shape (rows, sensors), NaN where null."""
    return np.column_stack([rows[name].to_numpy().astype(np.float64) for name in _SENSOR_COLUMNS])


def summarise(rows: pa.Table, settings: HealthSettings) -> pa.Table:
    """Summarise one run-to-failure engine per operating condition: rows of ``_SUMMARY``."""
    rows = rows.sort_by("cycle")
    readings, labels = _readings(rows), np.array(rows["operating_condition"].to_pylist(), dtype=object)
    new = rows["cycle"].to_numpy() <= settings.new_cycles
    failed = ~new & (rows["remaining_useful_life"].to_numpy() < settings.failed_cycles)
    summaries: dict[str, list[Floats]] = {name: [] for name in _SUMMARY_LISTS}
    conditions = sorted({label for label in labels if label is not None})
    for condition in conditions:
        here = labels == condition
        for stage, members in (("new", here & new), ("failed", here & failed)):
            count, mean, spread = _moments(readings[members])
            summaries[f"{stage}_n"].append(count)
            summaries[f"{stage}_mean"].append(mean)
            summaries[f"{stage}_spread"].append(spread)
        summaries["low"].append(np.fmin.reduce(readings[here], axis=0))
        summaries["high"].append(np.fmax.reduce(readings[here], axis=0))
    return pa.table(
        {
            "subset": pa.array([rows["subset"][0].as_py()] * len(conditions), pa.string()),
            "unit_number": pa.array([rows["unit_number"][0].as_py()] * len(conditions), pa.int16()),
            "operating_condition": pa.array(conditions, pa.string()),
            **{name: _as_lists(lists) for name, lists in summaries.items()},
        }
    )


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Count, mean (NaN if none) and sum of squared deviations of each column's finite values."""
    known = np.isfinite(values)
    count = known.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=0) / count
    return count, mean, (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)


@dataclass(frozen=True)
class _Engine:
    """One engine on a grid of consecutive cycles: a cycle that is missing is a row of NaN."""

    rows: pa.Table
    place: Places
    values: Floats
    worn: Floats
    learned: Learned
    found: Departures


def _engine(rows: pa.Table, known: pa.Table | None, settings: HealthSettings) -> _Engine:
    """Lay out one engine's silver rows by cycle and measure its wear and departures.

    Args:
        rows: Silver rows of one engine with their ``operating_condition``.
        known: The reference of the engine's subset, sorted by condition and sensor; None if there is none.
        settings: Lengths and thresholds.
    """
    rows = rows.sort_by("cycle")
    cycles = rows["cycle"].to_numpy().astype(np.int64)
    place = cycles - cycles[0]
    values = np.full((place[-1] + 1, len(SENSORS)), np.nan)
    values[place] = _readings(rows)
    learned = _looked_up(rows, place, known)
    worn, others = wear(values, learned, settings.wear_limits)
    return _Engine(rows, place, values, worn, learned, departures(values, others, learned, settings))


def _looked_up(rows: pa.Table, place: Places, known: pa.Table | None) -> Learned:
    """Look up the reference of each cycle by its operating condition; NaN where it is not known."""
    labels: list[str] = [] if known is None else known["operating_condition"].to_pylist()[:: len(SENSORS)]
    positions = {label: position for position, label in enumerate(labels)}
    condition = np.full(place[-1] + 1, len(labels))
    condition[place] = [positions.get(label, -1) for label in rows["operating_condition"].to_pylist()]
    levels = {}
    for name in _LEARNED_LEVELS:
        table = np.full((len(labels) + 1, len(SENSORS)), np.nan)
        if known is not None:
            table[:-1] = known[name].to_numpy().reshape(-1, len(SENSORS))
        levels[name] = table[condition]
    informative = np.zeros(len(SENSORS), dtype=np.bool_)
    if known is not None:
        informative[:] = known["informative"].to_numpy()[: len(SENSORS)]
    return Learned(informative=informative, **levels)


def describe_normal(rows: pa.Table, known: Mapping[str, pa.Table], settings: HealthSettings) -> pa.Table:
    """Describe the departures of one run-to-failure engine: a row of ``_NORMAL``."""
    engine = _engine(rows, known.get(rows["subset"][0].as_py()), settings)
    quantiles, repeated, readings = normal_departures(engine.found, settings.normal_quantile)
    columns = dict(zip(_SCALES, quantiles, strict=True)) | {"repeated": repeated, "readings": readings}
    return pa.table(
        {
            "subset": pa.array([rows["subset"][0].as_py()], pa.string()),
            **{name: _as_lists([values]) for name, values in columns.items()},
        }
    )


def with_scales(known: pa.Table, normal: pa.Table, settings: HealthSettings) -> pa.Table:
    """Add to the levels of one subset how far its sensors normally depart.

    An engine counts once, whatever happens in it: the scale is the ``engine_quantile`` over engines of each
    engine's ``normal_quantile``, so that a few engines with anomalies do not hide anomalies. A sensor that
    mostly repeats its reading takes a few values only: it has no scale, and is judged by its band alone.
    """
    half_normal = NormalDist().inv_cdf((1 + settings.normal_quantile) / 2)
    repeated = (_lists(normal, "repeated").sum(axis=0) + 1) / (_lists(normal, "readings").sum(axis=0) + 2)
    learnt = {"repeated": repeated}
    for name in _SCALES:
        scale = quantile_of(_lists(normal, name), settings.engine_quantile) / half_normal
        learnt[name] = np.where(repeated <= settings.maximum_repeats, scale, np.nan)
    sensor = known["sensor"].to_numpy() - 1
    for name, values in learnt.items():
        known = known.append_column(name, pa.array(values[sensor], from_pandas=True))
    return known


def health_of(rows: pa.Table, known: Mapping[str, pa.Table], settings: HealthSettings) -> pa.Table:
    """Compute the gold rows of one engine: rows of ``SCHEMA``."""
    learnt = known.get(rows["subset"][0].as_py())
    engine = _engine(rows, learnt, settings)
    place, learned = engine.place, engine.learned
    score = np.full(len(place), np.nan)
    if learnt is not None:
        # Scales are those of a sensor, the same in all conditions: the first condition's rows hold them.
        scales = np.vstack([learnt[name].to_numpy()[: len(SENSORS)] for name in _SCALES])
        repeated = learnt["repeated"].to_numpy()[: len(SENSORS)]
        score = anomaly_score(engine.found, scales, repeated, settings.maximum_repeats)[place]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(learned.informative & (learned.noise > 0), (engine.values - learned.level) / learned.noise, np.nan)
    statistics = rolling_statistics(z, settings.rolling_cycles)
    flagged = pa.array(score >= settings.anomaly_threshold, mask=np.isnan(score))
    columns: dict[str, Any] = {name: engine.rows[name] for name in (*KEY, "operating_condition")}
    columns |= {
        "health_index": pa.array(health(engine.worn, settings.health_cycles)[place], from_pandas=True),
        "is_anomaly": flagged,
        "anomaly_score": pa.array(score, from_pandas=True),
        "remaining_useful_life": engine.rows["remaining_useful_life"],
    }
    for number in SENSORS:
        for name, values in zip(STATISTICS, statistics, strict=True):
            columns[f"sensor_{number}_{name}"] = pa.array(values[place, number - 1], from_pandas=True)
    return pa.table(columns)


def reference(train_rows: DataFrame, settings: HealthSettings) -> pa.Table:
    """Learn from run-to-failure engines how each sensor reads when new and how it answers to wear.

    With ``x`` the readings of new engines (the first ``new_cycles``) and ``y`` those of failed ones (the
    last ``failed_cycles``), per subset, operating condition and sensor:

    - ``level = mean(x)``; ``change = mean(y) - mean(x)``.
    - ``noise``: standard deviation of ``x`` within an engine, pooled over engines; the sigma of every
      other figure. Differences between engines are not noise.
    - ``separation = change**2 / (var(x) + var(y))``, Fisher's discriminant ratio. A constant sensor has
      none; one that rises in some engines and falls in others has a large ``var(y)``, so a small one.
    - ``informative``: the separation, averaged over conditions by their number of new readings, reaches
      ``minimum_separation``; the same for all conditions of a subset.
    - ``low``, ``high``: the normal band, quantiles over engines of each engine's extremes.
    - ``spike_scale``, ``step_scale``, ``drift_scale``: the standard deviation of normal departures, in
      units of noise; ``repeated``: the share of readings that repeat the one before.

    Two passes over the rows, one engine at a time in Spark's workers; what is pooled here on the driver is
    one row per engine and condition.

    Args:
        train_rows: Silver turbofan rows of ``split = 'train'``.
        settings: Thresholds and lengths.

    Returns:
        One row per subset, operating_condition and sensor, in that order; levels in the sensor's own unit.
    """
    rows = _needed(train_rows, settings)
    summaries = _each_engine(rows, lambda engine: summarise(engine, settings), _SUMMARY).toArrow()
    if not summaries.num_rows:
        return _EMPTY_REFERENCE
    levels = {subset: learn(table, settings) for subset, table in by_subset(summaries).items()}
    normal = _each_engine(rows, lambda engine: describe_normal(engine, levels, settings), _NORMAL)
    described = by_subset(normal.toArrow())
    return pa.concat_tables([with_scales(table, described[subset], settings) for subset, table in levels.items()])


def _each_engine(rows: DataFrame, kernel: Callable[[pa.Table], pa.Table], schema: StructType | str) -> DataFrame:
    """What a kernel finds of each engine's rows.

    Spark hands Python the rows of some engines at a time: a table costs it a millisecond or two, as much as a kernel.
    """

    def work(table: pa.Table) -> pa.Table:
        table = table.sort_by("unit_number")
        ends = np.flatnonzero(np.diff(table["unit_number"].to_numpy())) + 1
        borders = [0, *ends.tolist(), table.num_rows]
        return pa.concat_tables(kernel(table.slice(start, end - start)) for start, end in pairwise(borders))

    some = F.call_function("div", "unit_number", F.lit(_ENGINES_AT_ONCE))
    return rows.groupBy("subset", "split", some).applyInArrow(work, schema)


def by_subset(table: pa.Table) -> dict[str, pa.Table]:
    """Split a table with a subset column."""
    subsets = sorted(set(table["subset"].to_pylist()))
    return {subset: table.filter(pc.equal(table["subset"], subset)) for subset in subsets}


def _needed(silver: DataFrame, settings: HealthSettings) -> DataFrame:
    """Keep of silver what health is computed from."""
    condition = operating_condition(settings).alias("operating_condition")
    return silver.select(*KEY, condition, "remaining_useful_life", *_SENSOR_COLUMNS)


def touched(new_rows: DataFrame, silver: DataFrame) -> DataFrame:
    """Name the engines whose gold rows change when ``new_rows`` enter silver.

    An engine with new rows changes; new run-to-failure rows change the reference, and with it every engine
    of their subset.

    Args:
        new_rows: Silver rows that are new.
        silver: All silver rows, the new ones included.

    Returns:
        Distinct subset, split and unit_number.
    """
    learned = new_rows.where(F.col("split") == "train").select("subset").distinct()
    relearned = silver.join(F.broadcast(learned), "subset", "left_semi").select(*ENGINE)
    return new_rows.select(*ENGINE).union(relearned).distinct()


def compute(silver: DataFrame, touched: DataFrame, settings: HealthSettings) -> DataFrame:
    """Compute ``gold/engine_health`` for the touched engines.

    The rows of an engine follow from its own silver rows and from the run-to-failure engines of its subset,
    so computing everything equals computing step by step what each new batch touches. Engines of a subset
    without run-to-failure rows get null health, scores and statistics.

    Learning the reference runs two small Spark jobs here and now; the rest is done when the result is read.

    Args:
        silver: Silver turbofan rows; at least those of the touched engines and all train rows of their
            subsets.
        touched: Engines to compute: subset, split, unit_number; see :func:`touched`.
        settings: Thresholds and lengths.

    Returns:
        One row per engine and cycle, as :data:`SCHEMA`.
    """
    engines = touched.select(*ENGINE).distinct().toArrow()
    subsets = sorted(set(engines["subset"].to_pylist()))
    here = silver.where(F.col("subset").isin(subsets))
    known = by_subset(reference(here.where(F.col("split") == "train"), settings))
    chosen = silver.sparkSession.createDataFrame(engines, silver.select(*ENGINE).schema)
    rows = _needed(here.join(F.broadcast(chosen), list(ENGINE), "left_semi"), settings)
    return _each_engine(rows, lambda engine: health_of(engine, known, settings), SCHEMA)


TABLE = GoldTable(
    name="engine_health",
    dataset="turbofan",
    schema=SCHEMA,
    key=KEY,
    settings=HealthSettings,
    how=Grouped(
        inputs=(SILVER,),
        touched=lambda new, inputs, _: touched(new, inputs[SILVER]),
        compute=lambda inputs, engines, settings: compute(inputs[SILVER], engines, settings),
    ),
    look=(
        "subset",
        "split",
        "unit_number",
        "cycle",
        "operating_condition",
        "health_index",
        "is_anomaly",
        "anomaly_score",
        "remaining_useful_life",
    ),
)
