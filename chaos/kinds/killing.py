"""Runs that die: at named points, at any instant, by a worker's death, by order, or only for a while."""

from __future__ import annotations

import os
import signal
import threading

from chaos.driver import WHEN, Death, workers
from chaos.drivers import Ran
from chaos.trial import Kind, ScenarioError, Step, Trial, well_said

_POINTS = {
    "silver": ("delta.append", "quarantine.append", "drift.record", "promotion.promote"),
    "gold": ("delta.overwrite", "delta.upsert_in_time", "delta.upsert"),
    "replay": ("delta.append", "quarantine.settle"),
    "maintain": ("maintaining.expire", "maintaining.tidy"),
}
_COMMON = ("ledger.record", "delta.append_here", "leases.take", "leases.release")


def _death(trial: Trial, steps: tuple[Step, ...], how: str) -> tuple[int, Death]:
    """A job of the program, and a point that it comes by."""
    place = trial.a_job_of(steps)
    job = steps[place][0]
    points = _COMMON + (_POINTS["silver"] + _POINTS["gold"] if job == "pipeline" else _POINTS[job])
    death = Death(trial.rng.choice(points), trial.rng.choice(WHEN), trial.rng.randint(1, 3), how)
    trial.say(f"step {place}, {job}: {death}")
    return place, death


def _die(trial: Trial, how: str) -> Ran:
    sample = trial.sample()
    steps = trial.program(sample)
    place, death = _death(trial, steps, how)
    expected, lake = trial.expected(sample, steps), trial.prepared(sample, steps[:place])
    ran = trial.do(lake, sample, steps[place], death=death)
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)
    return ran


def at_point(trial: Trial) -> None:
    """Killed before or after a named point, then run again."""
    _die(trial, "kill")


def by_order(trial: Trial) -> None:
    """Ended by SIGTERM at a named point, then run again."""
    ran = _die(trial, "term")
    if ran.code not in (0, 143) or (ran.code == 143 and "stopped by SIGTERM" not in ran.err):
        raise ScenarioError(f"SIGTERM ended with {ran.code}:\n{ran.err}")


def of_worker(trial: Trial) -> None:
    """Its Python workers are killed at a named point: Spark starts others, or the job says that one has died."""
    well_said(_die(trial, "worker"))


def at_any_instant(trial: Trial) -> None:
    """Killed after a random time, then run again."""
    sample = trial.sample()
    steps = trial.program(sample)
    place, after = trial.a_job_of(steps), trial.rng.uniform(0.0, 15.0)
    trial.say(f"step {place}, {steps[place][0]}: kill after {after:.2f} s")
    expected, lake = trial.expected(sample, steps), trial.prepared(sample, steps[:place])
    with trial.stage.crew.victim() as victim:
        victim.begin(steps[place][0], *trial.arguments(lake, sample, steps[place]))
        timer = threading.Timer(after, victim.kill)
        timer.start()
        trial.note(victim.end())
        timer.cancel()
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)


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
    place, death = _death(trial, steps, "stop")
    expected, lake = trial.expected(sample, steps), trial.prepared(sample, steps[:place])
    arguments = trial.arguments(lake, sample, steps[place])
    with trial.stage.crew.victim() as victim:
        ran = victim.run(
            steps[place][0],
            *arguments,
            death=death,
            meanwhile=lambda: trial.succeed(lake, sample, steps[place : place + 1]),
        )
    trial.note(ran)
    if ran.code not in (0, 3) or (ran.code == 3 and "LH303" not in ran.err):
        raise ScenarioError(f"the run that woke up ended with {ran.code}:\n{ran.err}")
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)


KINDS = (
    Kind("kill-at-point", "SIGKILL of the driver before or after a named point", at_point),
    Kind("kill-at-any-instant", "SIGKILL of the driver after a random time", at_any_instant),
    Kind("kill-worker-at-point", "SIGKILL of the Python workers at a named point", of_worker),
    Kind("kill-worker", "SIGKILL of a Python worker every second or so", worker_at_any_instant),
    Kind("term", "SIGTERM at a named point", by_order),
    Kind("asleep", "a driver stands still, another takes over, the first wakes up", asleep),
)
