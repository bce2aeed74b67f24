"""The writers: the same in a folder and in S3, read back by other readers, errors without secrets."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from moto.sts.models import STSBackend, sts_backends

from sim.errors import StoreError, UsageError
from sim.writers import LocalWriter, S3Options, S3Writer, Writer, as_table, checked_key, encode, open_writer

START = datetime(2026, 1, 1, 5, 30, tzinfo=UTC)
HOUR = START.replace(minute=0)
SECRET = "wJalrXUtnPLANTEDKEY/bPxRfiCY+secret"
SESSION_TOKEN = "FwoGZXIvPLANTEDTOKEN+token=="
ROLE = "arn:aws:iam::123456789012:role/lake-writer"


@pytest.fixture(autouse=True)
def _own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test")


@pytest.fixture
def bucket(client: Any) -> str:
    name = f"lake-{uuid.uuid4()}"
    client.create_bucket(Bucket=name)
    return name


def _s3(bucket: str, endpoint: str, **options: Any) -> S3Writer:
    return S3Writer(bucket, "root", **{"endpoint_url": endpoint, "access_key": "AKID", "secret_key": SECRET, **options})


def _readings(sensors: int = 1, hours: int = 1, rows: int = 4) -> pa.Table:
    """Rows of several sensors and hours, interleaved so that no partition lies in one piece."""
    step = timedelta(hours=hours) / rows
    records = [
        {
            "sensor_id": f"sensor-{s}",
            "event_time": HOUR + step * r,
            "ax": float(s * 100 + r),
            "ok": r % 2 == 0,
        }
        for r in range(rows)
        for s in range(sensors)
    ]
    return pa.Table.from_pylist(records)


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _objects(client: Any, bucket: str, prefix: str = "root/") -> dict[str, bytes]:
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    read = (client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed)
    return {item["Key"].removeprefix(prefix): body for item, body in zip(listed, read, strict=True)}


# --- A folder and S3 are alike ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(("sensors", "hours"), [(1, 1), (3, 5)])
def test_write__folder_and_s3_hold_the_same(
    tmp_path: Path, client: Any, bucket: str, endpoint: str, format: Any, sensors: int, hours: int
) -> None:
    data = _readings(sensors, hours, rows=10)
    local = LocalWriter(tmp_path).write(data, "bronze/accelerometer", name="part-0", format=format)
    remote = _s3(bucket, endpoint).write(data, "bronze/accelerometer", name="part-0", format=format)
    assert local == remote
    assert _files(tmp_path) == _objects(client, bucket)
    assert {w.key: w.bytes for w in local} == {key: len(body) for key, body in _files(tmp_path).items()}
    assert sum(w.rows for w in local) == data.num_rows


def test_write__key_by_hand(tmp_path: Path) -> None:
    [written] = LocalWriter(tmp_path).write(_readings(rows=2), "bronze/accelerometer", name="unit")
    assert written.key == ("bronze/accelerometer/year=2026/month=01/day=01/hour=05/sensor_id=sensor-0/unit.parquet")
    assert written.rows == 2


def test_write__dicts_frame_and_table_give_the_same_bytes(tmp_path: Path) -> None:
    rows = _readings(sensors=2, hours=3, rows=6).to_pylist()
    inputs = {"dicts": rows, "frame": pd.DataFrame(rows), "table": pa.Table.from_pylist(rows)}
    files = {}
    for kind, data in inputs.items():
        LocalWriter(tmp_path / kind).write(data, "p", name="f")
        files[kind] = _files(tmp_path / kind)
    assert files["dicts"] == files["frame"] == files["table"]
    assert len(files["dicts"]) == 6  # 2 sensors x the hours 5, 6, 7


def test_write__chunks_slices_and_metadata_do_not_change_the_bytes() -> None:
    whole = _readings(rows=100)
    chunked = pa.concat_tables([whole.slice(0, 33), whole.slice(33)])
    padded = pa.concat_tables([whole.slice(7, 3), whole]).combine_chunks().slice(3)
    marked = whole.replace_schema_metadata({"pandas": "2.3"})
    tables = [as_table(table) for table in (whole, chunked, padded, marked)]
    assert {column.num_chunks for table in tables for column in table.columns} == {1}
    assert len({encode(table, "parquet").to_pybytes() for table in tables}) == 1


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_write__again_replaces(tmp_path: Path, client: Any, bucket: str, endpoint: str, kind: str) -> None:
    writer: Writer = LocalWriter(tmp_path) if kind == "local" else _s3(bucket, endpoint)
    for value in (1.0, 2.0):
        writer.write([{"v": value}], "p", name="f", partition_by=(), format="csv")
    held = _files(tmp_path) if kind == "local" else _objects(client, bucket)
    assert held == {"p/f.csv": b'"v"\n2\n'}


# --- Independent readers ------------------------------------------------------------------------------------


def _query(sql: str) -> list[Any]:
    with duckdb.connect() as connection:
        return connection.execute(sql).fetchall()


def _partition_schema(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def test_write__arrow_and_duckdb_read_it_back(tmp_path: Path) -> None:
    data = _readings(sensors=3, hours=4, rows=20)
    LocalWriter(tmp_path).write(data, "p", name="f")
    columns = ["sensor_id", "event_time", "ax", "ok"]
    order = [("sensor_id", "ascending"), ("event_time", "ascending")]
    hive = ds.partitioning(_partition_schema("year", "month", "day", "hour", "sensor_id"), flavor="hive")
    read = ds.dataset(tmp_path / "p", partitioning=hive).to_table()
    assert read.select(columns).sort_by(order).to_pylist() == data.sort_by(order).to_pylist()
    assert set(read["hour"].to_pylist()) == {"05", "06", "07", "08"}
    found = _query(
        f"select hour, sensor_id, count(*) n, sum(ax) total from read_parquet('{tmp_path}/p/**/*.parquet',"
        " hive_partitioning=true, hive_types_autocast=false)"
        " where hour <> strftime(event_time at time zone 'UTC', '%H') or month <> '01' group by all"
    )
    assert found == []
    [totals] = _query(f"select sum(ax), count(*) from read_parquet('{tmp_path}/p/**/*.parquet')")
    assert totals == (sum(data["ax"].to_pylist()), 60)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_write__text_formats_read_by_duckdb(tmp_path: Path, format: Any) -> None:
    data = pa.table(
        {
            "event_time": pa.array([START, START + timedelta(microseconds=1), None], pa.timestamp("us", "UTC")),
            "ax": pa.array([0.1, None, 1e20], pa.float32()),
            "note": ['with "quotes", commas\nand a line', "", None],
            "count": pa.array([2**62, -1, None]),
        }
    )
    LocalWriter(tmp_path).write(data, "p", name="f", partition_by=(), format=format)
    types = "{event_time: 'VARCHAR', ax: 'FLOAT', note: 'VARCHAR', count: 'BIGINT'}"
    reader = "read_csv" if format == "csv" else "read_json"
    extra = "header=true, allow_quoted_nulls=false" if format == "csv" else "format='newline_delimited'"
    rows = _query(f"from {reader}('{tmp_path}/p/f.{format}', columns={types}, {extra})")
    assert rows == [
        ("2026-01-01T05:30:00.000000Z", float(np.float32(0.1)), 'with "quotes", commas\nand a line', 2**62),
        ("2026-01-01T05:30:00.000001Z", None, "", -1),
        (None, float(np.float32(1e20)), None, None),
    ]


def test_encode__json_is_valid_without_nan() -> None:
    data = pa.table(
        {
            'a "name"': [float("nan"), float("inf"), -0.5],
            "line": [[{"hz": 1.5, "at": START}, {"hz": float("nan"), "at": None}], [], None],
            "flag": [True, None, False],
            "kind": pa.array(["é🦿", None, "é🦿"]).dictionary_encode(),
            "day": [START.date(), None, None],
            "price": [Decimal("1.10"), None, None],
        }
    )
    lines = encode(as_table(data), "jsonl").to_pybytes().decode().split("\n")

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    assert lines.pop() == ""
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    at = "2026-01-01T05:30:00.000000Z"
    assert rows[0] == {
        'a "name"': None,
        "line": [{"hz": 1.5, "at": at}, {"hz": None, "at": None}],
        "flag": True,
        "kind": "é🦿",
        "day": "2026-01-01",
        "price": "1.10",
    }
    assert rows[1] == {'a "name"': None, "line": [], "flag": None, "kind": None, "day": None, "price": None}
    assert rows[2]['a "name"'] == -0.5
    assert rows[2]["flag"] is False


def test_encode__json_of_a_slice_is_that_slice() -> None:
    table = as_table(pa.table({"a": list(range(10)), "b": [f"t{i}" for i in range(10)]})).slice(4, 2)
    assert encode(table, "jsonl").to_pybytes() == b'{"a":4,"b":"t4"}\n{"a":5,"b":"t5"}\n'
    assert encode(table.slice(0, 0), "jsonl").to_pybytes() == b""


def test_encode__parquet_dictionary_only_for_text() -> None:
    table = as_table(_readings(rows=50))
    group = pq.read_metadata(pa.BufferReader(encode(table, "parquet"))).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {name for name, c in columns.items() if c.has_dictionary_page} == {"sensor_id"}
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    assert "DELTA_BINARY_PACKED" in columns["event_time"].encodings


def test_encode__csv_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(UsageError, match="as csv"):
        encode(as_table([{"a": [1, 2]}]), "csv")


# --- Times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_as_table__times_become_microseconds_utc(unit: str, zone: str | None) -> None:
    ticks = pa.array([1_767_245_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit], None])
    table = as_table(pa.table({"event_time": ticks.cast(pa.timestamp(unit, zone))}))
    assert table.schema.field("event_time").type == pa.timestamp("us", "UTC")
    assert table["event_time"].to_pylist() == [START, None]


def test_as_table__digits_below_a_microsecond_are_cut() -> None:
    table = as_table(pa.table({"t": pa.array([1_999, 2_000], pa.timestamp("ns"))}))
    assert table["t"].cast(pa.int64()).to_pylist() == [1, 2]


def test_as_table__a_time_out_of_range_is_refused_not_wrapped() -> None:
    with pytest.raises(UsageError, match="column t"):
        as_table(pa.table({"t": pa.array([2**62], pa.timestamp("s"))}))


def test_as_table__times_in_lists_of_structs() -> None:
    kind = pa.list_(pa.struct([("at", pa.timestamp("ns"))]))
    table = as_table(pa.table({"peaks": pa.array([[{"at": START.replace(tzinfo=None)}]], kind)}))
    assert table["peaks"].to_pylist() == [[{"at": START}]]


def test_as_table__frame_in_another_zone_lands_in_the_utc_hour(tmp_path: Path) -> None:
    local_time = START.astimezone(timezone(timedelta(hours=9)))
    frame = pd.DataFrame({"event_time": pd.to_datetime([local_time]), "v": [1.0]})
    [written] = LocalWriter(tmp_path).write(frame, "", name="f", partition_by=("day", "hour"))
    assert written.key == "day=01/hour=05/f.parquet"


def test_write__time_partitions_before_1970_and_null(tmp_path: Path) -> None:
    times = [datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), None, datetime(1970, 1, 1, tzinfo=UTC)]
    data = pa.table({"event_time": pa.array(times, pa.timestamp("us", "UTC")), "v": [1, 2, 3]})
    written = LocalWriter(tmp_path).write(data, "", name="f", partition_by=("year", "hour"))
    null = "__HIVE_DEFAULT_PARTITION__"
    assert [w.key for w in written] == [
        "year=1969/hour=23/f.parquet",
        "year=1970/hour=00/f.parquet",
        f"year={null}/hour={null}/f.parquet",
    ]


def test_write__own_columns_come_before_derived_ones(tmp_path: Path) -> None:
    rows = [{"event_time": START, "month": 12, "v": 1}]
    [written] = LocalWriter(tmp_path).write(rows, "", name="f", partition_by=("year", "month"))
    assert written.key == "year=2026/month=12/f.parquet"
    assert pq.read_schema(tmp_path / written.key).names == ["event_time", "v"]


# --- Rows and frames ----------------------------------------------------------------------------------------


def test_as_table__keys_of_every_row_count() -> None:
    assert as_table([{"a": 1}, {"b": "x"}]).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


def test_as_table__nan_of_a_frame_stays_nan_and_none_is_null() -> None:
    frame = pd.DataFrame({"v": np.array([1.0, np.nan], "f4"), "n": pd.array([1, None], "Int16"), "s": ["x", None]})
    table = as_table(frame)
    assert table.schema.types == [pa.float32(), pa.int16(), pa.string()]
    assert table["v"].null_count == 0
    assert np.isnan(table["v"][1].as_py())
    assert table["n"].to_pylist() == [1, None]
    assert table["s"].to_pylist() == ["x", None]


def test_as_table__named_index_is_a_column_and_metadata_goes() -> None:
    frame = pd.DataFrame({"v": [1.0]}, index=pd.Index([START], name="event_time"))
    table = as_table(frame)
    assert set(table.column_names) == {"event_time", "v"}
    assert table.schema.metadata is None


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([{"a": 1}, {"a": "x"}], "column a"),
        ("a,b", "cannot write a str"),
        ([1, 2], "cannot write a list"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns are named a"),
    ],
)
def test_as_table__refuses(data: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        as_table(data)


def test_write__no_rows(tmp_path: Path) -> None:
    writer = LocalWriter(tmp_path)
    empty = _readings(rows=2).slice(0, 0)
    assert writer.write([], "p", name="f", partition_by=()) == []
    assert writer.write(empty, "p", name="f") == []
    [written] = writer.write(empty, "p", name="f", partition_by=())
    assert pq.read_table(tmp_path / written.key).num_rows == 0


# --- Partitions ---------------------------------------------------------------------------------------------

NASTY = [
    "a=b/c",
    "../../x",
    "..",
    "'",
    '"',
    "🦿é",
    "100%",
    "a b+c",
    "x\ny\t\x7f",
    "50%25",
    "{[^]}#*?:\\",
    None,
]


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_write__nasty_values_stay_inside_and_come_back(
    tmp_path: Path, client: Any, bucket: str, endpoint: str, kind: str
) -> None:
    data = pa.table({"where": pa.array(NASTY), "v": list(range(len(NASTY)))})
    writer: Writer = LocalWriter(tmp_path / "lake" / "root") if kind == "local" else _s3(bucket, endpoint)
    written = writer.write(data, "p", name="f", partition_by=("where",))
    assert len({w.key for w in written}) == len(NASTY)
    for w in written:
        assert w.key.count("/") == 2
        assert not {"..", "."} & set(w.key.split("/"))
    if kind == "s3":
        assert set(_objects(client, bucket, "")) == {f"root/{w.key}" for w in written}
        return
    assert [p.name for p in tmp_path.iterdir()] == ["lake"]
    hive = ds.partitioning(_partition_schema("where"), flavor="hive")
    read = ds.dataset(tmp_path / "lake" / "root" / "p", partitioning=hive).to_table()
    assert dict(zip(read["v"].to_pylist(), read["where"].to_pylist(), strict=True)) == dict(enumerate(NASTY))


def test_write__escapes_as_hive_does(tmp_path: Path) -> None:
    # By hand, from the table of characters Hive escapes (FileUtils.charToEscape).
    rows = [{"a:b": 'x/y=z%"*', "v": 1}]
    [written] = LocalWriter(tmp_path).write(rows, "", name="f", partition_by=("a:b",))
    assert written.key == "a%3Ab=x%2Fy%3Dz%25%22%2A/f.parquet"


def test_write__null_and_empty_share_a_file_and_lose_nothing(tmp_path: Path) -> None:
    rows = [{"k": key, "v": i} for i, key in enumerate(["", None, "x", ""])]
    written = LocalWriter(tmp_path).write(rows, "", name="f", partition_by=("k",))
    assert {w.key: w.rows for w in written} == {
        "k=__HIVE_DEFAULT_PARTITION__/f.parquet": 3,
        "k=x/f.parquet": 1,
    }
    assert pq.read_table(tmp_path / "k=__HIVE_DEFAULT_PARTITION__/f.parquet")["v"].to_pylist() == [0, 1, 3]


def test_write__any_type_of_partition_column(tmp_path: Path) -> None:
    data = pa.table(
        {
            "n": pa.array([7], pa.int16()),
            "flag": [True],
            "day": [START.date()],
            "kind": pa.array(["x"]).dictionary_encode(),
            "at": [START],
            "v": [1],
        }
    )
    [written] = LocalWriter(tmp_path).write(data, "", name="f", partition_by=("n", "flag", "day", "kind", "at"))
    assert written.key == "n=7/flag=true/day=2026-01-01/kind=x/at=2026-01-01T05%3A30%3A00.000000Z/f.parquet"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", None, "a", "b/c"]),
            st.one_of(st.none(), st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))),
        ),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_write__every_row_in_its_own_partition_and_in_order(
    rows: list[tuple[str | None, datetime | None]],
) -> None:
    class Memory(Writer):
        def __init__(self) -> None:
            self.held: dict[str, bytes] = {}

        def put(self, key: str, body: bytes | memoryview) -> None:
            assert checked_key(key) not in self.held
            self.held[key] = bytes(body)

        def create(self, key: str, body: bytes) -> bool:
            raise NotImplementedError

        def delete(self, key: str) -> None:
            raise NotImplementedError

    data = pa.table(
        {
            "k": pa.array([key for key, _ in rows], pa.string()),
            "event_time": pa.array([time for _, time in rows], pa.timestamp("us")),
            "row": list(range(len(rows))),
        }
    )
    expected: dict[str, list[int]] = {}
    null = "__HIVE_DEFAULT_PARTITION__"
    for row, (key, time) in enumerate(rows):
        day = null if time is None else f"{time.day:02d}"
        hour = null if time is None else f"{time.hour:02d}"
        path = f"hour={hour}/k={(key or null).replace('/', '%2F')}/day={day}/f.parquet"
        expected.setdefault(path, []).append(row)
    writer = Memory()
    written = writer.write(data, "", name="f", partition_by=("hour", "k", "day"))
    held = {key: pq.read_table(pa.BufferReader(body))["row"].to_pylist() for key, body in writer.held.items()}
    assert held == expected
    assert {w.key: w.rows for w in written} == {key: len(found) for key, found in expected.items()}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"partition_by": ("nope",)}, "partition by nope"),
        ({"partition_by": ("year",)}, "partition by year"),
        ({"partition_by": "v"}, "partition by 'v'"),
        ({"partition_by": ("v", "v")}, "partition by"),
        ({"partition_by": ("v", "w")}, "no column would be left"),
        ({"partition_by": ("w",)}, "its type is list"),
        ({"name": ".hidden"}, "cannot name a file"),
        ({"name": "a/b"}, "cannot name a file"),
        ({"name": ""}, "cannot name a file"),
        ({"format": "orc"}, "format 'orc'"),
        ({"prefix": "../up"}, "leave the lake"),
        ({"prefix": "a//b"}, "leave the lake"),
    ],
)
def test_write__refuses(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    call = {"prefix": "p", "name": "f", "partition_by": (), **options}
    with pytest.raises(UsageError, match=match):
        LocalWriter(tmp_path / "lake").write([{"v": 1, "w": [1]}], **call)
    assert not list(tmp_path.iterdir())


# --- A folder -----------------------------------------------------------------------------------------------


def test_local_put__failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LocalWriter(tmp_path)
    writer.put("p/f", b"old")

    def full(self: Path, target: Path) -> None:
        assert self.name.startswith(".")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        writer.put("p/f", b"new")
    assert _files(tmp_path) == {"p/f": b"old"}


def test_local_put__names_the_file_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"")
    with pytest.raises(StoreError, match=r"p/f") as caught:
        LocalWriter(tmp_path).put("p/f", b"x")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("key", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a\0b", "a/"])
def test_put__key_outside_the_root_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError):
        LocalWriter(tmp_path).put(key, b"")
    with pytest.raises(UsageError):
        S3Writer("bucket").put(key, b"")


# --- S3 -----------------------------------------------------------------------------------------------------


def test_s3_put__standard_chain(client: Any, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    open_writer(f"s3a://{bucket}/root/", endpoint_url=endpoint).put("p/f", b"x")
    assert _objects(client, bucket) == {"p/f": b"x"}


def test_s3_put__session_token_is_sent(bucket: str, endpoint: str) -> None:
    writer = _s3(bucket, endpoint, session_token=SESSION_TOKEN)
    sent = []
    writer._client().meta.events.register(
        "before-send.s3", lambda request, **_: sent.append(request.headers["x-amz-security-token"])
    )
    writer.put("f", b"x")
    assert sent == [SESSION_TOKEN.encode()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("AES256", None)),  # S3's own default since 2023
        ({"encryption": "AES256"}, ("AES256", None)),
        ({"encryption": "aws:kms", "kms_key_id": "alias/lake"}, ("aws:kms", "alias/lake")),
    ],
)
@pytest.mark.parametrize("size", [10, 6 << 20])
def test_s3_put__encryption(
    client: Any, bucket: str, endpoint: str, options: Any, expected: tuple[str, str | None], size: int
) -> None:
    writer = _s3(bucket, endpoint, multipart_threshold=5 << 20, multipart_chunksize=5 << 20, **options)
    asked = []
    writer._client().meta.events.register(
        "before-send.s3",
        lambda request, **_: asked.append(request.headers.get("x-amz-server-side-encryption")),
    )
    writer.put("f", b"x" * size)
    # In the first request, which makes the object: moto, like S3, reports AES256 where nothing was asked.
    assert asked[0] == (options["encryption"].encode() if options else None)
    head = client.head_object(Bucket=bucket, Key="root/f")
    assert (head.get("ServerSideEncryption", "AES256"), head.get("SSEKMSKeyId")) == expected


def test_s3_put__large_objects_in_parts(client: Any, bucket: str, endpoint: str) -> None:
    writer = _s3(bucket, endpoint, multipart_threshold=11 << 20, multipart_chunksize=5 << 20)
    body = np.random.default_rng(0).bytes(11 << 20)
    writer.put("large", body)
    writer.put("small", body[:-1])
    etags = {name: client.head_object(Bucket=bucket, Key=f"root/{name}")["ETag"] for name in ("large", "small")}
    assert etags["large"].endswith('-3"')  # 5 + 5 + 1 MiB
    assert "-" not in etags["small"]
    assert _objects(client, bucket) == {"large": body, "small": body[:-1]}


def test_s3_put__role_by_sts(client: Any, bucket: str, endpoint: str) -> None:
    writer = _s3(bucket, endpoint, role_arn=ROLE, external_id="agreed", sts_endpoint_url=endpoint)
    assumed = sts_backends["123456789012"]["global"].assumed_roles
    before = len(assumed)
    writer.put("f", b"1")
    writer.put("f", b"2")
    assert _objects(client, bucket) == {"f": b"2"}
    [role] = assumed[before:]  # once for both
    assert (role.role_arn, role.external_id) == (ROLE, "agreed")


def test_s3_put__role_is_renewed(bucket: str, endpoint: str, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, answers = STSBackend.assume_role, []

    def short_lived(self: STSBackend, *args: Any, **options: Any) -> Any:
        answer = real(self, *args, **options)
        role = answer[1] if isinstance(answer, tuple) else answer
        role.expiration -= timedelta(minutes=59)
        answers.append(role.access_key_id)
        return answer

    monkeypatch.setattr(STSBackend, "assume_role", short_lived)
    writer = _s3(bucket, endpoint, role_arn=ROLE, sts_endpoint_url=endpoint)
    writer.put("f", b"1")
    first = len(set(answers))
    writer.put("f", b"2")
    assert 1 <= first < len(set(answers))


def test_s3_writer__works_after_pickling_and_in_a_fork(client: Any, bucket: str, endpoint: str) -> None:
    writer = _s3(bucket, endpoint)
    writer.put("first", b"1")
    copy = pickle.loads(pickle.dumps(writer))
    assert copy == writer
    assert copy._client() is not writer._client()
    copy.put("second", b"2")
    own = writer._client()
    assert writer._client() is own
    child = os.fork()
    if child == 0:
        os._exit(0 if writer._client() is not own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _objects(client, bucket) == {"first": b"1", "second": b"2"}


# --- Errors of S3 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusing() -> Iterator[Any]:
    """An S3 that answers every request by an error of our choice, and spells out the secrets in it."""

    class Handler(BaseHTTPRequestHandler):
        code = ""

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            error = f"<Error><Code>{self.code}</Code><Message>{SECRET} {SESSION_TOKEN}</Message></Error>"
            # STS, which is asked by POST, wraps its errors once more than S3.
            body = (f"<ErrorResponse>{error}</ErrorResponse>" if self.command == "POST" else error).encode()
            self.send_response(403 if "Slow" not in self.code else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT  # noqa: N815 - the name is the library's

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(code: str) -> str:
        Handler.code = code
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    server.shutdown()
    server.server_close()


def _refusal(writer: Writer, caplog: pytest.LogCaptureFixture) -> StoreError:
    """Return the error of a write, having looked for the secrets wherever they could show."""
    with caplog.at_level(logging.INFO), pytest.raises(StoreError) as caught:
        writer.write([{"v": 1}], "p", name="f", partition_by=())
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(writer) + caplog.text
    shown += str(writer) + repr(vars(writer)) + repr(pickle.dumps(caught.value))
    for secret in (SECRET, SESSION_TOKEN):
        assert secret not in shown
    assert caught.value.exit_code == 3
    assert caught.value.what == "could not write s3://lake-bucket/root/p/f.parquet"
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("NoSuchBucket", "there is no such bucket"),
        ("AccessDenied", "may not do this"),
        ("ExpiredToken", "have expired"),
        ("InvalidAccessKeyId", "does not know the access key"),
        ("SignatureDoesNotMatch", "does not belong to the access key"),
        ("SlowDown", "overloaded"),
        ("SomethingNew", "SomethingNew to PutObject"),
        (f"Odd {SECRET}", "an unknown error to PutObject"),
    ],
)
def test_s3_put__refusals(refusing: Any, caplog: pytest.LogCaptureFixture, code: str, why: str) -> None:
    writer = _s3("lake-bucket", refusing(code), session_token=SESSION_TOKEN, max_attempts=1)
    assert why in _refusal(writer, caplog).why


def test_s3_put__no_such_bucket_on_a_real_server(endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "there is no such bucket" in _refusal(_s3("lake-bucket", endpoint), caplog).why


def test_s3_put__role_refused(refusing: Any, caplog: pytest.LogCaptureFixture) -> None:
    url = refusing("AccessDenied")
    writer = _s3("lake-bucket", url, role_arn=ROLE, sts_endpoint_url=url, max_attempts=1)
    assert "AccessDenied to AssumeRole" in _refusal(writer, caplog).why


def test_s3_put__no_connection(caplog: pytest.LogCaptureFixture) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()  # a port that was free a moment ago
    writer = _s3("lake-bucket", f"http://127.0.0.1:{server.server_port}", max_attempts=1)
    assert "cannot be reached" in _refusal(writer, caplog).why


@pytest.mark.parametrize("role", [{}, {"role_arn": ROLE}])
def test_s3_put__no_credentials(endpoint: str, caplog: pytest.LogCaptureFixture, role: Any) -> None:
    writer = _s3("lake-bucket", endpoint, access_key=None, secret_key=None, **role)
    error = _refusal(writer, caplog)
    assert "there are no AWS credentials" in error.why
    assert "AWS_PROFILE" in error.remedy


def test_s3_put__secret_in_a_broken_header_stays_secret(endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    writer = _s3("lake-bucket", endpoint, session_token=f"{SESSION_TOKEN}\nbroken", max_attempts=1)
    _refusal(writer, caplog)


def test_s3_put__attempts_are_bounded(refusing: Any) -> None:
    writer = _s3("lake-bucket", refusing("SlowDown"), max_attempts=2)
    calls: list[str] = []
    writer._client().meta.events.register("before-send.s3", lambda **_: calls.append("sent"))
    with pytest.raises(StoreError, match="overloaded"):
        writer.put("f", b"x")
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"secret_key": None}, "go together"),
        ({"access_key": None}, "go together"),
        ({"access_key": None, "secret_key": None, "session_token": "t"}, "session_token needs"),
        ({"external_id": "e"}, "external_id needs role_arn"),
        ({"encryption": "rot13"}, "AES256 or aws:kms"),
        ({"kms_key_id": "k", "encryption": "AES256"}, "kms_key_id needs"),
        ({"endpoint_url": "localhost:9000"}, "http:// or https://"),
        ({"endpoint_url": f"http://user:{SECRET[:5]}@host"}, "must not hold credentials"),
        ({"multipart_chunksize": 1 << 20}, "5 MiB"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"read_timeout": 0}, "timeouts"),
    ],
)
def test_s3_writer__refuses(options: S3Options, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        _s3("bucket", "http://127.0.0.1", **options)
    assert SECRET[:5] not in str(caught.value)


# --- Addresses ----------------------------------------------------------------------------------------------


def test_open_writer__folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_writer("./lake") == LocalWriter(Path("lake"))
    assert open_writer("~/lake") == LocalWriter(tmp_path / "lake")
    assert open_writer("file:///a%20b/lake") == LocalWriter(Path("/a b/lake"))
    assert open_writer("file://localhost/lake", endpoint_url="http://unused") == LocalWriter(Path("/lake"))


@pytest.mark.parametrize("scheme", ["s3", "s3a", "S3A"])
def test_open_writer__buckets(scheme: str) -> None:
    writer = open_writer(f"{scheme}://bucket/some/prefix/", region="eu-west-1")
    assert writer == S3Writer("bucket", "some/prefix", region="eu-west-1")
    assert open_writer(f"{scheme}://bucket") == S3Writer("bucket", "")


@pytest.mark.parametrize(
    "lake",
    ["hdfs://host/lake", "s3n://bucket", "gs://bucket", "", "s3://", "file://host/x", "s3://bucket/../other"],
)
def test_open_writer__refuses(lake: str) -> None:
    with pytest.raises(UsageError):
        open_writer(lake)


def test_open_writer__credentials_in_the_address_are_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        open_writer(f"s3://AKID:{SECRET.replace('/', '%2F')}@bucket/lake")
    assert "PLANTED" not in str(caught.value)


def test_import__needs_no_spark() -> None:
    code = "import sys, sim.writers; sys.exit(any(m.split('.')[0] in ('pyspark', 'jobs') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
