"""Vibration features of batches of windows: time statistics, Hann spectrum, lines, shape, bands, envelope.

Everything here is numpy and scipy on float32 arrays of shape (windows, n); no Spark. `spectral_features`
composes the families below it. Conventions shared by all of them:

* A window is centred on its mean and divided by its peak (the greatest distance from the mean) before
  anything is squared, so float32 loses nothing to gravity's 9.81 m/s2 or to the choice of unit. Results are
  scaled back at the end.
* ``a`` is the amplitude spectrum: ``a[k] = |rfft(w * x)[k]| * 2 / sum(w)`` with the periodic Hann window
  ``w``, so a sine of amplitude A centred on a bin reads A.
* ``P`` is the power spectrum per bin, equal to ``scipy.signal.periodogram(x, fs, "hann",
  detrend="constant")`` times ``fs / n``: its sum estimates the variance, and a sine of amplitude A adds A**2
  / 2.
* What is not defined is NaN, never infinite, and no warning is raised. A constant window has mean, rms, std =
  0, peak = 0, peak_to_peak = 0 and band_power = 0; all its other features are NaN. A window holding a sample
  that is not finite, or samples too large for float32 to hold their mean or their power, has nothing but NaN.

Sources: Harris, "On the use of windows", Proc. IEEE 66 (1978); Grandke, "Interpolation algorithms for
discrete Fourier transforms of weighted signals", IEEE Trans. Instrum. Meas. 32 (1983); Randall,
"Vibration-based condition monitoring" (2011); Randall & Antoni, "Rolling element bearing diagnostics: a
tutorial", MSSP 25 (2011).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Integer = npt.NDArray[np.intp]
Features = dict[str, npt.NDArray[Any]]

MIN_SAMPLES = 16
"""The shortest window that has a spectrum worth the name."""

GAIT_BANDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"posture": (0.0, 0.5), "gait": (0.5, 5.0), "limb": (5.0, 15.0), "structure": (15.0, 50.0)}
)
"""Default bands in Hz: shifts of posture, the gait and its harmonics, limbs and impacts, the frame."""

PEAK = np.dtype([("hz", np.float32), ("amplitude", np.float32), ("snr_db", np.float32)])
ENVELOPE_PEAK = np.dtype([("hz", np.float32), ("amplitude", np.float32)])

# Samples handled at a time: enough to spread numpy's cost per call, few enough to stay in the cache.
_BLOCK_SAMPLES = 1 << 17
# Amplitudes below these shares of a window's peak are float32 rounding, not signal.
_ROUNDING_LINE = np.float32(1e-6)
_ROUNDING_FLOOR = np.float32(1e-7)
# A band edge this close to a bin's centre, in bins, is on it: the rate as measured wanders by parts per
# million.
_EDGE = 1e-3
_LOWEST_BIN = 2
_TINY = np.finfo(np.float32).tiny


def spectral_features(
    samples: npt.ArrayLike,
    sample_rate_hz: npt.ArrayLike,
    *,
    bands: Mapping[str, tuple[float, float]] = GAIT_BANDS,
    rolloff: float = 0.85,
    peaks: int = 5,
    harmonics: int = 10,
    envelope_peaks: int = 3,
    envelope_band: tuple[float, float] | None = None,
) -> Features:
    """Compute every feature of every window.

    Args:
        samples: Evenly sampled windows, shape (windows, n), n >= 16, in any unit u. Read as float32.
        sample_rate_hz: Sample rate in Hz: one for all windows, or shape (windows,).
        bands: Name to (low, high) in Hz; see `band_power`.
        rolloff: Share of the power below the roll-off frequency, in (0, 1).
        peaks: How many of the strongest lines to list, at least 1.
        harmonics: Highest harmonic counted as distortion, at least 2.
        envelope_peaks: How many of the strongest lines of the envelope spectrum to list, at least 1.
        envelope_band: Band (low, high) in Hz demodulated for the envelope; None for the whole spectrum.

    Returns:
        Feature name to float32 array of shape (windows,), save three. ``peaks`` (windows, peaks) is a
        structured array of hz, amplitude, snr_db and ``envelope_peaks`` (windows, envelope_peaks) one of hz,
        amplitude: strongest first, NaN where there are fewer. ``band_power`` has shape (windows, bands),
        columns in the order of ``bands``.

    Raises:
        ValueError: Wrong shape, too few samples, a rate that is not positive, or an option out of its range.
    """
    x = np.asarray(samples)
    if x.ndim != 2 or x.shape[1] < MIN_SAMPLES:
        raise ValueError(f"samples must have shape (windows, n) with n >= {MIN_SAMPLES}, not {x.shape}")
    rate = np.broadcast_to(np.asarray(sample_rate_hz, dtype=np.float64), x.shape[:1])
    if not (np.isfinite(rate) & (rate > 0)).all():
        raise ValueError("sample_rate_hz must be positive")
    if not 0 < rolloff < 1 or peaks < 1 or envelope_peaks < 1 or harmonics < 2:
        raise ValueError("rolloff must lie in (0, 1), peaks and envelope_peaks be at least 1, harmonics at least 2")
    edges = np.array(list(bands.values()), dtype=np.float64).reshape(-1, 2)
    _keep_scratch()
    step = max(1, _BLOCK_SAMPLES // x.shape[1])
    blocks = [
        _features_of_block(
            np.ascontiguousarray(x[i : i + step], dtype=np.float32), rate[i : i + step],
            edges, rolloff, peaks, harmonics, envelope_peaks, envelope_band,
        )
        for i in range(0, max(1, len(x)), step)
    ]  # fmt: skip
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


@lru_cache(maxsize=1)
def _keep_scratch() -> None:
    """Have glibc keep the scratch arrays' memory between blocks: page faults were a third of the time.

    malloc's thresholds for mapping and trimming rise to the largest mapped block freed so far, 32 MB at most.
    This one is never touched, so it costs no memory; other allocators ignore it.
    """
    np.empty(31 << 20, dtype=np.uint8)


def _features_of_block(
    x: Float32,
    rate: Float64,
    edges: Float64,
    rolloff: float,
    peaks: int,
    harmonics: int,
    envelope_peaks: int,
    envelope_band: tuple[float, float] | None,
) -> Features:
    """All features of a block of windows small enough for the cache."""
    n = x.shape[1]
    bin_hz = rate / n
    y, mean, peak, finite = centre(x)
    varies = peak > 0
    spectrum = hann_spectrum(y)
    amplitude = np.abs(spectrum)
    power = power_spectrum(amplitude, n)
    cumulative = np.cumsum(power, axis=1, dtype=np.float64)
    bins, heights = strongest_lines(amplitude, peaks)
    floor = noise_floor(amplitude, n)
    features: Features = {
        **time_statistics(y, mean, peak),
        "peaks": _listed(PEAK, bins, heights, bin_hz, peak, floor),
        **spectral_shape(power, cumulative, bin_hz, rolloff, varies),
        "band_power": band_power(cumulative, bin_hz, n, edges) * (peak**2)[:, None],
        "total_harmonic_distortion": harmonic_distortion(amplitude, bins[:, 0], heights[:, 0], n, harmonics),
        "envelope_peaks": _listed(
            ENVELOPE_PEAK, *envelope_lines(spectrum, n, bin_hz, envelope_peaks, envelope_band), bin_hz, peak
        ),
    }
    for field in ("hz", "amplitude", "snr_db"):
        features[f"dominant_{field}"] = features["peaks"][field][:, 0]
    return {name: _blank(column, finite) for name, column in features.items()}


def _listed(
    kind: np.dtype[Any],
    bins: Float64,
    heights: Float64,
    bin_hz: Float64,
    peak: Float64,
    floor: Float64 | None = None,
) -> npt.NDArray[Any]:
    """Lines in bins and parts of the peak as a structured array in Hz, the samples' unit and dB."""
    lines = np.empty(bins.shape, kind)
    lines["hz"] = bins * bin_hz[:, None]
    lines["amplitude"] = heights * peak[:, None]
    if floor is not None:
        lines["snr_db"] = 20 * np.log10(heights / floor[:, None])
    return lines


