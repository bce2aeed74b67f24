"""Promotes bronze to silver: cleaned, deduplicated, schema-evolved Delta tables."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from jobs.catalog import DATASETS
from jobs.lake import checkpoint, cli, delta, diagnosis, ledger
from jobs.lake.cli import Context
from jobs.lake.delta import Transaction
from jobs.lake.errors import MachineError
from jobs.lake.intake import new_files, probe_here
from jobs.lake.layout import Lake
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
    lake, name, entries = context.lake, dataset.name, list[Entry]()
    if checkpoint.bronze_files(lake, name):
        arrivals = new_files(context.spark, lake.bronze(name), context.settings.silver.max_files_per_batch)
        # The checkpoint is as little for two runs at once as the tables are.
        with delta.holding(lake, f"silver/{name}", f"quarantine/{name}"):
            checkpoint.check(lake, "silver", name)
            booked = ledger.applications(lake, "silver", name)

            def promote_batch(query: str, number: int) -> None:
                application = f"silver/{name}/{query}"
                promotion = Promotion(
                    context.spark,
                    lake,
                    dataset,
                    context.settings.datasets[name],
                    context.settings.silver,
                    context.run_id,
                    read_again=application not in booked or len(booked) > 1,
                )
                files = checkpoint.batch_files(lake, "silver", name, number)
                entries.append(promotion.promote(files, Transaction(application, number)))
                if application not in booked:  # what another stream has left is in the books by now as well
                    booked.update(ledger.applications(lake, "silver", name))
                context.progress(entries[-1])

            _each_batch(lake, name, arrivals, promote_batch)
    return entries or [context.nothing_new("silver", name)]


def _each_batch(lake: Lake, name: str, arrivals: DataFrame, work: Callable[[str, int], None]) -> None:
    """Have Spark number the batches that are to be done, and do each: (stream, number); what that raises is raised."""
    failure: list[BaseException] = []
    gateway: Any = arrivals.sparkSession.sparkContext._gateway
    connections: set[Any] = set()

    def batch(arrived: DataFrame, number: int) -> None:
        connections.add(gateway._gateway_client.get_thread_connection())
        try:
            work(str(arrived.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId")), number)
        except BaseException as error:
            failure.append(error)  # Spark would hand on only its text
            if isinstance(error, Exception):
                raise
            raise RuntimeError(str(error)) from error  # a panic of Rust's: Spark would wait for ever

    place = lake.checkpoint("silver", name)
    stream = arrivals.writeStream.foreachBatch(batch).option("checkpointLocation", place)
    try:
        stream.trigger(availableNow=True).start().awaitTermination()
    except (PySparkException, Py4JJavaError) as error:
        if failure:
            raise failure[0] from None
        checkpoint.check(lake, "silver", name)
        if lake.relative(place) in str(error) and not isinstance(diagnosis.told(error), MachineError):
            raise checkpoint.unusable(lake, "silver", name, error) from error
        raise
    finally:
        # Otherwise Python keeps the thread in which the stream's batches were done, and its memory, for ever.
        for connection in connections:
            with suppress(OSError, AttributeError):  # it has ended by itself, as when the JVM has died
                connection.socket.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
