"""Files of messages: JSON lines, CSV and Parquet, each row a JSON object as it arrived, in bounded memory.

Whether a message is JSON and of which version is silver's to say. What is refused here, line by line, could not be
kept as text: bytes that are not UTF-8, a line that is too long, a CSV row that does not fit its header.
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from typing import IO, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.lake.errors import FileRefusedError
from jobs.lake.sources import Parsed, Refused, SourceFile, too_many

LINE_LIMIT: Final = 1 << 20
BLOCK_ROWS: Final = 20_000
BLOCK_BYTES: Final = 32 << 20
_FEW_ROWS: Final = 100  # of Parquet at a time: each may be of any length
PARTITION_BY: Final = ("year", "month", "day", "hour")

SCHEMA: Final = pa.schema(
    [
        pa.field("payload", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
        pa.field("arrived_at", pa.timestamp("us", tz="UTC"), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in PARTITION_BY),
    ]
)

_NAME = re.compile(r"\.(?:(jsonl|ndjson|json|csv)(?:\.gz)?|(parquet))\Z", re.IGNORECASE)
_SHOWN = 200
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT))  # the limit on a line is ours, cells and all


class _Message(NamedTuple):
    offset: int
    payload: str


class _Line(NamedTuple):
    """A line without its end: its number from 1, the offset of its first byte, and at most LINE_LIMIT + 1 bytes."""

    number: int
    offset: int
    text: bytes


class _UnparsableError(ValueError):
    """A line that cannot be kept; the message says why."""


def is_companion(name: str) -> bool:
    """No file of messages completes another.

    Raises:
        FileRefusedError: The name is not that of a file of messages.
    """
    _kind(name)
    return False


def parse(file: SourceFile, *, block_rows: int = BLOCK_ROWS, block_bytes: int = BLOCK_BYTES) -> Iterator[Parsed]:
    """Read the messages of a file, block by block.

    - ``.jsonl``, ``.ndjson``, ``.json``: each line is a message, whatever it says. Blank lines are skipped.
    - ``.csv``: the first row names the fields; each other row becomes an object of texts. An empty cell is a field
      that is not there, because CSV cannot tell the two apart.
    - ``.parquet``: each row becomes an object, its nested values kept. A null is a field that is not there, a time
      becomes ISO 8601 with its offset (UTC if it has none), NaN and infinity are NaN, Infinity and -Infinity.

    All but Parquet also as ``.gz``. A message is taken to have arrived when its file was last written.

    Args:
        file: The file.
        block_rows: Messages and refused lines of one batch at most.
        block_bytes: Characters of one batch, passed by one message at most.

    Yields:
        Batches in the order of the file. ``source_offset`` is the first byte of the line or row (decompressed); in
        Parquet, the number of the row from 0. Refused lines, and rows of Parquet, are numbered from 1.

    Raises:
        FileRefusedError: The file is not what its name says.
    """
    read = _READERS[_kind(file.name)]
    with file.open() as stream:
        messages: list[_Message] = []
        refused: list[Refused] = []
        size = 0
        for one in read(stream, file.name):
            if isinstance(one, _Message):
                messages.append(one)
                size += len(one.payload)
            else:
                refused.append(one)
            if len(messages) + len(refused) == block_rows or size >= block_bytes:
                yield Parsed(_table(messages, file), refused)
                messages, refused, size = [], [], 0
        if messages or refused:
            yield Parsed(_table(messages, file), refused)


def _kind(name: str) -> str:
    found = _NAME.search(name)
    if found is None:
        raise FileRefusedError(
            f"{name} is not the name of a file of messages",
            why="the end of the name says how the file is read",
            remedy="name it .jsonl, .ndjson, .json or .csv, each also as .gz, or .parquet",
        )
    return (found[1] or found[2]).lower()


def _table(messages: Sequence[_Message], file: SourceFile) -> pa.Table:
    arrived = file.modified.astimezone(UTC)
    parts = f"{arrived:%Y %m %d %H}".split()
    count = len(messages)
    arrays = [
        pa.array([message.payload for message in messages], pa.string()),
        pa.repeat(pa.scalar(file.name), count),
        pa.array([message.offset for message in messages], pa.int64()),
        pa.repeat(pa.scalar(arrived, SCHEMA.field("arrived_at").type), count),
        *(pa.repeat(pa.scalar(part), count) for part in parts),
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


# --- Lines --------------------------------------------------------------------------------------------------


def _lines(stream: IO[bytes], name: str) -> Iterator[_Line]:
    """Yield the lines of a file, holding LINE_LIMIT + 2 bytes at most of a line that is longer."""
    number = offset = 0
    while line := stream.readline(LINE_LIMIT + 2):
        number, start, length = number + 1, offset, len(line)
        text = line.rstrip(b"\r\n")[: LINE_LIMIT + 1]
        while not line.endswith(b"\n") and (line := stream.readline(LINE_LIMIT + 2)):
            length += len(line)
        offset += length
        if number == 1:
            if text.startswith(_UTF_16):
                raise _foreign(name, "it is UTF-16", f"iconv -f utf-16 -t utf-8 {name}")
            if text.startswith(_BYTE_ORDER_MARK):
                text, start = text.removeprefix(_BYTE_ORDER_MARK), len(_BYTE_ORDER_MARK)
        yield _Line(number, start, text)


def _decoded(text: bytes) -> str:
    if len(text) > LINE_LIMIT:
        raise _UnparsableError(f"line: longer than {LINE_LIMIT} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise _UnparsableError(f"line: not UTF-8 at byte {error.start + 1}") from None


def _refused(line: _Line, why: _UnparsableError) -> Refused:
    return Refused(line.number, line.text[:_SHOWN].decode("utf-8", "backslashreplace"), f"unparsable_line {why}")


def _read_json(stream: IO[bytes], name: str) -> Iterator[_Message | Refused]:
    lines = (line for line in _lines(stream, name) if line.text.strip())
    head = list(islice(lines, 2))
    _check_json_head(head, name)
    for line in chain(head, lines):
        try:
            yield _Message(line.offset, _decoded(line.text))
        except _UnparsableError as why:
            yield _refused(line, why)


def _check_json_head(head: Sequence[_Line], name: str) -> None:
    """Refuse a file whose lines are not messages but pieces of one JSON text."""
    first = head[0].text.strip() if head else b""
    if first.startswith(b"[") and (len(head) == 1 or not _is_json(first)):
        raise _foreign(name, "it is one JSON array, not a message per line", f"jq -c '.[]' {name}")
    if first == b"{":
        raise _foreign(name, "its messages spread over several lines", f"jq -c . {name}")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# --- CSV ----------------------------------------------------------------------------------------------------


def _read_csv(stream: IO[bytes], name: str) -> Iterator[_Message | Refused]:
    lines = _lines(stream, name)
    header = next(lines, None)
    if header is None:
        raise _foreign(name, "it is empty")
    names = _field_names(header, name)
    waiting: deque[_Line] = deque()
    while line := waiting.popleft() if waiting else next(lines, None):
        if not line.text.strip():
            continue
        record = _record(line, waiting, lines)
        try:
            yield _Message(line.offset, _object(names, record))
        except _UnparsableError as why:
            # One stray quote must not take the rows after it along.
            waiting.extendleft(reversed(record[1:]))
            yield _refused(line, why if len(record) == 1 else _UnparsableError("line: a quote that is not closed"))


def _field_names(header: _Line, name: str) -> list[str]:
    try:
        names = [cell.strip() for cell in _cells(_decoded(header.text))]
    except _UnparsableError as why:
        raise _foreign(name, f"its first line does not name fields: {why}") from None
    if many := too_many(len(names)):
        raise _foreign(name, many)
    if len(names) < 2:
        raise _foreign(name, "its first line names one field", "separate fields by commas")
    if not all(names) or len(set(names)) < len(names):
        raise _foreign(name, f"its first line leaves a field without a name of its own: {', '.join(names)[:_SHOWN]}")
    return names


def _record(first: _Line, waiting: deque[_Line], lines: Iterator[_Line]) -> list[_Line]:
    """The lines of a record: more than one where a quote is open at the end of a line, and closed later."""
    record, size = [first], len(first.text)
    is_open = first.text.count(b'"') % 2 == 1
    while is_open and size <= LINE_LIMIT and (line := waiting.popleft() if waiting else next(lines, None)):
        record.append(line)
        size += len(line.text)
        is_open = line.text.count(b'"') % 2 == 0
    return record


def _object(names: Sequence[str], record: Sequence[_Line]) -> str:
    cells = _cells(_decoded(b"\n".join(line.text for line in record)))
    if len(cells) != len(names):
        raise _UnparsableError(f"line: {len(cells)} fields instead of {len(names)}")
    return _decoded(_dumps({name: cell for name, cell in zip(names, cells, strict=True) if cell}).encode())


def _cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _UnparsableError(f"line: {error}") from None


# --- Parquet ------------------------------------------------------------------------------------------------


def _read_parquet(stream: IO[bytes], name: str) -> Iterator[_Message | Refused]:
    number = 0
    try:
        file = pq.ParquetFile(stream, page_checksum_verification=True)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise _foreign(name, "it has two columns of one name")
        if why := too_many(file.metadata.num_columns):
            raise _foreign(name, why)
        for _ in file.iter_batches(batch_size=_FEW_ROWS):  # of what is refused whole nothing must be in already
            pass
        for batch in file.iter_batches(batch_size=_FEW_ROWS):
            for row in _rows(batch, name):
                number += 1
                try:
                    yield _Message(number - 1, _decoded(_dumps(_plain(row)).encode()))
                except _UnparsableError as why:
                    yield Refused(number, repr(row)[:_SHOWN], f"unparsable_line {why}")
    except pa.ArrowException as error:
        raise _foreign(name, f"it cannot be read as Parquet after row {number}: {error}", "fetch it again") from error


def _rows(batch: pa.RecordBatch, name: str) -> list[Any]:
    """The rows as Python has them; its error in the place of one with an instant that Python's calendar has not."""
    try:
        rows: list[Any] = batch.to_pylist()
    except OverflowError as error:
        if batch.num_rows == 1:
            return [error]
        rows = [row for place in range(batch.num_rows) for row in _rows(batch.slice(place, 1), name)]
    except LookupError as error:
        raise _foreign(
            name, f"it has times of a zone that is not known: {error}", "write it with times in UTC"
        ) from error
    return rows


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return float(value)
        case bytes():
            return _decoded(value)
        case dict():
            return {name: _plain(item) for name, item in value.items() if item is not None}
        case list() | tuple():
            return [_plain(item) for item in value]
        case OverflowError():
            raise _UnparsableError(f"line: {value}")
    raise _UnparsableError(f"line: a value of type {type(value).__name__}")


def _dumps(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


_READERS: dict[str, Callable[[IO[bytes], str], Iterable[_Message | Refused]]] = {
    "jsonl": _read_json,
    "ndjson": _read_json,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}


def _foreign(name: str, why: str, remedy: str = "") -> FileRefusedError:
    return FileRefusedError(f"{name} is refused whole", why=why, remedy=remedy or "check how the file was made")
