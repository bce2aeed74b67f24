"""Cutting one sensor's rows into windows of even samples, or saying why a window has none.

Windows lie on an absolute grid: window k starts k hops after 1970-01-01T00:00:00Z, whatever data there is.
What a window yields depends on the rows inside it and on nothing else, so it comes out the same whenever it
is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
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
_PIECE_SAMPLES = 1 << 15  # resampled at a time


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
    filled: dict[int, list[tuple[Int64, Float32]]] = defaultdict(list)
    for n in np.unique(count[count > 1]):
        uneven = np.flatnonzero(count == n)
        if n >= MIN_SAMPLES:
            same = uneven
            rate[same], even = _clock(_stacked(times_us, first_row[same], n))
            coverage[same] = _coverage(n, rate[same], spec)
            usable = same[even & (coverage[same] >= limits.min_coverage)]
            if len(usable):
                groups.append(Group(usable, _stacked(values, first_row[usable], n), resampled=False))
            uneven = same[~even]
        for some in _pieces(uneven, n):
            rows = _stacked(times_us, first_row[some], n)
            total, longest = _intervals(rows)
            rate[some] = total / (rows[:, -1] - rows[:, 0]) * 1e6
            coverage[some] = _coverage(n, rate[some], spec)
            fit = (n >= MIN_SAMPLES) & (coverage[some] >= limits.min_coverage) & (longest <= limits.max_gap_samples + 1)
            for intervals in np.unique(total[fit]).tolist():
                these = fit & (total == intervals)
                samples = _resampled(rows[these], _stacked(values, first_row[some[these]], n), intervals)
                filled[intervals].append((some[these], samples))
    for parts in filled.values():
        places, samples_of = zip(*parts, strict=True)
        groups.append(Group(np.concatenate(places), np.concatenate(samples_of), resampled=True))
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


def _pieces(windows: Int64, n: int) -> Iterator[Int64]:
    """Windows of n samples, as many at a time as fit the cache."""
    size = max(1, _PIECE_SAMPLES // n)
    yield from (windows[start : start + size] for start in range(0, len(windows), size))


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


def _intervals(times_us: Int64) -> tuple[Int64, Int64]:
    """Sampling intervals that windows last, those of samples that are missing included, and the longest step's.

    The number of intervals in each step is the step over the median step, rounded: up from 1.75, since two neighbours
    jittered apart by three eighths of an interval each have lost nothing between them. The rate is all of them over the
    whole span, so the rounding of single steps to clock ticks does not add up, as it would in the median.

    Args:
        times_us: Shape (windows, n), n > 1.

    Returns:
        Intervals of each window and of its longest step, shape (windows,).
    """
    step = np.diff(times_us)
    intervals = np.maximum(np.floor(step / np.median(step, axis=1, keepdims=True) + 0.25), 1).astype(np.int64)
    return intervals.sum(axis=1), intervals.max(axis=1)


def _resampled(times_us: Int64, values: Float32, intervals: int) -> Float32:
    """Even samples of windows that are uneven or lack samples: a cubic spline, "not a knot" at the ends.

    The spline's slopes s at its knots solve a tridiagonal system (de Boor, "A Practical Guide to Splines", 1978, IV).
    Those of all windows are solved as one, whose blocks do not touch.

    Args:
        times_us: Shape (windows, n), n > 3.
        values: Shape (windows, n, axes).
        intervals: How many a window lasts.

    Returns:
        Shape (windows, intervals + 1, axes).
    """
    from scipy.linalg import solve_banded  # takes a while to load, and few windows need it

    x = (times_us - times_us[:, :1]).astype(np.float64)
    y = values.transpose(2, 0, 1).astype(np.float64, order="C")
    h = np.diff(x)
    first, last = x[:, 2] - x[:, 0], x[:, -1] - x[:, -3]
    above, diagonal, below = bands = np.zeros((3, *x.shape))
    diagonal[:, 1:-1] = 2 * (h[:, :-1] + h[:, 1:])
    diagonal[:, 0], diagonal[:, -1] = h[:, 1], h[:, -2]
    above[:, 2:], above[:, 1] = h[:, :-1], first
    below[:, :-2], below[:, -2] = h[:, 1:], last
    slope = np.diff(y) / h
    right = np.empty_like(y)
    right[..., 1:-1] = 3 * (h[:, 1:] * slope[..., :-1] + h[:, :-1] * slope[..., 1:])
    a, b = h[:, 0], h[:, 1]
    right[..., 0] = ((a + 2 * first) * b * slope[..., 0] + a**2 * slope[..., 1]) / first
    a, b = h[:, -1], h[:, -2]
    right[..., -1] = ((a + 2 * last) * b * slope[..., -1] + a**2 * slope[..., -2]) / last
    solved = solve_banded((1, 1), bands.reshape(3, -1), right.reshape(len(y), -1).T, check_finite=False)
    s = solved.T.reshape(y.shape)
    bend = (s[..., :-1] + s[..., 1:] - 2 * slope) / h
    even = np.linspace(0, x[:, -1], intervals + 1, axis=1)
    knot = np.stack([np.searchsorted(*pair, side="right") for pair in zip(x, even, strict=True)]) - 1
    knot = np.minimum(knot, x.shape[1] - 2)
    t = even - np.take_along_axis(x, knot, axis=1)
    terms = (bend / h, (slope - s[..., :-1]) / h - bend, s, y)
    cubic, quadratic, linear, constant = (np.take_along_axis(term, knot[None], axis=2) for term in terms)
    result = (constant + t * (linear + t * (quadratic + t * cubic))).astype(np.float32)
    return result.transpose(1, 2, 0)
