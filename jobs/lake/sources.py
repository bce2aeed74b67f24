"""A source file, and what a parser makes of it; no Spark, so that parsers need none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Final, NamedTuple, Protocol

import pyarrow as pa

MAX_COLUMNS: Final = 2_000
"""Of a file, and of silver, which keeps each that ever arrived: planning takes longer with each, and memory."""


@dataclass(frozen=True)
class SourceFile:
    """A file handed to ``ingest``.

    Attributes:
        name: File name without its folder.
        open: Opens its bytes, decompressed; every call starts anew.
        modified: When it was last written.
    """

    name: str
    open: Callable[[], IO[bytes]]
    modified: datetime


def too_many(columns: int) -> str:
    """Why a file of so many columns is not taken in; empty if it is."""
    return f"it has {columns:,} columns; at most {MAX_COLUMNS:,} are taken in" if columns > MAX_COLUMNS else ""


class Refused(NamedTuple):
    """A line or record that is no row: the number of its (first) line from 1, its text (shortened) and the reason."""

    line_number: int
    text: str
    reason: str


@dataclass(frozen=True)
class Parsed:
    """A bounded piece of a parsed source file.

    Attributes:
        rows: Good rows in bronze's columns.
        refused: The lines that are no rows.
    """

    rows: pa.Table
    refused: Sequence[Refused] = ()


class LineReader(Protocol):
    """An open file of bytes, as far as a parser of lines needs it."""

    def readline(self, size: int, /) -> bytes:
        """Read one line of at most ``size`` bytes."""