def _blank(column: npt.NDArray[Any], finite: Bool) -> npt.NDArray[Any]:
    """The column as float32 (or its structure), NaN for windows that are not finite in the sense of `centre`."""
    result = column if column.dtype.names else column.astype(np.float32)
    if not finite.all():
        result[~finite] = nothing(result.dtype)
    return result


def nothing(kind: np.dtype[Any]) -> Any:
    """NaN in the given type: a plain one, or a structure of them."""
    return np.nan if kind.names is None else (np.nan,) * len(kind.names)


def _ratio(numerator: Float64, denominator: Float64) -> Float64:
    """Quotient, NaN where the denominator is zero."""
    result: Float64 = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def centre(x: Float32) -> tuple[Float32, Float64, Float64, Bool]:
    """Centre each window on its mean and scale it to a peak of 1.

    The mean is taken twice, the second time of what the first left: subtraction in float32 is exact to the
    size of its result, so a small vibration on a large offset keeps its seven digits.

    Args:
        x: Windows, shape (windows, n).

    Returns:
        The centred and scaled windows, their means and their peaks ``max |x - mean|`` (both in the samples'
        unit, shape (windows,)), and which windows hold nothing but finite samples whose mean and whose
        vibration's power float32 can hold; the others are returned as zeros.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        first = x.mean(axis=1)
        y = x - first[:, None]
        second = y.mean(axis=1)
        y -= second[:, None]
        mean = first.astype(np.float64) + second
        highest, lowest = y.max(axis=1), y.min(axis=1)
        swing = highest - lowest
        finite = np.isfinite(swing * swing)
    if not finite.all():
        y[~finite] = 0
    # A constant need not be its own float32 mean to the last digit; it has no vibration all the same. Nor has one
    # with a swing that is subnormal, whose digits are few.
    peak = np.where(finite & (swing >= _TINY), np.maximum(highest, -lowest), np.float32(0))
    y *= np.divide(1, peak, out=np.zeros_like(peak), where=peak > 0)[:, None]
    return y, np.where(peak > 0, mean, x[:, 0]), peak.astype(np.float64), finite


def time_statistics(y: Float32, mean: Float64, peak: Float64) -> Features:
    """Statistics of the samples in time, from windows centred and scaled by `centre`.

    With the central moments ``m_j = mean((x - mean)**j)`` (population moments, as scipy.stats by default):

    * mean (u), rms ``sqrt(mean(x**2))`` of the samples as recorded, offset included (u), std ``sqrt(m_2)``
      (u).
    * peak ``max |x - mean|`` (u): ISO 2041 takes the peak of a vibration from its mean, so gravity is no part
      of it.
    * peak_to_peak ``max(x) - min(x)`` (u).
    * crest_factor ``peak / std``: peak and RMS both about the mean, sqrt(2) for a sine whatever the offset.
    * skewness ``m_3 / m_2**1.5`` and kurtosis ``m_4 / m_2**2 - 3`` (Fisher's: 0 for Gaussian noise, -1.5 for
      a sine).
    """
    n = y.shape[1]
    square = y * y
    m2, m3, m4 = (np.vecdot(one, other) / np.float64(n) for one, other in ((y, y), (square, y), (square, square)))
    std = peak * np.sqrt(m2)
    return {
        "mean": mean,
        "rms": np.hypot(mean, std),
        "std": std,
        "peak": peak,
        "peak_to_peak": peak * (y.max(axis=1) - y.min(axis=1)),
        "crest_factor": _ratio(peak, std),
        "skewness": _ratio(m3, m2**1.5),
        "kurtosis": _ratio(m4, m2**2) - 3,
    }


@lru_cache(maxsize=64)
def _hann(n: int) -> Float32:
    """Periodic Hann window, scaled so that a sine of amplitude A on a bin's centre reads A."""
    # Written out because scipy.signal takes a second to load, in every worker.
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    result: Float32 = (window * (2 / window.sum())).astype(np.float32)
    result.flags.writeable = False
    return result


