"""Whatever a file holds, it is promoted or refused: never an exception, never a row without a place, never a NaN."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import types as T

from jobs.catalog import DATASETS
from jobs.lake.cli import Context
from jobs.lake.tables import column
from tests.lake.conftest import TOY, Floor

ROWS = 4
DATASET = replace(TOY, schema=T.StructType([*TOY.schema, column("at", T.TimestampType(), "When")]))
NAMES = ["id", "n", "value", "ID", "identifier", "at", "extra", "a b", "Ümläut", "*", "a.*"]
REFUSED = [
    *("", " row", ".row", "_Row", " source_file", " arrived_at", " entity", " event_time", "_METADATA", " path_id"),
    *("_odd", "_wanted", "_message"),
]
"""Names with which a file is refused."""
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-128, 127),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=8) | st.sampled_from(["1", "-2.5", "nan", "1e999", " 7 ", "NaN"]),
    pa.binary(): st.binary(max_size=8),
    pa.date32(): st.integers(-(2**31), 2**31 - 1),
    pa.timestamp("us", "UTC"): st.integers(-(2**63), 2**63 - 1),
    pa.timestamp("ns"): st.integers(-(2**63), 2**63 - 1),
    pa.time64("us"): st.integers(0, 86_399_999_999),
    pa.decimal128(38, 10): st.decimals(-(10**20), 10**20, places=10),
    pa.list_(pa.float64()): st.lists(st.floats(), max_size=3),
    pa.struct([("x", pa.int32())]): st.fixed_dictionaries({"x": st.integers(0, 9)}),
    pa.null(): st.none(),
}
"""Type -> what a column of it may hold, as Arrow takes it: days and microseconds are numbers."""


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    """A column of any type, with nulls."""
    kind = draw(st.sampled_from([*VALUES]))
    return pa.array(draw(st.lists(VALUES[kind] | st.none(), min_size=ROWS, max_size=ROWS)), kind)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file of some of these columns; most have a key that can be used."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    table = {name: draw(columns()) for name in names}
    if draw(st.integers(0, 3)):
        table = {name: column for name, column in table.items() if name.lower() not in ("id", "identifier", "n")}
        for name, kind, values in (
            ("id", pa.string(), st.sampled_from(["a", "b", "a"])),
            ("n", pa.int32(), st.integers(0, 20)),
            ("value", pa.float32(), st.floats(-120, 120, width=32) | st.just(math.nan)),
        ):
            drawn = draw(st.lists(values | st.none(), min_size=ROWS, max_size=ROWS))
            table.setdefault(name, pa.array(drawn, kind))
        table.setdefault("at", draw(columns()))
    if not draw(st.integers(0, 7)):
        table[draw(st.sampled_from(REFUSED))] = draw(columns())
    out = io.BytesIO()
    pq.write_table(pa.table(table), out)
    return out.getvalue()


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink takes Spark an hour; a file is small as it is
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(files(), min_size=10, max_size=25))
def test_promote__whatever_a_file_holds(floor: Floor, contents: list[bytes]):
    floor.dataset = DATASET
    number, known, held = len(floor.rows("ops/ledger")), len(silver(floor)), len(floor.refused)
    arrived = [floor.put(f"{number}-{place}.parquet", content) for place, content in enumerate(contents)]
    entry = floor.promote(*arrived, number=number)
    assert entry.rows_read == ROWS * (len(contents) - entry.files_quarantined)
    assert entry.rows_read == entry.rows_written + entry.rows_duplicate + entry.rows_quarantined
    there = silver(floor)
    assert len(there) - known == entry.rows_written
    assert len(floor.refused) - held == entry.rows_quarantined + entry.files_quarantined
    assert all(row["id"] is not None and row["n"] is not None for row in there)
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in there)


_anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_sound = {
    "device_id": st.sampled_from(["d1", "d2"]),
    "timestamp": st.integers(1_767_225_600, 1_767_225_700) | st.just("2026-01-01T00:00:00+05:30"),
    "temperature": st.floats() | st.sampled_from(["21.5", "NaN", "1e400"]),
    "humidity": st.floats(-10, 110),
    "schema_version": st.sampled_from([1, 2, "2", None]),
    "readings": st.dictionaries(st.sampled_from(["temperature", "humidity", "x"]), _anything, max_size=3),
}


@st.composite
def payloads(draw: st.DrawFn) -> str:
    """A message, or what is none: some of the known fields, with values that are theirs or anything, and others."""
    names = draw(st.lists(st.sampled_from([*_sound]), max_size=6, unique=True))
    message = {name: draw(_sound[name] if draw(st.integers(0, 3)) else _anything) for name in names}
    message |= draw(st.dictionaries(st.text(max_size=5), _anything, max_size=2))
    text = json.dumps(message)
    return text if draw(st.integers(0, 5)) else draw(st.text(max_size=30) | st.just(text[:-1]) | st.just(f"[{text}]"))


@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(payloads(), min_size=100, max_size=300))
def test_promote__whatever_a_message_holds(lake: Context, messages: list[str]):
    floor = Floor(lake, DATASETS["devices"], lake.settings.datasets["devices"])
    number, known, held = len(floor.rows("ops/ledger")), len(floor.rows("silver/devices")), len(floor.refused)
    places = {"source_file": ["x.jsonl"] * len(messages), "source_offset": [*range(len(messages))]}
    arrived_at = pa.array([datetime(2026, 6, 1, tzinfo=UTC)] * len(messages), pa.timestamp("us", "UTC"))
    told = {"payload": messages, "arrived_at": arrived_at, **places}
    entry = floor.promote(floor.put(f"{number}.parquet", told), number=number)
    assert entry.rows_read == len(messages)
    assert entry.rows_read == entry.rows_written + entry.rows_duplicate + entry.rows_quarantined
    there = floor.rows("silver/devices")
    assert len(there) - known == entry.rows_written
    assert len(floor.refused) - held == entry.rows_quarantined
    assert all(row["device_id"] is not None and row["event_time"] is not None for row in there)
    assert [
        value for row in there for value in row.values() if isinstance(value, float) and not math.isfinite(value)
    ] == []


def silver(floor: Floor) -> list[dict[str, Any]]:
    """Of silver, the columns that Python can hold: an extra one may have instants beyond its calendar."""
    uri = floor.context.lake.silver("toy")
    if not DeltaTable.is_deltatable(uri):
        return []
    found: list[dict[str, Any]] = DeltaTable(uri).to_pyarrow_table(columns=["id", "n", "value"]).to_pylist()
    return found
