"""Times the suite against its peers on the same work, in one run; see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from bench import registry
from bench.measure import Result, measure, prepared
from bench.stage import SIZES
from jobs.lake import config
from jobs.lake.console import Console

HOME = Path(__file__).resolve().parents[1]
PAGE = HOME / "docs" / "benchmarks.md"
RESULTS = HOME / "bench" / "results" / "latest.json"
_LIBRARIES = ("pyspark", "delta-spark", "duckdb", "polars", "tsfel", "scipy", "numpy", "pyarrow", "pandas")
_BEGIN, _END = "<!-- written by bench -->\n", "<!-- end -->\n"


def main() -> int:
    """Measure and print; all stages together also write ``bench/results/latest.json`` and the table of the page."""
    parser = argparse.ArgumentParser(prog="./spark-submit.sh bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--only", choices=registry.NAMES, help="one stage")
    parser.add_argument("--ours", action="store_true", help="without peers: what --cores changes, for example")
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms up")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--home", type=Path, default=config.cache() / "bench", help="where input and output are put")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    console = Console(options.json)
    found: list[Result] = []
    for name in [options.only] if options.only else registry.NAMES:
        stage = registry.stage(name)
        stage = replace(stage, contenders=stage.contenders[:1]) if options.ours else stage
        console.say(f"{stage.name}: {stage.title}")
        cores = 1 if stage.name in ("simulate", "kernel") else options.cores
        task = prepared(stage, SIZES[options.size], options.home, cores)
        found += measure(stage, task, options.home, options.rounds, console.say)
    rows = table(found)
    console.table(f"{options.size}, {options.cores} cores", rows)
    if not options.only and not options.ours:
        about = {"size": options.size, "cores": options.cores, "versions": versions()}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({**about, "results": [vars(r) for r in found]}, indent=1) + "\n")
        write_page(rows, f"`./spark-submit.sh bench --size {options.size}`, {options.cores} cores, {_told(versions())}")
    return 0


def versions() -> dict[str, str]:
    """What was measured with."""
    there = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return {"python": platform.python_version(), **{name: there[name] for name in _LIBRARIES if name in there}}


def _told(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def table(results: Sequence[Result]) -> list[dict[str, object]]:
    """A row a contender; the ratio is its time to ours for the same number of rows: above 1 ours is faster."""
    rows = []
    ours = {result.stage: result for result in results if result.role == "ours"}
    for result in results:
        stage = registry.stage(result.stage)
        ratio, target = ours[result.stage].rate / result.rate, stage.targets.get(result.contender)
        rows.append(
            {
                "stage": result.stage,
                "contender": result.contender,
                "ratio": round(ratio, 2),
                "target": "" if target is None else f">= {target:.2f} {'met' if ratio >= target else 'NOT met'}",
                "seconds": round(result.median, 2),
                "rows/s": round(result.rate),
                "peak_rss_mb": result.peak_rss_mb,
            }
        )
    return rows


def write_page(rows: Sequence[dict[str, object]], caption: str) -> None:
    """Put the table into the page, between its marks."""
    text = PAGE.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    head = list(rows[0])
    lines = [
        head,
        ["---"] * len(head),
        *([f"{v:,}" if isinstance(v, int | float) else str(v) for v in r.values()] for r in rows),
    ]
    grid = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    PAGE.write_text(f"{before}{_BEGIN}\n{caption}\n\n{grid}\n{_END}{after}")


if __name__ == "__main__":
    sys.exit(main())
