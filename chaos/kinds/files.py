"""Bronze that is not what it should be: torn, empty, flipped and foreign files, and those that change under a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from chaos import checks
from chaos.driver import HALF_WAY, Death
from chaos.samples import Sample
from chaos.stores import put
from chaos.trial import ARRIVALS, FIRST, PIPELINE, RUN, SECOND, Kind, ScenarioError, Trial, kinds
from jobs.lake.layout import Lake
from sim.writers import encode

_LATE = 10_000  # minute of arrival, after all others
_MANY = 10_000


def spoiled(trial: Trial, make: Callable[[Trial, Sample], bytes]) -> None:
    """A file that is not what it should be arrives among the others: all of them are promoted, and it is refused."""
    sample = trial.sample()
    expected, lake = trial.undisturbed(sample), trial.prepared(sample, FIRST)
    bad = f"bronze/{sample.dataset}/bad-{trial.seed}.parquet"
    put(lake, bad, make(trial, sample), trial.rng.choice([-1, _LATE]))
    trial.succeed(lake, sample, SECOND)
    refused = _refused(lake, sample, bad)
    if [row["source_row"] for row in refused] != [None]:
        raise ScenarioError(f"{bad} is in quarantine as {refused}")
    trial.say(refused[0]["reasons"][0][:100])
    trial.check(lake, expected, but_for=bad)


def _refused(lake: Lake, sample: Sample, file: str) -> list[dict[str, Any]]:
    """What quarantine has of a file."""
    return [row for row in checks.rows(lake, f"quarantine/{sample.dataset}") if row["source_file"] == file]


def _one(trial: Trial, sample: Sample) -> bytes:
    """The content of a sound file, by chance."""
    folder = sample.folder(trial.stage.home)
    sound = [name for name in sample.files(trial.stage.home) if (folder / name).stat().st_size > 1_000]
    return (folder / trial.rng.choice(sound)).read_bytes()


def torn(trial: Trial, sample: Sample) -> bytes:
    """A sound file cut short."""
    content = _one(trial, sample)
    return content[: trial.rng.randint(1, len(content) - 1)]


def empty(trial: Trial, sample: Sample) -> bytes:
    """Nothing."""
    return b""


def flipped_end(trial: Trial, sample: Sample) -> bytes:
    """A sound file, with a bit of its footer's length or of its magic flipped."""
    content = bytearray(_one(trial, sample))
    content[-trial.rng.randint(1, 8)] ^= 1 << trial.rng.randint(0, 7)
    return bytes(content)


def foreign(trial: Trial, sample: Sample) -> bytes:
    """Another format under this name."""
    picture = bytes.fromhex("89504e470d0a1a0a") + trial.rng.randbytes(5_000)
    texts = ("a,b\n1,2\n" * 500, json.dumps([{"a": 1}] * 500), "<html></html>" * 500, "PAR1" + "x" * 500 + "PAR1")
    return trial.rng.choice([picture, *(text.encode() for text in texts)])


def flipped(trial: Trial) -> None:
    """A sound file comes again with a bit of its data flipped: what it spoils is refused, and no row is made up."""
    sample = trial.sample()
    expected, lake = trial.undisturbed(sample), trial.prepared(sample, PIPELINE)
    content = bytearray(_one(trial, sample))
    footer = int.from_bytes(content[-8:-4], "little")
    place = trial.rng.randint(4, len(content) - footer - 9)
    content[place] ^= 1 << trial.rng.randint(0, 7)
    bad = f"bronze/{sample.dataset}/flipped-{trial.seed}.parquet"
    trial.say(f"a bit of byte {place:,}")
    put(lake, bad, bytes(content), _LATE)
    trial.succeed(lake, sample, (RUN,))
    refused = [row["source_row"] for row in _refused(lake, sample, bad)]
    trial.say("refused" if refused == [None] else f"{len(refused)} rows refused")
    trial.check(lake, expected, but_for=bad)


