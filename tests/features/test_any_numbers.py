"""Whatever they are given, kernels tell a number or none: no exception, no warning, no NaN, nothing beyond physics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jobs.features import engine_health
from jobs.features.county_activity import ActivitySettings, activity
from jobs.features.degradation import Departures, HealthSettings, Learned, anomaly_score, wear
from jobs.features.sensor_spectra import ARROW_SCHEMA, AXES, SpectraSettings, features
from jobs.features.spectra import sine_amplitude, spectral_features
from jobs.lake.tables import ALL

pytestmark = pytest.mark.filterwarnings("error")

Array = npt.NDArray[Any]
INF = math.inf
MAX = float(np.finfo(np.float32).max)
# Of float32: zeros, the least, the least with all digits, the largest with a square, and the greatest.
LARGE = 1.2e19
EDGES = [0.0, -0.0, 1e-45, -1e-45, 1.2e-38, LARGE, -LARGE, MAX, -MAX]
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999, in microseconds

LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("rms", "std", "peak", "peak_to_peak", "amplitude", "dominant_amplitude", "band_power"), (0, INF)),
    "total_harmonic_distortion": (0, INF),
    "crest_factor": (1, INF),
    "kurtosis": (-2, INF),
    **dict.fromkeys(("coverage", "spectral_entropy", "spectral_flatness"), (0, 1)),
}
"""What a number of a spectrum is within, whatever was measured; a frequency is from zero to Nyquist's."""


def within(name: str, values: npt.ArrayLike, nyquist: npt.ArrayLike) -> None:
    """Assert that numbers are finite and possible, but for float32's rounding."""
    low, high = (0, nyquist) if name.endswith("hz") else LIMITS.get(name, (-INF, INF))
    assert np.isfinite(values).all(), name
    assert (np.asarray(values) >= low - 1e-5 * abs(low)).all(), name
    assert (np.asarray(values) <= np.multiply(high, 1 + 1e-5)).all(), name


def readings(n: int, most: float = MAX) -> st.SearchStrategy[Array]:
    """Readings of one signal: of all sizes, or of one size about a level."""
    size = st.integers(-47, 38).map(lambda digits: 10.0**digits)
    parts = arrays(np.float64, n, elements=st.floats(-1, 1, width=32), fill=st.nothing())
    about = st.builds(
        lambda size, level, parts: np.clip(size * (level + parts), -most, most).astype(np.float32),
        size,
        st.sampled_from([0.0, 1.0, 1e3, 1e7]),
        parts,
    )
    edges = [edge for edge in EDGES if abs(edge) <= most]
    bound = float(np.float32(most))
    return (
        about
        | arrays(np.float32, n, elements=st.sampled_from(edges))
        | arrays(np.float32, n, elements=st.floats(-bound, bound, width=32))
    )


def spoilt(n: int, most: float = MAX) -> st.SearchStrategy[Array]:
    """Readings that are lost in places."""
    lost = st.lists(st.integers(0, n - 1), max_size=2).map(lambda places: np.isin(np.arange(n), places))
    return st.builds(np.where, lost, st.sampled_from([math.nan, INF, -INF, MAX]), readings(n, most))


# Spectra


@st.composite
def windows(draw: st.DrawFn) -> Array:
    n = draw(st.integers(16, 33))
    return np.stack(draw(st.lists(spoilt(n), min_size=1, max_size=3)))


bands = st.dictionaries(
    st.sampled_from("abc"),
    st.tuples(st.floats(0, 1e30), st.floats(1e-30, 1e30) | st.just(INF)).filter(lambda band: band[0] < band[1]),
)


@given(windows(), st.floats(-6, 6), bands, st.none() | st.just((1.0, INF)) | st.just((1e20, 1e21)))
@settings(max_examples=300, deadline=None)
def test_spectral_features__any_samples(
    x: Array, digits: float, bands: dict[str, tuple[float, float]], envelope_band: tuple[float, float] | None
) -> None:
    rate = 10.0**digits
    got = spectral_features(x, rate, bands=bands, envelope_band=envelope_band, peaks=20)
    for name, column in got.items():
        for field in column.dtype.names or ("",):
            values = column[field] if field else column
            within(field or name, values[~np.isnan(values)], rate / 2)
    size = np.abs(x.astype(np.float64)).max(axis=1)
    told = ~np.isnan(got["mean"])
    assert told[size < 1e18].all()
    assert not told[~np.isfinite(size)].any()
    slack = 1e-6 * size[told]
    assert (got["mean"][told] >= x[told].min(axis=1) - slack).all()
    assert (got["mean"][told] <= x[told].max(axis=1) + slack).all()


