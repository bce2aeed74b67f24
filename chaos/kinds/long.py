"""What takes minutes, and is played only when it is asked for: many drivers on one table, and a soak."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import psutil

from chaos import checks
from chaos.crew import Driver
from chaos.samples import SAMPLES
from chaos.stores import put
from chaos.trial import RUN, Kind, ScenarioError, Trial
from jobs.lake.layout import Lake
from sim.base import parameters_from, write
from sim.catalog import SIMULATORS
from sim.faults import FaultParameters
from sim.writers import LocalWriter

_TABLE, _DRIVERS, _COMMITS = "silver/appended", 8, 25  # commits of each driver
_PATIENT = ("leases.seconds=60", "leases.wait_seconds=3600", "s3.timeout_seconds=20")  # as users' runs, if not more
_PATIENCE = 3600.0  # s that a driver may take which waits for seven others
_SOAK = 30 * 60.0  # s
# All that has arrived in one batch; and a heap that is soon full, since Java lets one grow before it collects.
_SOAKED = ("silver.max_files_per_batch=1000", "spark.driver_memory=1g")
_MAINTAIN_EVERY = 20  # hours of data


def many_drivers(trial: Trial) -> None:
    """Eight drivers append to one table in S3, 25 commits each: every row that was acknowledged is there, once."""
    lake = trial.lake_on_s3()
    drivers = [trial.stage.crew.another() for _ in range(_DRIVERS)]
    try:
        for driver in drivers:
            driver.end()
        clock = time.monotonic()
        for number, driver in enumerate(drivers):
            step = ("append", "--table", _TABLE, "--driver", str(number), "--commits", str(_COMMITS))
            driver.begin(
                "chaos.append",
                *trial.arguments(lake, SAMPLES["fleet"], step, *_PATIENT),
            )
        ended = [driver.end(_PATIENCE) for driver in drivers]
        seconds = time.monotonic() - clock
    finally:
        for driver in drivers:
            driver.close()
    acknowledged = Counter(
        (number, int(commit)) for number, ran in enumerate(ended) for commit in re.findall(r"^\d+$", ran.out, re.M)
    )
    there = Counter((row["driver"], row["commit"]) for row in checks.rows(lake, _TABLE))
    table = checks.opened(lake, _TABLE)
    commits = 0 if table is None else table.version() + 1
    trial.say(f"{acknowledged.total()} rows acknowledged, {there.total()} there, {commits} commits, {seconds:.0f} s")
    failed = [ran.err for ran in ended if ran.code != 0]
    if failed or there != acknowledged or acknowledged.total() != _DRIVERS * _COMMITS:
        raise ScenarioError("\n".join([f"lost or doubled: {(acknowledged - there) + (there - acknowledged)}", *failed]))


def soak(trial: Trial) -> None:
    """Half an hour of data that arrive all along: memory and latency stay flat, and the books balance."""
    lake, sample = trial.lake(), trial.sample("accelerometer")
    latency, memory, until = list[float](), list[dict[str, float]](), time.monotonic() + _SOAK
    while time.monotonic() < until:
        _arrive(trial, lake, len(latency))
        clock = time.monotonic()
        trial.succeed(lake, sample, (RUN,), *_SOAKED)
        latency.append(time.monotonic() - clock)
        memory.append(_memory(trial.stage.crew.warm()))
        if len(latency) % _MAINTAIN_EVERY == 0:
            trial.succeed(lake, sample, (("maintain", "--table", "all"),))
    files = sum(1 for _ in checks.files(lake, "bronze"))
    trial.say(f"{len(latency)} hours of data, {files} files, in {_SOAK / 60:.0f} minutes")
    # The first sixth is the session getting warm; what comes after it is held against that.
    sixths = _sixths(latency)
    slower = [sixth / sixths[1] for sixth in sixths]
    trial.say(f"a run, by sixths of the time, took {' '.join(f'{ratio:.2f}' for ratio in slower)} times the second's")
    total = _sixths([sum(parts.values()) for parts in memory])
    for name in memory[0]:
        trial.say(f"{name} MB {' '.join(f'{sixth:,.0f}' for sixth in _sixths([parts[name] for parts in memory]))}")
    grew = slower[-1] > 1.3 or total[-1] > 1.2 * total[1]
    trial.hold(lake, *(["latency or memory grew"] if grew else []))


def _sixths(values: Sequence[float]) -> list[float]:
    """Medians of the six parts of a series."""
    size = len(values) // 6
    return [statistics.median(values[part * size : (part + 1) * size]) for part in range(6)]


def _arrive(trial: Trial, lake: Lake, hour: int) -> None:
    """An hour of devices, and a minute of accelerometers, with a few rows spoiled."""
    day, within = divmod(hour, 24)
    start = f"2026-{1 + day // 28:02d}-{1 + day % 28:02d}T{within:02d}:00:00Z"
    folder = trial.stage.place / "arriving" / str(hour)
    wanted = {
        "devices": {"entities": 4, "duration": "1h", "interval_seconds": 60, "seed": 7 + hour, "start": start},
        "accelerometer": {"entities": 4, "duration": "1m", "rate_hz": 50, "seed": 7, "start": start},
    }
    for name, values in wanted.items():
        simulator = SIMULATORS[name]
        faults, writer = FaultParameters(seed=hour, rows=0.01), LocalWriter(folder)
        for _ in write(simulator, parameters_from(simulator, values), writer, faults=faults):
            continue
    for path in sorted((folder / "bronze").rglob("*.parquet")):
        put(lake, path.relative_to(folder).as_posix(), path.read_bytes(), hour)


def _memory(driver: Driver) -> dict[str, float]:
    """What a driver holds, by whom: its own Python, Java, and its workers with the pages that they share; MB."""
    process, held = psutil.Process(driver.pid), {"driver": 0.0, "java": 0.0, "workers": 0.0}
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended by now
            whose = "driver" if each.pid == driver.pid else "java" if "java" in each.name() else "workers"
            held[whose] += each.memory_info().rss / 2**20
    return held


KINDS = (
    Kind("eight-drivers", "eight drivers append to one table in S3, 200 commits", many_drivers, weight=0),
    Kind("soak", "half an hour of data that arrive all along", soak, weight=0),
)
