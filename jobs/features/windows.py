"""Cutting one sensor's rows into windows of even samples, or saying why a window has none.

Windows lie on an absolute grid: window k starts k hops after 1970-01-01T00:00:00Z, whatever data there is.
What a window yields depends on the rows inside it and on nothing else, so it comes out the same whenever it
is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from jobs.features.spectra import MIN_SAMPLES

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
T = TypeVar("T", bound=np.generic)

# Greatest distance of a sample from the even clock, in sampling intervals, at which the clock still counts as
# even. A line at frequency f loses the factor exp(-(2 pi f s)**2 / 2) to jitter of standard deviation s: for
# jitter uniform within this bound, 0.4 % at the Nyquist frequency and less below. A clock in whole
# microseconds passes up to 50 kHz.
_EVEN = 0.05
# Samples by which the count due in a window may be overstated by rounding of the rate.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class WindowSpec:
    """Length and spacing of windows on the absolute grid.

    Attributes:
        length_us: Length of a window in microseconds.
        hop_us: From one start to the next in microseconds, at most the length.
    """

    length_us: int
    hop_us: int

    def __post_init__(self) -> None:
        """Refuse a grid that would skip rows or never advance."""
        if not 0 < self.hop_us <= self.length_us:
            raise ValueError(f"need 0 < hop_us <= length_us, not {self.hop_us} and {self.length_us}")


@dataclass(frozen=True)
class Limits:
    """What a window may lack and still be resampled.

    Attributes:
        min_coverage: Least share of the samples due that must be present.
        max_gap_samples: Most samples in a row that may be missing.
    """

    min_coverage: float = 0.9
    max_gap_samples: int = 5


@dataclass(frozen=True)
class Group:
    """Windows with the same number of even samples.

    Attributes:
        windows: Positions of the windows in `Windows`, shape (w,).
        samples: Shape (w, n, axes); a read-only view of the sensor's values where their clock was even.
        resampled: Whether the samples were interpolated.
    """

    windows: Int64
    samples: Float32
    resampled: bool


@dataclass(frozen=True)
class Windows:
    """The windows of one sensor that hold at least one row, in time order.

    Attributes:
        index: Number k of each window on the grid, shape (windows,).
        start_us: Start in microseconds since the epoch.
        first_row: First row inside the window.
        end_row: The row after its last.
        samples: Rows inside the window.
        coverage: Rows present over rows due at the rate as measured, at most 1; NaN where no rate can be
        measured.
        sample_rate_hz: Rate as measured from the window's own rows; NaN for a single row.
        groups: Samples fit for analysis. Windows in no group have too little coverage, a gap too long or too
        few rows.
    """

    index: Int64
    start_us: Int64
    first_row: Int64
    end_row: Int64
    samples: Int32
    coverage: Float64
    sample_rate_hz: Float64
    groups: tuple[Group, ...]


def touched_windows(times_us: Int64, spec: WindowSpec) -> tuple[Int64, Int64]:
    """Windows that rows belong to.

    Args:
        times_us: Times of the rows in microseconds since the epoch, any shape and order.
        spec: The grid.

    Returns:
        For each row the numbers of the first and the last window that hold it.
    """
    return (times_us - spec.length_us) // spec.hop_us + 1, times_us // spec.hop_us


def cut(
    times_us: Int64,
    values: Float32,
    spec: WindowSpec,
    first: int | None = None,
    last: int | None = None,
    *,
    limits: Limits = Limits(),
) -> Windows:
    """Cut the rows of one sensor into windows.

    A window whose clock is even (see ``_EVEN``) keeps the samples it holds, without interpolation and, in
    memory, without a copy. Any other is resampled by a cubic spline onto an even grid from its first row to
    its last, at the rate measured, if it is within the limits. Nothing is extrapolated: a window cut short at
    an end of the recording has fewer samples, and with less than the least coverage none.

    Why coverage 0.9 and gaps of 5: measured on noise-free sines with up to 8 % of 1,024 samples dropped,
    lines up to a twentieth of the sample rate read within 0.4 % in amplitude. At a tenth of it gaps of 5
    already cost 4 %, so each resampled line is checked as well, in `jobs.features.sensor_spectra`.

    Args:
        times_us: Times in microseconds since the epoch, strictly ascending, shape (n,).
        values: Samples, shape (n, axes); fastest if each axis is contiguous in memory.
        spec: The grid.
        first: Number of the first window wanted; None for no bound.
        last: Number of the last window wanted; None for no bound.
        limits: What may be resampled.

    Returns:
        The windows from ``first`` to ``last`` that hold at least one row.

    Raises:
        ValueError: The times do not ascend strictly, or the shapes differ.
    """
    if values.ndim != 2 or len(values) != len(times_us):
        raise ValueError(f"values must have shape ({len(times_us)}, axes), not {values.shape}")
    index = _occupied(times_us, spec)
    index = index[np.searchsorted(index, first) if first is not None else 0 :]
    index = index[: np.searchsorted(index, last, side="right") if last is not None else None]
    start = index * spec.hop_us
    first_row, end_row = np.searchsorted(times_us, start), np.searchsorted(times_us, start + spec.length_us)
    count = end_row - first_row
    rate = np.full(len(index), np.nan)
    coverage = np.full(len(index), np.nan)
    groups: list[Group] = []
    uneven = [np.flatnonzero((count > 1) & (count < MIN_SAMPLES))]
    for n in np.unique(count[count >= MIN_SAMPLES]):
        same = np.flatnonzero(count == n)
        rate[same], even = _clock(_stacked(times_us, first_row[same], n))
        coverage[same] = _coverage(n, rate[same], spec)
        usable = same[even & (coverage[same] >= limits.min_coverage)]
        uneven.append(same[~even])
        if len(usable):
            groups.append(Group(usable, _stacked(values, first_row[usable], n), resampled=False))
    resampled: dict[int, list[tuple[int, Float32]]] = {}
    for w in np.concatenate(uneven).tolist():
        rows = slice(first_row[w], end_row[w])
        rate[w], coverage[w], samples = _resample(times_us[rows], values[rows], spec, limits)
        if samples is not None:
            resampled.setdefault(len(samples), []).append((w, samples))
    for filled in resampled.values():
        place, samples_of = zip(*filled, strict=True)
        groups.append(Group(np.array(place), np.stack(samples_of), resampled=True))
    return Windows(index, start, first_row, end_row, count.astype(np.int32), coverage, rate, tuple(groups))


def _occupied(times_us: Int64, spec: WindowSpec) -> Int64:
    """Numbers of the windows that hold a row: between rows no more than a hop apart none is empty."""
    if not len(times_us):
        return np.empty(0, np.int64)
    interval = np.diff(times_us)
    if (interval <= 0).any():
        raise ValueError("times_us must ascend strictly")
    silence = np.flatnonzero(interval > spec.hop_us)
    opens, _ = touched_windows(times_us[np.concatenate(([0], silence + 1))], spec)
    _, closes = touched_windows(times_us[np.concatenate((silence, [len(times_us) - 1]))], spec)
    # After a short silence the first windows of one stretch may be the last of the one before it.
    opens[1:] = np.maximum(opens[1:], closes[:-1] + 1)
    return np.concatenate([np.arange(a, b + 1) for a, b in zip(opens, closes, strict=True)])


def _stacked(rows: npt.NDArray[T], first: Int64, n: int) -> npt.NDArray[T]:
    """Rows [first, first + n) of each window, shape (windows, n, ...): a view if evenly spaced."""
    hop = int(first[1] - first[0]) if len(first) > 1 else 1
    view = np.lib.stride_tricks.sliding_window_view(rows, n, axis=0)
    spaced = hop > 0 and (np.diff(first) == hop).all()
    return np.moveaxis(view[first[0] : first[-1] + 1 : hop] if spaced else view[first], -1, 1)


def _clock(times_us: Int64) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Rate in Hz between the first and last sample of each window, and whether all lie on that even clock.

    Args:
        times_us: Shape (windows, n).

    Returns:
        Rates and flags, shape (windows,). Over the whole span, rounding to microseconds amounts to 1e-7 of
        the rate.
    """
    n = times_us.shape[1]
    span = times_us[:, -1] - times_us[:, 0]
    place = (times_us - times_us[:, :1]) * ((n - 1) / span)[:, None]
    place -= np.arange(n)
    return (n - 1) / span * 1e6, np.maximum(place.max(axis=1), -place.min(axis=1)) <= _EVEN