@st.composite
def silver(draw: st.DrawFn) -> tuple[pa.Table, SpectraSettings]:
    """Rows of a few sensors, and windows of a size to hold them: clocks even, with gaps, jittered or repeated."""
    step = draw(st.sampled_from([1, 1_000, 1_000_000]) | st.integers(1, 10**8))
    parts = []
    for sensor in draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=2)):
        n = draw(st.integers(25, 40) | st.sampled_from([40, 25, 16, 15, 2, 1]))
        steps = st.sampled_from(draw(st.sampled_from([(1.0,), (1, 1, 1, 2), (0, 1, 1, 1), (0.6, 0.8, 1, 1.2)])))
        passed = np.rint(step * np.cumsum(draw(arrays(np.float64, n, elements=steps)))).astype(np.int64)
        start = draw(st.integers(FIRST, LAST - int(passed[-1])) | st.integers(0, 2**31).map(lambda s: s * 10**6))
        part = {"sensor_id": pa.array([sensor] * n), "event_time": pa.array(start + passed, pa.timestamp("us", "UTC"))}
        part |= {axis: pa.array(draw(spoilt(n, LARGE))) for axis in ("ax", "ay", "az")}
        parts.append(pa.table(part))
    rows = pa.concat_tables(parts)
    if draw(st.booleans()):
        rows = rows.take(draw(st.permutations(range(rows.num_rows))))
    chosen = SpectraSettings(
        window_seconds=step * draw(st.sampled_from([300, 300, 30, 1])) / 1e6,
        overlap=draw(st.sampled_from([0, 0.5])),
        min_coverage=draw(st.sampled_from([0.01, 0.01, 0.9])),
        max_gap_samples=draw(st.sampled_from([5, 5, 0])),
        bands=draw(bands),
    )
    return rows, chosen


def numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers of a row of gold, those in its lists and maps as well."""
    match value:
        case float():
            yield name, value
        case dict():
            for key, item in value.items():
                yield from numbers(key, item)
        case [str(), power]:
            yield from numbers(name, power)
        case list():
            for item in value:
                yield from numbers(name, item)


@given(silver())
@settings(max_examples=300, deadline=None)
def test_features__any_rows(drawn: tuple[pa.Table, SpectraSettings]) -> None:
    rows, chosen = drawn
    gold = features(rows, chosen)
    gold.validate(full=True)
    assert gold.schema.equals(ARROW_SCHEMA)
    for row in gold.drop_columns(["window_start", "window_end"]).to_pylist():  # which no calendar may have
        assert row["samples"] > 0
        rate = row["sample_rate_hz"]
        assert (rate is None) == (row["samples"] == 1)
        for name, value in numbers("", row):
            within(name, value, rate if name == "sample_rate_hz" else rate / 2)
    assert gold.num_rows % len(AXES) == 0


@given(
    arrays(np.int64, st.integers(2, 20), elements=st.integers(1, 2) | st.integers(1, 10**6)),
    st.sampled_from([1.0, math.nan]) | st.floats(1e-9, 1e6),
    st.sampled_from([1, 500_000, 1_000_000]),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_sine_amplitude__any_times(steps: Array, hz: float, unit: int, data: st.DataObject) -> None:
    seconds = np.cumsum(steps)[None] * unit / 1e6
    values = data.draw(arrays(np.float32, (1, len(steps), 1), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
    (found,) = sine_amplitude(seconds, values, np.array([[hz]]))[0]
    assert math.isnan(found) if math.isnan(hz) else 0 <= found < INF


# Wear and health


@st.composite
def learned(draw: st.DrawFn) -> tuple[Array, Learned]:
    """Readings, and a reference whose sensors may outweigh each other by any number of digits."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))

    def each(elements: st.SearchStrategy[float]) -> Array:
        return draw(arrays(np.float64, shape, elements=elements))

    signed = st.floats(-MAX, MAX, width=32)
    separation = each(st.sampled_from([0.0, 1.0, 1e16, 2e16, math.nan]) | st.floats(1e-180, 1e160))
    informative = draw(arrays(np.bool_, shape[1], elements=st.booleans(), fill=st.just(True)))
    values, level, noise = each(signed | st.just(math.nan)), each(signed), each(st.floats(0, MAX))
    return values, Learned(level, noise, each(signed), separation, level - noise, level + noise, informative)


@given(learned())
@settings(max_examples=300, deadline=None)
def test_wear__a_mean_is_within_what_is_averaged(drawn: tuple[Array, Learned]) -> None:
    for worn in wear(*drawn, (-0.5, 1.5)):
        known = worn[~np.isnan(worn)]
        assert (known >= -0.5 - 1e-9).all()
        assert (known <= 1.5 + 1e-9).all()


def tall(rows: int, elements: st.SearchStrategy[float]) -> st.SearchStrategy[Array]:
    """Of two sensors, with what is not known."""
    return arrays(np.float64, (rows, 2), elements=elements | st.just(math.nan))


@given(
    st.builds(Departures, *[tall(4, st.floats(0, 1e50))] * 3, tall(4, st.integers(0, 3)), tall(4, st.floats(0, 1e50))),
    tall(3, st.just(0.0) | st.floats(1e-50, 1e50)),
    arrays(np.float64, 2, elements=st.floats(0, 1)),
)
@settings(deadline=None)
def test_anomaly_score__any_departures(found: Departures, scales: Array, repeated: Array) -> None:
    score = anomaly_score(found, scales, repeated, 0.5)
    assert (score[~np.isnan(score)] >= 0).all()
    assert not np.isinf(score).any()
    assert not np.isnan(score[~np.isnan(found.beyond).all(axis=1)]).any()


