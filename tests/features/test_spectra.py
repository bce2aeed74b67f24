"""The kernel against scipy and plain float64 formulas, against truth, and against a real recording."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from jobs.features.spectra import GAIT_BANDS, MIN_SAMPLES, envelope_lines, sine_amplitude, spectral_features

Array = npt.NDArray[Any]
VIBRATION = Path(__file__).parents[1] / "data" / "vibration"
RATE = 100.0


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def walk(windows: int = 24, n: int = 1024, offset: float = 0.0, rate: float = RATE, seed: int = 1) -> Array:
    """Gait-like windows in float32: a line, its harmonics, a fast line that it modulates, noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / rate
    hz = rng.uniform(1.2, 2.4, (windows, 1))
    phase = rng.uniform(0, 2 * np.pi, (4, windows, 1))
    x = 2.0 * np.sin(2 * np.pi * hz * t + phase[0]) + 0.5 * np.sin(4 * np.pi * hz * t + phase[1])
    x += 0.2 * np.sin(6 * np.pi * hz * t + phase[2]) + 0.3 * np.abs(rng.standard_normal((windows, n)))
    x += 0.6 * (1 + 0.5 * np.sin(2 * np.pi * hz * t)) * np.sin(2 * np.pi * 0.23 * rate * t + phase[3])
    return np.asarray(offset + x, dtype=np.float32)


def periodogram(x: Array, rate: float) -> tuple[Array, Array]:
    """Frequencies and power per bin of float64 samples, by scipy."""
    hz, density = signal.periodogram(x.astype(np.float64), rate, "hann", detrend="constant", axis=1)
    return hz, density * rate / x.shape[1]


def amplitudes(x: Array) -> Array:
    """Amplitude spectrum of float64 samples by its definition, with numpy's FFT."""
    x = x.astype(np.float64)
    w = signal.get_window("hann", x.shape[1])
    return np.asarray(np.abs(np.fft.rfft((x - x.mean(axis=1, keepdims=True)) * w, axis=1)) * 2 / w.sum())


def entropy(x: Array, rate: float) -> Array:
    power = periodogram(x, rate)[1]
    return np.asarray(stats.entropy(power, axis=1) / np.log(power.shape[1]))


def flatness(x: Array, rate: float) -> Array:
    power = periodogram(x, rate)[1]
    return np.asarray(stats.gmean(power, axis=1) / power.mean(axis=1))


def centroid(x: Array, rate: float) -> Array:
    hz, power = periodogram(x, rate)
    return np.array([np.average(hz, weights=p) for p in power])


def bandwidth(x: Array, rate: float) -> Array:
    hz, power = periodogram(x, rate)
    return np.array([np.sqrt(np.cov(hz, aweights=p, ddof=0)) for p in power])


def rolloff(x: Array, rate: float) -> Array:
    hz, power = periodogram(x, rate)
    return np.array([next(f for f, c in zip(hz, np.cumsum(p), strict=True) if c >= 0.85 * p.sum()) for p in power])


def band(low: float, high: float) -> Callable[[Array, float], Array]:
    def power_of_band(x: Array, rate: float) -> Array:
        hz, power = periodogram(x, rate)
        inside = (hz >= low) & ((hz < high) | (high >= rate / 2))
        return np.asarray(power[:, inside].sum(axis=1))

    return power_of_band


def snr(x: Array, rate: float) -> Array:
    a = amplitudes(x)
    noise = np.median(a[:, 1 : -1 if x.shape[1] % 2 == 0 else None], axis=1) / np.sqrt(np.log(2))
    return np.asarray(20 * np.log10(dominant(x, rate)[1] / noise))


def zoomed(x: Array, hz: Array, rate: float) -> Array:
    """Magnitude of the Hann-windowed Fourier transform at any frequency, by direct summation."""
    x = x.astype(np.float64)
    n = x.shape[1]
    w = signal.get_window("hann", n) * 2 / (n / 2)
    turn = np.exp(-2j * np.pi * hz[:, None] * np.arange(n) / rate)
    return np.asarray(np.abs((turn * w * (x - x.mean(axis=1, keepdims=True))).sum(axis=1)))


