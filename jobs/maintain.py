"""Takes care of the tables: expired rows go, small files are joined, unneeded ones removed."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from jobs import gold
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli, delta, intents
from jobs.lake.cli import Context
from jobs.lake.ledger import Entry
from jobs.lake.maintaining import Care, Done, Kept


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``maintain``."""
    parser.add_argument("--table", required=True, metavar="NAME", help="such as silver/devices, or all")
    parser.add_argument(
        "--cluster", action="store_true", help="rewrite all of a table, rows by entity and time together"
    )


def run(context: Context, options: argparse.Namespace) -> None:
    """Take care of the tables asked for, and print what was done and the books."""
    known = {table.path: table for table in tables(context)}
    chosen = [known[path] for path in cli.choice([*known], options.table, "table")]
    care = Care(
        lambda: context.spark, context.lake, context.settings.maintain, context.run_id, datetime.now(UTC).date()
    )
    if context.plan:
        looks = [{**care.look(table), "waits": begun(context, table) or waits(context, table)} for table in chosen]
        context.console.table("would maintain", [look for look in looks if look["files"]])
        return
    entries = [entry for table in chosen for entry in maintain(context, care, table, cluster=options.cluster)]
    context.close_books(entries or [context.nothing_new("maintain", options.table)])


def tables(context: Context) -> list[Kept]:
    """The tables of a lake; the books and the record of drift are kept for ever."""
    settings = context.settings
    silver, refused, computed = (s.keep_days for s in (settings.silver, settings.quarantine, settings.gold))
    return [
        *(
            Kept(f"silver/{d.name}", d.time, silver.get(d.name), (d.entity, *([d.time] if d.time else d.key[-1:])))
            for d in DATASETS.values()
        ),
        *(Kept(f"quarantine/{name}", "quarantined_at", refused.get(name), row="source_row") for name in DATASETS),
        *(Kept(f"gold/{t.name}", t.time, computed.get(t.name), t.key) for t in GOLD.values()),
        Kept("ops/ledger"),
        Kept("ops/drift"),
    ]


def maintain(context: Context, care: Care, table: Kept, *, cluster: bool) -> list[Entry]:
    """Take care of one table."""
    entries = []
    with delta.holding(context.lake, table.path):
        if left := care.book(table):
            entries.append(left)
        if half_done := begun(context, table):
            context.console.say(f"maintain {table.path}: nothing is done until what was begun is finished: {half_done}")
            return entries
        if table.keep_days is not None and (behind := waits(context, table)):
            context.console.say(f"maintain {table.path}: nothing expires until gold has seen it: gold --table {behind}")
        elif expired := care.expire(table):
            context.console.say(f"maintain {table.path:<28} {expired.rows_expired:>12,} rows expired")
            entries.append(expired)
        if tidied := care.tidy(table, cluster=cluster):
            done, entry = tidied
            context.console.say(f"maintain {table.path:<28} {_told(done)}")
            entries.append(entry)
    return entries


def begun(context: Context, table: Kept) -> str:
    """What finishes a batch of the table that is half done, such as ``replay --dataset devices``; empty if none is."""
    zone, _, name = table.path.partition("/")
    stage = intents.half_done(context.lake, name) if zone in ("silver", "quarantine") else ""
    return f"{stage} --dataset {name}" if stage else ""


def waits(context: Context, table: Kept) -> str:
    """A gold table that has not taken in all of this one's rows; empty if there is none, or nothing expires."""
    if table.keep_days is None:
        return ""
    followers = (f for f in (gold.following(context, t) for t in GOLD.values()) if table.path in f.followed)
    return next((f.table.name for f in followers if f.pending()), "")


def _told(done: Done) -> str:
    joined = f"{done.files_joined:,} files joined into {done.files_written:,}"
    return f"{joined}, {done.files_removed:,} removed ({done.bytes_freed:,} bytes)"


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
