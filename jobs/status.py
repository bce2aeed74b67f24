"""Shows each table: rows, files, bytes, last batch, and what waits; needs no Spark."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from jobs import gold
from jobs.catalog import DATASETS, GOLD
from jobs.lake import checkpoint, cli, delta
from jobs.lake.cli import Context
from jobs.lake.config import shown


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``status``."""
    parser.add_argument("--config", action="store_true", help="the settings in force, and where each comes from")


def run(context: Context, options: argparse.Namespace) -> None:
    """Print the state of the lake, or the settings."""
    if options.config:
        rows = [
            {"setting": name, "value": shown(name, value), "from": source}
            for name, (value, source) in sorted(context.settings.origins.items())
        ]
        context.console.table("settings", rows)
        return
    context.console.table("tables", [*_bronze(context), *_tables(context)])


def _bronze(context: Context) -> Iterator[dict[str, Any]]:
    for name in DATASETS:
        files = checkpoint.bronze_files(context.lake, name)
        waiting = checkpoint.waiting(context.lake, "silver", name)
        last = max((f.modified for f in files), default=None)
        yield {
            "table": f"bronze/{name}",
            "rows": None,
            "files": len(files),
            "bytes": sum(f.bytes for f in files),
            "last_batch": datetime.fromtimestamp(last / 1e6, UTC) if last else None,
            "waits": f"{len(waiting)} files to silver" if waiting else "",
        }


def _tables(context: Context) -> Iterator[dict[str, Any]]:
    lake = context.lake
    paths = [
        *(f"silver/{name}" for name in DATASETS),
        *(f"quarantine/{name}" for name in DATASETS),
        *(f"gold/{name}" for name in GOLD),
        "ops/ledger",
        "ops/drift",
    ]
    for path in paths:
        table = delta.open_table(lake, f"{lake.uri}/{path}")
        if table is None and not path.startswith(("silver", "gold")):
            continue
        files = delta.files(lake, f"{lake.uri}/{path}", table.version()) if table else []
        kind, _, name = path.partition("/")
        pending = gold.plan(context, GOLD[name]) if kind == "gold" else {}
        waits = f"{pending['files']} files of {pending['from']}" if pending.get("files") else ""
        yield {
            "table": path,
            "rows": sum(f.rows for f in files) if table else None,
            "files": len(files),
            "bytes": sum(f.bytes for f in files),
            "last_batch": datetime.fromtimestamp(table.history(1)[0]["timestamp"] / 1e3, UTC) if table else None,
            "waits": waits if table else waits or "no batch yet",
        }


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