def dominant(x: Array, rate: float) -> tuple[Array, Array]:
    """Strongest line (Hz, amplitude): Grandke's estimator, written out for one window after another."""
    found = []
    for a in amplitudes(x):
        k = int(a[2:-1].argmax()) + 2
        side = 1 if a[k + 1] > a[k - 1] else -1
        r = a[k + side] / a[k]
        d = (2 * r - 1) / (r + 1)
        found.append(((k + side * d) * rate / x.shape[1], a[k] * np.pi * d * (1 - d**2) / np.sin(np.pi * d)))
    return np.array(found)[:, 0], np.array(found)[:, 1]


def distortion(x: Array, rate: float) -> Array:
    a = amplitudes(x)
    result = []
    for i, (hz, height) in enumerate(zip(*dominant(x, rate), strict=True)):
        harmonics = []
        for h in range(2, 11):
            place = h * hz * x.shape[1] / rate
            if place < x.shape[1] / 2:
                d = place - round(place)
                harmonics.append(a[i, round(place)] * np.pi * d * (1 - d**2) / np.sin(np.pi * d))
        result.append(np.linalg.norm(harmonics) / height)
    return np.array(result)


INDEPENDENT: dict[str, Callable[[Array, float], Array]] = {
    "mean": lambda x, _: x.astype(np.float64).mean(axis=1),
    "rms": lambda x, _: np.sqrt((x.astype(np.float64) ** 2).mean(axis=1)),
    "std": lambda x, _: x.astype(np.float64).std(axis=1),
    "peak": lambda x, _: np.abs(x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)).max(axis=1),
    "peak_to_peak": lambda x, _: np.ptp(x.astype(np.float64), axis=1),
    "crest_factor": lambda x, _: np.abs(stats.zscore(x.astype(np.float64), axis=1)).max(axis=1),
    "skewness": lambda x, _: np.asarray(stats.skew(x.astype(np.float64), axis=1)),
    "kurtosis": lambda x, _: np.asarray(stats.kurtosis(x.astype(np.float64), axis=1)),
    "dominant_hz": lambda x, rate: dominant(x, rate)[0],
    "dominant_amplitude": lambda x, rate: dominant(x, rate)[1],
    "dominant_snr_db": snr,
    "spectral_centroid_hz": centroid,
    "spectral_bandwidth_hz": bandwidth,
    "spectral_rolloff_hz": rolloff,
    "spectral_entropy": entropy,
    "spectral_flatness": flatness,
    "total_harmonic_distortion": distortion,
}


@pytest.mark.parametrize("n", [1024, 1023, 1022, 500])
@pytest.mark.parametrize("offset", [0.0, 9.81])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_feature__agrees_with_float64(name: str, offset: float, n: int) -> None:
    x = walk(n=n, offset=offset)
    got = spectral_features(x, RATE)[name]
    assert got.dtype == np.float32
    # The absolute part is for skewness alone, which may be as near to zero as one likes.
    np.testing.assert_allclose(got, INDEPENDENT[name](x, RATE), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e-2])
def test_features__small_vibration_on_gravity(scale: float) -> None:
    x = (9.81 + scale * walk()).astype(np.float32)
    got = spectral_features(x, RATE)
    for name, independent in INDEPENDENT.items():
        np.testing.assert_allclose(got[name], independent(x, RATE), rtol=1e-4, atol=1e-6, err_msg=name)


def test_band_power__agrees_with_periodogram() -> None:
    x = walk(offset=9.81)
    got = spectral_features(x, RATE)["band_power"]
    assert got.shape == (len(x), len(GAIT_BANDS))
    for column, edges in zip(got.T, GAIT_BANDS.values(), strict=True):
        np.testing.assert_allclose(column, band(*edges)(x, RATE), rtol=1e-4)


