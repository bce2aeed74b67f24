"""Tries quarantined rows and files again, by the rules as they are now; what passes moves to silver."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from jobs.catalog import DATASETS
from jobs.lake import cli, delta
from jobs.lake.cli import Context
from jobs.lake.errors import UsageError
from jobs.lake.ledger import Entry
from jobs.lake.replaying import Replay, Selection
from jobs.lake.tables import Dataset


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``replay``."""
    parser.add_argument("--dataset", required=True, metavar="NAME", help=f"{', '.join(DATASETS)} or all")
    parser.add_argument("--reason", default="", metavar="CODE", help="only what has this reason, such as out_of_range")
    parser.add_argument("--since", default="", metavar="TIME", help="only what was refused since, such as 2026-01-31")


def run(context: Context, options: argparse.Namespace) -> None:
    """Replay the datasets asked for, and print the books."""
    chosen = [DATASETS[name] for name in cli.choice([*DATASETS], options.dataset, "dataset")]
    selection = Selection(options.reason, _instant(options.since) if options.since else None)
    if context.plan:
        rows = [{"dataset": d.name, **_replay(context, d, selection).plan()} for d in chosen]
        context.console.table("would replay", rows)
        return
    context.close_books([entry for dataset in chosen for entry in replay(context, dataset, selection)])


def replay(context: Context, dataset: Dataset, selection: Selection) -> list[Entry]:
    """Try what is selected again, batch by batch."""
    again, entries = _replay(context, dataset, selection), []
    with delta.holding(context.lake, f"silver/{dataset.name}", f"quarantine/{dataset.name}"):
        for entry in again.replay():
            context.progress(entry)
            entries.append(entry)
    if untried := again.untried():
        remedy = "refused by ingest: mend their source file and ingest it again"
        context.console.say(f"replay   {dataset.name:<16} {untried:,} lines were {remedy}")
    return entries or [context.nothing_new("replay", dataset.name)]


def _replay(context: Context, dataset: Dataset, selection: Selection) -> Replay:
    settings = context.settings
    thresholds = settings.datasets[dataset.name]
    return Replay(context.spark, context.lake, dataset, thresholds, settings.silver, context.run_id, selection)


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--since {text}", why="it is no instant", remedy="--since 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
