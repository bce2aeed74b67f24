"""CSV files of New York State's places to fish: headers by their meaning, rows as they are, in bounded memory.

The layout is RFC 4180's: commas between fields, quotes around a field that has commas, quotes or line breaks, quotes
in it doubled. Lines end with LF or CRLF. Text is UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import json
import re
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from jobs.lake.errors import FileRefusedError
from jobs.lake.sources import LineReader, Parsed, Refused, too_many

LIMIT: Final = 1 << 20
BLOCK_ROWS: Final = 20_000
BLOCK_BYTES: Final = 8 << 20

REQUIRED: Final = ("county", "waterbody_name", "longitude", "latitude")
"""Columns without which a file is no list of waterways."""

COLUMNS: Final = (
    "event_id",
    "event_time",
    "county",
    "waterbody_name",
    "fish_species",
    "comments",
    "special_regulations",
    "access_types",
    "fishing_access_owner",
    "information_url",
    "longitude",
    "latitude",
    "location",
)
"""Columns that a header can stand for."""

ALIASES: Final[Mapping[str, str]] = {
    "County Name": "county",
    "Waterbody": "waterbody_name",
    "Name of Waterbody": "waterbody_name",
    "Fish Species Present at Waterbody": "fish_species",
    "Fish Species Present": "fish_species",
    "Species": "fish_species",
    "Comment": "comments",
    "Special Regulations on Waterbody": "special_regulations",
    "Regulations": "special_regulations",
    "Types of Public Access": "access_types",
    "Public Access Types": "access_types",
    "Public Access": "access_types",
    "Public Fishing Access Owner": "fishing_access_owner",
    "Access Owner": "fishing_access_owner",
    "Waterbody Information": "information_url",
    "Information": "information_url",
    "Lon": "longitude",
    "Long": "longitude",
    "Lng": "longitude",
    "Lat": "latitude",
    "Timestamp": "event_time",
}
"""Other spelling of a column's name -> the column."""

_SHOWN = 4_000  # bytes or letters of what is refused
_MARK = b"\xef\xbb\xbf"
_NAMESPACE = uuid.UUID("0e1bb0b4-6f6b-5a0d-9c38-4f4f2f3a9d57")

csv.field_size_limit(max(csv.field_size_limit(), LIMIT))  # the limit on a record is ours, and says so in its own words


@dataclass(frozen=True)
class _Record:
    """Fields of one record and the lines it stands on."""

    line_number: int
    fields: list[str]
    lines: list[bytes]


class _TooLongError(ValueError):
    """A record of more bytes than the limit."""


def parse(
    stream: LineReader,
    name: str,
    *,
    limit: int = LIMIT,
    block_rows: int = BLOCK_ROWS,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Parsed]:
    """Turn a CSV file into rows of text, block by block.

    A header stands for a column of :data:`COLUMNS` if it has its name or an alias, whatever its case, blanks,
    underscores, dots and hyphens; any other becomes a column under its own name in snake_case. Cells are kept as they
    are, and an empty one is null. A file without ``event_id`` gets one per row: a UUID of version 5 from the row's own
    content, so that rows that are the same in every cell are the same event, in whatever file and order of columns.

    A record is refused if it is not UTF-8, if it is longer than the limit, if it has another number of fields than the
    header, or if its quotes do not match. Parsing goes on after its last line, or after its first where nobody can
    tell which is its last. Blank lines are skipped.

    Args:
        stream: The file, decompressed.
        name: Its name, for messages.
        limit: A record of more bytes is refused.
        block_rows: Rows and refused records of one batch at most.
        block_bytes: A batch ends with the record that reaches so many bytes.

    Yields:
        Batches in the order of the lines; none if there is only a header.

    Raises:
        FileRefusedError: There is no header, it lacks a required column or names one twice.
    """
    lines = _Lines(stream, limit)
    columns = _header(lines, name)
    rows: list[list[str | None]] = []
    refused: list[Refused] = []
    size = 0
    for one in _records(lines):
        if isinstance(one, _Record):
            size += sum(map(len, one.lines))
            if len(one.fields) == len(columns):
                rows.append([text or None for text in one.fields])
            else:
                why = f"{len(one.fields)} fields instead of {len(columns)}"
                refused.append(_refusal(one.line_number, one.lines, why))
        else:
            size += len(one.text)
            refused.append(one)
        if len(rows) + len(refused) == block_rows or size >= block_bytes:
            yield Parsed(_table(rows, columns), refused)
            rows, refused, size = [], [], 0
    if rows or refused:
        yield Parsed(_table(rows, columns), refused)


def column_names(headers: Sequence[str]) -> list[str]:
    """The column that each header stands for.

    Raises:
        ValueError: Two headers stand for one column, or a header is blank; the message names them.
    """
    known = {_folded(name): name for name in COLUMNS} | {_folded(alias): name for alias, name in ALIASES.items()}
    names: dict[str, str] = {}
    for place, header in enumerate(headers, start=1):
        found = known.get(_folded(header)) or _snake_case(header)
        if not found:
            raise ValueError(f"column {place} has no name")
        if found in names:
            raise ValueError(f"{names[found]!r} and {header!r} are both {found}")
        names[found] = header
    return list(names)