def test_band_power__adjoining_bands_add_up_and_a_sine_gives_half_its_square() -> None:
    t = np.arange(1000) / RATE
    x = 3 * np.sin(2 * np.pi * 7.3 * t)[None] + walk(1, 1000)
    bands = {"a": (0.0, 3.0), "b": (3.0, 20.0), "c": (20.0, 50.0), "all": (0.0, 50.0)}
    split = spectral_features(x, RATE, bands=bands)["band_power"]
    np.testing.assert_allclose(split[:, :3].sum(axis=1), split[:, 3], rtol=1e-5)
    pure = spectral_features(3 * np.sin(2 * np.pi * 7.3 * t)[None], RATE, bands={"b": (5, 10)})["band_power"]
    np.testing.assert_allclose(pure, 4.5, rtol=1e-4)


def test_band_power__edge_on_a_bin_stands_a_rate_off_by_a_part_in_a_million() -> None:
    x = walk()
    bands = {"low": (5.0, 12.5), "top": (25.0, 50.0)}  # bins 51.2, 128, 256 and 512
    exact = spectral_features(x, RATE, bands=bands)["band_power"]
    for off in (-1e-6, 1e-6):
        np.testing.assert_array_equal(spectral_features(x, RATE * (1 + off), bands=bands)["band_power"], exact)


def test_band_power__band_without_bins_is_undefined() -> None:
    bands = {
        "narrow": (1.01, 1.02),
        "above": (60.0, 70.0),
        "at_nyquist": (50.0, 60.0),
        "across": (40.0, 60.0),
    }
    got = spectral_features(walk(), RATE, bands=bands)["band_power"]
    assert np.isnan(got[:, :3]).all()
    np.testing.assert_allclose(got[:, 3], band(40.0, 50.0)(walk(), RATE), rtol=1e-4)


def test_peaks__are_maxima_of_the_fourier_transform() -> None:
    x = walk()
    peaks = spectral_features(x, RATE)["peaks"]
    assert peaks.shape == (len(x), 5)
    assert (np.diff(peaks["amplitude"], axis=1) <= 0).all()
    step = 0.5 * RATE / x.shape[1]
    for line in peaks[:, :4].T:  # the three harmonics and the carrier
        hz = line["hz"].astype(np.float64)
        here = zoomed(x, hz, RATE)
        np.testing.assert_allclose(line["amplitude"], here, rtol=0.03)
        assert (here > zoomed(x, hz - step, RATE)).all()
        assert (here > zoomed(x, hz + step, RATE)).all()


def test_peaks__finds_a_line_far_below_another_but_never_a_side_lobe() -> None:
    t = np.arange(1024) / RATE
    hz, amplitude = np.array([5.04, 11.0, 30.0]), np.array([1, 1e-3, 1e-4])
    x = amplitude @ np.sin(2 * np.pi * hz[:, None] * t + np.array([[0], [1], [0]]))
    peaks = spectral_features(x[None], RATE)["peaks"][0]
    np.testing.assert_allclose(peaks["hz"][:3], hz, atol=0.005)
    np.testing.assert_allclose(peaks["amplitude"][:3], amplitude, rtol=0.02)
    assert np.isnan(peaks["hz"][3:]).all()


@pytest.mark.parametrize("cycles", [0.6, 51.6])
def test_peaks__noise_riding_on_leakage_is_not_a_line(cycles: float) -> None:
    rng = np.random.default_rng(8)
    n = 1024
    x = np.sin(2 * np.pi * cycles * np.arange(n) / n) + 0.002 * rng.standard_normal((500, n))
    peaks = spectral_features(x, RATE)["peaks"]
    away = np.abs(peaks["hz"] * n / RATE - cycles)
    near = (away > 2) & (away < 8)
    leakage = 1 / (np.pi * away[near] * (away[near] ** 2 - 1))  # what a line of amplitude 1 leaves at most
    assert (peaks["amplitude"][near] > leakage).all()


