"""Simulates a dataset into bronze, the work spread over Spark's executors."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from jobs.lake import cli, ledger
from jobs.lake.cli import Context
from jobs.lake.delta import Transaction
from jobs.lake.ledger import Entry
from sim.base import Unit, parameters_from, write, write_truth
from sim.catalog import SIMULATORS
from sim.command import add_arguments, fault_parameters, parameter_values
from sim.faults import FaultParameters
from sim.writers import Written


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``simulate``."""
    parser.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(SIMULATORS))
    add_arguments(parser)


def run(context: Context, options: argparse.Namespace) -> None:
    """Simulate, and print the books."""
    (name,) = cli.choice([*SIMULATORS], options.dataset, "dataset")
    values = parameter_values(options)
    params = parameters_from(SIMULATORS[name], values)
    if context.plan:
        units = SIMULATORS[name].units(params)
        context.console.table("would simulate", [{"dataset": name, "files": len(units), "to": f"bronze/{name}"}])
        return
    context.close_books(simulate(context, name, values, fault_parameters(options, params.seed)))


def simulate(
    context: Context, name: str, values: Mapping[str, object], faults: FaultParameters | None = None
) -> list[Entry]:
    """Write a simulated run to bronze; every executor makes its share, and the bytes are the same however many.

    Args:
        context: The job's context.
        name: The dataset.
        values: Parameters by name.
        faults: How much to spoil.

    Raises:
        ParameterError: A parameter is nonsense.
    """
    batch, simulator = ledger.Batch(context.run_id, "simulate", name), SIMULATORS[name]
    params = parameters_from(simulator, values)
    units, writer = simulator.units(params), context.lake.writer()

    def work(unit: Unit) -> list[Written]:
        return list(write(simulator, params, writer, [unit], faults=faults))

    spark = context.spark.sparkContext
    slices = min(len(units), 16 * spark.defaultParallelism)
    write_truth(simulator, params, writer)  # first: gold that is held against it takes in each row of silver once
    written = spark.parallelize(units, slices).flatMap(work).collect()
    entry = batch.entry(context.run_id, files=len(written), rows_written=sum(file.rows for file in written))
    ledger.record(context.lake, [entry], Transaction(f"simulate/{name}/{context.run_id}", 0))
    context.progress(entry)
    return [entry]


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
