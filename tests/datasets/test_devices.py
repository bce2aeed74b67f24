"""Devices: what each message becomes, told by its fields; outcomes are written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.datasets import devices
from jobs.datasets.messages import Version
from jobs.lake import drift, judging
from jobs.lake.cli import Context
from jobs.lake.tables import UNDECODABLE
from tests.lake.conftest import Floor, counts

ARRIVED = datetime(2026, 1, 1, 12, 5, tzinfo=UTC)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
V1 = {"device_id": "d-1", "timestamp": "2026-01-01T12:00:00Z", "temperature": 21.5, "humidity": 40.0}
V2 = {
    "device_id": "d-2",
    "timestamp": "2026-01-01T13:00:00+01:00",
    "readings": {"temperature": -3.25},
    "humidity": 55,
    "battery_level": 80.5,
    "firmware_version": "2.1.0",
    "location": {"lat": 42.5, "lon": -73.75},
    "pressure": 1013.25,
}


def messages(*payloads: str | dict[str, Any], arrived: datetime = ARRIVED) -> pa.Table:
    texts = [p if isinstance(p, str) else json.dumps(p) for p in payloads]
    return pa.table(
        {
            "payload": texts,
            "source_file": ["feed.jsonl"] * len(texts),
            "source_offset": range(len(texts)),
            "arrived_at": pa.array([arrived] * len(texts), pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture
def feed(lake: Context) -> Floor:
    return Floor(lake, devices.DATASET, devices.DeviceSettings())


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def decoded(spark: SparkSession, *payloads: str | dict[str, Any]) -> DataFrame:
    """Decoded messages, in their order."""
    rows = [(number, p if isinstance(p, str) else json.dumps(p)) for number, p in enumerate(payloads)]
    bronze = spark.createDataFrame(rows, "n int, payload string")
    arrived = F.lit(ARRIVED)
    return devices.decode(bronze.withColumns({"arrived_at": arrived, "_arrived_at": arrived})).orderBy("n")


def test_promote__both_versions_in_one_table_and_nothing_invented(feed: Floor):
    feed.promote(feed.put("a.parquet", messages(V1, V2)))
    place = {"latitude": 42.5, "longitude": -73.75}
    assert feed.silver == [
        {
            "device_id": "d-1", "event_time": NOON, "temperature": 21.5, "humidity": 40.0, "battery_level": None,
            "firmware_version": None, "latitude": None, "longitude": None, "pressure": None, "schema_version": 1,
            "extras": None, "arrived_at": ARRIVED,
        },
        {
            "device_id": "d-2", "event_time": NOON, "temperature": -3.25, "humidity": 55.0, "battery_level": 80.5,
            "firmware_version": "2.1.0", **place, "pressure": 1013.25, "schema_version": 2,
            "extras": None, "arrived_at": ARRIVED,
        },
    ]  # fmt: skip


REFUSED = [
    ('{"device_id":"d","timesta', ["unparsable payload: not one JSON object"]),
    ("", ["unparsable payload: not one JSON object"]),
    ("[1, 2]", ["unparsable payload: not one JSON object"]),
    ("null", ["unparsable payload: not one JSON object"]),
    (json.dumps(V1) + json.dumps(V1), ["unparsable payload: not one JSON object"]),
    (json.dumps(V1) + " x", ["unparsable payload: not one JSON object"]),
    ('{"a":1,"a":2}', ["unparsable payload: not one JSON object"]),
    ("{}", ["unknown_schema payload: the fields of no known version"]),
    ({"id": "d", "t": 1767268800, "v": 21.5}, ["unknown_schema payload: the fields of no known version"]),
    ({**V1, "pressure": 1013}, ["unknown_schema payload: the fields of no known version"]),
    (without(V1, "humidity"), ["missing humidity: no value"]),
    ({**V1, "humidity": None}, ["missing humidity: no value"]),
    (without(V1, "device_id", "temperature"), ["missing device_id: no value", "missing temperature: no value"]),
    (without(V2, "readings"), ["missing temperature: no value"]),
    ({**V1, "temperature": "n/a"}, ["wrong_type temperature: no float"]),
    ({**V1, "temperature": True}, ["wrong_type temperature: no float"]),
    ({**V1, "temperature": [21.5]}, ["wrong_type temperature: no float"]),
    ({**V2, "location": {"lat": "north", "lon": 1}}, ["wrong_type latitude: no double"]),
    ({**V1, "temperature": float("nan")}, ["not_finite temperature: NaN or infinite"]),
    ({**V2, "readings": {"temperature": float("-inf")}}, ["not_finite temperature: NaN or infinite"]),
    ({**V1, "humidity": 100.5}, ["out_of_range humidity: not within 0 to 100"]),
    ({**V1, "timestamp": "yesterday"}, ["wrong_type event_time: no timestamp"]),
    ({**V1, "timestamp": "2026-01-01T12:10:01Z"}, ["in_future event_time: more than 300 s after its arrival"]),
    ({**V1, "timestamp": 0}, ["wrong_type event_time: no timestamp"]),
    ({**V1, "timestamp": "1999-12-31T23:59:59Z"}, ["out_of_range event_time: before 2000-01-01"]),
]


def test_promote__each_refusal_has_its_row_its_file_and_all_reasons(feed: Floor):
    entry = feed.promote(feed.put("a.parquet", messages(*(payload for payload, _ in REFUSED))))
    assert feed.refused == [("a.parquet", number, reasons) for number, (_, reasons) in enumerate(REFUSED)]
    assert counts(entry) == (len(REFUSED), 0, 0, len(REFUSED))
    first = feed.quarantine[0]
    assert json.loads(first["row"])["payload"] == REFUSED[0][0]
    assert (first["source_file"], first["arrived_at"]) == ("bronze/devices/a.parquet", ARRIVED)
    # Who it was, wherever that can be told.
    assert [r["entity"] for r in feed.quarantine[:12]] == [None] * 9 + ["d-1"] * 3
    assert [r["event_time"] for r in feed.quarantine[9:11]] == [NOON, NOON]


ACCEPTED = [
    ({**V1, "timestamp": 1767268800}, NOON),
    ({**V1, "timestamp": 1767268800123}, NOON + timedelta(milliseconds=123)),
    ({**V1, "timestamp": "1767268800"}, NOON),
    ({**V1, "timestamp": 1767268800.25}, NOON + timedelta(milliseconds=250)),
    ({**V1, "timestamp": "2026-01-01T07:00:00-05:00"}, NOON),
    ({**V1, "timestamp": "2026-01-01T12:00:00.123456Z"}, NOON + timedelta(microseconds=123456)),
    ({**V1, "timestamp": "2026-01-01 12:00:00"}, NOON),
]


def test_decode__instants_in_seconds_milliseconds_or_iso(feed: Floor):
    payloads = [{**payload, "device_id": f"d-{number}"} for number, (payload, _) in enumerate(ACCEPTED)]
    feed.promote(feed.put("a.parquet", messages(*payloads)))
    assert [row["event_time"] for row in feed.silver] == [instant for _, instant in ACCEPTED]


def test_decode__a_number_as_text_is_a_number(feed: Floor):
    feed.promote(feed.put("a.parquet", messages({**V1, "temperature": " 21.5 "})))
    assert [row["temperature"] for row in feed.silver] == [21.5]


def test_decode__what_no_version_knows_is_kept_and_shown(spark: SparkSession):
    more = {**V2, "readings": {"temperature": 1, "co2": 417.5}, "a.b": {"c": [1, None]}, "note": "x", "none": None}
    (row,) = decoded(spark, more).collect()
    assert row["extras"] == {"readings.co2": "417.5", "a.b": '{"c":[1,null]}', "note": "x", "none": None}


def test_promote__every_field_that_no_version_knows_is_drift(feed: Floor):
    feed.promote(feed.put("a.parquet", messages({**V2, "readings": {"temperature": 1, "co2": 417.5}, "note": None})))
    assert sorted((r["column"], r["kind"], r["before"], r["after"]) for r in feed.rows("ops/drift")) == [
        ("note", "added", "", "extras"),
        ("payload", "version", "", "V2"),
        ("readings.co2", "added", "", "extras"),
    ]


def test_promote__of_a_batch_no_more_drift_is_shown_than_can_be_looked_at(feed: Floor, monkeypatch: pytest.MonkeyPatch):
    """A producer that gives each message a field of its own."""
    for module in (judging, drift):
        monkeypatch.setattr(module, "MOST_DRIFT", 3)
    sent = [{**V1, "device_id": f"d-{n}", f"{n}" * 300: 1} for n in range(6)]
    assert counts(feed.promote(feed.put("a.parquet", messages(*sent)))) == (6, 6, 0, 0)
    assert sorted((r["column"], r["kind"], r["after"]) for r in feed.rows("ops/drift")) == [
        ("(any)", "more", "more than 2,000 in one batch"),
        ("0" * 200, "added", "extras"),
        ("1" * 200, "added", "extras"),
        ("payload", "version", "V1"),
    ]
    assert [len(row["extras"][0][0]) for row in feed.silver] == [300] * 6


def test_promote__an_arrival_that_no_calendar_has_is_refused(feed: Floor):
    when = pa.array([2**63 - 1, 1_767_268_800_000_000, -(2**63)], pa.timestamp("us", "UTC"))
    sent = messages(*({**V1, "device_id": f"d-{n}"} for n in range(3))).set_column(3, "arrived_at", when)
    assert counts(feed.promote(feed.put("a.parquet", sent, minute=720))) == (3, 1, 0, 2)
    reason = ["out_of_range arrived_at: not within the years 1 to 9999"]
    assert feed.refused == [("a.parquet", 0, reason), ("a.parquet", 2, reason)]
    assert [row["device_id"] for row in feed.silver] == ["d-1"]


def test_promote__columns_beside_the_messages(feed: Floor):
    """What a message says wins over a column that is called so; any other column is kept."""
    beside = {"is_object": ["kept"], "Temperature": [99.0], "schema_version": [7]}
    table = messages(V1)
    for name, values in beside.items():
        table = table.append_column(name, pa.array(values))
    assert counts(feed.promote(feed.put("a.parquet", table))) == (1, 1, 0, 0)
    assert counts(feed.promote(feed.put("b.parquet", table), number=1)) == (1, 0, 1, 0)
    (row,) = feed.silver
    assert (row["temperature"], row["schema_version"], row["is_object"]) == (21.5, 1, "kept")
    assert "Temperature" not in row


def test_decode__a_further_version_is_one_more(feed: Floor):
    columns = {"temperature": "measurements.t", "humidity": "measurements.h"}
    v3 = Version(3, lambda fields: "measurements" in fields, columns)

    def rows(bronze: DataFrame) -> DataFrame:
        return devices.decode(bronze, (*devices.VERSIONS, v3))

    sent = {"device_id": "d-3", "timestamp": 1767268800, "measurements": {"t": 5, "h": 50}}
    feed.promote(feed.put("a.parquet", messages(sent)))
    assert feed.refused[0][2] == ["unknown_schema payload: the fields of no known version"]
    assert feed.dataset.decode
    knows_v3 = replace(feed.dataset, decode=replace(feed.dataset.decode, rows=rows))
    feed.promote(feed.put("b.parquet", messages(sent, V1)), number=1, dataset=knows_v3)
    assert [(r["schema_version"], r["temperature"], r["humidity"]) for r in feed.silver] == [(1, 21.5, 40), (3, 5, 50)]


def test_promote__three_drift_entries_and_nothing_lost(feed: Floor):
    """A V1-only lake, then V2 files, then a column nobody declared."""
    later = {**V1, "timestamp": "2026-01-01T12:01:00Z"}
    first = feed.put("a.parquet", messages(V1, later))
    second = feed.put("b.parquet", messages(V2, {**V1, "device_id": "d-9"}))
    third = feed.put("c.parquet", messages({**V2, "device_id": "d-3", "co2": 417.5}))
    entries = [feed.promote(file, number=number) for number, file in enumerate((first, second, third))]
    assert [counts(entry) for entry in entries] == [(2, 2, 0, 0), (2, 2, 0, 0), (1, 1, 0, 0)]
    drift = sorted(feed.rows("ops/drift"), key=lambda r: r["source_file"])
    assert [(r["column"], r["kind"], r["after"], r["source_file"]) for r in drift] == [
        ("payload", "version", "V1", "bronze/devices/a.parquet"),
        ("payload", "version", "V2", "bronze/devices/b.parquet"),
        ("co2", "added", "extras", "bronze/devices/c.parquet"),
    ]
    assert [row["extras"] for row in feed.silver if row["extras"]] == [[("co2", "417.5")]]


def test_promote__the_same_message_again_is_a_duplicate_whenever_it_arrives(feed: Floor):
    feed.promote(feed.put("a.parquet", messages(V1)))
    later = feed.put("b.parquet", messages(V1, {**V1, "humidity": 41}, arrived=ARRIVED + timedelta(hours=1)))
    assert counts(feed.promote(later, number=1)) == (2, 0, 1, 1)
    assert feed.refused == [
        ("b.parquet", 1, ["conflicting_duplicate key: another row with this key and other values came first"])
    ]
    assert feed.silver[0]["arrived_at"] == ARRIVED


def test_decode__reads_each_payload_once(spark: SparkSession):
    plan = decoded(spark, V1)._jdf.queryExecution().optimizedPlan().toString()
    assert plan.count("ArrowEvalPython") == 1
    assert UNDECODABLE in plan