def test_peaks__drift_is_not_a_line() -> None:
    t = np.arange(1024) / RATE
    drift = 3 * np.sin(2 * np.pi * 0.6 * t / t[-1])
    got = spectral_features(np.stack([drift, drift + 0.05 * np.sin(2 * np.pi * 4 * t)]), RATE)
    assert np.isnan(got["dominant_hz"][0])
    np.testing.assert_allclose(got["dominant_hz"][1], 4, atol=0.01)
    np.testing.assert_allclose(got["dominant_amplitude"][1], 0.05, rtol=0.02)


@pytest.mark.parametrize("band_hz", [None, (15.0, 31.0)])
def test_envelope__agrees_with_scipy_hilbert(band_hz: tuple[float, float] | None) -> None:
    x = walk(offset=9.81)
    got = spectral_features(x, RATE, envelope_band=band_hz)["envelope_peaks"]
    n = x.shape[1]
    w = signal.get_window("hann", n)
    y = x.astype(np.float64)
    y -= (y @ w / w.sum())[:, None]
    spectrum = np.fft.fft(y * w, axis=1)
    if band_hz:
        hz = np.abs(np.fft.fftfreq(n, 1 / RATE))
        spectrum[:, ~((hz >= band_hz[0]) & (hz < band_hz[1]))] = 0
    envelope = np.abs(signal.hilbert(np.fft.ifft(spectrum, axis=1).real, axis=1))
    envelope -= w * (envelope.sum(axis=1) / w.sum())[:, None]
    a = np.abs(np.fft.rfft(envelope, axis=1)) * 2 / w.sum()
    for line in got[:, 0]:
        assert np.isfinite(line["hz"])
    for i, peak in enumerate(got[:, 0]):
        k = int(a[i, 2:].argmax()) + 2
        side = 1 if a[i, k + 1] > a[i, k - 1] else -1
        d = (2 * a[i, k + side] - a[i, k]) / (a[i, k + side] + a[i, k])
        np.testing.assert_allclose(peak["hz"], (k + side * d) * RATE / n, rtol=1e-4)
        np.testing.assert_allclose(peak["amplitude"], a[i, k] * (1 - d * d) / np.sinc(d), rtol=1e-4)


@given(
    carrier=st.floats(15, 35),
    modulation=st.floats(0.8, 6),
    depth=st.floats(0.1, 0.9),
    phase=st.floats(0, 6.28),
)
@settings(max_examples=50, deadline=None)
def test_envelope__reads_amplitude_modulation(carrier: float, modulation: float, depth: float, phase: float) -> None:
    t = np.arange(1024) / RATE
    x = 2 * (1 + depth * np.cos(2 * np.pi * modulation * t + phase)) * np.cos(2 * np.pi * carrier * t)
    line = spectral_features(x[None], RATE)["envelope_peaks"][0, 0]
    assert abs(line["hz"] - modulation) < 0.01
    assert abs(line["amplitude"] / (2 * depth) - 1) < 0.02


def test_envelope__faint_modulation_is_not_lost_in_the_mean() -> None:
    t = np.arange(1024) / RATE
    x = (1 + 0.004 * np.cos(2 * np.pi * 0.6 * t)) * np.cos(2 * np.pi * 20 * t)
    line = spectral_features(x[None], RATE)["envelope_peaks"][0, 0]
    np.testing.assert_allclose(line["hz"], 0.6, atol=0.01)
    np.testing.assert_allclose(line["amplitude"], 0.004, rtol=0.05)


def test_envelope_lines__leaves_its_spectrum_alone() -> None:
    spectrum = np.fft.rfft(walk(2)).astype(np.complex64)
    before = spectrum.copy()
    envelope_lines(spectrum, 1024, np.full(2, RATE / 1024), 1, (5.0, 20.0))
    np.testing.assert_array_equal(spectrum, before)