def _folded(header: str) -> str:
    """What is the same for two spellings of a header."""
    return re.sub(r"[\s_.\-]+", "", header).casefold()


def _snake_case(header: str) -> str:
    parted = re.sub(r"(?<=[^\W_A-Z])(?=[A-Z])", "_", header)
    return re.sub(r"[\W_]+", "_", parted).strip("_").lower()


class _Lines:
    """Lines of a stream with their ends, numbered from 1, of which the last ones taken can be put back.

    Of a line beyond the limit, ``limit + 1`` bytes are kept and the rest is skipped.
    """

    def __init__(self, stream: LineReader, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._stream = stream
        self._again: deque[bytes] = deque()

    def take(self) -> bytes:
        """The next line; nothing at the end."""
        line = self._again.popleft() if self._again else self._read()
        self.taken += bool(line)
        return line

    def put_back(self, lines: Sequence[bytes]) -> None:
        """Have lines taken again."""
        self._again.extendleft(reversed(lines))
        self.taken -= len(lines)

    def _read(self) -> bytes:
        line = rest = self._stream.readline(self.limit + 1)
        while len(line) > self.limit and rest and not rest.endswith(b"\n"):
            rest = self._stream.readline(self.limit + 1)
        return line


def _header(lines: _Lines, name: str) -> list[str]:
    first = next(_records(lines), None)
    if first is None:
        raise _foreign(name, "it has no lines")
    if isinstance(first, Refused):
        raise _foreign(name, f"its header cannot be read: {first.reason.partition(': ')[2]}")
    if many := too_many(len(first.fields)):
        raise _foreign(name, many)
    try:
        columns = column_names(first.fields)
    except ValueError as error:
        raise _foreign(name, str(error)) from None
    if missing := [column for column in REQUIRED if column not in columns]:
        shown = ", ".join(map(repr, first.fields))[:_SHOWN]
        raise _foreign(name, f"no header stands for {', '.join(missing)}; the headers are {shown}")
    return columns


def _records(lines: _Lines) -> Iterator[_Record | Refused]:
    """Split lines into records; blank ones are left out."""
    while True:
        number = lines.taken + 1
        used: list[bytes] = []
        try:
            fields = next(csv.reader(_fed(lines, used), strict=True), None)
        except (csv.Error, _TooLongError) as error:
            # Where the record was to end nobody can tell: the lines after its first are read as if it were not there.
            lines.put_back(used[1:])
            yield _refusal(number, used[:1], _explained(error))
            continue
        if fields is None:
            return
        if strange := _undecodable(used):
            yield _refusal(number, used, strange)
        elif b"".join(used).strip():
            yield _Record(number, fields, used)


def _fed(lines: _Lines, used: list[bytes]) -> Iterator[str]:
    """Feed the lines of one record to the CSV reader, noting them in ``used``."""
    size = 0
    while line := lines.take():
        used.append(line)
        size += len(line)
        if size > lines.limit:
            raise _TooLongError(f"longer than {lines.limit} bytes")
        # What is not UTF-8 is told when the record is whole: commas, quotes and line ends are ASCII all the same.
        yield (line.removeprefix(_MARK) if lines.taken == 1 else line).decode("utf-8", "surrogateescape")


def _explained(error: csv.Error | _TooLongError) -> str:
    if isinstance(error, _TooLongError):
        return str(error)
    return "a carriage return that ends no line" if "new-line" in str(error) else "quotes that do not match"


def _undecodable(lines: Iterable[bytes]) -> str:
    """What is not UTF-8 in these lines; empty if all of it is."""
    for line in lines:
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8, byte 0x{line[error.start]:02x} at {error.start}"
    return ""


def _refusal(line_number: int, lines: Sequence[bytes], why: str) -> Refused:
    text = b"".join(lines)[:_SHOWN].decode("utf-8", "backslashreplace").rstrip("\r\n")
    return Refused(line_number, text, f"unparsable_line line: {why}")


def _table(rows: Sequence[Sequence[str | None]], columns: Sequence[str]) -> pa.Table:
    """Rows as columns of text, and their identity if they have none."""
    content = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    if "event_id" not in content:
        order = sorted(range(len(columns)), key=lambda place: columns[place])
        labels = [columns[place] for place in order]
        identities: list[str | None] = [_identity(labels, [row[place] for place in order]) for row in rows]
        content = {"event_id": identities, **content}
    return pa.table({name: pa.array(values, pa.string()) for name, values in content.items()})


def _identity(columns: Sequence[str], cells: Sequence[str | None]) -> str:
    """A UUID from what a row says: its cells by column, those without text left out."""
    said = [(column, cell) for column, cell in zip(columns, cells, strict=True) if cell is not None]
    return str(uuid.uuid5(_NAMESPACE, json.dumps(said)))


def _foreign(name: str, why: str) -> FileRefusedError:
    return FileRefusedError(
        f"{name} is no list of waterways",
        why=why,
        remedy=f"give a CSV file in UTF-8 whose first line names at least {', '.join(REQUIRED)}",
    )
