"""Arrow rows of silver to Arrow rows of gold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from jobs.features.sensor_spectra import ARROW_SCHEMA, AXES, KEY, SpectraSettings, features, touched_windows
from jobs.features.spectra import spectral_features

LENGTH = 10_240_000
START = 1_767_225_600_000_000 // LENGTH * LENGTH
FIRST = START // LENGTH
SETTINGS = SpectraSettings()
LINES = {"x": (2.0, 0.93), "y": (1.2, 0.93), "z": (3.0, 1.86)}


def silver(sensor: str, n: int = 3072, rate: float = 100.0, hz: float | None = None, seed: int = 0) -> pa.Table:
    """Rows of one sensor: a line per axis on gravity, a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / rate
    times = START + np.rint(t * 1e6).astype(np.int64)
    axes = {
        f"a{axis}": 9.81 * (axis == "z")
        + amplitude * np.sin(2 * np.pi * (hz or line) * t)
        + 0.01 * rng.standard_normal(n)
        for axis, (amplitude, line) in LINES.items()
    }
    return pa.table(
        {
            "sensor_id": pa.array([sensor] * n),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            **{name: pa.array(values.astype(np.float32)) for name, values in axes.items()},
        }
    )


def by_key(table: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = table.to_pylist()
    keyed = {tuple(row[name] for name in KEY): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def test_schema__has_the_columns_others_rely_on() -> None:
    names = (
        "sensor_id axis window_start window_end samples coverage sample_rate_hz mean rms std peak "
        "peak_to_peak crest_factor skewness kurtosis dominant_hz dominant_amplitude dominant_snr_db peaks "
        "spectral_centroid_hz spectral_bandwidth_hz spectral_rolloff_hz spectral_entropy "
        "spectral_flatness band_power total_harmonic_distortion envelope_peaks"
    )
    assert " ".join(ARROW_SCHEMA.names) == names
    for field in ARROW_SCHEMA:
        assert set(field.metadata) == {b"unit", b"comment"}


def test_features__one_row_per_sensor_axis_and_window() -> None:
    gold = features(pa.concat_tables([silver("a"), silver("b", 2048)]), SETTINGS)
    gold.validate(full=True)
    assert gold.schema.equals(ARROW_SCHEMA, check_metadata=True)
    keys = gold.select(list(KEY)).to_pylist()
    assert [(k["sensor_id"], k["axis"]) for k in keys] == [("a", x) for x in AXES for _ in range(3)] + [
        ("b", x) for x in AXES for _ in range(2)
    ]
    starts = gold["window_start"].cast(pa.int64()).to_pylist()
    assert starts[:3] == [START, START + LENGTH, START + 2 * LENGTH]
    assert gold["window_end"].cast(pa.int64()).to_pylist()[0] == START + LENGTH
    assert set(gold["samples"].to_pylist()) == {1024}


def test_features__are_those_of_the_kernel_on_each_axis() -> None:
    rows = silver("a")
    axes = {axis: rows[f"a{axis}"].to_numpy().astype(np.float64) for axis in "xyz"}
    axes["magnitude"] = np.linalg.norm(list(axes.values()), axis=0)
    gold = features(rows, SETTINGS)
    for i, axis in enumerate(AXES):
        kernel = spectral_features(axes[axis].reshape(3, 1024), 100.0)
        part = gold.slice(3 * i, 3).to_pylist()
        for w, row in enumerate(part):
            assert row["axis"] == axis
            for name in (
                "mean",
                "std",
                "kurtosis",
                "dominant_hz",
                "spectral_entropy",
                "total_harmonic_distortion",
            ):
                np.testing.assert_allclose(row[name], kernel[name][w], rtol=1e-4)
            assert len(row["peaks"]) == 5
            np.testing.assert_allclose(row["peaks"][0]["snr_db"], kernel["peaks"]["snr_db"][w, 0], rtol=1e-4)
            assert [name for name, _ in row["band_power"]] == ["posture", "gait", "limb", "structure"]
            powers = [power for _, power in row["band_power"]]
            np.testing.assert_allclose(powers, kernel["band_power"][w], rtol=1e-3)
            envelope_hz = kernel["envelope_peaks"]["hz"][w, 0]
            np.testing.assert_allclose(row["envelope_peaks"][0]["hz"], envelope_hz, rtol=1e-3)


def test_features__read_the_lines_that_were_put_in() -> None:
    for (_, axis, _), row in by_key(features(silver("a"), SETTINGS)).items():
        if axis != "magnitude":
            amplitude, hz = LINES[axis]
            assert abs(row["dominant_hz"] - hz) < 0.002
            assert abs(row["dominant_amplitude"] / amplitude - 1) < 0.002


def test_features__any_order_of_rows_gives_the_same() -> None:
    rows = pa.concat_tables([silver("a"), silver("b", seed=1)])
    order = np.random.default_rng(1).permutation(rows.num_rows)
    expected = by_key(features(rows, SETTINGS))
    assert by_key(features(rows.take(order), SETTINGS)) == expected
    pieces = pa.concat_tables([rows.slice(3072, 2000), rows.slice(0, 3072), rows.slice(5072)])
    assert by_key(features(pieces, SETTINGS)) == expected
    doubled = pa.concat_tables([rows, rows.slice(100, 500)])
    assert by_key(features(doubled, SETTINGS)) == expected
    coded = rows.set_column(0, "sensor_id", rows["sensor_id"].dictionary_encode())
    assert by_key(features(coded, SETTINGS)) == expected


def test_features__windows_without_enough_rows_are_null_with_their_coverage() -> None:
    gold = features(silver("a", 1024 + 256), SETTINGS)
    last = [row for row in gold.to_pylist() if row["window_start"].timestamp() * 1e6 > START]
    assert len(last) == len(AXES)
    known = {*KEY, "window_end", "samples", "coverage", "sample_rate_hz"}
    for row in last:
        assert row["samples"] == 256
        assert row["coverage"] == 0.25
        assert row["sample_rate_hz"] == 100.0
        assert all(value is None for name, value in row.items() if name not in known)
    only = features(silver("a", 256), SETTINGS)
    assert only.schema == ARROW_SCHEMA
    assert only["mean"].null_count == only["peaks"].null_count == only["band_power"].null_count == len(AXES)


def test_features__constant_axis_is_null_where_undefined_and_empty_where_there_is_nothing_to_list() -> None:
    rows = silver("a", 1024)
    rows = rows.set_column(2, "ax", pa.array(np.full(1024, 4.2, np.float32)))
    row = features(rows, SETTINGS).to_pylist()[0]
    assert row["std"] == 0
    assert row["mean"] == pytest.approx(4.2)
    assert row["dominant_hz"] is None
    assert row["peaks"] == []
    assert row["envelope_peaks"] == []
    assert [power for _, power in row["band_power"]] == [0, 0, 0, 0]


def test_features__a_band_out_of_reach_is_null_in_the_map() -> None:
    settings = SpectraSettings(bands={"gait": (0.5, 5.0), "ultrasound": (20e3, 40e3)})
    row = features(silver("a", 1024), settings).to_pylist()[0]
    assert dict(row["band_power"])["ultrasound"] is None
    assert dict(row["band_power"])["gait"] == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_features__a_sample_that_is_not_finite_is_missing(bad: float | None) -> None:
    rows = silver("a", 1024)
    ax = rows["ax"].to_pylist()
    ax[500] = bad
    gold = features(rows.set_column(2, "ax", pa.array(ax, pa.float32())), SETTINGS)
    assert gold["samples"].to_pylist() == [1023] * 4
    np.testing.assert_allclose(gold["dominant_amplitude"].to_numpy()[:3], [2, 1.2, 3], rtol=0.01)


def test_features__a_sensor_at_1_hz_that_lost_rows_with_an_axis_at_rest() -> None:
    rows = silver("a", 600, rate=1.0, hz=0.1)
    rows = rows.set_column(2, "ax", pa.array(np.zeros(600, np.float32)))
    rows = rows.filter(pa.array(np.arange(600) % 50 != 7))
    whole = [row for row in features(rows, SpectraSettings(window_seconds=102.4)).to_pylist() if row["coverage"] > 0.9]
    assert [row["peaks"] for row in whole if row["axis"] == "x"] == [[]] * 5
    amplitudes = [row["dominant_amplitude"] for row in whole if row["axis"] in "yz"]
    np.testing.assert_allclose(amplitudes, [1.2] * 5 + [3] * 5, rtol=0.02)


@pytest.mark.parametrize("start", [0, START, 253_402_300_000_000_000])
def test_features__a_sensor_at_1_mhz_that_lost_rows_in_any_year(start: int) -> None:
    passed = np.flatnonzero(np.arange(500) % 50 != 7)
    line = pa.array((2 * np.sin(2 * np.pi * 0.031 * passed)).astype(np.float32))
    times = pa.array(start + passed, pa.timestamp("us", tz="UTC"))
    rows = pa.table({"sensor_id": ["a"] * len(passed), "event_time": times, "ax": line, "ay": line, "az": line})
    gold = features(rows, SpectraSettings(window_seconds=0.0005))
    np.testing.assert_allclose(gold["dominant_hz"].to_numpy()[:3], 31_000, rtol=1e-3)
    np.testing.assert_allclose(gold["dominant_amplitude"].to_numpy()[:3], 2, rtol=0.01)


@pytest.mark.parametrize("hz", [2.037, 5.037, 10.037, 20.037, 30.037, 45.037])
@pytest.mark.parametrize("kind", ["single", "triple", "quintuple", "jitter", "ragged"])
def test_features__resampled_sine_reads_right_or_is_null(hz: float, kind: str) -> None:
    rng = np.random.default_rng(4)
    n = 1024 * 12
    t = np.arange(n) * 0.01
    if kind in ("jitter", "ragged"):
        t = t + rng.uniform(0, 0.002 if kind == "jitter" else 0.006, n)
    times = START + np.rint(t * 1e6).astype(np.int64)
    keep = np.ones(n, bool)
    length = {"single": 1, "triple": 3, "quintuple": 5, "jitter": 0, "ragged": 2}[kind]
    for start in rng.choice(n // 10, 60 * bool(length), replace=False) * 10:
        keep[start : start + length] = False
    line = (2 * np.sin(2 * np.pi * hz * (times - START) / 1e6)).astype(np.float32)
    rows = pa.table(
        {
            "sensor_id": pa.array(["a"] * n),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            **{name: pa.array(line) for name in ("ax", "ay", "az")},
        }
    ).filter(pa.array(keep))
    gold = features(rows, SETTINGS).slice(0, 12)
    amplitude = gold["dominant_amplitude"].drop_null().to_numpy()
    np.testing.assert_allclose(amplitude, 2, rtol=0.02)
    np.testing.assert_allclose(gold["dominant_hz"].drop_null().to_numpy(), hz, atol=0.02)
    if hz < 6:
        assert len(amplitude) >= 10  # and where a spline serves, it is used


def test_features__bounds_choose_windows() -> None:
    rows = pa.concat_tables([silver("a", 5120), silver("b", 5120)])
    whole = by_key(features(rows, SETTINGS))

    def part(bounds: Any) -> set[tuple[str, int]]:
        got = by_key(features(rows, SETTINGS, bounds))
        assert all(whole[key] == row for key, row in got.items())
        return {(key[0], round(key[2].timestamp() * 1e6) // LENGTH - FIRST) for key in got}

    assert part((FIRST + 1, FIRST + 2)) == {(s, k) for s in "ab" for k in (1, 2)}
    ranges = {"b": [(FIRST, FIRST), (FIRST + 3, FIRST + 9)], "c": [(0, 1)]}
    assert part(ranges) == {("b", 0), ("b", 3), ("b", 4)}
    assert part({}) == set()


def test_features__windows_touched_by_new_rows_are_all_that_changes() -> None:
    settings = SpectraSettings(overlap=0.5)
    rows = silver("a", 5120)
    old, new = pa.concat_tables([rows.slice(0, 2000), rows.slice(2050)]), rows.slice(2000, 50)
    before, after = by_key(features(old, settings)), by_key(features(rows, settings))
    first, last = touched_windows(new["event_time"].cast(pa.int64()).to_numpy(), settings.window_spec)
    touched = by_key(features(rows, settings, (int(first.min()), int(last.max()))))
    assert {key for key in after if before.get(key) != after[key]} == set(touched)
    assert {**before, **touched} == after


def test_features__no_rows() -> None:
    assert features(silver("a").slice(0, 0), SETTINGS).equals(ARROW_SCHEMA.empty_table())
    nothing = silver("a", 4).set_column(2, "ax", pa.nulls(4, pa.float32()))
    assert features(nothing, SETTINGS).num_rows == 0


def test_settings__window_grid() -> None:
    assert (SETTINGS.window_spec.length_us, SETTINGS.window_spec.hop_us) == (LENGTH, LENGTH)
    assert SpectraSettings(window_seconds=4, overlap=0.75).window_spec.hop_us == 1_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"window_seconds": 0},
        {"window_seconds": 1e13},
        {"min_coverage": 1.5},
        {"max_gap_samples": -1},
        {"rolloff": 1},
        {"bands": {"gait": (5, 0.5)}},
        {"bands": {"gait": (-1, 0.5)}},
        {"envelope_band": (9, 9)},
        {"windows": 3},
    ],
)
def test_settings__refuse_nonsense_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SpectraSettings(**wrong)
