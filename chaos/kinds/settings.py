"""Settings that change between two runs, of which one dies."""

from __future__ import annotations

import shutil

from chaos.crew import Ran
from chaos.driver import HALF_WAY
from chaos.samples import Sample
from chaos.trial import ARRIVALS, FIRST, PIPELINE, RUN, Kind, ScenarioError, Trial
from jobs.lake.layout import Lake

# Each refuses some of a sample's rows, and by no means all. None is fleet's, which judges a fix by its neighbours: one
# that was refused and comes back late has had no say in what became of them.
_STRICTER = {
    "accelerometer": "datasets.accelerometer.acceleration_limit=10.5",
    "devices": "datasets.devices.humidity_range=[0,70]",
    "turbofan": "datasets.turbofan.max_cycle=100",
    "waterways": "datasets.waterways.north=43",
}
# Each changes what a gold table of a sample holds.
_OTHER = {
    "accelerometer": "tables.sensor_spectra.window_seconds=5.12",
    "devices": "tables.device_quality.fresh_seconds=1",
    "fleet": "tables.fleet_status.window_seconds=600",
    "turbofan": "tables.engine_health.rolling_cycles=10",
    "waterways": "tables.county_activity.window_seconds=120",
}


def of_silver(trial: Trial) -> None:
    """A promotion dies, and is run again by other rules: refused, or carried through; in the end no row is lost."""
    sample = trial.sample(*_STRICTER)
    silver = ("silver", "--dataset", sample.dataset)
    first, then = trial.rng.sample([silver, (*silver, "--set", _STRICTER[sample.dataset])], 2)
    trial.say(f"{_STRICTER[sample.dataset]} in the {'first' if then == silver else 'second'} run")
    expected = trial.undisturbed(sample, (ARRIVALS[0], silver))
    death = trial.death(sample, (ARRIVALS[0], first), among=HALF_WAY)
    lake = trial.prepared(sample, ARRIVALS[:1])
    trial.do(lake, sample, first, death=death)
    refused = trial.do(lake, sample, then)
    read_again = refused.code != 0 and _does_as_told(lake, sample, refused)
    trial.succeed(lake, sample, (*([then] if read_again else []), silver, ("replay", "--dataset", sample.dataset)))
    trial.check(lake, expected, but_for_rivals=True, read_again=read_again)


def _does_as_told(lake: Lake, sample: Sample, ran: Ran) -> bool:
    """Whether a run that was refused advised to remove the checkpoint, which is then done.

    Raises:
        ScenarioError: It was not refused as the data's fault, with what to do next.
    """
    if ran.code != 1 or "next:" not in ran.err:
        raise ScenarioError(f"with other settings it ended with {ran.code}:\n{ran.err}")
    if advised := "rm -r" in ran.err:
        shutil.rmtree(lake.checkpoint("silver", sample.dataset))
    return advised


def of_gold(trial: Trial) -> None:
    """Gold is computed with its settings, then with others, then with its own again, and one of these runs dies."""
    sample = trial.sample()
    other = (*RUN, "--set", _OTHER[sample.dataset])
    nothing_new, before, between = (
        (*FIRST, other, RUN),
        (*FIRST, ARRIVALS[1], other, RUN),
        (*FIRST, other, ARRIVALS[1], RUN),
    )
    steps = trial.rng.choice([nothing_new, before, between])
    place = trial.rng.choice([steps.index(other), len(steps) - 1])
    trial.say(f"{other[2]} in step {steps.index(other)}")
    expected = trial.undisturbed(sample, FIRST if steps is nothing_new else PIPELINE)
    trial.interrupted(sample, steps, place, expected)


KINDS = (
    Kind("settings-changed", "a promotion that was killed is run again with other thresholds", of_silver),
    Kind("gold-settings", "gold's settings are changed and changed back, and a run between dies", of_gold),
)
