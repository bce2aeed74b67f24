"""Files of messages: what is kept as it arrived, what is set aside line by line, what is refused whole."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.datasets import telemetry
from jobs.datasets.telemetry import LINE_LIMIT, is_companion, parse
from jobs.lake.errors import FileRefusedError
from sim import devices
from sim.writers import LocalWriter

MODIFIED = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=ZoneInfo("Europe/Berlin"))
V1 = '{"device_id":"d1","timestamp":1767225600,"temperature":21.5,"humidity":40}'
Refused = list[tuple[int, str, str]]


@dataclass(frozen=True)
class Memory:
    """A source file that is nowhere but here."""

    name: str
    content: bytes
    modified: datetime = MODIFIED

    def open(self) -> IO[bytes]:
        return io.BytesIO(self.content)


def read(name: str, content: bytes | str, **bounds: int) -> tuple[pa.Table, Refused]:
    file = Memory(name, content.encode() if isinstance(content, str) else content)
    batches = list(parse(file, **bounds))
    rows = pa.concat_tables([telemetry.SCHEMA.empty_table(), *(batch.rows for batch in batches)])
    return rows, [line for batch in batches for line in batch.refused]


def payloads(name: str, content: bytes | str) -> list[str]:
    rows, refused = read(name, content)
    assert refused == []
    texts: list[str] = rows["payload"].to_pylist()
    return texts


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def refusal(name: str, content: bytes | str) -> str:
    with pytest.raises(FileRefusedError) as refused:
        read(name, content)
    return str(refused.value)


# Names


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.b.JSONL", "a.jsonl.gz", "a.csv.gz", "a.parquet", "A.CSV.GZ"]
)
def test_is_companion__a_file_of_messages_stands_alone(name: str):
    assert not is_companion(name)


@pytest.mark.parametrize("name", ["a.txt", "a.json.bz2", "a", "jsonl", "a.parquet.gz", "a.csv\n", "", "a.jsonl/b"])
def test_is_companion__refused_with_the_accepted_names(name: str):
    with pytest.raises(FileRefusedError) as refused:
        is_companion(name)
    assert ".jsonl, .ndjson, .json or .csv" in str(refused.value)


# JSON lines


def test_parse__json_lines_are_kept_to_the_byte():
    content = f'{V1}\n\n  \r\n {{"a" : 1.50}} \r\nno json\n[1]\n{{"h\u00e4":1'
    rows, refused = read("a.jsonl", content)
    assert refused == []
    assert rows.schema.equals(telemetry.SCHEMA)
    assert rows["payload"].to_pylist() == [V1, ' {"a" : 1.50} ', "no json", "[1]", '{"h\u00e4":1']
    offsets = rows["source_offset"].to_pylist()
    assert offsets[:2] == [0, len(V1) + 6]
    raw = content.encode()
    for text, offset in zip(rows["payload"].to_pylist(), offsets, strict=True):
        assert raw[offset:].startswith(text.encode())
    assert set(rows["source_file"].to_pylist()) == {"a.jsonl"}


def test_parse__a_message_arrived_when_its_file_was_written():
    rows, _ = read("a.jsonl", V1)
    [row] = rows.drop_columns(["payload", "source_file", "source_offset"]).to_pylist()
    assert row == {
        "arrived_at": datetime(2026, 3, 4, 4, 6, 7, 890, tzinfo=UTC),
        "year": "2026",
        "month": "03",
        "day": "04",
        "hour": "04",
    }


def test_parse__a_line_that_is_not_utf_8():
    rows, refused = read("a.jsonl", b'{"a":1}\n{"name":"M\xfcller"}\n{"b":2}\n')
    assert rows["payload"].to_pylist() == ['{"a":1}', '{"b":2}']
    assert rows["source_offset"].to_pylist() == [0, 26]
    assert refused == [(2, '{"name":"M\\xfcller"}', "unparsable_line line: not UTF-8 at byte 11")]


def test_parse__a_line_of_ten_megabytes_is_never_held_whole():
    class Endless(io.RawIOBase):
        """Ten megabytes without a line's end between two messages."""

        def __init__(self) -> None:
            self.parts = [b'{"a":1}\n', *[b"x" * 65_536] * 160, b'\n{"b":2}\n']
            self.rest = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.rest = self.rest or (self.parts.pop(0) if self.parts else b"")
            piece, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
            buffer[: len(piece)] = piece
            return len(piece)

    @dataclass(frozen=True)
    class Source:
        name = "a.jsonl"
        modified = MODIFIED

        def open(self) -> IO[bytes]:
            return io.BufferedReader(Endless())

    tracemalloc.start()
    batches = list(parse(Source()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * LINE_LIMIT
    [batch] = batches
    assert batch.rows["payload"].to_pylist() == ['{"a":1}', '{"b":2}']
    assert batch.rows["source_offset"].to_pylist() == [0, 8 + 160 * 65_536 + 1]
    assert batch.refused == [(2, "x" * 200, "unparsable_line line: longer than 1048576 bytes")]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_parse__the_longest_line(end: str):
    fits = '"' + "x" * (LINE_LIMIT - 2) + '"'
    rows, refused = read("a.jsonl", f'{{"a":1}}\n{fits}{end}')
    assert (rows.num_rows, refused) == (2, [])
    rows, refused = read("a.jsonl", f'{{"a":1}}\n{fits}x{end}')
    assert rows.num_rows == 1
    assert [number for number, _, _ in refused] == [2]


def test_parse__a_byte_order_mark_is_not_part_of_the_message():
    rows, _ = read("a.jsonl", b"\xef\xbb\xbf" + V1.encode() + b"\n{}")
    assert rows["payload"].to_pylist() == [V1, "{}"]
    assert rows["source_offset"].to_pylist() == [3, 3 + len(V1) + 1]


@pytest.mark.parametrize("content", ["", "\n\n", " \r\n"])
def test_parse__no_message_no_row(content: str):
    assert list(parse(Memory("a.jsonl", content.encode()))) == []


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (json.dumps([{"a": 1}, {"a": 2}]), "jq -c '.[]' a.json"),
        (json.dumps([{"a": 1}, {"a": 2}], indent=2), "jq -c '.[]' a.json"),
        ("[{" + " " * (LINE_LIMIT + 10) + "}]", "jq -c '.[]' a.json"),
        ('\n\n[{"a":1},\n{"a":2}]', "jq -c '.[]' a.json"),
        (json.dumps({"a": 1}, indent=2), "jq -c . a.json"),
        ("{}".encode("utf-16"), "iconv -f utf-16"),
    ],
)
def test_parse__one_json_text_over_many_lines_is_refused_with_the_way_out(content: bytes | str, remedy: str):
    assert remedy in refusal("a.json", content)


