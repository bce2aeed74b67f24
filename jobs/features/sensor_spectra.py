"""Gold table sensor_spectra: vibration features per sensor, axis and window, from Arrow rows of silver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator

from jobs.features import spectra
from jobs.features.windows import Group, Limits, Windows, WindowSpec, cut, touched_windows
from jobs.lake.tables import GoldTable, Windowed, documented_schema

__all__ = ["ARROW_SCHEMA", "AXES", "KEY", "SpectraSettings", "features", "touched_windows"]

KEY = ("sensor_id", "axis", "window_start")
AXES = ("x", "y", "z", "magnitude")

Bounds = tuple[int, int] | Mapping[str, Sequence[tuple[int, int]]]
Columns = dict[str, npt.NDArray[Any]]

# A resampled window's dominant line must read the same, to this share, in the rows as recorded.
_CONFIRMED = 0.015

_EVERY_WINDOW = (-(1 << 62), 1 << 62)

PositiveBand = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]]


class SpectraSettings(BaseModel):
    """Settings of the table, validated once.

    Attributes:
        window_seconds: Length of a window in s.
        overlap: Share of a window that the next one repeats, 0 <= overlap < 1.
        min_coverage: Least share of a window's samples that must be present for features.
        max_gap_samples: Most samples in a row that may be missing within a window.
        rolloff: Share of the power below the roll-off frequency.
        peaks: Lines listed per spectrum.
        harmonics: Highest harmonic counted as distortion.
        envelope_peaks: Lines listed per envelope spectrum.
        envelope_band: Band in Hz demodulated for the envelope; None for all of the spectrum.
        bands: Name to (low, high) in Hz, low included, high not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_seconds: float = Field(default=10.24, gt=0, le=31_536_000, allow_inf_nan=False)
    overlap: float = Field(default=0.0, ge=0, lt=1)
    min_coverage: float = Field(default=0.9, gt=0, le=1)
    max_gap_samples: int = Field(default=5, ge=0)
    rolloff: float = Field(default=0.85, gt=0, lt=1)
    peaks: int = Field(default=5, ge=1)
    harmonics: int = Field(default=10, ge=2)
    envelope_peaks: int = Field(default=3, ge=1)
    envelope_band: PositiveBand | None = None
    bands: dict[str, PositiveBand] = Field(default_factory=lambda: dict(spectra.GAIT_BANDS))

    @field_validator("envelope_band")
    @classmethod
    def _check_band(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and not band[0] < band[1]:
            raise ValueError(f"a band needs low < high, not {band[0]} and {band[1]}")
        return band

    @field_validator("bands")
    @classmethod
    def _check_bands(cls, bands: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for band in bands.values():
            cls._check_band(band)
        return bands

    @property
    def window_spec(self) -> WindowSpec:
        """The window grid in whole microseconds."""
        length = max(1, round(self.window_seconds * 1e6))
        return WindowSpec(length, max(1, round(length * (1 - self.overlap))))


def _field(name: str, kind: pa.DataType, unit: str, comment: str) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "comment": comment})


_TIME = pa.timestamp("us", tz="UTC")
_FLOAT = pa.float32()
_PEAK = pa.struct([("hz", _FLOAT), ("amplitude", _FLOAT), ("snr_db", _FLOAT)])
_ENVELOPE_PEAK = pa.struct([("hz", _FLOAT), ("amplitude", _FLOAT)])