def hann_spectrum(y: Float32) -> npt.NDArray[np.complex64]:
    """Complex amplitude spectrum under the periodic Hann window (Harris 1978).

    Args:
        y: Centred windows, shape (windows, n).

    Returns:
        ``rfft(w * y) * 2 / sum(w)``, complex64, shape (windows, n // 2 + 1).
    """
    result: npt.NDArray[np.complex64] = fft.rfft(y * _hann(y.shape[1]), axis=1, overwrite_x=True, workers=1)
    return result


def power_spectrum(amplitude: Float32, n: int) -> Float32:
    """Power per bin ``P``, in the square of the samples' unit.

    ``P[k] = a[k]**2 / (2 * 1.5)``, 1.5 bins being the Hann window's noise bandwidth (Harris 1978); half of
    that for the bins that have no mirror image, at zero and, for even n, at the Nyquist frequency. By
    Parseval's theorem its sum is the window-weighted variance.
    """
    power: Float32 = amplitude * amplitude
    power *= np.float32(1 / 3)
    power[:, 0] *= 0.5
    if n % 2 == 0:
        power[:, -1] *= 0.5
    return power


@lru_cache(maxsize=64)
def _sidelobes(bins: int) -> Float32:
    """Row k: what a line of height 1 peaking at bin k may leak into each bin under the Hann window.

    The window's transform falls as ``|W(x)| <= 1 / (pi x (x**2 - 1))`` at x bins from the line. The line may
    lie half a bin off its bin's centre, where it reads 1.4 dB low (a factor 1.18); with a little room for
    noise that makes 1.5. The line's own main lobe, the bins beside it, is taken whole.
    """
    x = np.abs(np.arange(1 - bins, bins)) - 0.5
    with np.errstate(divide="ignore"):
        bound = np.where(x > 1, 1.5 / (np.pi * x * np.abs(x * x - 1)), 1e30).astype(np.float32)
    return np.lib.stride_tricks.sliding_window_view(bound, bins)[::-1]


