"""A first look: five kinds of sensors, simulated and real, from bronze to gold."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from importlib import resources

from pyspark.sql import functions as F

from jobs import ingest, pipeline, simulate
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli, delta
from jobs.lake.cli import Context
from jobs.lake.ledger import Entry
from jobs.lake.tables import GoldTable
from sim.faults import FaultParameters

_START = {"start": "2026-01-01T00:00:00Z", "seed": 7}
_SIMULATED: dict[str, dict[str, object]] = {
    "accelerometer": {**_START, "entities": 8, "duration": "10m", "rate_hz": 100},
    "devices": {**_START, "entities": 12, "duration": "1d", "interval_seconds": 300},
    "fleet": {**_START, "entities": 6, "duration": "4h"},
    "waterways": {**_START, "duration": "1h", "rate_hz": 1},
}
_SPOILED = FaultParameters(seed=7, rows=0.01)  # of the devices' messages, so that quarantine is seen at work
_FILES = {
    "turbofan": ("train_FD001.txt.gz", "test_FD001.txt.gz"),
    "waterways": ("Recommended_Fishing_Rivers_And_Streams.csv.gz",),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``demo``: only those of every job."""


def run(context: Context, options: argparse.Namespace) -> None:
    """Simulate, ingest, promote, compute; print the books, a look at each gold table and what to try next."""
    clock = time.monotonic()
    context.console.say(
        f"a lake in {context.lake.uri}: 8 walking quadrupeds, 200 jet engines, the fishing rivers of New York State,"
        " 6 construction robots, 12 weather stations"
    )
    entries: list[Entry] = []
    for name, values in _SIMULATED.items():
        entries += simulate.simulate(context, name, values, _SPOILED if name == "devices" else None)
    for name, files in _FILES.items():
        folder = resources.files("sim").joinpath("data", name)
        entries += ingest.ingest(context, DATASETS[name], [str(folder.joinpath(file)) for file in files])
    entries += pipeline.run_stages(context)
    context.close_books(entries)
    for table in GOLD.values():
        if delta.latest_version(context.lake, context.lake.gold(table.name)) is not None:
            _show(context, table)
    context.console.line(_next(context.lake.uri))
    context.console.say(f"done in {time.monotonic() - clock:.0f} s")


def _show(context: Context, table: GoldTable) -> None:
    """A few rows of a gold table, spread over it and the same every time."""
    rows = context.spark.read.format("delta").load(context.lake.gold(table.name))
    spread = rows.orderBy(F.xxhash64(*table.key)).limit(5).orderBy(*table.key).collect()
    context.console.table(f"gold/{table.name}", [row.asDict() for row in spread], table.look or table.schema.names)


def _next(uri: str) -> str:
    lake, opened = shlex.quote(uri), f'open_lake({json.dumps(uri)}).table("gold/engine_summary")'
    look = shlex.quote(f"from jobs.lake.notebook import open_lake; print({opened})")
    return f"""What to try next
  ./spark-submit.sh status --lake {lake}
  ./spark-submit.sh report --lake {lake}          how good the data are, as a page to look at
  ./spark-submit.sh demo --lake {lake}            again: nothing is new, nothing changes
  ./spark-submit.sh simulate --dataset turbofan --entities 20 --seed 7 --lake {lake}
  ./spark-submit.sh pipeline --lake {lake} --plan
  .venv/bin/python -c {look}
"""


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