def changing(trial: Trial, change: Callable[[Path], object]) -> None:
    """A file changes after it was listed and before it is read: it is refused, and comes back by replay."""
    sample = trial.sample()
    expected, lake = trial.undisturbed(sample), trial.prepared(sample, ARRIVALS[:1])
    name, content, at = _arrived(trial, lake, sample)
    point = Death("promotion.promote", "before", trial.rng.randint(1, 2), "stop")
    trial.say(f"{name} {point}")
    arguments = trial.arguments(lake, sample, RUN)
    ran = trial.stage.crew.warm().run(
        "pipeline", *arguments, death=point, meanwhile=lambda: change(Path(lake.uri, name))
    )
    if ran.code != 0:
        raise ScenarioError(f"it ended with {ran.code}:\n{ran.err}")
    _write(lake, name, content, at)
    trial.effect = bool(_refused(lake, sample, name))
    trial.say("refused" if trial.effect else "read before it changed")
    trial.succeed(lake, sample, (*SECOND, ("replay", "--dataset", sample.dataset), RUN))
    trial.check(lake, expected, but_for_rivals=trial.effect, read_again=True)


def _arrived(trial: Trial, lake: Lake, sample: Sample) -> tuple[str, bytes, int]:
    """A sound file of bronze, by chance: its name, its content and when it arrived, in ns since 1970."""
    paths = {name: Path(lake.uri, name) for name in sample.part(trial.stage.home, 0)}
    name = trial.rng.choice([name for name, path in paths.items() if path.stat().st_size > 1_000])
    return name, paths[name].read_bytes(), paths[name].stat().st_mtime_ns


def _write(lake: Lake, name: str, content: bytes, at: int) -> None:
    """Write a file of bronze as if it had arrived then."""
    path = Path(lake.uri, name)
    path.write_bytes(content)
    os.utime(path, ns=(at, at))


def vanish(path: Path) -> None:
    """Gone."""
    path.unlink()


def grow(path: Path) -> None:
    """A thousand bytes longer."""
    with path.open("ab") as file:
        file.write(bytes(1_000))


def mended(trial: Trial) -> None:
    """A file is torn when a run takes it, which is killed; it is whole when the run is made again, and is taken in."""
    sample = trial.sample()
    expected, death = trial.undisturbed(sample), trial.death(sample, FIRST, among=HALF_WAY)
    lake = trial.prepared(sample, ARRIVALS[:1])
    name, content, at = _arrived(trial, lake, sample)
    trial.say(name)
    _write(lake, name, content[: len(content) // 2], at)
    trial.do(lake, sample, RUN, death=death)
    _write(lake, name, content, at)
    trial.succeed(lake, sample, (RUN, *SECOND, ("replay", "--dataset", sample.dataset), RUN))
    trial.check(lake, expected, but_for_rivals=True, read_again=True)


def many(trial: Trial) -> None:
    """Ten thousand files of a row each."""
    sample, lake = trial.sample("fleet"), trial.lake()
    start = 1_767_225_600_000_000
    for number in range(_MANY):
        row = {
            "event_time": pa.array([start + 1_000_000 * number], pa.timestamp("us", tz="UTC")),
            "latitude": [42.6], "longitude": [-73.7], "battery_v": [50.0], "status": ["working"],
        }  # fmt: skip
        name = f"bronze/fleet/hour={number // 3600:02d}/robot_id=r/{number:05d}.parquet"
        put(lake, name, bytes(encode(pa.table(row), "parquet")), 0)
    trial.succeed(lake, sample, (("silver", "--dataset", "fleet"),), "silver.max_files_per_batch=4000")
    silver = checks.fingerprint(lake).tables["silver/fleet"].rows
    there = silver + len(checks.rows(lake, "quarantine/fleet"))
    trial.hold(lake, *([f"{there:,} of {_MANY:,} rows are in silver or quarantine"] if there != _MANY else []))
    trial.say(f"{silver:,} rows in silver")


KINDS = (
    *kinds(
        "file",
        spoiled,
        {
            torn: "a file of bronze is cut short",
            empty: "a file of bronze is empty",
            flipped_end: "a bit of a file's end is flipped",
            foreign: "a file of another format has a name of bronze's",
        },
    ),
    Kind("file-flipped", "a file comes again with a bit of its data flipped", flipped),
    Kind("file-vanishes", "a file is gone after it was listed", partial(changing, change=vanish)),
    Kind("file-grows", "a file grows after it was listed", partial(changing, change=grow)),
    Kind("mended-on-the-way", "a torn file is whole by the time that a run which died is made again", mended),
    Kind("many-files", "ten thousand files of a row each", many, weight=0.1),
)