ARROW_SCHEMA: pa.Schema = pa.schema(
    [
        _field("sensor_id", pa.string(), "", "Sensor"),
        _field("axis", pa.string(), "", "x, y, z, or magnitude: the length of the acceleration vector"),
        _field("window_start", _TIME, "UTC", "Start of the window, included; whole hops since 1970"),
        _field("window_end", _TIME, "UTC", "End of the window, not included"),
        _field("samples", pa.int32(), "1", "Rows of silver inside the window"),
        _field("coverage", _FLOAT, "1", "Rows present over rows due at the rate as measured, at most 1"),
        _field("sample_rate_hz", pa.float64(), "Hz", "Sample rate as measured in the window"),
        _field("mean", _FLOAT, "m/s2", "Mean"),
        _field("rms", _FLOAT, "m/s2", "Root mean square as recorded, offset included"),
        _field("std", _FLOAT, "m/s2", "Standard deviation (population): root mean square about the mean"),
        _field("peak", _FLOAT, "m/s2", "Greatest distance from the mean (ISO 2041)"),
        _field("peak_to_peak", _FLOAT, "m/s2", "Greatest less least sample"),
        _field("crest_factor", _FLOAT, "1", "peak / std"),
        _field("skewness", _FLOAT, "1", "Third standardised moment (population)"),
        _field("kurtosis", _FLOAT, "1", "Fourth standardised moment less 3 (population): 0 for Gaussian noise"),
        _field("dominant_hz", _FLOAT, "Hz", "Frequency of the strongest line, interpolated between bins"),
        _field("dominant_amplitude", _FLOAT, "m/s2", "Its amplitude: A for A sin(2 pi f t)"),
        _field("dominant_snr_db", _FLOAT, "dB", "Its power over the noise power in one bin, from the median"),
        _field("peaks", pa.list_(_PEAK), "Hz, m/s2, dB", "The strongest lines, by falling amplitude"),
        _field("spectral_centroid_hz", _FLOAT, "Hz", "Mean frequency of the power spectrum"),
        _field("spectral_bandwidth_hz", _FLOAT, "Hz", "Standard deviation of frequency in the power spectrum"),
        _field("spectral_rolloff_hz", _FLOAT, "Hz", "Frequency below which the set share of the power lies"),
        _field("spectral_entropy", _FLOAT, "1", "Shannon entropy of the power spectrum: 0 one bin, 1 flat"),
        _field("spectral_flatness", _FLOAT, "1", "Geometric over arithmetic mean of the power spectrum"),
        _field("band_power", pa.map_(pa.string(), _FLOAT), "(m/s2)2", "Part of the variance in each band"),
        _field(
            "total_harmonic_distortion",
            _FLOAT,
            "1",
            "Root sum square of the harmonics over the dominant line",
        ),
        _field("envelope_peaks", pa.list_(_ENVELOPE_PEAK), "Hz, m/s2", "Strongest lines of the envelope spectrum"),
    ]
)


def features(rows: pa.Table, settings: SpectraSettings, window_bounds: Bounds | None = None) -> pa.Table:
    """Compute the rows of gold for rows of silver.

    Args:
        rows: sensor_id, event_time, ax, ay, az of any number of sensors. Fastest if each sensor's rows lie
            together in time order, as silver writes them; any other order gives the same result. A row that
            is null or not finite on an axis, or whose magnitude float32 cannot hold, counts as missing, and
            of rows with the same key the first counts.
        settings: Settings of the table.
        window_bounds: Numbers (first, last) of the windows wanted, for all sensors, or per sensor as a list
            of disjoint ranges (other sensors are then left out). A window's row is right only if ``rows``
            holds all of its samples.

    Returns:
        A table of ``ARROW_SCHEMA``: per sensor in order of first appearance, per axis, windows in time order.
        A window has null features if its clock or coverage leaves none that would be right, or if a resampled
        dominant line is not confirmed by the rows as recorded.
    """
    names: list[str] = []
    parts: list[Columns] = []
    for name, times_us, values in _by_sensor(rows):
        for first, last in _ranges(name, window_bounds):
            windows = cut(
                times_us, values, settings.window_spec, first, last,
                limits=Limits(settings.min_coverage, settings.max_gap_samples),
            )  # fmt: skip
            names.append(name)
            parts.append(_columns(windows, times_us, values, settings))
    if not parts:
        return ARROW_SCHEMA.empty_table()
    sizes = [len(part["window_start"]) for part in parts]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    sensor = pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(names)), sizes)))
    return _table(sensor, columns, tuple(settings.bands))


def _ranges(name: str, bounds: Bounds | None) -> Sequence[tuple[int, int]]:
    """Ranges of window numbers wanted of a sensor."""
    if bounds is None:
        return [_EVERY_WINDOW]
    return bounds.get(name, ()) if isinstance(bounds, Mapping) else [bounds]


