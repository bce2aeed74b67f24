"""Breaks runs on purpose, runs them again, and checks that nothing is lost and nothing doubled."""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos.drivers import Crew
from chaos.kinds import KINDS
from chaos.samples import SAMPLES
from chaos.stores import KEYS, Stores
from chaos.trial import Kind, References, ScenarioError, Stage, Trial
from jobs.lake import config
from jobs.lake.console import Console


def main() -> int:
    """Play scenarios, a line each; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(prog="./spark-submit.sh chaos", description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=10, help="how many scenarios")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next have the numbers after it")
    parser.add_argument("--only", choices=sorted(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--stages", type=int, default=1, help="how many are played side by side")
    parser.add_argument("--home", type=Path, default=config.cache() / "chaos", help="where lakes and logs are put")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    console = Console(options.json)
    playable = _playable(options.only, console)
    os.environ.update(KEYS)
    stages = _set_up(options.home, options.stages)
    played: queue.Queue[Played] = queue.Queue()
    seeds = iter(range(options.seed, options.seed + options.runs))
    try:
        players = [threading.Thread(target=_play_all, args=(stage, seeds, playable, played)) for stage in stages]
        for player in players:
            player.start()
        results = [_report(played.get(), options.home, console) for _ in range(options.runs)]
    finally:
        for _ in seeds:  # who still plays, since this was interrupted, finds no more
            continue
        for stage in stages:
            stage.close()
    counts = Counter((result.kind, not result.wrong) for result in results)
    rows = [
        {"kind": name, "what": kind.title, "passed": counts[name, True], "failed": counts[name, False]}
        for name, kind in KINDS.items()
        if counts[name, True] or counts[name, False]
    ]
    failed = [result for result in results if result.wrong]
    console.table(f"{len(results) - len(failed)} of {len(results)} passed", rows)
    return 1 if failed else 0


def _playable(only: str | None, console: Console) -> list[Kind]:
    """The kinds that can be played here, of those asked for; says which cannot, and why."""
    asked = [KINDS[only]] if only else [kind for kind in KINDS.values() if kind.weight]
    found = []
    for kind in asked:
        if reason := kind.needs():
            console.say(f"skipped  {kind.name}: {reason}")
        else:
            found.append(kind)
    if not found:
        sys.exit(f"nothing to play: {only} cannot be played here")
    return found


def _set_up(home: Path, number: int) -> list[Stage]:
    """Make the samples anew, and what is needed to play so many scenarios side by side."""
    for name in ("samples", "stages"):
        shutil.rmtree(home / name, ignore_errors=True)
    for sample in SAMPLES.values():
        sample.make(home)
    references, stages = References(), []
    for place in (home / "stages" / str(index) for index in range(number)):
        place.mkdir(parents=True)
        stages.append(Stage(home, place, Crew(place, KEYS), Stores(), references))
    return stages


@dataclass(frozen=True)
class Played:
    """How a scenario went.

    Attributes:
        seed: Its seed.
        kind: Its kind.
        seconds: How long it took.
        told: What was done.
        wrong: What does not hold; empty if all does.
    """

    seed: int
    kind: str
    seconds: float
    told: list[str]
    wrong: str


def _play_all(stage: Stage, seeds: Iterator[int], playable: Sequence[Kind], played: queue.Queue[Played]) -> None:
    """Play scenarios until there are no more seeds."""
    for seed in seeds:
        (kind,) = random.Random(seed).choices(playable, [kind.weight or 1 for kind in playable])
        played.put(_play(kind, Trial(seed, random.Random(f"{kind.name} {seed}"), stage)))


def _play(kind: Kind, trial: Trial) -> Played:
    clock, wrong = time.monotonic(), ""
    try:
        kind.play(trial)
    except ScenarioError as failure:
        wrong = str(failure)
    except Exception:  # the machine that tries to break it is broken: that is a failure as well
        wrong = traceback.format_exc()
    lake = trial.stage.place / "lake"
    if wrong and lake.exists():
        kept = trial.stage.home / "failed" / f"{kind.name}-{trial.seed}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(lake, kept)
    return Played(trial.seed, kind.name, time.monotonic() - clock, trial.told, wrong)


def _report(result: Played, home: Path, console: Console) -> Played:
    """Say how a scenario went, and write it down."""
    mark = "FAILED" if result.wrong else "ok"
    console.say(f"{mark:<7} {result.seed:>6} {result.kind:<22} {result.seconds:6.1f} s  {'; '.join(result.told)}")
    if result.wrong:
        console.say("\n".join(f"          {line}" for line in result.wrong.splitlines()))
        console.say(f"          again: ./spark-submit.sh chaos --runs 1 --seed {result.seed} --only {result.kind}")
    with (home / "results.jsonl").open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")
    return result


if __name__ == "__main__":
    sys.exit(main())
