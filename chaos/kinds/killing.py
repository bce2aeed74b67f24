"""Runs that die: at named points, at any instant, by a worker's death, by order, or only for a while."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime

from chaos.checks import Fingerprint
from chaos.crew import Ran
from chaos.driver import KILLED, workers
from chaos.samples import SAMPLES, Sample
from chaos.stores import FIRST_ARRIVAL, put
from chaos.trial import PIPELINE, RUN, Kind, ScenarioError, Step, Trial, well_said
from jobs.lake.layout import Lake

_KEPT_FROM = date(2026, 1, 1)  # the accelerometer's sample has half of its rows before it


def _die(trial: Trial, how: str) -> Ran:
    sample = trial.sample()
    steps = trial.program(sample)
    return trial.interrupted(sample, steps, trial.a_job_of(steps), trial.expected(sample, steps), how)


def at_point(trial: Trial) -> None:
    """Killed before or after a named point, then run again."""
    _die(trial, "kill")


def by_order(trial: Trial) -> None:
    """Ended by SIGTERM at a named point, then run again."""
    ran = _die(trial, "term")
    if ran.code not in (0, 143) or (ran.code == 143 and "stopped by SIGTERM" not in ran.err):
        raise ScenarioError(f"SIGTERM ended with {ran.code}:\n{ran.err}")


def at_expiry(trial: Trial) -> None:
    """Killed while half of silver's rows expire, then run again: what is gone is in the books, and gold keeps all."""
    sample, days = trial.sample("accelerometer"), (datetime.now(UTC).date() - _KEPT_FROM).days
    join = ("maintain", "--table", f"silver/{sample.dataset}")  # then files have rows of both years
    steps = (*PIPELINE, join, (*join, "--set", f"silver.keep_days.{sample.dataset}={days}"))
    trial.interrupted(sample, steps, len(steps) - 1, trial.undisturbed(sample, steps))


def of_worker(trial: Trial) -> None:
    """Its Python workers are killed at a named point: Spark starts others, or the job says that one has died."""
    ran = _die(trial, "worker")
    trial.effect = ran.calls.get(KILLED, 0) > 0
    well_said(ran)


def at_any_instant(trial: Trial) -> None:
    """Killed after a random time, then run again."""
    sample = trial.sample()
    steps = trial.program(sample)
    _after_a_while(trial, sample, steps, trial.a_job_of(steps), trial.expected(sample, steps))


def _after_a_while(
    trial: Trial, sample: Sample, steps: Sequence[Step], place: int, expected: Fingerprint, longest: float = 15.0
) -> None:
    after = trial.rng.uniform(0.0, longest)
    trial.say(f"step {place}, {steps[place][0]}: kill after {after:.2f} s")
    lake = trial.prepared(sample, steps[:place], on_s3=trial.on_s3())
    with trial.stage.crew.victim() as victim:
        victim.begin(steps[place][0], *trial.arguments(lake, sample, steps[place]))
        timer = threading.Timer(after, victim.kill)
        timer.start()
        trial.effect = trial.note(victim.end()).died
        timer.cancel()
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)


def at_source(trial: Trial) -> None:
    """Killed while rows come into bronze, from files or from a simulator, then run again."""
    dataset, source = trial.rng.choice(_sources(trial))
    trial.say(f"{dataset} by {source[0]}")
    sample, steps = SAMPLES[dataset], (source, RUN)
    expected = trial.undisturbed(sample, steps)
    if trial.rng.random() < 0.5:
        trial.interrupted(sample, steps, 0, expected)
    else:
        _after_a_while(trial, sample, steps, 0, expected, longest=4.0)


def _sources(trial: Trial) -> list[tuple[str, Step]]:
    """Jobs that fill a dataset's bronze."""
    folder = trial.stage.place / "source"
    folder.mkdir(exist_ok=True)
    for number in range(3):
        lines = [
            b"\xff"
            if second % 50 == 7
            else b'{"device_id":"d%d","timestamp":%d,"temperature":%d.5,"humidity":40}'
            % (number, FIRST_ARRIVAL + second, second % 30)
            for second in range(300)
        ]
        put(Lake(str(folder)), f"{number}.jsonl", b"\n".join(lines), 1_000 + number)
    few = ("--entities", "2", "--seed", "7", "--start", "2026-01-01T00:00:00Z", "--duration", "30s", "--rate-hz", "50")
    return [
        ("devices", ("ingest", "--dataset", "devices", str(folder / "0.jsonl"))),
        ("devices", ("migrate", "--dataset", "devices", "--from", str(folder))),
        ("accelerometer", ("simulate", "--dataset", "accelerometer", *few)),
    ]


def worker_at_any_instant(trial: Trial) -> None:
    """A Python worker is killed again and again while jobs run; they succeed, or say why not, and are run again."""
    sample = trial.sample("accelerometer", "devices", "waterways")
    steps = trial.program(sample, "pipeline", "stages")
    expected, lake = trial.expected(sample, steps), trial.lake()
    every, done = trial.rng.uniform(0.3, 2.0), threading.Event()
    trial.say(f"a worker every {every:.2f} s")
    driver = trial.stage.crew.warm()

    def hunt() -> None:
        while not done.wait(every):
            for number in workers(driver.pid)[-1:]:
                os.kill(number, signal.SIGKILL)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        for step in steps:
            well_said(trial.do(lake, sample, step))
    finally:
        done.set()
        hunter.join()
        driver.close()  # its Spark may count on workers that are dead; who runs the job again has another
    trial.succeed(lake, sample, [step for step in steps if step[0] != "arrive"])
    trial.check(lake, expected)


def asleep(trial: Trial) -> None:
    """Stopped within a write, for longer than its lease lasts; another run takes over; the first wakes up."""
    sample = trial.sample()
    steps = trial.program(sample, "pipeline", "stages")
    place = trial.a_job_of(steps)
    expected, death = trial.expected(sample, steps), trial.death(sample, steps[: place + 1], "stop")
    lake = trial.prepared(sample, steps[:place], on_s3=trial.on_s3())
    arguments = trial.arguments(lake, sample, steps[place])
    with trial.stage.crew.victim() as victim:
        ran = victim.run(
            steps[place][0],
            *arguments,
            death=death,
            meanwhile=lambda: trial.succeed(lake, sample, steps[place : place + 1]),
        )
    trial.note(ran, death)
    if ran.code not in (0, 3) or (ran.code == 3 and "LH303" not in ran.err):
        raise ScenarioError(f"the run that woke up ended with {ran.code}:\n{ran.err}")
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)


KINDS = (
    Kind("kill-at-point", "SIGKILL of the driver before or after a named point", at_point, weight=4),
    Kind("kill-at-any-instant", "SIGKILL of the driver after a random time", at_any_instant, weight=2),
    Kind("kill-at-source", "SIGKILL of the driver while rows come into bronze", at_source),
    Kind("kill-worker-at-point", "SIGKILL of the Python workers at a named point", of_worker),
    Kind("kill-worker", "SIGKILL of a Python worker every second or so", worker_at_any_instant),
    Kind("kill-at-expiry", "SIGKILL of the driver while old rows expire", at_expiry),
    Kind("term", "SIGTERM at a named point", by_order),
    Kind("asleep", "a driver stands still, another takes over, the first wakes up", asleep),
)