def test_parse__a_list_among_messages_is_a_message():
    assert payloads("a.jsonl", '[1]\n{"a":1}') == ["[1]", '{"a":1}']


def test_parse__batches_are_bounded_and_whole():
    lines = [f'{{"n":{n}}}' for n in range(95)]
    lines[7] = lines[50] = "\x00" * 3
    content = "\n".join(lines).encode().replace(b"\x00\x00\x00", b"\xff")
    batches = list(parse(Memory("a.jsonl", content), block_rows=10))
    assert [batch.rows.num_rows + len(batch.refused) for batch in batches] == [10] * 9 + [5]
    assert [number for batch in batches for number, _, _ in batch.refused] == [8, 51]
    batches = list(parse(Memory("a.jsonl", content), block_bytes=30))
    assert max(sum(map(len, batch.rows["payload"].to_pylist())) for batch in batches) <= 30 + 8
    assert sum(batch.rows.num_rows for batch in batches) == 93


_line = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=30) | st.binary(
    max_size=9
)


@given(st.lists(_line), st.sampled_from(["\n", "\r\n"]), st.integers(1, 4))
def test_parse__every_line_is_kept_or_refused(lines: list[str | bytes], end: str, block_rows: int):
    raw = [line.encode() if isinstance(line, str) else line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    content = b'{"first":1}\n' + b"".join(line + end.encode() for line in raw)
    rows, refused = read("a.jsonl", content, block_rows=block_rows)
    expected, wrong = ['{"first":1}'], []
    for number, line in enumerate(raw, start=2):
        if not line.strip():
            continue
        try:
            expected.append(line.decode())
        except UnicodeDecodeError:
            wrong.append(number)
    assert rows["payload"].to_pylist() == expected
    assert [number for number, _, _ in refused] == wrong
    for text, offset in zip(rows["payload"].to_pylist(), rows["source_offset"].to_pylist(), strict=True):
        assert content[offset : offset + len(text.encode())] == text.encode()


# CSV


def test_parse__csv_cells_stay_text_and_empty_ones_are_not_there():
    content = 'device_id, timestamp ,temperature,humidity\r\nd1,1767225600,21.50,40\n\n"d,2",,n/a,""\n'
    rows, refused = read("a.csv", content)
    assert refused == []
    assert [json.loads(text) for text in rows["payload"].to_pylist()] == [
        {"device_id": "d1", "timestamp": "1767225600", "temperature": "21.50", "humidity": "40"},
        {"device_id": "d,2", "temperature": "n/a"},
    ]
    assert rows["source_offset"].to_pylist() == [content.index("d1,"), content.index('"d,2"')]


def test_parse__csv_rows_that_do_not_fit():
    content = b'a,b\n1,2\n1,2,3\n1\n\xff,2\n3,"4\n5,6\n' + b"y" * (LINE_LIMIT + 1) + b"\n7,8\n"
    rows, refused = read("a.csv", content)
    assert [json.loads(text) for text in rows["payload"].to_pylist()] == [
        {"a": "1", "b": "2"},
        {"a": "5", "b": "6"},
        {"a": "7", "b": "8"},
    ]
    assert refused == [
        (3, "1,2,3", "unparsable_line line: 3 fields instead of 2"),
        (4, "1", "unparsable_line line: 1 fields instead of 2"),
        (5, "\\xff,2", "unparsable_line line: not UTF-8 at byte 1"),
        (6, '3,"4', "unparsable_line line: a quote that is not closed"),
        (8, "y" * 200, "unparsable_line line: longer than 1048576 bytes"),
    ]


def test_parse__a_csv_row_whose_message_is_too_long():
    names, fits = "n" * 600_000, "v" * 400_000
    content = f"{names},b\n{fits},1\n{fits * 2},2\n"
    rows, ((number, _, why),) = read("a.csv", content)
    assert [json.loads(payload)["b"] for payload in rows["payload"].to_pylist()] == ["1"]
    assert (number, why) == (3, f"unparsable_line line: longer than {LINE_LIMIT} bytes")


def test_parse__a_long_cell_of_csv_where_no_other_parser_is_loaded():
    code = (
        "from jobs.datasets.telemetry import parse; from tests.datasets.test_telemetry import Memory\n"
        "(found,) = parse(Memory('a.csv', b'a,b\\n1,' + b'x' * 500_000))\n"
        "print(found.rows.num_rows, len(found.refused))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "1 0\n"


def test_parse__csv_cells_over_two_lines():
    rows, refused = read("a.csv", 'a,b\n1,"x\n\ny"\n2,z\n')
    assert refused == []
    assert [json.loads(text) for text in rows["payload"].to_pylist()] == [
        {"a": "1", "b": "x\n\ny"},
        {"a": "2", "b": "z"},
    ]
    assert rows["source_offset"].to_pylist() == [4, 13]


def test_parse__two_stray_quotes_do_not_take_the_rows_between_them_along():
    rows, refused = read("a.csv", 'a,b\n1,5" pipe\n2,x\n3,y\n4,6" pipe\n5,z\n')
    assert [json.loads(text)["a"] for text in rows["payload"].to_pylist()] == ["2", "3", "5"]
    assert [number for number, _, _ in refused] == [2, 5]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is empty"),
        ("device_id\nd1\n", "one field"),
        ("device_id;timestamp\nd1;1\n", "separate fields by commas"),
        ("a,,b\n1,2,3\n", "without a name of its own"),
        ("a,b,a\n1,2,3\n", "without a name of its own"),
        (",".join(f"c{n}" for n in range(100_000)), "it has 100,000 columns; at most 2,000 are taken in"),
        (b"a,\xff\n1,2\n", "not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_parse__csv_without_a_header_is_refused(content: bytes | str, why: str):
    assert why in refusal("a.csv", content)


_cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=8)


@given(st.lists(st.tuples(_cell, _cell, _cell)))
def test_parse__csv_as_python_writes_it(rows: list[tuple[str, str, str]]):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    found = [json.loads(payload) for payload in payloads("a.csv", text.getvalue())]
    assert found == [{n: v for n, v in zip("abc", row, strict=True) if v} for row in rows]


# Parquet


def test_parse__parquet_rows_as_objects():
    kathmandu = timedelta(hours=5, minutes=45)
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    table = pa.table(
        {
            "device_id": ["d1", "d2"],
            "timestamp": pa.array([at, None], pa.timestamp("ms", "Asia/Kathmandu")),
            "naive": pa.array([datetime(2026, 1, 1, 12, 0, 0, 5), None], pa.timestamp("us")),
            "nanoseconds": pa.array([1_767_268_800_123_456_789, None], pa.timestamp("ns", "UTC")),
            "readings": pa.array([{"temperature": 21.5, "x": None}, {"temperature": math.nan, "x": math.inf}]),
            "list": [[1, 2], None],
            "day": [date(2026, 1, 1), None],
            "decimal": [Decimal("1.50"), None],
            "bytes": [b"h\xc3\xa4", None],
            "flag": [True, None],
            "float32": pa.array([0.5, None], pa.float32()),
        }
    )
    rows, refused = read("a.parquet", parquet(table))
    first, second = (json.loads(text) for text in rows["payload"].to_pylist())
    assert refused == []
    assert datetime.fromisoformat(first["timestamp"]) == at
    assert datetime.fromisoformat(first["timestamp"]).utcoffset() == kathmandu
    assert first == {
        "device_id": "d1",
        "timestamp": "2026-01-01T17:45:00+05:45",
        "naive": "2026-01-01T12:00:00.000005+00:00",
        "nanoseconds": "2026-01-01T12:00:00.123456789+00:00",
        "readings": {"temperature": 21.5},
        "list": [1, 2],
        "day": "2026-01-01",
        "decimal": 1.5,
        "bytes": "h\u00e4",
        "flag": True,
        "float32": 0.5,
    }
    assert rows["payload"].to_pylist()[1] == '{"device_id":"d2","readings":{"temperature":NaN,"x":Infinity}}'
    assert math.isnan(second["readings"]["temperature"])
    assert rows["source_offset"].to_pylist() == [0, 1]


def test_parse__parquet_rows_that_are_no_text():
    rows, refused = read("a.parquet", parquet(pa.table({"a": [b"x", b"\xff", b"y"], "b": [1, 2, 3]})))
    assert rows["payload"].to_pylist() == ['{"a":"x","b":1}', '{"a":"y","b":3}']
    assert rows["source_offset"].to_pylist() == [0, 2]
    assert refused == [(2, "{'a': b'\\xff', 'b': 2}", "unparsable_line line: not UTF-8 at byte 1")]


def test_parse__parquet_rows_with_a_day_beyond_the_calendar():
    days = pa.array([0, 2**31 - 1, 1], pa.int32()).cast(pa.date32())
    rows, refused = read("a.parquet", parquet(pa.table({"n": [1, 2, 3], "day": days})))
    assert rows["payload"].to_pylist() == ['{"n":1,"day":"1970-01-01"}', '{"n":3,"day":"1970-01-02"}']
    assert [(number, reason.partition(":")[0]) for number, _, reason in refused] == [(2, "unparsable_line line")]


def test_parse__parquet_rows_are_no_longer_than_a_line():
    longest = "x" * (LINE_LIMIT - len('{"a":""}'))
    rows, refused = read("a.parquet", parquet(pa.table({"a": ["y", longest, longest + "x", "ä" * (LINE_LIMIT // 2)]})))
    assert [len(text) for text in rows["payload"].to_pylist()] == [9, LINE_LIMIT]
    assert [number for number, _, _ in refused] == [3, 4]
    assert refused[0][1:] == ("{'a': '" + "x" * 193, "unparsable_line line: longer than 1048576 bytes")


def test_parse__long_rows_of_parquet_are_held_a_few_at_a_time():
    content = parquet(pa.table({"a": pa.array(["x" * 200_000]).take(pa.array([0] * 1_000))}))
    assert len(content) < 1_000_000
    tracemalloc.start()
    count = sum(batch.rows.num_rows for batch in parse(Memory("a.parquet", content), block_bytes=LINE_LIMIT))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1_000
    assert peak < 50_000_000


def test_parse__parquet_of_too_many_columns_is_refused():
    def wide(columns: int) -> bytes:
        return parquet(pa.table({f"c{n}": [1] for n in range(columns)}))

    assert len(json.loads(payloads("a.parquet", wide(2_000))[0])) == 2_000
    assert "it has 2,001 columns; at most 2,000 are taken in" in refusal("a.parquet", wide(2_001))


def test_parse__parquet_that_is_none():
    whole = parquet(pa.table({"a": list(range(1000))}))
    assert "cannot be read as Parquet" in refusal("a.parquet", whole[:-20])
    assert "cannot be read as Parquet" in refusal("a.parquet", b"")
    assert "cannot be read as Parquet" in refusal("a.parquet", V1)
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert "two columns of one name" in refusal("a.parquet", parquet(twice))


@pytest.mark.parametrize("zone", ["Mars/Olympus", "+25:00"])
def test_parse__parquet_with_times_of_no_known_zone_is_refused(zone: str):
    instants = pa.array([None, 1], pa.timestamp("us", zone))
    assert f"times of a zone that is not known: '{zone}'" in refusal("a.parquet", parquet(pa.table({"at": instants})))


def test_parse__parquet_is_read_piece_by_piece():
    table = pa.table({"n": list(range(50_000))})
    batches = list(parse(Memory("a.parquet", parquet(table, row_group_size=50_000))))
    assert [batch.rows.num_rows for batch in batches] == [20_000, 20_000, 10_000]
    assert pa.concat_tables([b.rows for b in batches])["source_offset"].to_pylist() == list(range(50_000))


# Round trip with the simulator


@pytest.fixture(scope="module")
def simulated() -> pa.Table:
    run = devices.DeviceParameters(seed=7, entities=30, duration="6h", rollout_days=0.2)
    return pa.concat_tables([devices.encode(devices.table(run, unit), "x") for unit in devices.units(run)])


def test_parse__messages_of_the_simulator_come_back(simulated: pa.Table, tmp_path: Path):
    sent = simulated["payload"].to_pylist()
    lines = "".join(f"{text}\n" for text in sent)
    assert payloads("a.ndjson", lines) == sent
    LocalWriter(tmp_path).write([{"p": text} for text in sent], "", name="a", partition_by=(), format="jsonl")
    assert [json.loads(text)["p"] for text in payloads("a.jsonl", (tmp_path / "a.jsonl").read_bytes())] == sent


def test_parse__the_same_messages_as_parquet_and_csv(simulated: pa.Table):
    sent = [json.loads(text) for text in simulated["payload"].to_pylist()]
    table = pa.Table.from_pylist([{**row, "timestamp": str(row["timestamp"])} for row in sent], schema=_V2)
    found = [json.loads(text) for text in payloads("a.parquet", parquet(table))]
    assert found == [{**row, "timestamp": str(row["timestamp"])} for row in sent]
    first = [row for row in sent if "readings" not in row]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["device_id", "timestamp", "temperature", "humidity"])
    writer.writeheader()
    writer.writerows(first)
    found = [json.loads(text) for text in payloads("a.csv", text.getvalue())]
    assert 0 < len(found) < len(sent)
    assert found == [{name: str(value) for name, value in row.items()} for row in first]


_V2 = pa.schema(
    {
        "device_id": pa.string(),
        "timestamp": pa.string(),
        "temperature": pa.float64(),
        "readings": pa.struct({"temperature": pa.float64()}),
        "humidity": pa.float64(),
        "battery_level": pa.float64(),
        "firmware_version": pa.string(),
        "location": pa.struct({"lat": pa.float64(), "lon": pa.float64()}),
        "pressure": pa.float64(),
    }
)
