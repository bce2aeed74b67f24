"""A first look: simulated quadrupeds and NASA's engines, from bronze to gold."""

from __future__ import annotations

import argparse
import time
from importlib import resources
from typing import Any

from jobs import ingest, pipeline, simulate
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli
from jobs.lake.cli import Context

_SIMULATED = {"entities": 8, "start": "2026-01-01T00:00:00Z", "duration": "10m", "rate_hz": 100, "seed": 7}
_ENGINES = ("train_FD001.txt.gz", "test_FD001.txt.gz")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``demo``: only those of every job."""


def run(context: Context, options: argparse.Namespace) -> None:
    """Simulate, ingest, promote, compute; print the books, a look at each gold table and what to try next."""
    clock = time.monotonic()
    context.console.say(f"a lake in {context.lake.uri}: 8 walking quadrupeds for 10 minutes at 100 Hz, 200 jet engines")
    folder = resources.files("sim").joinpath("data", "turbofan")
    files = [str(folder.joinpath(name)) for name in _ENGINES]
    entries = [
        *simulate.simulate(context, "accelerometer", _SIMULATED),
        *ingest.ingest(context, DATASETS["turbofan"], files),
        *pipeline.run_stages(context),
    ]
    context.close_books(entries)
    for name in GOLD:
        _show(context, name)
    context.console.line(_next(context.lake.uri))
    context.console.say(f"done in {time.monotonic() - clock:.0f} s")


def _show(context: Context, name: str) -> None:
    """The first rows of a gold table, as many columns as fit."""
    path = context.lake.gold(name)
    rows = context.spark.read.format("delta").load(path).limit(4).collect()
    shown = _LOOK.get(name)
    table: list[dict[str, Any]] = [{c: row[c] for c in shown or row.asDict()} for row in rows]
    context.console.table(f"gold/{name}", table)


_LOOK = {
    "sensor_spectra": (
        "sensor_id", "axis", "window_start", "samples", "rms", "crest_factor", "dominant_hz", "dominant_amplitude",
        "dominant_snr_db",
    ),
    "spectra_accuracy": (
        "sensor_id", "axis", "windows", "true_hz", "measured_hz", "true_amplitude", "measured_amplitude",
        "share_within_tolerance",
    ),
    "engine_health": (
        "subset", "split", "unit_number", "cycle", "operating_condition", "health_index", "is_anomaly",
        "remaining_useful_life",
    ),
}  # fmt: skip


def _next(uri: str) -> str:
    return f"""What to try next
  ./spark-submit.sh status --lake {uri}
  ./spark-submit.sh demo --lake {uri}            again: nothing is new, nothing changes
  ./spark-submit.sh simulate --dataset turbofan --entities 20 --seed 7 --lake {uri}
  ./spark-submit.sh pipeline --lake {uri} --plan
  .venv/bin/python -c "from deltalake import DeltaTable; print(DeltaTable('{uri}/gold/engine_summary').to_pandas())"
"""


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
