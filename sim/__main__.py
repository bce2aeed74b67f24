"""``python -m sim``: simulate a dataset into a lake's bronze, without Spark."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import get_args

from sim.base import parameters_from, write, write_truth
from sim.catalog import SIMULATORS
from sim.command import add_arguments, fault_parameters, parameter_values
from sim.errors import LakehouseError
from sim.writers import FileFormat, open_writer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _simulate(options)
    except LakehouseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped from the keyboard: each file is whole; the same command writes the others", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument("--dataset", required=True, choices=SIMULATORS)
    add_arguments(parser)
    parser.add_argument("--lake", default="./lake", help="a folder or s3://bucket/prefix (default: %(default)s)")
    parser.add_argument("--format", default="parquet", choices=get_args(FileFormat))
    parser.add_argument("--endpoint-url", help="an S3 service other than AWS")
    return parser


def _simulate(options: argparse.Namespace) -> None:
    simulator = SIMULATORS[options.dataset]
    params = parameters_from(simulator, parameter_values(options))
    writer = open_writer(options.lake, endpoint_url=options.endpoint_url)
    started = time.perf_counter()
    faults = fault_parameters(options, params.seed)
    bronze = write(simulator, params, writer, format=options.format, faults=faults)
    write_truth(simulator, params, writer)
    written = list(bronze)
    seconds = time.perf_counter() - started
    rows, size = sum(file.rows for file in written), sum(file.bytes for file in written)
    print(
        f"{simulator.name}: {rows:,} rows in {len(written):,} files, {size / 1e6:,.1f} MB, {seconds:.1f} s,"
        f" to {options.lake}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
