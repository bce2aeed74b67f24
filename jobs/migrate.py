"""Loads historical files into a dataset and proves that they are in: by day, by count and by hash."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyarrow.fs import FileType

from jobs import ingest, silver
from jobs.catalog import DATASETS
from jobs.lake import cli, delta
from jobs.lake.cli import Context
from jobs.lake.errors import DataError, UsageError
from jobs.lake.judging import Judge
from jobs.lake.layout import Lake
from jobs.lake.ledger import Entry
from jobs.lake.migrating import Comparison, Source, compare, parsed
from jobs.lake.tables import Dataset


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``migrate``."""
    able = ", ".join(name for name, dataset in DATASETS.items() if dataset.ingest)
    parser.add_argument("--dataset", required=True, metavar="NAME", help=able)
    parser.add_argument("--from", dest="place", required=True, metavar="PATH", help="a folder, on disk or s3a://")


def run(context: Context, options: argparse.Namespace) -> None:
    """Load every file below a folder, print the books and the proof.

    Raises:
        DataError: Files were refused whole, or the lake lacks rows of the source; all others are in.
    """
    (name,) = cli.choice([n for n, d in DATASETS.items() if d.ingest], options.dataset, "dataset")
    dataset, files = DATASETS[name], source_files(context.lake, options.place)
    if context.plan:
        context.console.table("would migrate", [{"file": file, "to": f"bronze/{name}"} for file in files])
        return
    entries, refused = load(context, dataset, files)
    context.close_books(entries)
    found = prove(context, dataset, [file for file in files if file not in refused])
    context.console.table("migrated, by day of the event", found.days)
    context.console.table("compared", [_verdict(found)])
    if refused:
        context.console.table("refused whole", [{"file": file, "why": why} for file, why in refused.items()])
    if refused or not found.is_complete:
        raise DataError(
            f"{options.place} is not migrated in full",
            why=f"{len(refused)} files refused, {found.total('missing')} rows missing,"
            f" {found.total('different')} rows with other values than the lake has",
            remedy="mend the files and run the same command again; what is in is not loaded twice. Rows that rules of"
            f" before have refused come in by ./spark-submit.sh replay --dataset {name}; those older than"
            f" silver.keep_days.{name} were let go",
        )


def source_files(lake: Lake, place: str) -> list[str]:
    """Every file below a folder, in order, or the one that is named; hidden ones (``_x``, ``.x``) are none.

    Raises:
        UsageError: There are none.
    """
    home = Lake.parse(place, lake.s3)
    root = home.arrow_path(home.uri)
    if home.filesystem().get_file_info(root).type == FileType.File:
        return [home.uri]
    names = sorted(info.path.removeprefix(root).lstrip("/") for info in home.files(root))
    if not names:
        raise UsageError(f"there are no files in {place}", why="nothing is there to migrate", remedy="check the path")
    return [f"{home.uri}/{name}" for name in names]


def load(context: Context, dataset: Dataset, files: Sequence[str]) -> tuple[list[Entry], dict[str, str]]:
    """Ingest and promote; return the books, and why each file that was refused whole was.

    A file is known by its content, so what an earlier run has done is not done again.
    """
    refused: dict[str, str] = {}
    entries = ingest.ingest(context, dataset, files, refused)
    return entries + silver.promote(context, dataset), refused


def prove(context: Context, dataset: Dataset, files: Sequence[str]) -> Comparison:
    """Read the source again and look every valid row up in the lake."""
    assert dataset.ingest is not None
    how, lake, settings = dataset.ingest, context.lake, context.settings
    sources = [
        Source(ingest.source_file(lake, file), ingest.beside(lake, how, file))
        for file in files
        if not how.is_companion(file.rpartition("/")[2])
    ]
    judge = Judge(context.spark, lake, dataset, settings.datasets[dataset.name], settings.silver)
    place = lake.silver(dataset.name)
    if not sources or delta.latest_version(lake, place) is None:
        return Comparison([], 0, 0, 0)
    return compare(judge, parsed(judge, how, sources), context.spark.read.format("delta").load(place))


def _verdict(found: Comparison) -> dict[str, object]:
    counts = {name: found.total(name) for name in ("read", "refused", "duplicates", "loaded", "missing", "different")}
    hashes = {"source_hash": found.source_hash, "lake_hash": found.lake_hash}
    return {**counts, **hashes, "conflicts": found.conflicts, "complete": found.is_complete}


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