def strongest_lines(amplitude: Float32, count: int) -> tuple[Float64, Float64]:
    """Find the strongest lines and read them between the bins.

    A line is a local maximum of the amplitude spectrum that its stronger neighbours' side lobes do not
    explain. Lines are taken greedily, each one's leakage (see `_sidelobes`) being discounted before the next.
    They are looked for from bin 2: under two cycles a window a line cannot be told from drift, which only
    discounts its leakage.

    Each is then interpolated by Grandke's (1983) two-point estimator, exact for a sine under a Hann window up
    to leakage and O(1 / n**2): with ``r`` the ratio of the greater neighbour to the highest bin, ``d = (2 r -
    1) / (r + 1)`` bins towards that neighbour and ``A = a[k] (1 - d**2) / sinc(d)``. Measured against
    Agrez's three-point and the log-parabolic estimator it has the least spread in white noise, and the least
    error between 2 and 2.5 bins; without noise the three-point one is better from 2.5 bins on.

    Args:
        amplitude: Amplitude spectra, shape (windows, bins).
        count: Lines wanted.

    Returns:
        Frequency in bins and amplitude, shape (windows, count), by falling amplitude, NaN where there are
        fewer.
    """
    windows, bins = amplitude.shape
    row = np.arange(windows)
    centre_, left, right = amplitude[:, 1:-1], amplitude[:, :-2], amplitude[:, 2:]
    candidates = np.zeros_like(amplitude)
    np.multiply(centre_, (centre_ >= left) & (centre_ > right), out=candidates[:, 1:-1])
    candidates *= candidates > _ROUNDING_LINE
    drift = np.where(amplitude[:, 1] >= amplitude[:, 2], amplitude[:, :2].max(axis=1), 0)
    candidates[:, :_LOWEST_BIN] = 0
    leakage = _sidelobes(bins)
    candidates *= candidates > leakage[1] * drift[:, None]
    found = np.zeros((windows, count), np.intp)
    for i in range(count):
        found[:, i] = k = candidates.argmax(axis=1)
        if i + 1 < count:
            candidates *= candidates > leakage[k] * candidates[row, k][:, None]
    return _interpolated(amplitude, row[:, None], found)


