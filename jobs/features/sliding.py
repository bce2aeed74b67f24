"""What sliding windows have in them, at a cost that does not depend on how far they overlap. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Windows that have something in them, in order of group and window; arrays of the same length.

    Attributes:
        group: The group.
        window: Number of the window.
        events: Events in it.
        names: Different names among them.
    """

    group: Int64
    window: Int64
    events: Int64
    names: Int64


def count(group: Int64, name: Int64, first: Int64, last: Int64, events: Int64) -> Counts:
    """Count events, and different names among them, by group and window.

    A window's content changes only where an occurrence enters it or leaves it. So sums of what enters and leaves are
    run through once, however many windows an occurrence is in; a name enters where none of its occurrences is, and
    leaves with the last of those that follow each other without a gap.

    Args:
        group: Of each occurrence.
        name: Of each occurrence. Occurrences are in order of group, name and window.
        first: First window that it is in.
        last: Last window that it is in, not before ``first``.
        events: How many it stands for, at least 1.
    """
    if not len(group):
        return Counts(group, first, events, events)
    origin, width = first.min(), last.max() - first.min() + 2
    base = group * width - origin
    goes_on = (np.diff(group) == 0) & (np.diff(name) == 0) & (first[1:] <= last[:-1] + 1)
    begins, ends = np.r_[True, ~goes_on], np.r_[~goes_on, True]
    one = np.ones(np.count_nonzero(begins), np.int64)
    nothing = np.zeros_like(one)
    place, at = np.unique(
        np.concatenate([base + first, base + last + 1, (base + first)[begins], (base + last + 1)[ends]]),
        return_inverse=True,
    )
    inside = _running(at, len(place), np.concatenate([events, -events, nothing, nothing]))
    named = _running(at, len(place), np.concatenate([np.zeros(2 * len(events), np.int64), one, -one]))
    some = np.flatnonzero(inside)
    lengths = place[some + 1] - place[some]  # what has entered leaves, so the last place has nothing in it
    offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    reached = np.repeat(place[some], lengths) + offsets
    return Counts(
        reached // width, reached % width + origin, np.repeat(inside[some], lengths), np.repeat(named[some], lengths)
    )


def _running(at: Int64, length: int, change: Int64) -> Int64:
    """Running sum of the changes at each place."""
    total = np.zeros(length, np.int64)
    np.add.at(total, at, change)
    return np.cumsum(total)
