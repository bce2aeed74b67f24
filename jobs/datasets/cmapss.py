"""The text files of NASA's C-MAPSS turbofan data: names, lines and remaining life, in bounded memory.

A file has one row per engine and cycle: 26 numbers between spaces (unit, cycle, three settings, 21 sensors).
``RUL_`` files have one number per test engine: the cycles it had left after its last one. Described in the
``readme.txt`` of the data set (Saxena, Goebel, Simon and Eklund, PHM08, 2008).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, Literal, cast

import numpy as np
import pyarrow as pa

from jobs.lake.errors import FileRefusedError
from jobs.lake.sources import LineReader, Parsed, Refused

Split = Literal["train", "test", "rul"]

LINE_LIMIT: Final = 4096
BLOCK_ROWS: Final = 20_000

_PROBED_LINES = 100
_SHOWN = 200
_LARGEST = 2**15 - 1
_SETTINGS = tuple(f"setting_{number}" for number in range(1, 4))
_SENSORS = tuple(f"sensor_{number}" for number in range(1, 22))
_FIELDS = 2 + len(_SETTINGS) + len(_SENSORS)
_NAME = re.compile(r"\A(train|test|RUL)_(FD00[1-4])\.txt(\.gz)?\Z")
_ACCEPTED = "train_FD001.txt, test_FD001.txt, RUL_FD001.txt; FD001 to FD004, each also as .txt.gz"
# With these bytes alone, Python's float takes no underscores, no "nan" and no "inf".
_NUMERIC = re.compile(rb"[0-9eE+\-.\s]*")
_LARGEST_FLOAT = float(np.finfo(np.float32).max)

SCHEMA: Final = pa.schema(
    [
        pa.field("subset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("unit_number", pa.int16(), nullable=False),
        pa.field("cycle", pa.int16(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in (*_SETTINGS, *_SENSORS)),
        pa.field("remaining_useful_life", pa.int16()),
    ]
)


@dataclass(frozen=True)
class Name:
    """What a file name says: ``split`` (``train``, ``test`` or ``rul``) and ``subset`` (``FD001``)."""

    split: Split
    subset: str


class _UnparsableError(ValueError):
    """A line that is not a row; the message says why."""


_Row = tuple[int, int, list[float]]


def parse_name(name: str) -> Name:
    """Read split and subset from a file name such as ``train_FD001.txt.gz``.

    Raises:
        FileRefusedError: The name is not that of a C-MAPSS file.
    """
    found = _NAME.match(name)
    if found is None:
        raise FileRefusedError(
            f"{name} is not the name of a C-MAPSS file",
            why="the name says which subset and split the rows belong to",
            remedy=f"name it one of {_ACCEPTED}",
        )
    return Name(cast(Split, found[1].lower()), found[2])


def read_lines(stream: LineReader, limit: int = LINE_LIMIT) -> Iterator[bytes]:
    """Yield the lines of a binary stream without their ends, holding at most ``limit + 1`` bytes of each.

    A longer line comes out cut to ``limit + 1`` bytes, which :func:`parse` refuses; its rest is skipped.
    """
    while line := stream.readline(limit + 2):
        cut = line.rstrip(b"\r\n")
        yield cut[: limit + 1]
        while not line.endswith(b"\n") and (line := stream.readline(limit + 2)):
            pass


def last_cycles(lines: Iterable[bytes], limit: int = LINE_LIMIT) -> dict[int, int]:
    """Find the last cycle of each unit, wherever in the file it stands; unparsable lines do not count."""
    last: dict[int, int] = {}
    for line in lines:
        try:
            unit, cycle, _ = _row(line, limit)
        except _UnparsableError:
            continue
        if cycle > last.get(unit, 0):
            last[unit] = cycle
    return last


def parse_remaining_life(lines: Iterable[bytes], name: str) -> list[int]:
    """Read a ``RUL_`` file: the remaining useful life of test units 1, 2, ... in cycles.

    One bad line would shift every later engine, so that it refuses the file.

    Raises:
        FileRefusedError: A line is not one whole number that an int16 holds, or there is none.
    """
    if parse_name(name).split != "rul":
        raise _foreign(name, "its name is not that of a RUL_ file", "pass the RUL_ file of the subset")
    lives = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 1:
            raise _foreign(name, f"line {number} has {len(fields)} fields instead of 1")
        try:
            lives.append(_whole(fields[0], "remaining_useful_life", least=0))
        except _UnparsableError as error:
            raise _foreign(name, f"line {number}: {error}") from None
    if not lives:
        raise _foreign(name, "it has no lines")
    return lives


def parse(
    lines: Iterable[bytes],
    name: str,
    last: Mapping[int, int],
    rul: Sequence[int] | None = None,
    *,
    limit: int = LINE_LIMIT,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[Parsed]:
    """Turn the lines of a ``train_`` or ``test_`` file into rows, block by block.

    The remaining useful life of a row is the last cycle of its unit less its cycle, plus ``rul[unit - 1]``
    for test units; null for test units when ``rul`` is None. Blank lines are skipped.

    Args:
        lines: Lines without ends, as :func:`read_lines` yields them.
        name: The file's name, for split and subset.
        last: The last cycle of each unit, from :func:`last_cycles` over the same lines.
        rul: Remaining lives of test units 1, 2, ...; see :func:`parse_remaining_life`.
        limit: A longer line is refused.
        block_rows: Rows and refused lines of one batch at most.

    Yields:
        Batches, at least one, in the order of the lines.

    Raises:
        FileRefusedError: The file is not what its name says: a ``RUL_`` file, more than half of its first
            100 lines unparsable, no row at all, or units that the remaining lives do not match.
    """
    told = parse_name(name)
    if told.split == "rul":
        raise _foreign(name, "a RUL_ file has no rows of its own", "pass its lives with the test_ file")
    ends = dict(last) if told.split == "train" else _ends(name, last, rul)
    parsed = _parsed(lines, limit)
    head = list(islice(parsed, _PROBED_LINES))
    _check_head(name, head)
    rows: list[_Row] = []
    refused: list[Refused] = []
    for one in chain(head, parsed):
        if isinstance(one, Refused):
            refused.append(one)
        else:
            rows.append(one)
        if len(rows) + len(refused) == block_rows:
            yield Parsed(_table(rows, told, ends), refused)
            rows, refused = [], []
    if rows or refused:
        yield Parsed(_table(rows, told, ends), refused)


def _check_head(name: str, head: Sequence[_Row | Refused]) -> None:
    """Refuse a file whose first lines are mostly no rows."""
    refused = [one for one in head if isinstance(one, Refused)]
    if not head:
        raise _foreign(name, "it has no lines")
    if 2 * len(refused) > len(head):
        raise _foreign(
            name,
            f"{len(refused)} of its first {len(head)} lines are no rows; "
            f"line {refused[0].line_number}: {refused[0].reason}",
        )


def _parsed(lines: Iterable[bytes], limit: int) -> Iterator[_Row | Refused]:
    """Parse each line that is not blank into a row or a refusal."""
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield _row(line, limit)
        except _UnparsableError as why:
            text = line[:_SHOWN].decode("utf-8", "backslashreplace")
            yield Refused(number, text, f"unparsable_line {why}")


def _row(line: bytes, limit: int) -> _Row:
    """Parse one line; the message of an ``_UnparsableError`` reads ``column: why``, or ``line: why``."""
    if len(line) > limit:
        raise _UnparsableError(f"line: longer than {limit} bytes")
    fields = line.split()
    if len(fields) != _FIELDS:
        raise _UnparsableError(f"line: {len(fields)} fields instead of {_FIELDS}")
    if _NUMERIC.fullmatch(line) is None:
        raise _UnparsableError(_stranger(fields))
    unit, cycle = _whole(fields[0], "unit_number"), _whole(fields[1], "cycle")
    try:
        numbers = [float(text) for text in fields[2:]]
    except ValueError:
        raise _UnparsableError(_stranger(fields)) from None
    if max(map(abs, numbers)) > _LARGEST_FLOAT:
        raise _UnparsableError(_stranger(fields))
    return unit, cycle, numbers


def _stranger(fields: Sequence[bytes]) -> str:
    """Name the first field that is no number and say what it is instead."""
    for column, text in zip(("unit_number", "cycle", *_SETTINGS, *_SENSORS), fields, strict=True):
        shown = text[:_SHOWN].decode("utf-8", "backslashreplace")
        if not text.isascii():
            return f"{column}: bytes that are not ASCII text, {shown}"
        try:
            value = float(text)
        except ValueError:
            return f"{column}: {shown} is not a number"
        if not math.isfinite(value):
            return f"{column}: {shown} is not a finite number"
        if _NUMERIC.fullmatch(text) is None:
            return f"{column}: {shown} is not a plain number"
        if abs(value) > _LARGEST_FLOAT:
            return f"{column}: {shown} is beyond float32"
    return "line: white space that does not belong in it"


def _whole(text: bytes, column: str, least: int = 1) -> int:
    """Parse a whole number from ``least`` to the largest int16."""
    shown = text[:_SHOWN].decode("utf-8", "backslashreplace")
    if not text.isdigit():
        raise _UnparsableError(f"{column}: {shown} is not a whole number of at least {least}")
    # The length first: a number of thousands of digits is dear to convert.
    if len(text.lstrip(b"0")) > len(str(_LARGEST)) or int(text) > _LARGEST:
        raise _UnparsableError(f"{column}: {shown} is beyond int16")
    if int(text) < least:
        raise _UnparsableError(f"{column}: {shown} is not a whole number of at least {least}")
    return int(text)


def _ends(name: str, last: Mapping[int, int], rul: Sequence[int] | None) -> dict[int, int]:
    """The cycle at which each test unit fails, empty if its remaining life is not known."""
    if rul is None:
        return {}
    if sorted(last) != list(range(1, len(rul) + 1)):
        raise _foreign(
            name,
            f"it has {len(last)} units, numbered {min(last, default=0)} to {max(last, default=0)}, "
            f"and its RUL_ file has {len(rul)} remaining lives",
            "ingest the test_ and RUL_ files of the same subset",
        )
    ends = {unit: cycle + rul[unit - 1] for unit, cycle in last.items()}
    if max(ends.values()) > _LARGEST:
        raise _foreign(name, "a unit fails at a cycle beyond int16")
    return ends


def _table(rows: Sequence[_Row], name: Name, ends: Mapping[int, int]) -> pa.Table:
    """Put parsed rows into an Arrow table, as :data:`SCHEMA`."""
    if not rows:
        return SCHEMA.empty_table()
    lives = [ends[unit] - cycle if unit in ends else None for unit, cycle, _ in rows]
    numbers = np.array([values for _, _, values in rows], dtype=np.float32)
    arrays = [
        pa.array([name.subset] * len(rows), pa.string()),
        pa.array([name.split] * len(rows), pa.string()),
        pa.array([unit for unit, _, _ in rows], pa.int16()),
        pa.array([cycle for _, cycle, _ in rows], pa.int16()),
        *(pa.array(np.ascontiguousarray(column)) for column in numbers.T),
        pa.array(lives, pa.int16()),
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _foreign(name: str, why: str, remedy: str = "") -> FileRefusedError:
    return FileRefusedError(
        f"{name} is not what its name says",
        why=why,
        remedy=remedy or "check that the file is the one published under this name, and complete",
    )