def test_envelope__a_steady_sine_has_none_to_speak_of() -> None:
    t = np.arange(1024) / RATE
    x = np.sin(2 * np.pi * np.array([[3.3], [7.77], [21.21]]) * t + 1)
    amplitude = spectral_features(x, RATE)["envelope_peaks"]["amplitude"]
    assert np.nan_to_num(amplitude).max() < 1e-3


@given(
    hz=st.floats(0.35, 48.5),
    phase=st.floats(0, 6.28),
    amplitude=st.floats(1e-3, 1e3),
    n=st.sampled_from([512, 1000, 1023]),
)
@settings(max_examples=100, deadline=None)
def test_dominant__recovers_any_sine(hz: float, phase: float, amplitude: float, n: int) -> None:
    n = 2 * n if hz < 1 else n
    x = 9.81 * amplitude + amplitude * np.sin(2 * np.pi * hz * np.arange(n) / RATE + phase)
    got = spectral_features(x[None], RATE)
    assert abs(got["dominant_hz"][0] - hz) < 0.003
    assert abs(got["dominant_amplitude"][0] / amplitude - 1) < 0.005
    assert 60 < got["dominant_snr_db"][0] < 140.2


def test_crest_factor__of_a_sine_is_root_two_whatever_the_offset() -> None:
    x = 0.7 * np.sin(2 * np.pi * np.arange(1000) / 100)[None] + np.array([[0.0], [9.81], [-50.0]])
    got = spectral_features(x, RATE)
    np.testing.assert_allclose(got["crest_factor"], np.sqrt(2), rtol=1e-4)
    np.testing.assert_allclose(got["rms"], np.sqrt(0.245 + np.array([0, 9.81, 50.0]) ** 2), rtol=1e-6)


def test_dominant__accuracy_on_walking_signals_with_harmonics() -> None:
    rng = np.random.default_rng(5)
    windows, n = 4000, 1024
    t = np.arange(n) / RATE
    hz = rng.uniform(0.8, 6.0, (windows, 1))
    amplitude = rng.uniform(0.5, 3.0, (windows, 1))
    phase = rng.uniform(0, 2 * np.pi, (3, windows, 1))
    x = 9.81 + amplitude * (
        np.sin(2 * np.pi * hz * t + phase[0])
        + 0.45 * np.sin(4 * np.pi * hz * t + phase[1])
        + 0.2 * np.sin(6 * np.pi * hz * t + phase[2])
        + 0.2 * rng.standard_normal((windows, n))
    )
    got = spectral_features(x.astype(np.float32), RATE)
    assert np.mean(np.abs(got["dominant_hz"] - hz[:, 0]) < 0.02) >= 0.999
    assert np.mean(np.abs(got["dominant_amplitude"] / amplitude[:, 0] - 1) < 0.05) >= 0.999
    np.testing.assert_allclose(np.median(got["total_harmonic_distortion"]), np.hypot(0.45, 0.2), rtol=0.03)


def test_snr__measures_noise_not_lines() -> None:
    rng = np.random.default_rng(6)
    n, sigma = 1024, 0.5
    x = np.sin(2 * np.pi * 7 * np.arange(n) / RATE) + sigma * rng.standard_normal((500, n))
    # Noise of variance s**2 reads a mean square amplitude of 4 s**2 sum(w**2) / sum(w)**2 in a bin.
    w = signal.get_window("hann", n)
    expected = -10 * np.log10(4 * sigma**2 * (w**2).sum() / w.sum() ** 2)
    assert abs(np.median(spectral_features(x, RATE)["dominant_snr_db"]) - expected) < 0.2


