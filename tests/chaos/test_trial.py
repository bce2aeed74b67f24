"""A scenario: what a job comes by is where it dies, and a seed repeats all of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

from chaos.samples import SAMPLES
from chaos.trial import FIRST, References, Stage, Trial

FLEET = SAMPLES["fleet"]


def trial(seed: int, calls: dict[str, int]) -> Trial:
    """One whose job is known to come by these points so often."""
    references, unused = References(), cast(Any, None)
    references.calls["fleet-arrive-0-pipeline"] = calls
    return Trial(seed, random.Random(seed), Stage(Path(), Path(), unused, unused, references))


def test_death__is_at_a_call_that_the_job_makes():
    calls = {"ledger.record": 3, "delta.append": 1}
    deaths = [trial(seed, calls).death(FLEET, FIRST) for seed in range(100)]
    assert {(death.point, death.nth) for death in deaths} == {
        ("delta.append", 1), ("ledger.record", 1), ("ledger.record", 2), ("ledger.record", 3),
    }  # fmt: skip
    assert {death.when for death in deaths} == {"before", "after"}


def test_death__is_the_same_for_a_seed():
    one, other = trial(7, {"ledger.record": 9, "delta.append": 9}), trial(7, {"delta.append": 9, "ledger.record": 9})
    assert one.death(FLEET, FIRST, "term") == other.death(FLEET, FIRST, "term")
    assert one.told == other.told
