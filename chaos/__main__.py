"""Breaks runs on purpose, runs them again, and checks that nothing is lost and nothing doubled."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from chaos.drivers import Crew
from chaos.kinds import KINDS
from chaos.stores import KEYS, Stores
from chaos.trial import ScenarioError, Trial
from jobs.lake.console import Console


def main() -> int:
    """Play scenarios, a line each; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(prog="./spark-submit.sh chaos", description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=10, help="how many scenarios")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the next have the numbers after it")
    parser.add_argument("--only", choices=sorted(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--home", type=Path, default=_default_home(), help="where lakes and logs are put")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.home.mkdir(parents=True, exist_ok=True)
    console, crew = Console(options.json), Crew(options.home, KEYS)
    os.environ.update(KEYS)
    stores = Stores()
    playable = {name: kind for name, kind in KINDS.items() if not kind.needs()}
    for name in {*KINDS} - {*playable}:
        console.say(f"skipped  {name}: {KINDS[name].needs()}")
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    try:
        for seed in range(options.seed, options.seed + options.runs):
            weights = [kind.weight for kind in playable.values()]
            name = options.only or random.Random(seed).choices([*playable], weights)[0]
            (passed if play(name, seed, options.home, crew, stores, console) else failed)[name] += 1
    finally:
        crew.close()
        stores.close()
    rows = [
        {"kind": name, "what": kind.title, "passed": passed[name], "failed": failed[name]}
        for name, kind in KINDS.items()
        if passed[name] or failed[name]
    ]
    console.table(f"{sum(passed.values())} of {options.runs} passed", rows)
    return 1 if failed else 0


def play(name: str, seed: int, home: Path, crew: Crew, stores: Stores, console: Console) -> bool:
    """Play one scenario, and say how it went; whether all held."""
    trial = Trial(seed, home, crew, stores, random.Random(f"{name} {seed}"))
    clock, wrong = time.monotonic(), ""
    try:
        KINDS[name].play(trial)
    except ScenarioError as failure:
        wrong = str(failure)
    except Exception:  # the machine that tries to break it is broken: that is a failure as well
        wrong = traceback.format_exc()
    seconds = time.monotonic() - clock
    console.say(f"{'FAILED' if wrong else 'ok':<7} {seed:>6} {name:<22} {seconds:6.1f} s  {'; '.join(trial.told)}")
    if wrong:
        console.say("\n".join(f"          {line}" for line in wrong.splitlines()))
        console.say(f"          again: ./spark-submit.sh chaos --runs 1 --seed {seed} --only {name}")
    entry = {"seed": seed, "kind": name, "seconds": round(seconds, 1), "told": trial.told, "wrong": wrong}
    with (home / "results.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    return not wrong


def _default_home() -> Path:
    return Path(os.environ.get("LAKEHOUSE_CACHE", Path.home() / ".cache" / "sensor-lakehouse")) / "chaos"


if __name__ == "__main__":
    sys.exit(main())