def _by_sensor(rows: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Each sensor's times (microseconds) and values (n, 4: x, y, z, magnitude), in strict order of time."""
    if rows.num_rows == 0:
        return
    names, code = _codes(rows["sensor_id"])
    times = rows["event_time"].cast(_TIME).cast(pa.int64()).to_numpy()
    axes = [rows[column].to_numpy() for column in ("ax", "ay", "az")]
    in_order = _in_order(code, times)
    if not in_order:
        order = np.lexsort((times, code))
        code, times, axes = code[order], times[order], [axis[order] for axis in axes]
    borders = [0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), len(code)]
    for start, end in pairwise(borders):
        at, values = times[start:end], np.empty((len(AXES), end - start), np.float32)
        for axis, column in zip(values, axes, strict=False):
            axis[:] = column[start:end]
        with np.errstate(over="ignore", invalid="ignore"):
            np.sqrt(np.square(values[:3]).sum(axis=0), out=values[3])
        kept = np.isfinite(values[3])
        if not kept.all():
            at, values = at[kept], values[:, kept]
        if not in_order:
            fresh = np.diff(at, prepend=at[:1] - 1) != 0
            at, values = at[fresh], values[:, fresh]
        if len(at):
            yield names[code[start]], at, values.T


def _codes(sensor: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Names of the sensors and each row's place among them, in order of first appearance.

    Rows of one sensor lie together as a rule: comparing neighbours is three times faster than hashing every
    name.
    """
    if pa.types.is_dictionary(sensor.type):
        column = sensor.unify_dictionaries().combine_chunks()
        index = column.indices.to_numpy()
        starts = np.flatnonzero(np.diff(index, prepend=-1))
        values = column.dictionary.take(pa.array(index[starts]))
    else:
        column = pc.run_end_encode(sensor.combine_chunks())
        starts = np.concatenate(([0], column.run_ends.to_numpy()[:-1]))
        values = column.values
    names = values.dictionary_encode()
    lengths = np.diff(starts, append=len(sensor))
    return names.dictionary.to_pylist(), np.repeat(names.indices.to_numpy(), lengths)


def _in_order(code: npt.NDArray[Any], times: npt.NDArray[np.int64]) -> bool:
    """Whether each sensor's rows lie together and ascend strictly in time."""
    change = np.diff(code) != 0
    together = np.count_nonzero(change) + 1 <= len(np.unique(code[np.concatenate(([True], change))]))
    return bool(together and (change | (np.diff(times) > 0)).all())


def _columns(
    windows: Windows,
    times_us: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
    settings: SpectraSettings,
) -> Columns:
    """All columns of one sensor's windows but its name, axis by axis, NaN where there is no feature."""
    count = len(windows.index)
    each: Columns = {
        "window_start": windows.start_us,
        "window_end": windows.start_us + settings.window_spec.length_us,
        "samples": windows.samples,
        "coverage": windows.coverage.astype(np.float32),
        "sample_rate_hz": windows.sample_rate_hz,
    }
    columns: Columns = {name: np.tile(column, len(AXES)) for name, column in each.items()}
    columns["axis"] = np.repeat(np.arange(len(AXES), dtype=np.int8), count)
    columns["usable"] = np.zeros(len(AXES) * count, np.bool_)
    for group in windows.groups or (_no_group(),):
        found = _features_of_group(group, windows, settings)
        confirmed = np.ones((len(AXES), len(group.windows)), np.bool_)
        if group.resampled:
            confirmed = _confirmed(found, group, windows, times_us, values)
        place = (np.arange(len(AXES))[:, None] * count + group.windows)[confirmed]
        columns["usable"][place] = True
        for name, column in found.items():
            if name not in columns:
                columns[name] = np.empty((len(AXES) * count, *column.shape[1:]), column.dtype)
                columns[name][...] = spectra.nothing(column.dtype)
            columns[name][place] = column[confirmed.ravel()]
    return columns


def _no_group() -> Group:
    """A group of no windows: it gives the columns their types where a sensor has no usable window."""
    samples = np.empty((0, spectra.MIN_SAMPLES, len(AXES)), np.float32)
    return Group(np.empty(0, np.int64), samples, resampled=False)


def _features_of_group(group: Group, windows: Windows, settings: SpectraSettings) -> spectra.Features:
    """Features of a group's windows, axis by axis: shape (axes * windows, ...)."""
    n = group.samples.shape[1]
    return spectra.spectral_features(
        group.samples.transpose(2, 0, 1).reshape(-1, n),
        np.tile(windows.sample_rate_hz[group.windows], len(AXES)),
        bands=settings.bands,
        rolloff=settings.rolloff,
        peaks=settings.peaks,
        harmonics=settings.harmonics,
        envelope_peaks=settings.envelope_peaks,
        envelope_band=settings.envelope_band,
    )


def _confirmed(
    found: spectra.Features,
    group: Group,
    windows: Windows,
    times_us: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    """Whether the rows as recorded hold the dominant line of each resampled window, shape (axes, windows).

    A cubic spline loses what is too fast for the gaps it bridges. The least-squares amplitude at the
    frequency found, taken at the times as recorded, loses nothing, so the two part where the resampled
    spectrum would be wrong.
    """
    hz, amplitude = (
        found[f"dominant_{field}"].reshape(len(AXES), -1).T.astype(np.float64) for field in ("hz", "amplitude")
    )
    first, count = windows.first_row[group.windows], windows.samples[group.windows]
    recorded = np.empty_like(hz)
    for n in np.unique(count):
        of = count == n
        rows = first[of, None] + np.arange(n)
        # In seconds since 1970 a double tells no microseconds apart that are as few as a fast clock's.
        elapsed_us = times_us[rows] - times_us[first[of], None]
        recorded[of] = spectra.sine_amplitude(elapsed_us / 1e6, values[rows], hz[of])
    return (np.isnan(hz) | (np.abs(amplitude - recorded) <= _CONFIRMED * recorded)).T


def _table(sensor: pa.Array, columns: Columns, bands: tuple[str, ...]) -> pa.Table:
    """Arrow table of the schema from numpy columns; NaN becomes null."""
    usable = columns["usable"]
    build: dict[str, Callable[[Any], pa.Array]] = {
        "sensor_id": lambda _: sensor,
        "axis": lambda column: pa.array(AXES, pa.string()).take(pa.array(column)),
        "peaks": lambda column: _lists(column, _PEAK, usable),
        "envelope_peaks": lambda column: _lists(column, _ENVELOPE_PEAK, usable),
        "band_power": lambda column: _maps(column, bands, usable),
    }
    arrays = [
        build[field.name](columns.get(field.name))
        if field.name in build
        else pa.array(columns[field.name], field.type, from_pandas=True)
        for field in ARROW_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=ARROW_SCHEMA)


def _offsets(lengths: npt.NDArray[Any]) -> pa.Array:
    return pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))


