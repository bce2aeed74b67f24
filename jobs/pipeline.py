"""Runs every stage in one session: what waits in bronze to silver, then gold."""

from __future__ import annotations

import argparse

from jobs import gold, silver
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli
from jobs.lake.cli import Context
from jobs.lake.ledger import Entry


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``pipeline``: only those of every job."""


def run(context: Context, options: argparse.Namespace) -> None:
    """Run silver and gold for everything, and print the books."""
    if context.plan:
        context.console.table("would promote", [silver.plan(context, dataset) for dataset in DATASETS.values()])
        context.console.table("would compute", [gold.plan(context, table) for table in GOLD.values()])
        return
    context.close_books(run_stages(context))


def run_stages(context: Context) -> list[Entry]:
    """Promote every dataset and bring every gold table up."""
    entries = [entry for dataset in DATASETS.values() for entry in silver.promote(context, dataset)]
    return entries + [entry for table in GOLD.values() for entry in gold.bring_up(context, table)]


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
