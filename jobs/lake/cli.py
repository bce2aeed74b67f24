"""What every job's command line shares: global options, errors for people, exit codes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyspark.sql.types import DoubleType, FloatType

from jobs.catalog import DATASETS, GOLD
from jobs.lake import config, diagnosis, ledger, session
from jobs.lake.config import Settings, nearest
from jobs.lake.console import Console, reopen_streams
from jobs.lake.delta import Transaction
from jobs.lake.errors import ConfigurationError, LakehouseError, UsageError
from jobs.lake.layout import Lake
from jobs.lake.ledger import Entry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Context:
    """What a job is given.

    Attributes:
        settings: The settings in force.
        lake: Where the data is.
        console: What the person sees.
        plan: Say what would happen and change nothing.
        run_id: Names the run in the books.
    """

    settings: Settings
    lake: Lake
    console: Console
    plan: bool
    run_id: str

    @cached_property
    def spark(self) -> SparkSession:
        """The Spark session, opened on first use."""
        measured = [
            field.name
            for schema in (*(d.schema for d in DATASETS.values()), *(t.schema for t in GOLD.values()))
            for field in schema
            if isinstance(field.dataType, FloatType | DoubleType)
        ]
        with self.console.step("starting Spark"), _own_handler():
            return session.open_session(self.settings, self.lake, measured)

    def progress(self, entry: Entry) -> None:
        """A line on stderr for a batch that is done."""
        self.console.say(f"{entry.stage:<8} {entry.dataset:<16} {entry.rows_written:>12,} rows  {entry.seconds:7.1f} s")

    def nothing_new(self, stage: str, name: str) -> Entry:
        """The row of the books for a stage that found nothing to do."""
        self.console.say(f"{stage:<8} {name:<16}  nothing new")
        return Entry(self.run_id, stage, name, "", datetime.now(UTC), 0.0, outcome=ledger.NOTHING_NEW)

    def close_books(self, entries: Sequence[Entry]) -> None:
        """Write the rows that say "nothing new", and print all of them."""
        idle = [entry for entry in entries if entry.outcome == ledger.NOTHING_NEW]
        if idle:
            ledger.record(self.lake, idle, Transaction(f"idle/{self.run_id}", 0))
        self.console.table("books", ledger.totals(entries))


def context(
    lake: str = "",
    profile: str = "",
    overrides: Sequence[str] = (),
    *,
    plan: bool = False,
    as_json: bool = False,
    verbose: bool = False,
) -> Context:
    """Make a job's context from what was typed.

    Raises:
        ConfigurationError: A setting is unknown or wrong.
        UsageError: The lake is none.
    """
    settings = config.load(
        profile,
        [*overrides, *([f"lake={json.dumps(lake, ensure_ascii=False)}"] if lake else [])],  # JSON is YAML
        datasets={name: dataset.settings for name, dataset in DATASETS.items()},
        tables={name: table.settings for name, table in GOLD.items()},
    )
    _check_keep_days(settings)
    place = Lake.parse(settings.general.lake, settings.s3, settings.leases)
    if {*place.uri} & {*"[]"}:
        raise UsageError(
            f"'{place.uri}' cannot be a lake",
            why="deltalake, which writes the books, cannot write below a folder that has [ or ] in its name",
            remedy="choose another folder with --lake",
        )
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return Context(
        settings,
        place,
        Console(as_json, verbose),
        plan,
        f"{stamp}-{secrets.token_hex(3)}",
    )


def _check_keep_days(settings: Settings) -> None:
    """Refuse to keep by time what is no table, or has no time."""
    timed = {
        "silver": (settings.silver.keep_days, [d.name for d in DATASETS.values() if d.time]),
        "quarantine": (settings.quarantine.keep_days, [*DATASETS]),
        "gold": (settings.gold.keep_days, [t.name for t in GOLD.values() if t.time]),
    }
    for section, (kept, names) in timed.items():
        for name in sorted({*kept} - {*names}):
            raise ConfigurationError(
                f"setting {section}.keep_days.{name}",
                why=f"there is no such table, or its rows have no time; known are {', '.join(names)}",
                remedy=f"leave it out, or name one of these: --set {section}.keep_days.NAME=DAYS",
            )


def main(
    description: str,
    arguments: Callable[[argparse.ArgumentParser], Any],
    run: Callable[[Context, argparse.Namespace], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a job from the command line and exit.

    Exit codes are 0 done, 1 the data's fault, 2 the caller's, 3 the machine's, 4 ours, 130 and 143 stopped.
    """
    reopen_streams()
    parser = argparse.ArgumentParser(
        prog=f"./spark-submit.sh {os.path.basename(sys.argv[0]).removesuffix('.py')}",
        description=description,
        allow_abbrev=False,
    )
    arguments(parser)
    shared = parser.add_argument_group("every job")
    shared.add_argument("--lake", default="", metavar="URI", help="a folder (./lake) or s3a://bucket/prefix")
    shared.add_argument("--profile", default="", help="settings of conf/profiles/PROFILE.yaml")
    shared.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    shared.add_argument("--plan", action="store_true", help="say what would happen, change nothing")
    shared.add_argument("--json", action="store_true", help="results as JSON")
    shared.add_argument("-v", "--verbose", action="store_true", help="say more")
    options = parser.parse_args(argv)
    _heed_signals()
    sys.exit(_run(run, options))


class _Terminated(BaseException):
    """SIGTERM."""


_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep what the keyboard does: PySpark's own handler calls the JVM from within the call that it interrupts."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGINT, before)


def _heed_signals() -> None:
    """Stop by an exception in the main thread, be it from the keyboard or by a service that ends its processes."""

    def stop(number: int, _: object) -> None:
        logging.disable()  # py4j would tell of every call that ends with this one
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    for number in _STOPS:  # even the keyboard: a shell has processes in the background ignore it
        signal.signal(number, stop)


def _run(run: Callable[[Context, argparse.Namespace], None], options: argparse.Namespace) -> int:
    place = ""
    try:
        opened = context(
            options.lake,
            options.profile,
            options.overrides,
            plan=options.plan,
            as_json=options.json,
            verbose=options.verbose,
        )
        place = opened.lake.uri if opened.lake.on_s3 else ""
        run(opened, options)
    except LakehouseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, _Terminated) as stop:
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)  # said once is enough
        by, code = ("from the keyboard", 130) if isinstance(stop, KeyboardInterrupt) else ("by SIGTERM", 143)
        print(
            f"stopped {by}: the batch that was under way is abandoned, and nothing of it is lost or doubled;"
            " the same command does what was not finished",
            file=sys.stderr,
        )
        return code
    except SystemExit:
        raise
    except BaseException as error:  # a panic of Rust's is no Exception
        known = diagnosis.known(error, place)
        has_log = "LAKEHOUSE_STDOUT" in os.environ
        if has_log or known is None:
            traceback.print_exc(file=sys.__stdout__ if has_log else sys.stdout)
        told = known or diagnosis.unforeseen(error)
        print(told, file=sys.stderr)
        return told.exit_code
    return 0


def choice(names: Sequence[str], chosen: str, what: str) -> list[str]:
    """The items that ``NAME`` or ``all`` on a command line stands for.

    Raises:
        UsageError: There is none of that name.
    """
    if chosen == "all":
        return list(names)
    if chosen not in names:
        raise UsageError(
            f"there is no {what} '{chosen}'",
            why=f"known are {', '.join(names)}",
            remedy=f"--{what} {nearest(chosen, names)}",
        )
    return [chosen]
