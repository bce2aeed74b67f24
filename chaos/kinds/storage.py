"""Stores that fail: S3 in all the ways it does, and a disk that is full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from chaos.proxy import ALL, Trouble
from chaos.stores import no_mounts
from chaos.trial import Kind, Trial, kinds, well_said

_WRITES = ("PUT", "POST")
_FOR_EVER = 1 << 30


Requests = Counter[tuple[str, str]]


def troubled(trial: Trial, make: Callable[[Trial, Requests], Trouble]) -> None:
    """Requests are spoiled while a job runs; it succeeds all the same, or says why not, and is run again."""
    sample = trial.sample()
    steps = trial.program(sample, "pipeline", "stages")
    place = trial.a_job_of(steps)
    trouble = make(trial, trial.requests(sample, steps[: place + 1]))
    trial.say(f"step {place}, {steps[place][0]}: {trouble}")
    expected, lake = trial.expected(sample, steps), trial.prepared(sample, steps[:place], on_s3=True)
    with trial.stage.stores.proxy.troubled(trouble):
        ran = trial.do(lake, sample, steps[place])
    trial.say(f"{trouble.spoiled} spoiled")
    trial.effect = trouble.spoiled > 0
    well_said(ran)
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)


def _some(trial: Trial, seen: Requests, methods: tuple[str, ...] = ALL) -> int:
    """After how many requests of a job, by chance, trouble comes."""
    return trial.rng.randrange(sum(count for (method, _), count in seen.items() if method in methods))


def slow_down(trial: Trial, seen: Requests) -> Trouble:
    """A burst of 503."""
    return Trouble("slow down", after=_some(trial, seen), times=trial.rng.choice([1, 5, 20]))


def silence(trial: Trial, seen: Requests) -> Trouble:
    """No answer."""
    return Trouble("silence", after=_some(trial, seen), times=trial.rng.choice([1, 2, 4]))


def cut(trial: Trial, seen: Requests) -> Trouble:
    """Cut within an upload."""
    return Trouble("cut", _WRITES, after=_some(trial, seen, _WRITES), times=trial.rng.choice([1, 2, 5]))


def lost_reply(trial: Trial, seen: Requests) -> Trouble:
    """Done, but not said."""
    return Trouble("lost reply", _WRITES, after=_some(trial, seen, _WRITES), times=trial.rng.choice([1, 2]))


def expired(trial: Trial, seen: Requests) -> Trouble:
    """Credentials expire: from then on nothing works."""
    return Trouble("expired", after=_some(trial, seen), times=_FOR_EVER)


def denied(trial: Trial, seen: Requests) -> Trouble:
    """A part of the lake that the job reaches may not be written, or not even be read."""
    methods = trial.rng.choice([_WRITES, ALL])
    part = trial.rng.choice(sorted({part for method, part in seen if method in methods}))
    return Trouble("denied", methods, part, times=_FOR_EVER)


def no_bucket(trial: Trial, seen: Requests) -> Trouble:
    """The bucket is gone, for now."""
    return Trouble("no bucket", after=trial.rng.choice([0, _some(trial, seen)]), times=_FOR_EVER)


def full_disk(trial: Trial) -> None:
    """The disk is full; some room is made, and the job is run again."""
    sample = trial.sample()
    steps = trial.program(sample)
    place, leaving = trial.a_job_of(steps), trial.rng.choice([0, 1_000, 20_000, 100_000, 400_000])
    trial.say(f"step {place}, {steps[place][0]}: {leaving:,} bytes left")
    expected, disk = trial.expected(sample, steps), trial.disk(megabytes=64)
    lake = trial.lake(disk)
    trial.succeed(lake, sample, steps[:place])
    disk.fill(leaving)
    ran = trial.do(lake, sample, steps[place])
    disk.empty()
    trial.effect = ran.code != 0
    well_said(ran)
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)


def full_disk_of_spark(trial: Trial) -> None:
    """The disk for what Spark sets aside is full; some room is made, and the job is run again."""
    sample = trial.sample()
    steps = trial.program(sample)
    place, leaving = trial.a_job_of(steps), trial.rng.choice([0, 10_000, 100_000])
    trial.say(f"step {place}, {steps[place][0]}: {leaving:,} bytes left")
    expected, disk = trial.expected(sample, steps), trial.disk(megabytes=64)  # Spark puts its JARs there as well
    lake = trial.prepared(sample, steps[:place])
    with trial.stage.crew.another(SPARK_LOCAL_DIRS=str(disk.place)) as driver:
        driver.end()
        disk.fill(leaving)
        ran = trial.note(driver.run(steps[place][0], *trial.arguments(lake, sample, steps[place])))
    trial.effect = ran.code != 0
    well_said(ran)
    trial.succeed(lake, sample, steps[place:])
    trial.check(lake, expected)


KINDS = (
    *kinds(
        "s3",
        troubled,
        {
            slow_down: "S3 answers a burst of requests with 503 SlowDown",
            silence: "S3 does not answer for longer than a client waits",
            cut: "the connection is cut within an upload",
            lost_reply: "S3 has done what was asked, and its answer is lost",
            expired: "the credentials expire while a job runs",
            denied: "S3 denies access to a part of the lake",
            no_bucket: "the bucket is gone for a while",
        },
    ),
    Kind("full-disk", "the lake's disk is full", full_disk, no_mounts),
    Kind("full-disk-of-spark", "the disk where Spark sets things aside is full", full_disk_of_spark, no_mounts),
)
