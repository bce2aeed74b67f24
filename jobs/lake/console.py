"""What a person sees: progress on stderr, data on stdout, and neither mixed with Spark's talk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table

_WIDTH = 160  # of tables: what our own need


def reopen_streams() -> None:
    """Take back the two streams that ``spark-submit`` merges into one.

    ``spark-submit.sh`` names the real ones in ``LAKEHOUSE_STDOUT`` and ``LAKEHOUSE_STDERR``; without it, as on a
    cluster, nothing changes.
    """
    if log := os.environ.get("LAKEHOUSE_LOG"):
        with open(log, "a", encoding="utf-8") as file:  # Spark is up, what follows is the job's
            print(f"lakehouse: job started, process {os.getpid()}", file=file)  # and this is the one to stop
    paths = {name: os.environ.get(f"LAKEHOUSE_{name.upper()}") for name in ("stdout", "stderr")}
    if all(paths.values()):
        for name, path in paths.items():
            setattr(sys, name, open(str(path), "w", buffering=1, encoding="utf-8"))  # noqa: SIM115


@dataclass
class Console:
    """Prints for people, or for programs with ``as_json``.

    Attributes:
        as_json: Print results as JSON on stdout and no tables.
        verbose: Say more on stderr.
    """

    as_json: bool = False
    verbose: bool = False
    _err: RichConsole = field(init=False)
    _out: RichConsole = field(init=False)

    def __post_init__(self) -> None:
        # Of the terminal itself: the descriptors that are asked by default are not it under spark-submit. In a narrow
        # one lines are broken by it, rather than numbers cut by us.
        width = max(_WIDTH, os.get_terminal_size(sys.stdout.fileno()).columns) if sys.stdout.isatty() else _WIDTH
        self._err = RichConsole(file=sys.stderr, highlight=False)
        self._out = RichConsole(file=sys.stdout, highlight=False, width=width)

    def say(self, text: str) -> None:
        """A line of progress, on stderr."""
        self._err.print(text, markup=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        """A line of progress that only ``-v`` shows."""
        if self.verbose:
            self.say(text)

    @contextmanager
    def step(self, title: str) -> Any:
        """Show that something is under way, where stderr is a terminal."""
        with self._err.status(title):
            yield

    def line(self, text: str = "") -> None:
        """A line of result, on stdout."""
        if not self.as_json:
            self._out.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
        """A table of results, on stdout: numbers to the right, with separators."""
        chosen = list(columns or (rows[0] if rows else ()))
        if self.as_json:
            self.json({title: [{c: row[c] for c in chosen} for row in rows]})
            return
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for name in chosen:
            numeric = all(isinstance(row[name], int | float | type(None)) for row in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="ellipsis", no_wrap=True)
        for row in rows:
            table.add_row(*(_cell(row[name]) for name in chosen))
        self._out.print(table)
        self._out.print()

    def json(self, value: Any) -> None:
        """A value as JSON, on stdout; NaN and infinity, which JSON has no word for, are null."""
        finite = json.loads(json.dumps(value, default=_plain), parse_constant=lambda _: None)
        self._out.out(json.dumps(finite, ensure_ascii=False), highlight=False)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3f}" if abs(value) < 1e4 else f"{value:,.0f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case _:
            return escape(str(value))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        stamp = value if value.tzinfo else value.replace(tzinfo=UTC)
        return stamp.isoformat().replace("+00:00", "Z")
    return str(value)
