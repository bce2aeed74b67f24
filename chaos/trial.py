"""One scenario: a lake, what is done to it, and what must hold in the end."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos import checks
from chaos.checks import Fingerprint
from chaos.driver import Death
from chaos.drivers import Crew, Ran
from chaos.samples import SAMPLES, Sample
from chaos.stores import Stores
from jobs.catalog import GOLD
from jobs.lake.config import LeaseSettings, S3Settings
from jobs.lake.layout import Lake

Step = tuple[str, ...]
"""A job with its arguments, or ``("arrive", number)``: a part of the sample arrives."""

PROGRAMS: Mapping[str, tuple[Step, ...]] = {
    "pipeline": (("arrive", "0"), ("pipeline",), ("arrive", "1"), ("pipeline",)),
    "stages": (
        ("arrive", "0"),
        ("silver", "--dataset", "DATASET"),
        ("gold", "--table", "TABLE"),
        ("arrive", "1"),
        ("silver", "--dataset", "DATASET"),
        ("gold", "--table", "TABLE"),
    ),
    "replay": (
        ("arrive", "0"),
        ("arrive", "1"),
        ("silver", "--dataset", "DATASET"),
        ("replay", "--dataset", "DATASET"),
        ("gold", "--table", "TABLE"),
    ),
    "maintain": (
        ("arrive", "0"),
        ("silver", "--dataset", "DATASET"),
        ("arrive", "1"),
        ("silver", "--dataset", "DATASET"),
        ("maintain", "--table", "silver/DATASET"),
        ("gold", "--table", "TABLE"),
    ),
}
"""What is done to a lake, undisturbed or not."""

# Two batches a part, and leases that a run which is gone does not keep for long.
_SETTINGS = ("silver.max_files_per_batch=2", "leases.seconds=5", "leases.wait_seconds=60")
# What a client waits for, and how often it tries: less than a scenario's silence.
_IMPATIENT = ("s3.timeout_seconds=3", "s3.attempts=3")


class ScenarioError(AssertionError):
    """Something that must hold does not."""


@dataclass
class Trial:
    """What a scenario is given.

    Attributes:
        seed: Everything random follows from it.
        home: Where lakes, samples and logs are.
        crew: The processes that run jobs.
        stores: The S3 API.
        rng: The scenario's random numbers.
        told: What was done, in order, for the report.
    """

    seed: int
    home: Path
    crew: Crew
    stores: Stores
    rng: random.Random
    told: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Note what is done."""
        self.told.append(text)

    def sample(self, *among: str) -> Sample:
        """A sample by chance."""
        sample = self.rng.choice([SAMPLES[name] for name in among or SAMPLES])
        self.say(sample.dataset)
        return sample

    def program(self, sample: Sample, *among: str) -> tuple[Step, ...]:
        """A program by chance, for a sample."""
        name = self.rng.choice(among or [*PROGRAMS])
        self.say(f"program {name}")
        table = next(table.name for table in GOLD.values() if table.dataset == sample.dataset)
        named = {"DATASET": sample.dataset, "silver/DATASET": f"silver/{sample.dataset}", "TABLE": table}
        return tuple(tuple(named.get(word, word) for word in step) for step in PROGRAMS[name])

    def lake(self) -> Lake:
        """An empty lake in a folder."""
        folder = self.home / "lakes" / f"{self.seed}"
        shutil.rmtree(folder, ignore_errors=True)
        return Lake(str(folder), leases=LeaseSettings(seconds=5))

    def lake_on_s3(self) -> Lake:
        """An empty lake in a bucket of its own; jobs reach it through the proxy."""
        name = self.stores.bucket(f"chaos-{self.seed}-{time.time_ns()}")
        return Lake(f"s3a://{name}/lake", S3Settings(endpoint=self.stores.endpoint), LeaseSettings(seconds=5))

    def arguments(self, lake: Lake, step: Step, *settings: str) -> list[str]:
        """A job's arguments for a lake."""
        words = [*step[1:], "--lake", lake.uri, "--profile", "testing"]
        endpoint = [f"s3.endpoint={self.stores.proxy.endpoint}", *_IMPATIENT] if lake.on_s3 else []
        for setting in (*_SETTINGS, *endpoint, *settings):
            words += ["--set", setting]
        return words

    def do(self, lake: Lake, sample: Sample, step: Step, *settings: str, death: Death | None = None) -> Ran:
        """Carry out a step; one that is to die is done by a process of its own."""
        if step[0] == "arrive":
            sample.arrive(self.home, lake, int(step[1]))
            return Ran(0)
        arguments = self.arguments(lake, step, *settings)
        if death is None:
            return self.crew.warm().run(step[0], *arguments)
        with self.crew.victim() as victim:
            return victim.run(step[0], *arguments, death=death)

    def succeed(
        self, lake: Lake, sample: Sample, steps: Sequence[Step], *settings: str, death: Death | None = None
    ) -> None:
        """Carry out steps that must succeed.

        Raises:
            ScenarioError: One did not succeed.
        """
        for step in steps:
            ran = self.do(lake, sample, step, *settings, death=death)
            if ran.code != 0:
                raise ScenarioError(f"{' '.join(step)} ended with {ran.code}:\n{ran.err}")

    def undisturbed(self, sample: Sample, steps: Sequence[Step], *, on_s3: bool = False) -> Fingerprint:
        """What a lake is like after steps that nothing disturbs; made once."""
        words = [sample.dataset, *(word for step in steps for word in step if not word.startswith("-"))]
        name = "-".join([*words, "s3"] if on_s3 else words)
        if name not in _UNDISTURBED:
            lake = self.lake_on_s3() if on_s3 else Lake(str(self.home / "undisturbed" / name))
            shutil.rmtree(self.home / "undisturbed" / name, ignore_errors=True)
            self.succeed(lake, sample, steps)
            if wrong := checks.broken(lake):
                raise ScenarioError("undisturbed:\n" + "\n".join(wrong))
            _UNDISTURBED[name] = checks.fingerprint(lake)
        return _UNDISTURBED[name]

    def check(self, lake: Lake, expected: Fingerprint, *, but_for: str = " ", read_again: bool = False) -> None:
        """Compare a lake with the undisturbed one, and look for all that must hold.

        Args:
            lake: The lake.
            expected: What it is to be like.
            but_for: A table that has more, for good reason.
            read_again: Whether bronze was read more than once, for good reason.

        Raises:
            ScenarioError: Something is lost, doubled or otherwise wrong.
        """
        differences = checks.fingerprint(lake).differences(expected)
        wrong = [text for text in differences if not text.startswith(but_for)]
        if wrong := [*wrong, *checks.broken(lake, read_again=read_again)]:
            raise ScenarioError("\n".join(wrong))
        if not lake.on_s3:
            shutil.rmtree(lake.uri, ignore_errors=True)


_UNDISTURBED: dict[str, Fingerprint] = {}


@dataclass(frozen=True)
class Kind:
    """A kind of scenario.

    Attributes:
        name: As it is asked for.
        title: What is broken, in a line.
        play: Plays one of them.
        needs: Why it cannot be played here; empty if it can.
        weight: How often it is drawn, against others; 0 for only when it is asked for.
    """

    name: str
    title: str
    play: Callable[[Trial], None]
    needs: Callable[[], str] = lambda: ""
    weight: float = 1