def _lists(lines: npt.NDArray[Any], kind: pa.StructType, usable: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Structured lines (rows, k) as lists without the padding; null where the window is not usable."""
    real = np.isfinite(lines["hz"])
    fields = [pa.array(lines[field.name][real]) for field in kind]
    return pa.ListArray.from_arrays(
        _offsets(real.sum(axis=1)),
        pa.StructArray.from_arrays(fields, fields=list(kind)),
        mask=pa.array(~usable),
    )


def _maps(power: npt.NDArray[np.float32], bands: tuple[str, ...], usable: npt.NDArray[np.bool_]) -> pa.MapArray:
    """Band powers (rows, bands) as maps from the band's name; null where the window is not usable."""
    keys = pa.array(bands, pa.string()).take(pa.array(np.tile(np.arange(len(bands)), np.count_nonzero(usable))))
    items = pa.array(power[usable].ravel(), from_pandas=True)
    return pa.MapArray.from_arrays(_offsets(len(bands) * usable), keys, items, mask=pa.array(~usable))


def _kernel(rows: pa.Table, settings: SpectraSettings, windows: Mapping[str, Sequence[tuple[int, int]]]) -> pa.Table:
    return features(rows, settings, windows)


def _window(settings: SpectraSettings) -> tuple[int, int]:
    return settings.window_spec.length_us, settings.window_spec.hop_us


TABLE = GoldTable(
    name="sensor_spectra",
    dataset="accelerometer",
    schema=documented_schema(ARROW_SCHEMA),
    key=KEY,
    settings=SpectraSettings,
    how=Windowed("event_time", ("ax", "ay", "az"), _window, _kernel, entity="sensor_id"),
    look=(
        "sensor_id",
        "axis",
        "window_start",
        "samples",
        "rms",
        "crest_factor",
        "dominant_hz",
        "dominant_amplitude",
        "dominant_snr_db",
    ),
)
