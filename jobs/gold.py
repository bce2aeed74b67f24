"""Computes gold from silver: features and aggregates, only for what new rows touch."""

from __future__ import annotations

import argparse

from jobs.catalog import GOLD
from jobs.lake import cli, delta
from jobs.lake.cli import Context
from jobs.lake.following import Following
from jobs.lake.ledger import Entry
from jobs.lake.tables import GoldTable, Grouped


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``gold``."""
    parser.add_argument("--table", required=True, metavar="NAME", help=f"{', '.join(GOLD)} or all")
    parser.add_argument("--rebuild", action="store_true", help="compute all of it anew")


def run(context: Context, options: argparse.Namespace) -> None:
    """Bring the tables asked for up to silver, and print the books."""
    tables = [GOLD[name] for name in cli.choice([*GOLD], options.table, "table")]
    if context.plan:
        context.console.table("would compute", [plan(context, table, rebuild=options.rebuild) for table in tables])
        return
    context.close_books([e for table in tables for e in bring_up(context, table, rebuild=options.rebuild)])


def plan(context: Context, table: GoldTable, *, rebuild: bool = False) -> dict[str, object]:
    """What :func:`bring_up` would take in."""
    files = following(context, table).pending(rebuild=rebuild)
    return {
        "table": f"gold/{table.name}",
        "from": f"silver/{table.dataset}",
        "files": len(files),
        "bytes": sum(f.bytes for f in files),
        "rows": sum(f.rows for f in files),
    }


def bring_up(context: Context, table: GoldTable, *, rebuild: bool = False) -> list[Entry]:
    """Compute what new silver rows touch."""
    follows = following(context, table)
    missing = follows.missing_inputs()
    if missing:
        context.console.say(f"gold     {table.name:<16} waits for {', '.join(missing)}")
    entries = []
    with delta.holding(context.lake, f"gold/{table.name}"):
        for entry in follows.bring_up(rebuild=rebuild):
            context.progress(entry)
            entries.append(entry)
    return entries or [context.nothing_new("gold", table.name)]


def following(context: Context, table: GoldTable) -> Following:
    """What brings a table up, or tells what is pending."""
    settings, inputs = context.settings, table.how.inputs if isinstance(table.how, Grouped) else ()
    reads = {name: following(context, GOLD[name.removeprefix("gold/")]) for name in inputs if name.startswith("gold/")}
    return Following(
        lambda: context.spark,
        context.lake,
        table,
        settings.tables[table.name],
        settings.gold,
        context.run_id,
        reads,
    )


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
