"""How an engine wears: rolling statistics, fused wear, health, and sudden departures from its own past.

Numpy on one engine at a time, (cycles x sensors), sorted by cycle: the same bits however Spark partitions the rows,
and several times faster than window expressions over one row per sensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Cycles = Annotated[int, Field(ge=2, le=500)]


class HealthSettings(BaseModel):
    """What is tuned in ``engine_health``; cycles count flights of one engine.

    Attributes:
        rolling_cycles: Length of the rolling statistics, the current cycle included.
        health_cycles: Length of the rolling mean that smooths the health index.
        new_cycles: An engine is new during its first so many cycles.
        failed_cycles: A run-to-failure engine has failed in its last so many cycles.
        condition_steps: Bin widths of settings 1 (altitude, 1,000 ft), 2 (Mach number) and 3 (throttle
            resolver angle). The default keeps the six known conditions far from any edge.
        minimum_separation: A sensor informs when Fisher's ratio between new and failed engines reaches this.
        wear_limits: One sensor's wear is clipped to these before fusion, so that a broken sensor cannot
            decide the health of an engine.
        past_cycles: Length of the recent past that a departure is measured against.
        minimum_past: Fewer cycles of past than this give no verdict.
        step_cycles: A step is the median of so many latest cycles against the past before them.
        drift_cycles: A drift is the latest level against the past that ended so many cycles ago.
        normal_quantile: The quantile of an engine's departures that sets a sensor's own scale.
        engine_quantile: The quantile over engines of their scales and extremes: what is normal.
        maximum_repeats: A sensor that repeats its reading more often than this share takes a few values only:
            it is judged by its band, not by departures, and cannot be called stuck.
        anomaly_threshold: A cycle is flagged at this score, in standard deviations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rolling_cycles: Cycles = 20
    health_cycles: Cycles = 10
    new_cycles: Cycles = 20
    failed_cycles: Annotated[int, Field(ge=1, le=100)] = 5
    condition_steps: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ] = (1.0, 0.12, 10.0)
    minimum_separation: Annotated[float, Field(gt=0)] = 2.0
    wear_limits: tuple[Annotated[float, Field(le=0)], Annotated[float, Field(ge=1)]] = (-0.5, 1.5)
    past_cycles: Cycles = 20
    minimum_past: Cycles = 10
    step_cycles: Annotated[int, Field(ge=3, le=99)] = 5
    drift_cycles: Cycles = 30
    normal_quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    engine_quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    maximum_repeats: Annotated[float, Field(gt=0, lt=1)] = 0.5
    anomaly_threshold: Annotated[float, Field(gt=0)] = 5.0

    @model_validator(mode="after")
    def _consistent(self) -> HealthSettings:
        if self.step_cycles % 2 == 0:
            raise ValueError("step_cycles must be odd: a median of an even number is not one of the values")
        if self.minimum_past > self.past_cycles:
            raise ValueError("minimum_past cannot exceed past_cycles")
        return self


@dataclass(frozen=True)
class Learned:
    """What run-to-failure engines taught about each row's sensors; arrays of shape (rows, sensors).

    Attributes:
        level: Mean of new engines, in the sensor's unit.
        noise: Standard deviation within a new engine, the sigma of everything else; 0 if constant.
        change: Mean of failed engines minus ``level``.
        separation: Fisher's ratio of new and failed engines; NaN if there is none.
        low: Lower end of the normal band.
        high: Upper end of the normal band.
        informative: Whether the sensor answers to wear, shape (sensors,).
    """

    level: Floats
    noise: Floats
    change: Floats
    separation: Floats
    low: Floats
    high: Floats
    informative: Flags


def rolling_sum(values: Floats, first: int, last: int, weights: Floats | None = None) -> Floats:
    """Sum the rows ``t - first`` to ``t - last`` for every row t; rows before the first count as 0.

    Args:
        values: Finite, shape (rows, sensors).
        first: Rows back to the oldest of the frame, at least ``last``.
        last: Rows back to the newest of the frame, 0 for the current row.
        weights: One factor per row of the frame, newest first, length ``first - last + 1``.

    Returns:
        Same shape as ``values``. Terms are added in the same order for every row.
    """
    sums = np.zeros_like(values)
    for position, back in enumerate(range(last, min(first, len(values) - 1) + 1)):
        factor = 1.0 if weights is None else weights[position]
        sums[back:] += factor * values[: len(values) - back]
    return sums


def rolling_mean(values: Floats, first: int, last: int, minimum: int = 1) -> Floats:
    """Mean of the known values in a frame (see :func:`rolling_sum`); NaN where fewer than ``minimum``."""
    known = np.isfinite(values)
    count = rolling_sum(known.astype(np.float64), first, last)
    total = rolling_sum(np.where(known, values, 0.0), first, last)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count >= minimum)


