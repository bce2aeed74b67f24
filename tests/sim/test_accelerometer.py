"""The walking body: physics against scipy, and the same rows however the run is split."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import signal, stats
from scipy.spatial.transform import Rotation

from sim.accelerometer import (
    AXES,
    SIMULATOR,
    AccelerometerParameters,
    Clock,
    draw_body,
    generate,
    rotate_to_body,
    specific_force,
    table,
    truth,
    units,
)
from sim.base import Unit, write
from sim.writers import LocalWriter

GRAVITY = 9.80665
STILL = {"bounce_m_s2": 0, "sway_m_s2": 0, "surge_m_s2": 0, "roll_deg": 0, "pitch_deg": 0}
SILENT = {"noise_m_s2": 0, "bias_m_s2": 0}


def params(**values: object) -> AccelerometerParameters:
    return AccelerometerParameters.model_validate({"seed": 7, "entities": 2, **values})


def axes(rows: pa.Table) -> np.ndarray:
    return np.array([rows[name].to_numpy() for name in ("ax", "ay", "az")])


# The physics


def test_rotate_to_body__equals_scipy():
    stream = np.random.default_rng(1)
    roll, pitch = stream.uniform(-np.pi, np.pi, (2, 5000))
    vectors = stream.normal(size=(5000, 3)) * 10
    attitude = Rotation.from_euler("YX", np.column_stack([pitch, roll]))
    expected = attitude.inv().apply(vectors)
    np.testing.assert_allclose(np.array(rotate_to_body(roll, pitch, *vectors.T)).T, expected, atol=1e-12)


def test_specific_force__is_acceleration_less_gravity_in_the_axes_of_the_body():
    body = draw_body(params(), 1)
    phase = np.linspace(0, 20, 1000)
    twice, once = 2 * phase, phase
    acceleration = np.column_stack(
        [
            body.surge_m_s2 * np.sin(twice + body.surge_phase),
            body.sway_m_s2 * np.sin(once + body.sway_phase),
            body.bounce_m_s2 * np.sin(twice + body.bounce_phase),
        ]
    )
    roll = body.roll_offset + body.roll * np.sin(once + body.roll_phase)
    pitch = body.pitch_offset + body.pitch * np.sin(twice + body.pitch_phase)
    attitude = Rotation.from_euler("YX", np.column_stack([pitch, roll]))
    expected = attitude.inv().apply(acceleration - [0, 0, -GRAVITY])
    np.testing.assert_allclose(np.array(specific_force(body, phase)).T, expected, atol=1e-12)


def test_table__a_body_at_rest_feels_gravity_alone_whatever_its_tilt():
    still = params(**STILL, **SILENT, tilt_spread_deg=45, duration="20s")
    felt = axes(table(still, units(still)[1]))
    np.testing.assert_allclose(np.linalg.norm(felt, axis=0), GRAVITY, rtol=1e-6)
    assert np.ptp(felt, axis=1).max() == 0
    assert abs(felt[0, 0]) > 0.1


def test_table__level_and_at_rest_reads_up():
    still = params(**STILL, **SILENT, tilt_spread_deg=0, duration="1s")
    np.testing.assert_allclose(axes(table(still, units(still)[0]))[:, 0], [0, 0, GRAVITY], rtol=1e-6)


def test_table__phase_is_exact_far_from_1970():
    run = params(**SILENT, start="2049-12-31T23:59:50Z", duration="10s", rate_hz=128, gait_hz=np.sqrt(2))
    unit = units(run)[0]
    body = draw_body(run, unit.entity)
    cycles = [float(Fraction(body.gait_hz) * n / 128 % 1) for n in range(unit.start, unit.stop)]
    expected = specific_force(body, 2 * np.pi * np.array(cycles) + body.gait_phase)
    np.testing.assert_allclose(axes(table(run, unit)), expected, atol=1e-5)


def test_draw_body__stays_within_the_asked_spread_and_differs_between_sensors():
    run = params(gait_hz=2, gait_spread_hz=0.3, variation=0.2, speed_m_s=1.5, tilt_spread_deg=5)
    bodies = [draw_body(run, entity) for entity in range(400)]
    gait = np.array([body.gait_hz for body in bodies])
    assert 1.7 <= gait.min() < 1.72
    assert 2.28 < gait.max() <= 2.3
    share = np.array([body.bounce_m_s2 / body.speed_m_s for body in bodies]) / run.bounce_m_s2
    assert 0.8 <= share.min() < 0.82
    assert 1.18 < share.max() <= 1.2
    assert np.abs([body.roll_offset for body in bodies]).max() <= np.radians(5)


# Noise


def test_table__noise_is_white_normal_and_of_the_asked_size():
    run = params(**STILL, noise_m_s2=0.2, bias_m_s2=0, tilt_spread_deg=0, duration="10m")
    first, second = (axes(table(run, unit)).astype(float) for unit in units(run))
    noise = np.vstack([first, second]) - np.array([[0], [0], [GRAVITY]] * 2)
    count = noise.shape[1]
    np.testing.assert_allclose(noise.std(axis=1), 0.2, rtol=4 / np.sqrt(2 * count))
    assert np.abs(np.corrcoef(noise)[np.triu_indices(6, 1)]).max() < 5 / np.sqrt(count)
    lags = [np.corrcoef(noise[0, :-lag], noise[0, lag:])[0, 1] for lag in (1, 2, 10, *2 ** np.arange(8, 16))]
    assert np.abs(lags).max() < 5 / np.sqrt(count)
    assert stats.kstest(noise[0] / 0.2, "norm").pvalue > 0.001


def test_table__bias_is_constant_and_of_the_asked_size_over_sensors():
    run = params(**STILL, noise_m_s2=0, bias_m_s2=0.5, tilt_spread_deg=0, duration="1s", entities=200)
    felt = np.array([axes(table(run, unit)) for unit in units(run)])
    assert np.ptp(felt, axis=2).max() == 0
    bias = felt[:, :, 0] - [0, 0, GRAVITY]
    assert bias.std() == pytest.approx(0.5, rel=0.15)


# Truth


def test_truth__equals_the_spectrum_of_the_signal_without_noise():
    # 16 whole strides in 1024 samples: every harmonic falls on a bin, so a plain periodogram is exact.
    run = params(noise_m_s2=0, gait_hz=1.5625, gait_spread_hz=0, duration="10.24s", tilt_spread_deg=10, roll_deg=20)
    described = truth(run).to_pylist()
    for unit in units(run):
        felt = axes(table(run, unit)).astype(float)
        for row, samples in zip(described[4 * unit.entity :], [*felt, np.linalg.norm(felt, axis=0)], strict=False):
            hz, power = signal.periodogram(samples, fs=100, scaling="spectrum")
            amplitude = np.sqrt(2 * power)
            at = [round(line["hz"] * 10.24) for line in row["harmonics"]]
            np.testing.assert_allclose(amplitude[at], [h["amplitude"] for h in row["harmonics"]], atol=2e-5)
            assert np.delete(amplitude, at).max() < 1e-3
            assert row["true_hz"] == hz[amplitude.argmax()]
            assert row["true_amplitude"] == pytest.approx(amplitude.max(), rel=1e-4)


def test_truth__equals_the_strongest_line_of_the_noisy_output():
    run = params(duration="5m", entities=4)
    described = iter(truth(run).to_pylist())
    for unit in units(run):
        felt = axes(table(run, unit)).astype(float)
        for samples in [*felt, np.linalg.norm(felt, axis=0)]:
            row = next(described)
            hz, power = signal.welch(samples, fs=100, window="flattop", nperseg=8192, scaling="spectrum")
            assert hz[power.argmax()] == pytest.approx(row["true_hz"], abs=0.02)
            assert np.sqrt(2 * power.max()) == pytest.approx(row["true_amplitude"], rel=0.01)


def test_truth__the_strongest_line_of_every_axis_is_clear_for_every_draw():
    for seed in range(200):
        run = params(seed=seed, entities=2)
        for row in truth(run).to_pylist():
            ratio = {"x": 2, "y": 1, "z": 2, "magnitude": 2}[row["axis"]]
            assert row["true_hz"] == pytest.approx(ratio * row["gait_hz"])
            second = sorted(line["amplitude"] for line in row["harmonics"])[-2]
            assert second < row["true_amplitude"] / 4
            moved = {"x": row["surge_m_s2"], "y": row["sway_m_s2"]}.get(row["axis"], 0)
            assert row["true_amplitude"] > 1.2 * moved, "the turn of gravity adds to the motion"


def test_truth__has_a_row_per_sensor_and_axis_with_what_was_drawn():
    run = params(entities=3)
    rows = truth(run).to_pylist()
    assert [row["axis"] for row in rows] == list(AXES) * 3
    assert len({row["sensor_id"] for row in rows}) == 3
    assert rows[4]["sensor_id"] == table(run, units(run)[1])["sensor_id"][0].as_py()
    assert {name: rows[4][name] for name in vars(draw_body(run, 1))} == vars(draw_body(run, 1))


# Time


@given(
    rate=st.sampled_from([1, 30, 33.333, 50, 99.9, 100, 128, 400, 1000, 44100]),
    start=st.integers(0, 4_000_000_000_000_000),
)
def test_clock__times_are_the_samples_of_an_absolute_grid(rate: float, start: int):
    clock = Clock.at(rate)
    first = clock.first_at(start)
    times = clock.times(first, 20_000)
    exact = [(first + k) * 1_000_000 / Fraction(str(rate)) for k in (0, 1, 19_999)]
    assert all(abs(times[k] - value) <= Fraction(1, 2) for k, value in zip((0, 1, 19_999), exact, strict=True))
    assert times[0] >= start > clock.times(first - 1, 1)[0]
    assert [clock.first_at(int(times[k])) for k in (1, 2, 19_999)] == [first + 1, first + 2, first + 19_999]


@given(
    rate=st.sampled_from([30, 99.9, 100, 44100]),
    frequency=st.floats(0.01, 1000),
    sample=st.integers(0, 2**47),
)
def test_clock__cycles_keep_their_fraction_after_any_number_of_whole_ones(rate: float, frequency: float, sample: int):
    with localcontext(prec=100):
        expected = Decimal(frequency) * sample / Decimal(str(rate)) % 1
    assert Clock.at(rate).cycles(frequency, sample) == pytest.approx(float(expected), abs=1e-15)


@pytest.mark.parametrize("rate", [12.9, 30, 100, 128])
def test_units__cover_the_span_once(rate: float):
    begin, length = datetime(2026, 1, 31, 23, 59, 29, 990_000, tzinfo=UTC), 60_000_000
    run = params(start=begin, duration="1m", rate_hz=rate, gait_hz=1, entities=1)
    times = np.concatenate([table(run, unit)["event_time"].to_numpy() for unit in units(run)]).astype(int)
    start = int(begin.timestamp() * 1_000_000)
    numbers = range(int(start * rate // 1e6) - 2, int((start + length) * rate // 1e6) + 3)
    half_up = [int(n * 1_000_000 / Fraction(str(rate)) + Fraction(1, 2)) for n in numbers]
    assert times.tolist() == [time for time in half_up if start <= time < start + length]
    assert [unit.name[-20:-18] for unit in units(run)] == ["23", "00"]


def test_parameters__times_without_zone_are_utc():
    expected = datetime(2026, 3, 1, 10, tzinfo=UTC)
    for text in ("2026-03-01T10:00:00", "2026-03-01T12:00:00+02:00", "2026-03-01T10:00:00Z"):
        run = params(start=text, duration="1s")
        assert run.start == expected
        assert table(run, units(run)[0])["event_time"][0].as_py() == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("0.5h", 1800),
        ("PT10M", 600),
    ],
)
def test_parameters__durations_are_read(text: str, seconds: int):
    assert params(duration=text).stop - params().start == timedelta(seconds=seconds)


def test_parameters__end_stands_for_duration():
    run = params(start="2026-01-01", end="2026-01-01T00:00:02Z")
    assert sum(unit.stop - unit.start for unit in units(run)) == 2 * 200


# The same rows however the work is split

LONG = {"start": "2026-01-01T00:00:00Z", "duration": "3h", "rate_hz": 40}


def test_table__the_third_hour_alone_is_the_third_hour_of_the_whole():
    whole, third = params(**LONG), params(**{**LONG, "start": "2026-01-01T02:00:00Z", "duration": "1h"})
    assert units(third) == units(whole)[-2:]
    for unit in units(third):
        assert table(third, unit).equals(table(whole, unit))


def test_generate__parts_make_the_whole():
    whole = generate(params(**LONG, entities=1))
    cuts = [f"2026-01-01T{time}Z" for time in ("00:00:00", "00:17:03.33", "01:59:59.999", "03:00:00")]
    parts = [generate(params(start=start, end=end, rate_hz=40, entities=1)) for start, end in pairwise(cuts)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole, check_exact=True)


@given(start=st.integers(0, 40_000), count=st.integers(1, 20_000))
def test_table__any_range_is_a_slice_of_the_whole(start: int, count: int):
    run = params()
    origin = 176_722_560_000
    part = axes(table(run, Unit("part", 1, origin + start, origin + start + count)))
    assert part.tobytes() == WHOLE[:, start : start + count].tobytes()


WHOLE = axes(table(params(), Unit("whole", 1, 176_722_560_000, 176_722_560_000 + 60_000)))


def test_write__same_bytes_in_any_order_and_any_part(tmp_path):
    run = params(**LONG)
    third = params(**{**LONG, "start": "2026-01-01T02:00:00Z", "duration": "1h"})
    for name, asked, order in (
        ("whole", run, units(run)),
        ("reverse", run, units(run)[::-1]),
        ("third", third, None),
    ):
        list(write(SIMULATOR, asked, LocalWriter(tmp_path / name), order))
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")}
        for name in ("whole", "reverse", "third")
    }
    assert len(files["whole"]) == 6
    assert files["reverse"] == files["whole"]
    assert len(files["third"]) == 2
    assert files["third"].items() <= files["whole"].items()


def test_table__a_sensor_is_the_same_among_few_or_many():
    few, many = params(duration="10s"), params(duration="10s", entities=64)
    assert table(few, units(few)[1]).equals(table(many, units(many)[1]))


def test_table__sensors_and_seeds_differ():
    run, other = params(duration="10s"), params(duration="10s", seed=8)
    tables = [table(run, unit) for unit in units(run)] + [table(other, units(other)[0])]
    assert len({rows["sensor_id"][0].as_py() for rows in tables}) == 3
    assert len({axes(rows).tobytes() for rows in tables}) == 3


def test_units__names_are_unique_and_clipped_hours_have_their_own():
    run = params(**{**LONG, "start": "2026-01-01T00:30:00Z"})
    names = [unit.name for unit in units(run)]
    assert len(set(names)) == len(names) == 8
    whole = params(start="2026-01-01T00:00:00Z", duration="1h", rate_hz=40)
    assert {unit.name for unit in units(whole)}.isdisjoint(names)


# Shape and refusals


def test_generate__is_a_frame_of_narrow_types():
    frame = generate(params(duration="10s"))
    assert frame.dtypes.astype(str).to_dict() == {
        "sensor_id": "object",
        "event_time": "datetime64[us, UTC]",
        "ax": "float32",
        "ay": "float32",
        "az": "float32",
    }
    assert frame.groupby("sensor_id").size().tolist() == [1000, 1000]
    assert frame.groupby("sensor_id").event_time.is_monotonic_increasing.all()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("gait_hz", {"gait_hz": 60}),
        ("gait_hz", {"gait_hz": 13}),  # below Nyquist itself; its fourth harmonic is not
        ("gait_hz", {"rate_hz": 5}),
        ("gait_hz", {"gait_hz": 0}),
        ("gait_spread_hz", {"gait_spread_hz": 2}),
        ("rate_hz", {"rate_hz": 0}),
        ("bounce_m_s2", {"bounce_m_s2": -1}),
        ("roll_deg", {"roll_deg": -1}),
        ("noise_m_s2", {"noise_m_s2": -0.1}),
        ("noise_m_s2", {"noise_m_s2": float("nan")}),
        ("entities", {"entities": 0}),
        ("duration", {"duration": "0s"}),
        ("duration", {"duration": "-1h"}),
        ("duration", {"duration": "soon"}),
        ("duration", {"duration": "1h", "end": "2026-02-01"}),
        ("end", {"start": "2026-01-02", "end": "2026-01-01"}),
        ("start", {"start": "yesterday"}),
        ("colour", {"colour": "red"}),
    ],
)
def test_parameters__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        AccelerometerParameters.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or (detail["msg"].removeprefix("Value error, ").split()[0],)) == (field,)


def test_parameters__are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        params().seed = 1
