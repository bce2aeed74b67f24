"""A first look: simulated quadrupeds and NASA's engines, from bronze to gold."""

from __future__ import annotations

import argparse
import time
from importlib import resources

from pyspark.sql import functions as F

from jobs import ingest, pipeline, simulate
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli
from jobs.lake.cli import Context
from jobs.lake.tables import GoldTable

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
    for table in GOLD.values():
        _show(context, table)
    context.console.line(_next(context.lake.uri))
    context.console.say(f"done in {time.monotonic() - clock:.0f} s")


def _show(context: Context, table: GoldTable) -> None:
    """A few rows of a gold table, spread over it and the same every time."""
    rows = context.spark.read.format("delta").load(context.lake.gold(table.name))
    spread = rows.orderBy(F.xxhash64(*table.key)).limit(5).orderBy(*table.key).collect()
    context.console.table(f"gold/{table.name}", [row.asDict() for row in spread], table.look or table.schema.names)


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
