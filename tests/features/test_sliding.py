"""Sliding windows, counted once more window by window."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.features import sliding

occurrences = st.lists(
    st.tuples(
        st.integers(0, 2),  # group
        st.integers(0, 3),  # name
        st.integers(-6, 12),  # first window
        st.integers(1, 5),  # events
    ),
    max_size=30,
)


@given(occurrences, st.integers(0, 4))
def test_count__equals_a_count_window_by_window(found: list[tuple[int, int, int, int]], overlap: int):
    found = sorted(found)
    events: dict[tuple[int, int], int] = defaultdict(int)
    names: dict[tuple[int, int], set[int]] = defaultdict(set)
    for group, name, first, count in found:
        for window in range(first, first + overlap + 1):
            events[group, window] += count
            names[group, window].add(name)
    group, name, first, count = (
        (np.array(column, np.int64) for column in zip(*found, strict=True))
        if found
        else (np.empty(0, np.int64) for _ in range(4))
    )
    counts = sliding.count(group, name, first, first + overlap, count)
    keys = list(zip(counts.group.tolist(), counts.window.tolist(), strict=True))
    assert keys == sorted(events)
    assert dict(zip(keys, counts.events.tolist(), strict=True)) == dict(events)
    assert dict(zip(keys, counts.names.tolist(), strict=True)) == {key: len(there) for key, there in names.items()}