@given(scale=st.sampled_from([1e-12, 1e-6, 0.37, 12.0, 1e9, 1e15]), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_features__scale_with_the_unit(scale: float, seed: int) -> None:
    x = walk(4, 256, seed=seed)
    one, other = spectral_features(x, RATE), spectral_features(x * np.float32(scale), RATE)
    linear = {"mean", "rms", "std", "peak", "peak_to_peak", "dominant_amplitude"}
    for name in INDEPENDENT:
        factor = scale if name in linear else 1.0
        np.testing.assert_allclose(other[name] / factor, one[name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(other["band_power"] / scale**2, one["band_power"], rtol=1e-4)


def test_features__frequencies_scale_with_each_windows_rate() -> None:
    x = walk()
    rate = np.linspace(50, 200, len(x))
    one, other = spectral_features(x, RATE), spectral_features(x, rate)
    for name in ("dominant_hz", "spectral_centroid_hz", "spectral_bandwidth_hz", "spectral_rolloff_hz"):
        np.testing.assert_allclose(other[name] / rate, one[name] / RATE, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 9.81, -1e-20, 1e30])
def test_features__constant_window(value: float) -> None:
    got = spectral_features(np.full((2, 100), value, np.float32), RATE)
    for name in ("mean", "rms"):
        np.testing.assert_allclose(got.pop(name), value if name == "mean" else abs(value), rtol=1e-6)
    for name in ("std", "peak", "peak_to_peak", "band_power"):
        assert (got.pop(name) == 0).all(), name
    for name, column in got.items():
        fields = [column] if column.dtype.names is None else [column[field] for field in column.dtype.names]
        assert all(np.isnan(field).all() for field in fields), name


def test_features__constant_that_is_not_its_own_float32_mean() -> None:
    x = np.repeat(np.random.default_rng(2).uniform(-20, 20, (500, 1)).astype(np.float32), 1000, axis=1)
    got = spectral_features(x, RATE)
    assert (got["std"] == 0).all()
    assert np.isnan(got["dominant_hz"]).all()
    np.testing.assert_array_equal(got["mean"], x[:, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features__sample_that_is_not_finite(bad: float) -> None:
    x = walk(3)
    clean = spectral_features(x, RATE)
    x[1, 17] = bad
    got = spectral_features(x, RATE)
    for name, column in got.items():
        for field in column.dtype.names or ("",):
            values, whole = (c[field] if field else c for c in (column, clean[name]))
            assert np.isnan(values[1]).all(), name
            np.testing.assert_array_equal(values[[0, 2]], whole[[0, 2]], err_msg=name)


def test_features__never_infinite() -> None:
    n = 64
    impulse, square, ramp = np.zeros(n), np.tile([1.0, -1.0], n // 2), np.arange(n)
    got = spectral_features(np.stack([impulse, np.eye(n)[5], square, ramp]), RATE)
    for name, column in got.items():
        for field in column.dtype.names or ("",):
            assert not np.isinf(column[field] if field else column).any(), name


def test_features__blocks_do_not_show() -> None:
    x = walk(300)
    whole = spectral_features(x, RATE)
    for i in (0, 127, 128, 299):
        one = spectral_features(x[i : i + 1], RATE)
        for name, column in whole.items():
            for field in column.dtype.names or ("",):
                part, alone = (c[field] if field else c for c in (column[i : i + 1], one[name]))
                np.testing.assert_allclose(part, alone, rtol=1e-5, atol=1e-7, err_msg=name)


def test_features__no_windows() -> None:
    got = spectral_features(np.empty((0, 64), np.float32), RATE, bands={"a": (0, 1)}, peaks=2)
    assert got["mean"].shape == (0,)
    assert got["peaks"].shape == (0, 2)
    assert got["band_power"].shape == (0, 1)


@pytest.mark.parametrize(
    ("samples", "rate", "options"),
    [
        (np.zeros(64), RATE, {}),
        (np.zeros((1, MIN_SAMPLES - 1)), RATE, {}),
        (np.zeros((1, 64)), 0.0, {}),
        (np.zeros((1, 64)), np.nan, {}),
        (np.zeros((2, 64)), [1.0, 2.0, 3.0], {}),
        (np.zeros((1, 64)), RATE, {"rolloff": 1.0}),
        (np.zeros((1, 64)), RATE, {"peaks": 0}),
        (np.zeros((1, 64)), RATE, {"envelope_peaks": 0}),
        (np.zeros((1, 64)), RATE, {"harmonics": 1}),
    ],
)
def test_features__refuses_nonsense(samples: Array, rate: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"samples|sample_rate_hz|rolloff|broadcast"):
        spectral_features(samples, rate, **options)


@given(hz=st.floats(1, 45), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_sine_amplitude__at_any_times(hz: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, 10.24, 900))
    x = 9.81 + np.stack([1.7 * np.sin(2 * np.pi * hz * t + 1), 0.3 * np.cos(2 * np.pi * 3 * t)], axis=1)
    rates = np.array([[hz, 3.0], [np.nan, 3.0]])
    found = sine_amplitude(np.stack([t, t + 1e9]), np.stack([x, x]), rates)
    np.testing.assert_allclose(found, [[1.7, 0.3], [np.nan, 0.3]], rtol=1e-6)


def test_sine_amplitude__is_not_disturbed_by_another_line() -> None:
    t = np.arange(1000) / RATE
    x = (np.sin(2 * np.pi * 7.03 * t) + 5 * np.sin(2 * np.pi * 9.08 * t + 1))[:, None]
    np.testing.assert_allclose(sine_amplitude(t[None], x[None], np.array([[7.03]])), 1, rtol=2e-3)


@pytest.mark.parametrize("foot", ["left", "right"])
@pytest.mark.parametrize("seconds", [10.24, 7928 / 204.8])
def test_gait_recording__second_harmonic_dominates_and_stride_is_listed(foot: str, seconds: float) -> None:
    """True for both feet, in each whole 10.24 s window and in the recording as one window.

    The stride border file is the independent truth: 0.92 Hz is the median stride. A walker is no clock (the
    rate wanders between 0.89 and 0.94 Hz), so "among the peaks" means within one bin, 1 / window length.
    """
    rate = 204.8
    samples = pd.read_csv(VIBRATION / "gaitmap_imu_sample.csv.gz", header=[0, 1], index_col=0)
    strides = pd.read_csv(VIBRATION / "gaitmap_stride_borders.csv").query("foot == @foot")
    stride_hz = float((rate / (strides.end - strides.start)).median())
    assert round(stride_hz, 2) == 0.92
    gyr_y = samples[f"{foot}_sensor"]["gyr_y"].to_numpy()
    n = round(seconds * rate)
    count = len(gyr_y) // n
    got = spectral_features(gyr_y[: count * n].reshape(count, n), rate)
    bin_hz = rate / n
    assert (np.abs(got["dominant_hz"] - 2 * stride_hz) < 2 * bin_hz).all()
    assert (np.abs(got["peaks"]["hz"] - stride_hz).min(axis=1) < bin_hz).all()


@pytest.mark.parametrize("foot", ["left", "right"])
def test_gait_recording__peak_follows_the_strides_of_its_window(foot: str) -> None:
    rate, n = 204.8, 2097
    samples = pd.read_csv(VIBRATION / "gaitmap_imu_sample.csv.gz", header=[0, 1], index_col=0)
    strides = pd.read_csv(VIBRATION / "gaitmap_stride_borders.csv").query("foot == @foot")
    gyr_y = samples[f"{foot}_sensor"]["gyr_y"].to_numpy()
    for k in range(len(gyr_y) // n):
        inside = strides[(strides.start >= k * n) & (strides.end <= (k + 1) * n)]
        stride_hz = rate / (inside.end - inside.start).median()
        got = spectral_features(gyr_y[None, k * n : (k + 1) * n], rate)
        assert abs(got["dominant_hz"][0] / 2 - stride_hz) < 0.03
        assert abs(got["peaks"]["hz"][0, 1] - stride_hz) < 0.03
