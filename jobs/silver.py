"""Promotes bronze to silver: cleaned, deduplicated, schema-evolved Delta tables."""

from __future__ import annotations

import argparse

from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame

from jobs.catalog import DATASETS
from jobs.lake import checkpoint, cli
from jobs.lake.cli import Context
from jobs.lake.delta import Transaction
from jobs.lake.intake import new_files, probe_here
from jobs.lake.ledger import Entry
from jobs.lake.promotion import Promotion
from jobs.lake.tables import Dataset


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``silver``."""
    parser.add_argument("--dataset", required=True, metavar="NAME", help=f"{', '.join(DATASETS)} or all")


def run(context: Context, options: argparse.Namespace) -> None:
    """Promote the datasets asked for, and print the books."""
    chosen = [DATASETS[name] for name in cli.choice([*DATASETS], options.dataset, "dataset")]
    if context.plan:
        context.console.table("would promote", [plan(context, dataset) for dataset in chosen])
        return
    context.close_books([entry for dataset in chosen for entry in promote(context, dataset)])


def plan(context: Context, dataset: Dataset) -> dict[str, object]:
    """What :func:`promote` would take in."""
    files = checkpoint.waiting(context.lake, "silver", dataset.name)
    rows = sum(p.rows for p in probe_here(context.lake, files))
    return {
        "dataset": dataset.name,
        "files": len(files),
        "bytes": sum(f.bytes for f in files),
        "rows": rows,
        "table": f"silver/{dataset.name}",
    }


def promote(context: Context, dataset: Dataset) -> list[Entry]:
    """Promote every file that has not been, batch by batch; what is done is never done again."""
    entries: list[Entry] = []
    failure: list[BaseException] = []

    def batch(arrived: DataFrame, number: int) -> None:
        spark = arrived.sparkSession
        query = spark.sparkContext.getLocalProperty("sql.streaming.queryId")
        promotion = Promotion(
            context.spark,
            context.lake,
            dataset,
            context.settings.datasets[dataset.name],
            context.settings.silver,
            context.run_id,
        )
        files = checkpoint.batch_files(context.lake, "silver", dataset.name, number)
        try:
            entry = promotion.promote(files, Transaction(f"silver/{dataset.name}/{query}", number))
        except BaseException as error:
            failure.append(error)  # Spark would hand on only its text
            if isinstance(error, Exception):
                raise
            raise RuntimeError(str(error)) from error  # a panic of Rust's: Spark would wait for ever
        entries.append(entry)
        context.progress(entry)

    if checkpoint.bronze_files(context.lake, dataset.name):
        bronze, limit = context.lake.bronze(dataset.name), context.settings.silver.max_files_per_batch
        query = (
            new_files(context.spark, bronze, limit)
            .writeStream.foreachBatch(batch)
            .option("checkpointLocation", context.lake.checkpoint("silver", dataset.name))
            .trigger(availableNow=True)
            .start()
        )
        try:
            query.awaitTermination()
        except StreamingQueryException:
            if failure:
                raise failure[0] from None
            raise
    return entries or [context.nothing_new("silver", dataset.name)]


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
