"""Appends rows to one table, a commit each, and says which were acknowledged."""

from __future__ import annotations

import argparse

from jobs.lake import delta
from jobs.lake.cli import Context
from jobs.lake.delta import Transaction


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the job."""
    parser.add_argument("--table", required=True, help="below the lake")
    parser.add_argument("--driver", type=int, required=True, help="which of several it is")
    parser.add_argument("--commits", type=int, required=True)


def run(context: Context, options: argparse.Namespace) -> None:
    """Append; print a number for each row as soon as it is there."""
    for commit in range(options.commits):
        row = context.spark.createDataFrame([(options.driver, commit)], "driver int, commit int")
        name = Transaction(f"driver/{options.driver}", commit)
        delta.append(context.lake, row, f"{context.lake.uri}/{options.table}", name)
        print(commit)
