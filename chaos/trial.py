"""One scenario: a lake, what is done to it, and what must hold in the end."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from chaos import checks
from chaos.checks import Fingerprint
from chaos.crew import Crew, Ran
from chaos.driver import POINTS, WHEN, Death
from chaos.samples import SAMPLES, Sample
from chaos.stores import BUCKET, Disk, Stores
from jobs.catalog import GOLD
from jobs.lake.config import LeaseSettings, S3Settings
from jobs.lake.layout import Lake

Step = tuple[str, ...]
"""A job with its arguments, or ``("arrive", number)``: a part of the sample arrives."""

ARRIVALS: tuple[Step, Step] = (("arrive", "0"), ("arrive", "1"))
RUN: Step = ("pipeline",)
FIRST: tuple[Step, ...] = (ARRIVALS[0], RUN)
SECOND: tuple[Step, ...] = (ARRIVALS[1], RUN)
PIPELINE = FIRST + SECOND
_SILVER: Step = ("silver", "--dataset", "DATASET")
_GOLD: Step = ("gold", "--table", "TABLE")
PROGRAMS: Mapping[str, tuple[Step, ...]] = {
    "pipeline": PIPELINE,
    "stages": (ARRIVALS[0], _SILVER, _GOLD, ARRIVALS[1], _SILVER, _GOLD),
    "replay": (*ARRIVALS, _SILVER, ("replay", "--dataset", "DATASET"), _GOLD),
    "maintain": (ARRIVALS[0], _SILVER, ARRIVALS[1], _SILVER, ("maintain", "--table", "silver/DATASET"), _GOLD),
}
"""What is done to a lake, undisturbed or not. Whichever it is, the same tables come of it."""

# A run that is gone does not keep them for long, and one that lives does, on a machine that has much to do.
_LEASES = LeaseSettings(seconds=10)
_SETTINGS = (f"leases.seconds={_LEASES.seconds}", "leases.wait_seconds=60")
# What a client waits for, and how often it tries: less than a scenario's silence.
_IMPATIENT = ("s3.timeout_seconds=3", "s3.attempts=3")


class ScenarioError(AssertionError):
    """Something that must hold does not."""


class References:
    """What comes of steps that nothing disturbs, found out once for all stages.

    Attributes:
        calls: How often the last of the steps comes by each point; by the steps' name.
        requests: What the last of the steps asks of S3, as :attr:`chaos.proxy.Proxy.seen`; by the steps' name.
    """

    def __init__(self) -> None:
        self.calls = dict[str, Mapping[str, int]]()
        self.requests = dict[str, Counter[tuple[str, str]]]()
        self._lock, self._known = threading.Lock(), dict[str, Fingerprint]()

    def get(self, name: str, make: Callable[[], Fingerprint]) -> Fingerprint:
        """What a lake is like, if that is known; else it is made."""
        with self._lock:
            if name not in self._known:
                self._known[name] = make()
            return self._known[name]


@dataclass
class Stage:
    """Where scenarios are played, one after the other.

    Attributes:
        home: Where the samples are.
        place: A folder of its own for lakes and logs.
        crew: The processes that run jobs.
        stores: The S3 API.
        references: What comes of steps that nothing disturbs.
    """

    home: Path
    place: Path
    crew: Crew
    stores: Stores
    references: References

    def close(self) -> None:
        """End what runs."""
        self.crew.close()
        self.stores.close()


@dataclass
class Trial:
    """What a scenario is given.

    Attributes:
        seed: Everything random follows from it.
        rng: The scenario's random numbers.
        stage: Where it is played.
        told: What was done, in order, for the report.
        effect: Whether what was to break a run came about.
    """

    seed: int
    rng: random.Random
    stage: Stage
    told: list[str] = field(default_factory=list)
    effect: bool = True

    def __post_init__(self) -> None:
        self._given: Lake | None = None
        self._ends = ExitStack()

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
        named = {
            "DATASET": sample.dataset,
            "silver/DATASET": f"silver/{sample.dataset}",
            "TABLE": _gold(sample),
        }
        return tuple(tuple(named.get(word, word) for word in step) for step in PROGRAMS[name])

    def on_s3(self) -> bool:
        """Whether a lake is in S3, by chance: one in three is."""
        if found := self.rng.random() < 1 / 3:
            self.say("on S3")
        return found

    def a_job_of(self, steps: Sequence[Step]) -> int:
        """The place of one of a program's jobs, by chance."""
        return self.rng.choice([place for place, step in enumerate(steps) if step[0] != "arrive"])

    def lake(self, disk: Disk | None = None) -> Lake:
        """An empty lake in a folder: always the same, since a checkpoint names files by their whole path."""
        folder = (disk or self.stage).place / "lake"
        shutil.rmtree(folder, ignore_errors=True)
        self._given = Lake(str(folder), leases=_LEASES)
        return self._given

    def lake_on_s3(self) -> Lake:
        """An empty lake in a bucket, at the same place always as well; jobs reach it through the proxy."""
        self.stage.stores.empty("lake")
        self._given = Lake(f"s3a://{BUCKET}/lake", S3Settings(endpoint=self.stage.stores.endpoint), _LEASES)
        return self._given

    def disk(self, megabytes: int) -> Disk:
        """A small file system, there until the scenario has ended."""
        return self._ends.enter_context(closing(Disk(self.stage.place / "disk", megabytes)))

    def keep(self, folder: Path) -> None:
        """Copy the lake that the scenario was given last to a folder."""
        shutil.rmtree(folder, ignore_errors=True)
        if self._given and self._given.on_s3:
            self.stage.stores.download("lake", folder)
        elif self._given and Path(self._given.uri).exists():
            _copy(Path(self._given.uri), folder)

    def close(self) -> None:
        """End what was there for this scenario only."""
        self._ends.close()

    def prepared(self, sample: Sample, steps: Sequence[Step], *, on_s3: bool = False) -> Lake:
        """A lake after steps that nothing disturbed: a copy of what the same steps have made before."""
        lake = self.lake_on_s3() if on_s3 else self.lake()
        names = [_named(sample, steps[:number]) for number in range(1, len(steps) + 1)]
        done = next((number for number in range(len(steps), 0, -1) if self._recall(lake, names[number - 1])), 0)
        for name, step in zip(names[done:], steps[done:], strict=True):
            before = Counter(self.stage.stores.proxy.seen) if on_s3 else Counter()
            (ran,) = self.succeed(lake, sample, (step,))
            if step[0] != "arrive":
                self._remember(lake, name)
                self.stage.references.calls[name] = ran.calls
                if on_s3:
                    self.stage.references.requests[name] = self.stage.stores.proxy.seen - before
        return lake

    def requests(self, sample: Sample, steps: Sequence[Step]) -> Counter[tuple[str, str]]:
        """What the last of these steps asks of S3 when nothing disturbs it."""
        known, name = self.stage.references.requests, _named(sample, steps)
        if name not in known:
            self.prepared(sample, steps, on_s3=True)
        return known[name]

    def death(self, sample: Sample, steps: Sequence[Step], how: str = "kill", among: Collection[str] = POINTS) -> Death:
        """A point that the last of these steps comes by when nothing disturbs it, and which call of it, by chance."""
        known, name = self.stage.references.calls, _named(sample, steps)
        if name not in known:
            self.prepared(sample, steps)
        calls = known[name]
        point = self.rng.choice(sorted(set(calls) & set(among)))
        death = Death(point, self.rng.choice(WHEN), self.rng.randint(1, calls[point]), how)
        self.say(f"step {len(steps) - 1}, {steps[-1][0]}: {death}")
        return death

    def _recall(self, lake: Lake, name: str) -> bool:
        """Make a lake what was kept under a name; whether anything was."""
        if lake.on_s3:
            return self.stage.stores.copy(f"kept/{name}", "lake") > 0
        kept = self.stage.place / "kept" / name
        if found := kept.exists():
            _copy(kept, Path(lake.uri))
        return found

    def _remember(self, lake: Lake, name: str) -> None:
        """Keep what a lake is like now under a name."""
        if lake.on_s3:
            self.stage.stores.copy("lake", f"kept/{name}")
        else:
            _copy(Path(lake.uri), self.stage.place / "kept" / name)

    def arguments(self, lake: Lake, sample: Sample, step: Step, *settings: str) -> list[str]:
        """A job's arguments for a lake."""
        words = [*step[1:], "--lake", lake.uri, "--profile", "testing"]
        batches = f"silver.max_files_per_batch={sample.files_per_batch}"
        through = [f"s3.endpoint={self.stage.stores.proxy.endpoint}", *_IMPATIENT] if lake.on_s3 else []
        for setting in (*_SETTINGS, batches, *through, *settings):
            words += ["--set", setting]
        return words

    def do(self, lake: Lake, sample: Sample, step: Step, *settings: str, death: Death | None = None) -> Ran:
        """Carry out a step; one that is to die is done by a process of its own."""
        if step[0] == "arrive":
            sample.arrive(self.stage.home, lake, int(step[1]))
            return Ran(0)
        arguments = self.arguments(lake, sample, step, *settings)
        if death is None:
            return self.note(self.stage.crew.warm().run(step[0], *arguments))
        with self.stage.crew.victim() as victim:
            return self.note(victim.run(step[0], *arguments, death=death), death)

    def note(self, ran: Ran, death: Death | None = None) -> Ran:
        """Note how a job ended that did not succeed, with the first line of what it said, or that did not die."""
        if ran.code != 0:
            first = next((line for line in ran.err.splitlines() if line.startswith("LH")), "")
            self.say("died" if ran.died else f"ended with {ran.code}, {first[:160]}")
        if death and not ran.came_by(death):
            self.say("never came by it")
            self.effect = False
        return ran

    def succeed(self, lake: Lake, sample: Sample, steps: Sequence[Step], *settings: str) -> list[Ran]:
        """Carry out steps that must succeed.

        Raises:
            ScenarioError: One did not succeed.
        """
        ended = []
        for step in steps:
            ended.append(self.do(lake, sample, step, *settings))
            if ended[-1].code != 0:
                raise ScenarioError(f"{' '.join(step)} ended with {ended[-1].code}:\n{ended[-1].err}")
        return ended

    def interrupted(
        self, sample: Sample, steps: Sequence[Step], place: int, expected: Fingerprint, how: str = "kill"
    ) -> Ran:
        """Have one of the steps die at a point that it comes by, then carry out it and the rest, and compare the lake.

        Raises:
            ScenarioError: What came of it is wrong.
        """
        death = self.death(sample, steps[: place + 1], how)
        lake = self.prepared(sample, steps[:place], on_s3=self.on_s3())
        ran = self.do(lake, sample, steps[place], death=death)
        self.succeed(lake, sample, steps[place:])
        self.check(lake, expected)
        return ran

    def undisturbed(self, sample: Sample, steps: Sequence[Step] = PIPELINE) -> Fingerprint:
        """What a lake is like after these steps, with nothing to disturb it."""

        def make() -> Fingerprint:
            lake = self.prepared(sample, steps)
            self.hold(lake)
            return checks.fingerprint(lake)

        return self.stage.references.get(_named(sample, steps), make)

    def expected(self, sample: Sample, steps: Sequence[Step]) -> Fingerprint:
        """What a lake is to be like after all of a program: of the undisturbed one, the tables that these jobs make."""
        whole = self.undisturbed(sample)
        if RUN in steps:
            return whole
        made = {f"silver/{sample.dataset}", f"quarantine/{sample.dataset}", f"gold/{_gold(sample)}"}
        return Fingerprint({name: found for name, found in whole.tables.items() if name in made}, whole.bronze)

    def check(
        self,
        lake: Lake,
        expected: Fingerprint,
        *,
        but_for: str = "",
        but_for_rivals: bool = False,
        read_again: bool = False,
    ) -> None:
        """Compare a lake with the undisturbed one, and look for all that must hold.

        Args:
            lake: The lake.
            expected: What it is to be like.
            but_for: A file of bronze that the undisturbed one does not have, and silver is to have nothing of.
            but_for_rivals: Whether files were promoted in another order, for good reason: then of two rows with one
                key another may have been kept.
            read_again: Whether bronze was read more than once, for good reason.

        Raises:
            ScenarioError: Something is lost, doubled or otherwise wrong.
        """
        found = checks.fingerprint(lake, but_for)
        differences = found.differences(expected, but_for_rivals=but_for_rivals)
        if not differences and found.differences(expected):
            self.say("another of two rows with one key came first")
        self.hold(lake, *differences, read_again=read_again, but_for=but_for)

    def hold(self, lake: Lake, *wrong: str, read_again: bool = False, but_for: str = "") -> None:
        """Look for all that must hold of any lake, when these things are known to be wrong already.

        Raises:
            ScenarioError: Something is wrong.
        """
        if found := [*wrong, *checks.broken(lake, read_again=read_again, but_for=but_for)]:
            raise ScenarioError("\n".join(found))


def well_said(ran: Ran) -> None:
    """Make sure that a job succeeded, or said that it is the machine's fault, why, and what to do next.

    Raises:
        ScenarioError: It did neither.
    """
    if ran.code not in (0, 3) or (ran.code == 3 and not all(word in ran.err for word in ("LH3", "why:", "next:"))):
        raise ScenarioError(f"it ended with {ran.code}:\n{ran.err}")


def _named(sample: Sample, steps: Sequence[Step]) -> str:
    """What a lake is called after these steps."""
    words = [word.replace("/", ".") for step in steps for word in step if not word.startswith("-")]
    return "-".join([sample.dataset, *words])


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, times and all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def _gold(sample: Sample) -> str:
    """The gold table that a program makes of a sample."""
    return next(table.name for table in GOLD.values() if table.dataset == sample.dataset)


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


def kinds(prefix: str, play: Callable[..., None], titles: Mapping[Callable[..., object], str]) -> Iterator[Kind]:
    """Kinds that are played alike, each with what a function of its own makes, after which it is named."""
    for make, title in titles.items():
        yield Kind(f"{prefix}-{make.__name__.replace('_', '-')}", title, partial(play, make=make))
