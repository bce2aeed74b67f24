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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from chaos.crew import Crew
from chaos.kinds import KINDS
from chaos.samples import SAMPLES
from chaos.stores import KEYS, Stores, unmount
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
    asked = [KINDS[options.only]] if options.only else [kind for kind in KINDS.values() if kind.weight]
    os.environ.update(KEYS)
    stages = _set_up(options.home, options.stages)
    played: queue.Queue[Played] = queue.Queue()
    seeds = iter(range(options.seed, options.seed + options.runs))
    try:
        players = [threading.Thread(target=_play_all, args=(stage, seeds, asked, played)) for stage in stages]
        for player in players:
            player.start()
        results = [_report(played.get(), options.home, console) for _ in range(options.runs)]
    finally:
        for _ in seeds:  # who still plays, since this was interrupted, finds no more
            continue
        for stage in stages:
            stage.close()
    passed = [result for result in results if not result.wrong and not result.skipped]
    console.table(f"{len(passed)} of {len(results)} passed", _closing(results))
    if all(result.skipped for result in results):
        sys.exit("nothing was played: what was asked for cannot be played here")
    return 1 if any(result.wrong for result in results) else 0


def _closing(results: Sequence[Played]) -> list[dict[str, object]]:
    """The closing table, a row for each kind; what was skipped, or had no effect, is counted if there is any."""
    counts = {
        "passed": Counter(result.kind for result in results if not result.wrong and not result.skipped),
        "failed": Counter(result.kind for result in results if result.wrong),
        "skipped": Counter(result.kind for result in results if result.skipped),
        "without effect": Counter(result.kind for result in results if not result.effect),
    }
    columns = [column for column, count in counts.items() if count or column in ("passed", "failed")]
    return [
        {"kind": name, "what": kind.title, **{column: counts[column][name] for column in columns}}
        for name, kind in KINDS.items()
        if any(count[name] for count in counts.values())
    ]


def _set_up(home: Path, number: int) -> list[Stage]:
    """Make the samples anew, and what is needed to play so many scenarios side by side."""
    for disk in home.glob("stages/*/disk"):  # of a run that was killed
        unmount(disk)
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
        skipped: Why it cannot be played here; empty if it can.
        effect: Whether what was to break a run came about.
    """

    seed: int
    kind: str
    seconds: float = 0.0
    told: list[str] = field(default_factory=list)
    wrong: str = ""
    skipped: str = ""
    effect: bool = True


def _play_all(stage: Stage, seeds: Iterator[int], asked: Sequence[Kind], played: queue.Queue[Played]) -> None:
    """Play scenarios until there are no more seeds; which one a seed stands for does not depend on the machine."""
    for seed in seeds:
        (kind,) = random.Random(seed).choices(asked, [kind.weight or 1 for kind in asked])
        if reason := kind.needs():
            played.put(Played(seed, kind.name, skipped=reason))
        else:
            played.put(_play(kind, Trial(seed, random.Random(f"{kind.name} {seed}"), stage)))


def _play(kind: Kind, trial: Trial) -> Played:
    clock = time.monotonic()
    wrong = _wrong(partial(kind.play, trial))
    if wrong:
        wrong += _wrong(partial(trial.keep, trial.stage.home / "failed" / f"{kind.name}-{trial.seed}"))
    wrong += _wrong(trial.close)
    return Played(trial.seed, kind.name, time.monotonic() - clock, trial.told, wrong, effect=trial.effect)


def _wrong(act: Callable[[], object]) -> str:
    """What goes wrong with it, in lines; empty if nothing does."""
    try:
        act()
    except ScenarioError as failure:
        return f"{failure}\n"
    except Exception:  # the machine that tries to break it is broken: that is a failure as well
        return traceback.format_exc()
    return ""


def _report(result: Played, home: Path, console: Console) -> Played:
    """Say how a scenario went, and write it down."""
    mark = "FAILED" if result.wrong else "skipped" if result.skipped else "ok"
    told = result.skipped or "; ".join(result.told)
    console.say(f"{mark:<7} {result.seed:>6} {result.kind:<22} {result.seconds:6.1f} s  {told}")
    if result.wrong:
        console.say("\n".join(f"          {line}" for line in result.wrong.splitlines()))
        console.say(f"          again: ./spark-submit.sh chaos --runs 1 --seed {result.seed} --only {result.kind}")
    with (home / "results.jsonl").open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")
    return result


if __name__ == "__main__":
    sys.exit(main())
