"""Writes the quality of every dataset as one HTML page: rows, refusals, drift, freshness, score; needs no Spark."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli, ledger, rendering, reporting
from jobs.lake.cli import Context
from jobs.lake.errors import UsageError
from jobs.lake.layout import Lake
from jobs.lake.reporting import Facts


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``report``."""
    parser.add_argument("--dataset", default="all", metavar="NAME", help=f"{', '.join(DATASETS)} or all")
    parser.add_argument(
        "--output",
        default="",
        metavar="FILE",
        help="where to write it; report.html in the lake, or here if it is on S3",
    )


def run(context: Context, options: argparse.Namespace) -> None:
    """Write the report, and print its summary and where it is."""
    chosen = cli.choice([*DATASETS], options.dataset, "dataset")
    output = Path(options.output).expanduser().resolve() if options.output else default_output(context.lake)
    if output.is_dir():
        raise UsageError(
            f"--output {options.output} is a folder",
            why="the report is one file",
            remedy=f"--output {options.output.rstrip('/')}/report.html",
        )
    if context.plan:
        context.console.table("would report", [{"dataset": name, "file": str(output)} for name in chosen])
        return
    found = facts(context, chosen)
    made = rendering.Made(context.lake.uri, context.run_id, ledger.versions(), datetime.now(UTC))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{context.run_id}")
    partial.write_text(rendering.page(found, made), encoding="utf-8")
    partial.replace(output)
    if context.console.as_json:
        context.console.json({"file": str(output), "datasets": [report.as_dict() for report in found]})
        return
    context.console.table("quality", [summary(report) for report in found])
    context.console.line(f"report: {output}")


def default_output(lake: Lake) -> Path:
    """Where the report is written unless it is told."""
    return Path.cwd() / "report.html" if lake.on_s3 else Path(lake.uri) / "report.html"


def facts(context: Context, names: list[str]) -> list[Facts]:
    """The facts of each dataset."""
    found = []
    for name in names:
        with context.console.step(f"reading {name}"):
            gold = [table for table in GOLD.values() if table.dataset == name]
            found.append(reporting.facts(context.lake, DATASETS[name], gold))
    return found


def summary(report: Facts) -> dict[str, Any]:
    """A row of the printed table."""
    return {
        "dataset": report.dataset,
        "rows": report.rows,
        "entities": report.entities,
        "refused": report.books.quarantined,
        "files_refused": report.files_refused,
        "duplicates": report.books.duplicates,
        "missing": report.books.missing,
        "drift": len(report.drift),
        "newest_event": report.fresh.newest_event,
        "score": None if report.score is None else float(rendering.score(report.score)),
    }


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