SHORT = HealthSettings(
    rolling_cycles=4,
    health_cycles=3,
    new_cycles=4,
    failed_cycles=2,
    minimum_separation=1e-3,
    past_cycles=4,
    minimum_past=2,
    step_cycles=3,
    drift_cycles=4,
)


@st.composite
def engines(draw: st.DrawFn) -> list[pa.Table]:
    """Engines of one subset, with cycles missing, conditions of their own, and readings that silver lets pass."""
    flown = arrays(np.bool_, st.integers(0, 24) | st.integers(8, 24), elements=st.booleans(), fill=st.just(True))
    lives = [np.flatnonzero([*some, True]) + 1 for some in draw(st.lists(flown, min_size=1, max_size=3))]
    signals = [draw(readings(sum(map(len, lives)))) for _ in range(3)]
    found = []
    for unit, cycle in enumerate(lives, start=1):
        count = len(cycle)
        few = [signal[-count:] for signal in signals]
        signals = [signal[:-count] for signal in signals]
        missing = draw(arrays(np.bool_, count, elements=st.booleans(), fill=st.just(False)))
        conditions = draw(arrays(object, count, elements=st.sampled_from(["b", None]), fill=st.just("a")))
        found.append(
            pa.table(
                {
                    "subset": pa.array(["SIM"] * count),
                    "split": pa.array(["train"] * count),
                    "unit_number": pa.array([unit] * count, pa.int16()),
                    "cycle": pa.array(cycle, pa.int16()),
                    "operating_condition": pa.array(conditions, pa.string()),
                    "remaining_useful_life": pa.array(cycle[-1] - cycle, pa.int16()),
                    **{f"sensor_{n}": pa.array(few[n % 3], mask=missing & (n == 1)) for n in engine_health.SENSORS},
                }
            )
        )
    return found


def known_numbers(table: pa.Table) -> dict[str, Array]:
    """Column -> its numbers, without nulls: a NaN is still one."""
    return {f.name: table[f.name].drop_null().to_numpy() for f in table.schema if pa.types.is_floating(f.type)}


@given(engines())
@settings(max_examples=200, deadline=None)
def test_engine_health__any_readings(drawn: list[pa.Table]) -> None:
    summaries = pa.concat_tables([engine_health.summarise(engine, SHORT) for engine in drawn])
    known = {}
    if summaries.num_rows:
        levels = engine_health.learn(summaries, SHORT)
        normal = [engine_health.describe_normal(engine, {"SIM": levels}, SHORT) for engine in drawn]
        known = {"SIM": engine_health.with_scales(levels, pa.concat_tables(normal), SHORT)}
        for name, values in known_numbers(known["SIM"]).items():
            assert np.isfinite(values).all(), name
    for engine in drawn:
        told = engine_health.health_of(engine, known, SHORT)
        assert told["cycle"].to_pylist() == sorted(engine["cycle"].to_pylist())
        assert told["is_anomaly"].is_null().equals(told["anomaly_score"].is_null())
        for name, values in known_numbers(told).items():
            assert np.isfinite(values).all(), name
            if name in ("health_index", "anomaly_score") or name.endswith("_std"):
                assert (values >= 0).all(), name
        assert (known_numbers(told)["health_index"] <= 1).all()


# Events in sliding windows


counties = st.sampled_from("ab") | st.text().filter(ALL.__ne__)  # silver's rules keep that name out


@given(
    st.lists(st.tuples(counties, st.sampled_from("cd") | st.text(), st.integers(FIRST, LAST))),
    st.integers(1, 21_900),
    st.integers(1, 1_440),
    st.integers(0, 10**6),
)
@settings(deadline=None)
def test_activity__any_events(events: list[tuple[str, str, int]], slide: int, overlap: int, more: int) -> None:
    length = max(slide, slide * overlap - more)
    counties, waterbodies, times = zip(*events, strict=True) if events else ((), (), ())
    rows = pa.table(
        {
            "event_time": pa.array(times, pa.timestamp("us", "UTC")),
            "county": pa.array(counties, pa.string()),
            "waterbody_name": pa.array(waterbodies, pa.string()),
        }
    )
    chosen = ActivitySettings(window_seconds=length, slide_seconds=slide)
    told = activity(rows, chosen, {ALL: [(-(2**62), 2**62)]}).to_pandas()
    whole = told[told.county == ALL].set_index("window_start")
    parts = told[told.county != ALL].groupby("window_start")
    assert whole.events.to_dict() == parts.events.sum().to_dict()
    assert (length // slide) * len(events) <= whole.events.sum() <= -(-length // slide) * len(events)
    assert (told.waterbodies >= 1).all()
    assert (told.waterbodies <= told.events).all()
    np.testing.assert_allclose(told.events_per_minute, told.events * 60 / length, rtol=1e-12)