def _coverage(count: npt.ArrayLike, rate_hz: npt.ArrayLike, spec: WindowSpec) -> Float64:
    """Samples present over samples due: length times rate are due, rounded down or up."""
    due = np.floor(np.asarray(rate_hz) * (spec.length_us / 1e6) + _ROUNDING)
    return np.minimum(np.asarray(count) / np.maximum(due, 1), 1)


def _resample(
    times_us: Int64, values: Float32, spec: WindowSpec, limits: Limits
) -> tuple[float, float, Float32 | None]:
    """Rate, coverage and, within the limits, even samples of one window that is uneven or lacks samples.

    The number of sampling intervals in each step is the step over the median step, rounded: up from 1.75,
    since two neighbours jittered apart by three eighths of an interval each have lost nothing between them.
    The rate is all of them over the whole span, so the rounding of single steps to clock ticks does not add
    up, as it would in the median.
    """
    elapsed = times_us - times_us[0]
    step = np.diff(elapsed)
    intervals = np.maximum(np.floor(step / np.median(step) + 0.25), 1)
    total = int(intervals.sum())
    rate = total / float(elapsed[-1]) * 1e6
    coverage = float(_coverage(len(times_us), rate, spec))
    gap = intervals.max() - 1
    if len(times_us) < MIN_SAMPLES or coverage < limits.min_coverage or gap > limits.max_gap_samples:
        return rate, coverage, None
    from scipy.interpolate import CubicSpline  # takes a while to load, and few windows need it

    even = np.linspace(0, elapsed[-1], total + 1)
    return rate, coverage, CubicSpline(elapsed, values)(even).astype(np.float32)
