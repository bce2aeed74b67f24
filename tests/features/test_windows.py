"""Cutting rows into windows: what is in them, what their clock was, and that no number comes out wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.spectra import spectral_features
from jobs.features.windows import Limits, Windows, WindowSpec, cut, touched_windows

Array = npt.NDArray[Any]
SPEC = WindowSpec(10_240_000, 10_240_000)
START = 1_767_225_600_000_000 // SPEC.hop_us * SPEC.hop_us  # the window that 2026 begins in
HZ = 3.07


def clock(n: int, rate: float = 100.0, start: int = START) -> Array:
    return np.asarray(start + np.rint(np.arange(n) * (1e6 / rate)).astype(np.int64))


def sine(times: Array, hz: float = HZ) -> Array:
    """9.81 + 2 sin at the true times of the samples, two axes."""
    t = (times - START) / 1e6
    return np.stack([9.81 + 2 * np.sin(2 * np.pi * hz * t), np.cos(2 * np.pi * hz * t)], axis=1).astype(np.float32)


def reads_right(windows: Windows, hz: float = HZ) -> int:
    """Assert that every usable window reads the sine of `sine`; returns how many there are."""
    for group in windows.groups:
        got = spectral_features(group.samples[:, :, 0], windows.sample_rate_hz[group.windows])
        np.testing.assert_allclose(got["dominant_hz"], hz, atol=0.02)
        np.testing.assert_allclose(got["dominant_amplitude"], 2, rtol=0.02)
    return sum(len(group.windows) for group in windows.groups)


def usable(windows: Windows) -> list[int]:
    return sorted(int(w) for group in windows.groups for w in group.windows)


def test_cut__even_clock_is_a_view_of_all_samples() -> None:
    times = clock(1024 * 6)
    values = sine(times)
    windows = cut(times, values, SPEC)
    (group,) = windows.groups
    assert not group.resampled
    assert np.shares_memory(group.samples, values)
    np.testing.assert_array_equal(group.samples.reshape(-1, 2), values)
    np.testing.assert_array_equal(windows.index, START // SPEC.hop_us + np.arange(6))
    np.testing.assert_array_equal(windows.start_us, START + np.arange(6) * SPEC.length_us)
    assert windows.samples.tolist() == [1024] * 6
    assert windows.coverage.tolist() == [1.0] * 6
    np.testing.assert_allclose(windows.sample_rate_hz, 100, rtol=1e-9)


@pytest.mark.parametrize("rate", [25.0, 99.995, 100.005, 104.0, 204.8, 333.3, 25_600.0])
def test_cut__rate_is_measured_through_microsecond_rounding(rate: float) -> None:
    times = clock(int(rate * 10.24 * 3.5), rate, START + 1234)
    windows = cut(times, sine(times), SPEC)
    np.testing.assert_allclose(windows.sample_rate_hz, rate, rtol=3e-7)
    assert (windows.coverage[1:-1] == 1).all()
    assert windows.coverage[-1] < 0.6
    assert not any(group.resampled for group in windows.groups)
    assert reads_right(windows) == 3
    assert all(abs(group.samples.shape[1] - rate * 10.24) < 1.5 + rate * 0.001234 for group in windows.groups)


def test_cut__overlapping_windows_repeat_rows() -> None:
    spec = WindowSpec(10_240_000, 2_560_000)
    times = clock(1024 * 3)
    values = sine(times)
    windows = cut(times, values, spec)
    (group,) = windows.groups
    first = int(np.flatnonzero(windows.start_us == START)[0])
    assert first == 3  # three windows begin before the first row
    np.testing.assert_allclose(windows.coverage, [0.25, 0.5, 0.75] + [1] * 9 + [0.75, 0.5, 0.25])
    assert usable(windows) == list(range(3, 12))
    np.testing.assert_array_equal(group.samples[1], values[256 : 256 + 1024])


def test_cut__first_and_last_bound_the_windows_not_their_content() -> None:
    times = clock(1024 * 6)
    k = START // SPEC.hop_us
    windows = cut(times, sine(times), SPEC, k + 2, k + 3)
    assert windows.index.tolist() == [k + 2, k + 3]
    assert windows.first_row.tolist() == [2048, 3072]
    assert windows.samples.tolist() == [1024, 1024]
    assert cut(times, sine(times), SPEC, k + 50, k + 60).index.tolist() == []


def test_cut__end_of_recording_is_kept_with_its_coverage() -> None:
    times = clock(1024 + 512)
    windows = cut(times, sine(times), SPEC)
    np.testing.assert_allclose(windows.coverage, [1, 0.5])
    assert usable(windows) == [0]


@pytest.mark.parametrize("edge", ["first", "last"])
def test_cut__dropout_at_an_edge_shortens_and_does_not_extrapolate(edge: str) -> None:
    times = clock(1024)
    times = times[80:] if edge == "first" else times[:-80]
    windows = cut(times, sine(times), SPEC)
    np.testing.assert_allclose(windows.coverage, 944 / 1024)
    assert windows.groups[0].samples.shape == (1, 944, 2)
    assert not windows.groups[0].resampled
    assert reads_right(windows) == 1


def test_cut__silence_between_recordings_makes_no_windows() -> None:
    times = np.concatenate([clock(1024), clock(1024, start=START + 1000 * SPEC.length_us)])
    windows = cut(times, sine(times), SPEC)
    assert (windows.index - windows.index[0]).tolist() == [0, 1000]


def test_cut__missing_samples_are_filled_within_the_limits() -> None:
    times = clock(1024 * 4)
    keep = np.ones(len(times), bool)
    keep[[100, 200, 201, 300, 301, 302, 303, 304]] = False  # window 0: five in a row at most
    keep[1024 + 300 : 1024 + 306] = False  # window 1: six in a row
    keep[2048 + np.arange(5, 1020, 8)] = False  # window 2: one in eight
    windows = cut(times[keep], sine(times)[keep], SPEC)
    np.testing.assert_allclose(windows.coverage, [1016 / 1024, 1018 / 1024, 897 / 1024, 1])
    np.testing.assert_allclose(windows.sample_rate_hz, 100, rtol=1e-6)
    assert usable(windows) == [0, 3]
    assert [(g.windows.tolist(), g.resampled, g.samples.shape[1]) for g in windows.groups] == [
        ([3], False, 1024),
        ([0], True, 1024),
    ]
    filled = windows.groups[1].samples[0]
    np.testing.assert_allclose(filled[keep[:1024]], sine(times)[:1024][keep[:1024]], atol=1e-5)
    np.testing.assert_allclose(filled, sine(times)[:1024], atol=0.02)
    assert reads_right(windows) == 2
    strict = cut(times[keep], sine(times)[keep], SPEC, limits=Limits(min_coverage=0.8, max_gap_samples=1))
    assert usable(strict) == [2, 3]


@pytest.mark.parametrize("jitter", [0.02, 0.1, 0.3])
def test_cut__jittered_clock(jitter: float) -> None:
    rng = np.random.default_rng(3)
    n = 1024 * 8
    times = np.rint(START + 5000 + (np.arange(n) + rng.uniform(-jitter, jitter, n)) * 1e4).astype(np.int64)
    windows = cut(times, sine(times), SPEC)
    np.testing.assert_allclose(windows.sample_rate_hz, 100, rtol=2e-3)
    assert (windows.coverage > 0.99).all()
    assert any(group.resampled for group in windows.groups) == (jitter > 0.05)
    assert reads_right(windows) == 8


def test_cut__clock_in_ticks_that_lose_samples_gives_no_features() -> None:
    # Ticks of 8 ms on a 4.88 ms clock: doubled ticks have been deduplicated away, a third of the samples with
    # them.
    true = clock(2097 * 2, 204.8)
    ticks, kept = np.unique(true // 8000 * 8000, return_index=True)
    windows = cut(ticks, sine(true)[kept], SPEC)
    for group in windows.groups:
        # What is left is an even clock of its own, and reads right to the tick.
        assert reads_right(windows)
        assert not group.resampled


def test_cut__coarse_ticks_that_keep_every_sample() -> None:
    true = clock(2097 * 3, 204.8)
    ticks = np.rint(true / 1000).astype(np.int64) * 1000
    windows = cut(ticks, sine(true), SPEC)
    np.testing.assert_allclose(windows.sample_rate_hz, 204.8, rtol=1e-4)
    assert reads_right(windows) >= 2


@pytest.mark.parametrize(("before", "after"), [(100.0, 50.0), (100.0, 98.0), (50.0, 100.0), (100.0, 204.8)])
def test_cut__rate_changes_within_a_window(before: float, after: float) -> None:
    half = SPEC.length_us // 2
    one, other = clock(int(before * 5.12), before), clock(int(after * 15.36), after, START + half)
    times = np.concatenate([one, other])
    windows = cut(times, sine(times), SPEC)
    reads_right(windows)  # right or absent
    assert 1 in usable(windows)
    np.testing.assert_allclose(windows.sample_rate_hz[1], after, rtol=1e-6)
    assert (0 in usable(windows)) == (abs(before - after) < 5)


@pytest.mark.parametrize("rate", [300.0, 700.0, 1100.0])
def test_cut__one_row_short_is_not_full_coverage(rate: float) -> None:
    due = round(rate * 10.24)
    windows = cut(clock(due, rate)[:-1], np.zeros((due - 1, 1), np.float32), SPEC)
    np.testing.assert_allclose(windows.coverage, (due - 1) / due, rtol=1e-9)


def test_cut__slow_sensor_has_too_few_rows_for_a_spectrum() -> None:
    times = clock(20, 1.0)
    windows = cut(times, sine(times), SPEC)
    assert windows.coverage[0] == 1
    assert windows.groups == ()


def test_cut__few_rows_have_a_rate_but_no_features() -> None:
    times = np.concatenate([clock(1), clock(3, start=START + SPEC.length_us)])
    windows = cut(times, sine(times), SPEC)
    assert windows.samples.tolist() == [1, 3]
    assert np.isnan(windows.sample_rate_hz[0])
    assert np.isnan(windows.coverage[0])
    np.testing.assert_allclose(windows.sample_rate_hz[1], 100)
    np.testing.assert_allclose(windows.coverage[1], 3 / 1024)
    assert windows.groups == ()


def test_cut__depends_on_the_rows_inside_alone() -> None:
    rng = np.random.default_rng(9)
    times = clock(1024 * 5)
    keep = rng.random(len(times)) > 0.02
    times, values = times[keep], sine(times)[keep]
    whole = cut(times, values, SPEC)
    for w, k in enumerate(whole.index):
        inside = (times >= whole.start_us[w]) & (times < whole.start_us[w] + SPEC.length_us)
        alone = cut(times[inside], values[inside], SPEC)
        assert alone.index.tolist() == [k]
        assert alone.sample_rate_hz[0] == whole.sample_rate_hz[w]
        assert alone.coverage[0] == whole.coverage[w]
        samples = [g.samples[g.windows.tolist().index(w)] for g in whole.groups if w in g.windows]
        assert len(samples) == len(alone.groups)
        for one, other in zip(samples, alone.groups, strict=True):
            np.testing.assert_array_equal(one, other.samples[0])


def test_cut__no_rows() -> None:
    windows = cut(np.empty(0, np.int64), np.empty((0, 2), np.float32), SPEC)
    assert len(windows.index) == 0
    assert windows.groups == ()


def test_cut__refuses_times_that_do_not_ascend_and_shapes_that_differ() -> None:
    times = clock(100)
    for wrong in (times[::-1], np.repeat(times, 2)[:100]):
        with pytest.raises(ValueError, match="ascend"):
            cut(wrong, sine(times), SPEC)
    with pytest.raises(ValueError, match="shape"):
        cut(times, sine(times)[:99], SPEC)


@given(st.lists(st.integers(-100, 400), min_size=1, unique=True), st.integers(1, 40), st.floats(0.05, 1))
@settings(max_examples=200, deadline=None)
def test_touched_windows__are_those_whose_span_holds_the_row(rows: list[int], length: int, share: float) -> None:
    spec = WindowSpec(length, max(1, round(length * share)))
    times = np.array(sorted(rows), np.int64)
    first, last = touched_windows(times, spec)
    for t in rows[:3]:
        windows = [k for k in range(-3000, 3000) if k * spec.hop_us <= t < k * spec.hop_us + length]
        at = int(np.flatnonzero(times == t)[0])
        assert list(range(first[at], last[at] + 1)) == windows
    occupied = sorted({k for a, b in zip(first, last, strict=True) for k in range(a, b + 1)})
    assert cut(times, np.zeros((len(times), 1), np.float32), spec).index.tolist() == occupied


@pytest.mark.parametrize(("length", "hop"), [(10, 0), (10, 11), (0, 0), (10, -1)])
def test_window_spec__refuses_a_grid_that_skips_or_stands_still(length: int, hop: int) -> None:
    with pytest.raises(ValueError, match="hop_us"):
        WindowSpec(length, hop)