def _interpolated(amplitude: Float32, row: Integer, k: Integer) -> tuple[Float64, Float64]:
    """Grandke's reading of the lines at bins k (0: none), sorted by falling amplitude."""
    height = np.where(k > 0, amplitude[row, k], np.nan).astype(np.float64)
    left, right = amplitude[row, k - 1], amplitude[row, np.minimum(k + 1, amplitude.shape[1] - 1)]
    ratio = np.maximum(left, right) / height
    # In noise the ratio may leave the range that a sine can give it: half a bin at most.
    offset = np.clip((2 * ratio - 1) / (ratio + 1), -0.5, 0.5)
    height *= _scalloping(offset)
    position = k + np.where(right > left, offset, -offset)
    order = np.argsort(-height, axis=1, kind="stable")
    return np.take_along_axis(position, order, axis=1), np.take_along_axis(height, order, axis=1)


def _scalloping(offset: Float64) -> Float64:
    """True amplitude over what the nearest bin reads, for a sine ``offset`` bins off its centre."""
    result: Float64 = (1 - offset * offset) / np.sinc(offset)
    return result


def noise_floor(amplitude: Float32, n: int) -> Float64:
    """Root-mean-square amplitude that noise alone reads in one bin, robust to lines.

    In white noise a bin's squared amplitude is exponentially distributed, its median ln 2 times its mean; so
    the floor is ``median(a) / sqrt(ln 2)`` over the bins strictly between zero and the Nyquist frequency. A
    line's signal-to-noise ratio is ``20 log10(A / floor)`` dB: in one bin, so it grows by 3 dB when the
    window doubles. The floor is never taken below float32 rounding (1e-7 of the peak), which bounds the ratio
    to about 140 dB.
    """
    inner = amplitude[:, 1 : (n + 1) // 2]
    upper = inner.shape[1] // 2
    lower = (inner.shape[1] - 1) // 2
    middle = np.partition(inner, (lower, upper) if lower < upper else upper, axis=1)
    median = (middle[:, lower].astype(np.float64) + middle[:, upper]) / 2
    result: Float64 = np.maximum(median / np.sqrt(np.log(2)), _ROUNDING_FLOOR)
    return result


def spectral_shape(power: Float32, cumulative: Float64, bin_hz: Float64, rolloff: float, varies: Bool) -> Features:
    """Moments and disorder of the power spectrum, over all bins from zero to the Nyquist frequency.

    With ``q = P / sum(P)`` over N bins at the frequencies f (Peeters, "A large set of audio features", 2004,
    on power):

    * spectral_centroid_hz ``c = sum(f q)`` and spectral_bandwidth_hz ``sqrt(sum((f - c)**2 q))`` (Hz).
    * spectral_rolloff_hz: frequency of the first bin up to which at least the share ``rolloff`` of the power
      lies (Hz).
    * spectral_entropy ``-sum(q ln q) / ln N``: 0 for a single bin, 1 for a flat spectrum (Shannon,
      normalised).
    * spectral_flatness ``exp(mean(ln q)) / mean(q)``: geometric over arithmetic mean, 1 for a flat spectrum.

    Args:
        power: Power per bin, shape (windows, bins).
        cumulative: Its running sum along the bins in float64.
        bin_hz: Width of a bin in Hz, shape (windows,).
        rolloff: Share in (0, 1).
        varies: False for constant windows, whose features are NaN.

    Returns:
        Feature name to array of shape (windows,).
    """
    bins = power.shape[1]
    total = np.where(varies, cumulative[:, -1], np.nan)
    k = np.arange(bins, dtype=np.float64)
    moments = power.astype(np.float64) @ np.stack([k, k * k], axis=1) / total[:, None]
    share = power * (1 / np.where(varies, total, 1)).astype(np.float32)[:, None]
    logarithm = np.log(share + _TINY)  # no less than this, and five times as fast as the maximum
    below = (cumulative < rolloff * cumulative[:, -1:]).sum(axis=1, dtype=np.int32)
    nan_if_constant = np.where(varies, 1.0, np.nan)
    return {
        "spectral_centroid_hz": moments[:, 0] * bin_hz,
        "spectral_bandwidth_hz": np.sqrt(np.maximum(moments[:, 1] - moments[:, 0] ** 2, 0)) * bin_hz,
        "spectral_rolloff_hz": below * bin_hz * nan_if_constant,
        "spectral_entropy": -np.vecdot(share, logarithm) / np.log(bins) * nan_if_constant,
        "spectral_flatness": np.exp(logarithm.mean(axis=1)) * bins * nan_if_constant,
    }


def _bin_range(low: Float64, high: Float64, bin_hz: Float64, n: int) -> tuple[Integer, Integer]:
    """First bin and the one after the last of a band [low, high); one reaching Nyquist takes its bin too."""
    bins = n // 2 + 1
    # Cut off before it is a whole number, of which an edge may be out of reach: infinity is a fair end of a band.
    first, last = (np.ceil(np.minimum(edge / bin_hz - _EDGE, bins)).astype(np.intp) for edge in (low, high))
    return first, np.where(high / bin_hz > n / 2 - _EDGE, bins, last)


def band_power(cumulative: Float64, bin_hz: Float64, n: int, edges: Float64) -> Float64:
    """Power in each band: the part of the variance that the band's bins carry (square of the samples' unit).

    ``sum of P[k] over low <= k * bin_hz < high``, so that bands side by side add up to the whole. A band that
    reaches the Nyquist frequency holds its bin and ends there. NaN for a band with no bin in it: narrower
    than the resolution, or above the Nyquist frequency.

    Args:
        cumulative: Running sum of the power along the bins, shape (windows, bins).
        bin_hz: Width of a bin in Hz, shape (windows,).
        n: Samples per window.
        edges: Low and high edge of each band in Hz, shape (bands, 2).

    Returns:
        Shape (windows, bands).
    """
    first, last = _bin_range(edges[None, :, 0], edges[None, :, 1], bin_hz[:, None], n)
    padded = np.pad(cumulative, ((0, 0), (1, 0)))
    power = np.take_along_axis(padded, last, axis=1) - np.take_along_axis(padded, first, axis=1)
    seen = (first < last) & (edges[None, :, 0] / bin_hz[:, None] < n / 2 - _EDGE)
    return np.where(seen, power, np.nan)


def harmonic_distortion(amplitude: Float32, bins: Float64, height: Float64, n: int, harmonics: int) -> Float64:
    """Total harmonic distortion of the dominant line.

    ``sqrt(sum of A_h**2) / A_1`` over the harmonics h = 2 .. ``harmonics`` below the Nyquist frequency, as
    IEEE 1057 defines it (there h = 2 .. 10). ``A_h`` is read at h times the interpolated dominant frequency,
    corrected for its place between the bins, so noise in those bins counts. NaN without a dominant line or
    with no harmonic in range.

    Args:
        amplitude: Amplitude spectra, shape (windows, bins).
        bins: Frequency of the dominant line in bins, shape (windows,).
        height: Its amplitude, shape (windows,).
        n: Samples per window.
        harmonics: Highest harmonic.

    Returns:
        Ratio, shape (windows,).
    """
    place = np.nan_to_num(bins)[:, None] * np.arange(2, harmonics + 1)
    heard = (place > 0) & (place < n / 2 - _EDGE)
    place = np.where(heard, place, 0)
    k = np.rint(place).astype(np.intp)
    reading = np.take_along_axis(amplitude, k, axis=1) * _scalloping(place - k) * heard
    return np.where(heard.any(axis=1), np.sqrt((reading**2).sum(axis=1)) / height, np.nan)


def envelope_lines(
    spectrum: npt.NDArray[np.complex64], n: int, bin_hz: Float64, count: int, band: tuple[float, float] | None
) -> tuple[Float64, Float64]:
    """Strongest lines of the envelope spectrum: what modulates the vibration, and by how much.

    The envelope is the magnitude of the analytic signal (Hilbert transform by FFT) of the band; its mean is
    removed and its lines are read as those of the signal are (Randall & Antoni 2011). The Hann window is put
    on before the Hilbert transform rather than after it. A window slower than the signal goes through
    unchanged (Bedrosian 1963), so the windowed envelope comes out directly; the ends of the window, where an
    FFT Hilbert transform errs, are zero; and the signal's own spectrum serves, which saves a transform. A
    carrier ``A (1 + m cos)`` reads amplitude A m.

    Args:
        spectrum: Complex amplitude spectra from `hann_spectrum`, shape (windows, bins).
        n: Samples per window.
        bin_hz: Width of a bin in Hz, shape (windows,).
        count: Lines wanted.
        band: Band (low, high) in Hz to demodulate, or None for all of it.

    Returns:
        Frequency in bins and amplitude, shape (windows, count), as `strongest_lines`.
    """
    spectrum = spectrum.copy()
    # Part of a cycle puts the mean a little off, and that beats with the signal. Under Hann a constant is
    # bins 0 and 1.
    spectrum[:, 1] += spectrum[:, 0] / 2
    spectrum[:, 0] = 0
    if band is not None:
        first, last = _bin_range(np.array(band[0]), np.array(band[1]), bin_hz, n)
        k = np.arange(spectrum.shape[1])
        spectrum *= (k >= first[:, None]) & (k < last[:, None])
    in_phase = fft.irfft(spectrum, n, axis=1, workers=1)
    spectrum *= np.complex64(-1j)
    quadrature = fft.irfft(spectrum, n, axis=1, overwrite_x=True, workers=1)
    in_phase *= in_phase
    quadrature *= quadrature
    envelope = np.sqrt(in_phase + quadrature)
    window = _hann(n)
    envelope -= window * (envelope.sum(axis=1) / window.sum())[:, None]
    return strongest_lines(np.abs(fft.rfft(envelope, axis=1, overwrite_x=True, workers=1)), count)


def sine_amplitude(seconds: Float64, values: npt.NDArray[Any], hz: Float64) -> Float64:
    """Amplitude of a sine of known frequency in samples taken at any times.

    Hann-weighted least squares of ``c + p cos(2 pi f t) + q sin(2 pi f t)``; the answer is ``hypot(p, q)``.
    On an even grid this is the Hann spectrum read at f; on an uneven one it needs no resampling, which makes
    it a check on one.

    Args:
        seconds: Times of the samples, shape (windows, n).
        values: Samples, shape (windows, n, signals).
        hz: One frequency per signal, shape (windows, signals); NaN for none.

    Returns:
        Amplitudes in the samples' unit, good to six digits, shape (windows, signals); NaN where there is no frequency.
        Where the times cannot tell the sine from a constant, the least amplitude that fits.
    """
    elapsed = seconds - seconds[:, :1]
    weight = (np.sin(np.pi / elapsed[:, -1:] * elapsed) ** 2).astype(np.float32)
    y = values.transpose(2, 0, 1)
    y = (y - y.mean(axis=2, keepdims=True, dtype=np.float64)).astype(np.float32)
    turns = np.nan_to_num(hz.T, nan=1.0)[:, :, None] * elapsed
    angle = (2 * np.pi * (turns - np.rint(turns))).astype(np.float32)
    one, cosine, sine = np.ones_like(y), np.cos(angle), np.sin(angle)
    weighted = [weight * each for each in (one, cosine, sine)]
    moments = [[np.vecdot(left, right).astype(np.float64) for right in (one, cosine, sine, y)] for left in weighted]
    system = np.moveaxis(np.array(moments), (0, 1), (-2, -1))
    # A sine that all samples find in one phase makes the system singular, but for float32's rounding.
    solution = (np.linalg.pinv(system[..., :3], _ROUNDING_LINE) @ system[..., 3:])[..., 0]
    return np.where(np.isnan(hz), np.nan, np.hypot(solution[..., 1], solution[..., 2]).T)