def rolling_statistics(z: Floats, cycles: int) -> tuple[Floats, Floats, Floats]:
    """Rolling mean, sample standard deviation and least-squares slope per cycle of the last ``cycles``.

    Args:
        z: One row per consecutive cycle, NaN where unknown, shape (cycles, sensors), of order 1.
        cycles: Length of the frame.

    Returns:
        Mean, standard deviation and slope, NaN where the frame holds no value, or fewer than two.
    """
    first = cycles - 1
    known = np.isfinite(z)
    one, value = known.astype(np.float64), np.where(known, z, 0.0)
    age = -np.arange(cycles, dtype=np.float64)
    n, total = rolling_sum(one, first, 0), rolling_sum(value, first, 0)
    squares = rolling_sum(value * value, first, 0)
    t, t_squares = rolling_sum(one, first, 0, age), rolling_sum(one, first, 0, age * age)
    products = rolling_sum(value, first, 0, age)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(n > 0, total / n, np.nan)
        variance = np.where(n > 1, np.maximum(squares - total * mean, 0.0) / (n - 1), np.nan)
        slope = np.where(n > 1, (n * products - t * total) / (n * t_squares - t * t), np.nan)
    return mean, np.sqrt(variance), slope


def rolling_median(values: Floats, cycles: int) -> Floats:
    """Median of the last ``cycles`` rows, NaN unless all of them are known; ``cycles`` is odd."""
    median = np.full_like(values, np.nan)
    if len(values) >= cycles:
        frames = np.lib.stride_tricks.sliding_window_view(values, cycles, axis=0)
        # Sorting puts NaN last, where it would shift the middle: a frame with one is made all NaN.
        middle = np.partition(frames, cycles // 2, axis=-1)[..., cycles // 2]
        median[cycles - 1 :] = np.where(np.isfinite(frames).all(axis=-1), middle, np.nan)
    return median


def wear(values: Floats, learned: Learned, limits: tuple[float, float]) -> tuple[Floats, Floats]:
    """Fuse the informative sensors of each row into wear: 0 for new engines, 1 for failed ones.

    ``wear = sum(w * d) / sum(w)`` with ``d = (x - level) / change`` clipped to ``limits`` and
    ``w = separation``. Since ``var(d)`` is the inverse of the separation, this is the mean of the sensors'
    own estimates weighted by inverse variance: the linear fusion of degradation signals of Liu, Gebraeel
    and Shi (IEEE Trans. Autom. Sci. Eng. 10(3), 2013) with the weights of Fisher's linear discriminant
    (Annals of Eugenics 7(2), 1936) for independent sensors.

    Args:
        values: Readings, shape (rows, sensors).
        learned: The reference of each row.
        limits: One sensor's ``d`` is clipped to these.

    Returns:
        Wear of shape (rows,), and wear by all sensors but one of shape (rows, sensors); NaN where no
        informative sensor has a reading and a reference.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = (values - learned.level) / learned.change
        usable = learned.informative & np.isfinite(fraction) & (learned.separation > 0)
        weight = np.where(usable, learned.separation, 0.0)
        weighted = np.where(usable, weight * np.clip(fraction, *limits), 0.0)
        return weighted.sum(axis=1) / weight.sum(axis=1), _of_others(weighted) / _of_others(weight)


def _of_others(values: Floats) -> Floats:
    """Sum of all sensors but one; the sum of all less that one would be mere rounding where it outweighs the others."""
    sums = np.zeros_like(values)
    sums[:, 1:] = np.cumsum(values[:, :-1], axis=1)
    sums[:, :-1] += np.cumsum(values[:, :0:-1], axis=1)[:, ::-1]
    return sums


def health(worn: Floats, cycles: int) -> Floats:
    """Health index ``1 - mean(wear)`` over the last ``cycles``, clipped to 0..1; shape (cycles,)."""
    return np.clip(1.0 - rolling_mean(worn[:, np.newaxis], cycles - 1, 0)[:, 0], 0.0, 1.0)


def repeats(values: Floats) -> Floats:
    """Count how many readings in a row have been exactly the same again; NaN readings are skipped over.

    Args:
        values: Readings, shape (cycles, sensors), NaN where unknown.

    Returns:
        Same shape: 0 at a reading that differs from the one before, NaN where unknown.
    """
    runs = np.full_like(values, np.nan)
    for sensor in range(values.shape[1]):
        known = np.flatnonzero(np.isfinite(values[:, sensor]))
        readings = values[known, sensor]
        place = np.arange(len(known))
        differs = np.concatenate([[True], readings[1:] != readings[:-1]])[: len(known)]
        runs[known, sensor] = place - np.maximum.accumulate(np.where(differs, place, 0))
    return runs


@dataclass(frozen=True)
class Departures:
    """How far each sensor is from its own recent past; arrays of shape (cycles, sensors), sigma, NaN unknown.

    Attributes:
        spike: This reading against the mean of the past.
        step: The median of the latest readings against the past before them.
        drift: The mean of those medians against the past that ended ``drift_cycles`` ago.
        repeats: How many readings in a row have been the same again.
        beyond: Distance outside the normal band, in quarters of the band's width.
    """

    spike: Floats
    step: Floats
    drift: Floats
    repeats: Floats
    beyond: Floats


def departures(values: Floats, others: Floats, learned: Learned, settings: HealthSettings) -> Departures:
    """Measure sudden departures of every sensor.

    What is watched is ``(x - level) / noise - wear * change / noise``, the second term for informative
    sensors and with the wear that all others report: what they say together is not a departure of one.
    Sensors that follow no wear have a trend of their own; their spikes are measured from the line through
    the past. A step uses a median, so that one spike stays one flag. Readings far outside the band are left
    out of every mean: a dropout to zero must not become the past that healthy readings depart from.

    Args:
        values: Readings per consecutive cycle, shape (cycles, sensors).
        others: Wear of each cycle by all sensors but one, shape (cycles, sensors).
        learned: The reference of each cycle.
        settings: Lengths and threshold.
    """
    past, latest, lag = settings.past_cycles, settings.step_cycles, settings.drift_cycles
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(learned.informative, np.nan_to_num(others) * learned.change, 0.0)
        residual = np.where(learned.noise > 0, (values - learned.level - expected) / learned.noise, np.nan)
        outside = np.maximum(np.maximum(learned.low - values, values - learned.high), 0.0)
        # A constant sensor has a band without width: a relative 1e-4 stands for it.
        width = np.maximum(np.maximum((learned.high - learned.low) / 4, learned.noise), 1e-4 * abs(learned.level))
        beyond = np.where(width > 0, outside / width, np.nan)
    sane = np.where(beyond < settings.anomaly_threshold, residual, np.nan)
    smooth = rolling_median(sane, latest)

    def level(newest: int) -> Floats:
        return rolling_mean(sane, past + newest - 1, newest, settings.minimum_past)

    trend = np.where(learned.informative, level(1), _extrapolated(sane, past, settings.minimum_past))
    return Departures(
        spike=abs(residual - trend),
        step=abs(smooth - level(latest)),
        drift=abs(rolling_mean(smooth, latest - 1, 0) - level(lag)),
        repeats=repeats(values),
        beyond=beyond,
    )


def _extrapolated(values: Floats, cycles: int, minimum: int) -> Floats:
    """Where the least-squares line through the last ``cycles`` rows before each row meets that row."""
    mean, _, slope = rolling_statistics(values, cycles)
    known = np.isfinite(values).astype(np.float64)
    age = np.arange(1.0, cycles + 1)
    count, ages = rolling_sum(known, cycles - 1, 0), rolling_sum(known, cycles - 1, 0, age)
    with np.errstate(divide="ignore", invalid="ignore"):
        line = np.where(count >= minimum, mean + slope * ages / count, np.nan)
    return np.vstack([np.full_like(line[:1], np.nan), line[:-1]])


def anomaly_score(found: Departures, scales: Floats, repeated: Floats, maximum_repeats: float) -> Floats:
    """Score each cycle in standard deviations: the largest of all departures of all sensors.

    A run of ``n`` repeats of chance ``q`` each is as unlikely, ``q**n``, as a Gaussian departure of
    ``sqrt(2 n ln(1/q))`` (the Chernoff bound ``exp(-s**2 / 2)`` solved for s).

    Args:
        found: Departures of shape (cycles, sensors).
        scales: Standard deviation of spike, step and drift in normal engines, shape (3, sensors).
        repeated: Share of readings that repeat the one before, shape (sensors,).
        maximum_repeats: Sensors that repeat more often cannot be called stuck.

    Returns:
        Shape (cycles,); NaN where nothing could be judged.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = [
            np.where(scale > 0, departure / scale, np.nan)
            for departure, scale in zip((found.spike, found.step, found.drift), scales, strict=True)
        ]
        chance = np.maximum(repeated, 1e-3)
        stuck = np.where(repeated <= maximum_repeats, np.sqrt(-2.0 * found.repeats * np.log(chance)), np.nan)
    return np.asarray(np.fmax.reduce(np.hstack([*measured, stuck, found.beyond]), axis=1))


def normal_departures(found: Departures, quantile: float) -> tuple[Floats, Floats, Floats]:
    """Describe one engine's departures.

    Returns:
        The quantile of spike, step and drift, shape (3, sensors), NaN where none are known; the number of
        readings that repeat the one before, and of readings, each of shape (sensors,).
    """
    quantiles = np.vstack([quantile_of(each, quantile) for each in (found.spike, found.step, found.drift)])
    repeated = (np.nan_to_num(found.repeats) > 0).sum(axis=0)
    return quantiles, repeated.astype(np.float64), np.isfinite(found.repeats).sum(axis=0).astype(np.float64)


def quantile_of(values: Floats, quantile: float) -> Floats:
    """Quantile of each column's finite values, NaN where there are none."""
    result = np.full(values.shape[1], np.nan)
    for place, readings in enumerate(values.T):
        known = readings[np.isfinite(readings)]
        if known.size:
            result[place] = np.quantile(known, quantile)
    return result
