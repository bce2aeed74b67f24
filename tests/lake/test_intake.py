"""From files to rows: what is no Parquet is refused by name, any name and place is read, every row knows its own."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import types as T

from jobs.lake import intake
from jobs.lake.intake import Arrived, Probed
from jobs.lake.tables import Dataset, column
from tests.lake.conftest import TOY, Floor, counts

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01"


def parquet(rows: int = 1, **columns: Any) -> bytes:
    out = io.BytesIO()
    base = {"id": ["a"] * rows, "n": pa.array(range(rows), pa.int32()), "value": pa.array(np.ones(rows, np.float32))}
    pq.write_table(pa.table({**base, **columns}), out, compression="zstd")
    return out.getvalue()


def test_probe__says_what_a_footer_says_or_why_it_cannot(floor: Floor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intake, "_FEW", 0)
    whole = parquet(3)
    files = {
        "good": floor.put("good.parquet", whole),
        "none": floor.put("none.parquet", pa.table({"id": pa.array([], pa.string())})),
        "empty": floor.put("empty.parquet", b""),
        "torn": floor.put("torn.parquet", whole[: len(whole) // 2]),
        "head": floor.put("head.parquet", b"PAR1"),
        "text": floor.put("text.parquet", b"id,n,value\na,1,1.5\n"),
        "image": floor.put("image.parquet", PNG),
        "odd": floor.put("odd.parquet", parquet(1, at=pa.array([1], pa.time64("us")))),
    }
    context = floor.context
    found = dict(zip(files, intake.probe(context.spark, context.lake, [*files.values()]), strict=True))
    assert {name: probed.rows for name, probed in found.items() if not probed.error} == {"good": 3, "none": 0}
    assert found["empty"].error == "the file is empty"
    assert "magic bytes" in found["text"].error
    assert "column at has type time64[us]" in found["odd"].error
    assert all(found[name].error and found[name].schema is None for name in ("torn", "head", "image"))
    assert found["good"].bounds == {"id": ("a", "a"), "n": (0, 2), "value": (1.0, 1.0)}
    assert [*intake.probe_here(context.lake, files.values())] == [*found.values()]


def test_probe__thorough_reads_the_pages(floor: Floor):
    good, flipped = floor.put("good.parquet", parquet(1000)), floor.put("flipped.parquet", _flipped())
    context = floor.context
    assert [p.error for p in intake.probe(context.spark, context.lake, [good, flipped])] == ["", ""]
    thorough = intake.probe(context.spark, context.lake, [good, flipped], thorough=True)
    assert [bool(p.error) for p in thorough] == [False, True]


def _flipped() -> bytes:
    """A file with a sound footer over broken pages."""
    words = [f"sensor {n} of {n * 7919 % 1000}" for n in range(1000)]  # packed densely: no bit is without meaning
    body = bytearray(parquet(1000, id=words))
    place = pq.ParquetFile(io.BytesIO(bytes(body))).metadata.row_group(0).column(0)
    start = place.dictionary_page_offset or place.data_page_offset
    middle = start + place.total_compressed_size // 2
    for index in range(middle - 20, middle + 20):
        body[index] ^= 0xFF
    return bytes(body)


def test_promote__unreadable_files_go_to_quarantine_by_name_and_the_rest_proceed(floor: Floor):
    whole = parquet(2)
    entry = floor.promote(
        floor.put("d=1/torn.parquet", whole[:-20]),
        floor.put("empty.parquet", b""),
        floor.put("image.parquet", PNG),
        floor.put("good.parquet", whole),
        floor.put("rowless.parquet", parquet(0)),
    )
    assert counts(entry) == (2, 2, 0, 0)
    assert (entry.files, entry.files_quarantined) == (5, 3)
    refused = {row["source_file"]: row for row in floor.quarantine}
    assert set(refused) == {"bronze/toy/d=1/torn.parquet", "bronze/toy/empty.parquet", "bronze/toy/image.parquet"}
    for row in refused.values():
        assert row["reasons"][0].startswith("unreadable_file file: ")
        assert (row["row"], row["source_row"]) == (None, None)


@pytest.mark.parametrize("name", ["broken.parquet", "timeouts.parquet"])  # the second sounds like the network's fault
def test_promote__broken_pages_under_a_sound_footer(floor: Floor, name: str):
    good, broken = floor.put("good.parquet", parquet(2, id=["x", "y"])), floor.put(name, _flipped())
    entry = floor.promote(good, broken)
    assert counts(entry) == (2, 2, 0, 0)
    assert [refused for refused, _, _ in floor.refused] == [name]
    assert counts(floor.promote(good, broken)) == (2, 2, 0, 0)
    assert len(floor.silver) == 2


@pytest.mark.parametrize("column", ["value", "id"])  # what Spark reads first, and what the search for rivals does
def test_promote__a_flipped_bit_is_seen_by_the_checksum_of_its_page(floor: Floor, column: str):
    good = floor.put("good.parquet", parquet(10))
    floor.promote(good)
    # Neither the smallest nor the largest, which the head of a page has as well, without a checksum.
    within = {"value": [1.0] * 5 + [7.25] + [9.0] * 4, "id": ["a"] * 5 + ["seven"] + ["z"] * 4}
    base = {"id": ["a"] * 10, "n": range(10), "value": [1.0] * 10}
    types = pa.schema({"id": pa.string(), "n": pa.int32(), "value": pa.float32()})
    table, out = pa.table({**base, column: within[column]}, types), io.BytesIO()
    pq.write_table(table, out, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(out.getvalue())
    content[content.index({"value": np.float32(7.25).tobytes(), "id": b"seven"}[column])] ^= 1
    entry = floor.promote(floor.put("flipped.parquet", bytes(content)), number=1)
    assert (entry.rows_written, entry.files_quarantined) == (0, 1)
    assert len(floor.silver) == 10
    ((name, row, (reason,)),) = floor.refused
    assert (name, row) == ("flipped.parquet", None)
    assert reason.startswith("unreadable_file file: ")


def test_probe__a_file_of_too_many_columns_is_refused(floor: Floor):
    def wide(columns: int) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table({f"c{n}": [1] for n in range(columns)}), out)
        return out.getvalue()

    files = [floor.put("most.parquet", wide(2_000)), floor.put("more.parquet", wide(100_000))]
    most, more = intake.probe_here(floor.context.lake, files)
    assert (most.rows, most.error) == (1, "")
    assert more.error == "it has 100,000 columns; at most 2,000 are taken in"


def test_promote__nothing_but_unreadable_files(floor: Floor):
    entry = floor.promote(floor.put("a.parquet", b"x"))
    assert counts(entry) == (0, 0, 0, 0)
    assert (floor.silver, len(floor.quarantine)) == ([], 1)


NAMES = [
    "plain.parquet",
    "with space.parquet",
    "hundred%.parquet",
    "a%20b.parquet",
    "Zürich 🙂 水.parquet",
    "[brackets]{1,2}.parquet",
    "star*question?.parquet",
    "hash#plus+amp&.parquet",
    "comma,semi;at@.parquet",
    "quote'double\".parquet",
    "back\\slash.parquet",
    "site=x%3Dy/a.parquet",
    "site=Zürich 🙂/a.parquet",
    "no suffix",
]


def test_promote__any_name_is_read_and_every_row_knows_its_file_and_number(floor: Floor):
    files = [floor.put(name, {"id": [name, name], "n": [1, 2], "value": [1.0, 1000.0]}) for name in NAMES]
    entry = floor.promote(*files)
    assert counts(entry) == (2 * len(NAMES), len(NAMES), 0, len(NAMES))
    assert [row["id"] for row in floor.silver] == sorted(NAMES)
    refused = {row["source_file"]: (json.loads(row["row"])["id"], row["source_row"]) for row in floor.quarantine}
    assert refused == {f"bronze/toy/{name}": (name, 1) for name in NAMES}


def test_promote__a_name_that_only_hadoop_cannot_read_is_refused_and_stops_nothing(floor: Floor):
    """Its local file system takes the colon in the name of a checksum file for a scheme."""
    good, odd = floor.put("good.parquet", parquet(2)), floor.put("b ü/2026-01-01T00:00.parquet", parquet(3))
    assert counts(floor.promote(odd, good)) == (2, 2, 0, 0)
    assert floor.refused == [("2026-01-01T00:00.parquet", None, ["unreadable_file file: Spark cannot read the file"])]


def test_promote__the_number_of_a_row_in_a_file_of_many_pages(floor: Floor):
    values = np.zeros(50_000, np.float32)
    bad = [0, 1, 9_999, 10_000, 29_999, 49_999]
    values[bad] = np.nan
    table = pa.table({"id": ["a"] * 50_000, "n": pa.array(range(50_000), pa.int32()), "value": values})
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=10_000)
    assert counts(floor.promote(floor.put("a.parquet", out.getvalue()))) == (50_000, 49_994, 0, 6)
    assert [row for _, row, _ in floor.refused] == bad


SITES = Dataset(
    name="sites",
    schema=T.StructType(
        [
            column("county", T.StringType(), "", nullable=False),
            column("number", T.ShortType(), ""),
            column("n", T.IntegerType(), "", nullable=False),
        ]
    ),
    key=("county", "n"),
    entity="county",
    rules=lambda settings: [],
)


def test_promote__values_of_the_path(floor: Floor):
    floor.dataset = SITES
    one = {"n": pa.array([1], pa.int32())}
    places = [
        "county=06/number=7/a.parquet",
        "county=x%3Dy%2Fz/number=08/a.parquet",
        "county=100%25/a.parquet",
        "county=__HIVE_DEFAULT_PARTITION__/a.parquet",
        "county=10/number=many/a.parquet",
        "county=11/number=__HIVE_DEFAULT_PARTITION__/a.parquet",
        "number=9/b.parquet",
    ]
    files = [floor.put(place, one) for place in places[:-1]]
    files.append(floor.put(places[-1], {"county": ["12"], **one}))
    assert counts(floor.promote(*files)) == (7, 5, 0, 2)
    assert floor.values == [("06", 7, 1), ("100%", None, 1), ("11", None, 1), ("12", 9, 1), ("x=y/z", 8, 1)]
    assert {tuple(reasons) for _, _, reasons in floor.refused} == {
        ("missing county: no value",),
        ("wrong_type number: no smallint",),
    }
    mistyped = next(row for row in floor.quarantine if "number=many" in row["source_file"])
    assert mistyped["row"] == '{"n":1,"county":"10","number":"many"}'


def test_promote__a_column_wins_over_the_path(floor: Floor):
    floor.dataset = SITES
    floor.promote(floor.put("county=06/a.parquet", {"county": ["07"], "n": [1]}))
    assert floor.values == [("07", None, 1)]


def test_promote__late_rows_of_the_same_key_are_found_by_the_bounds_of_the_path(floor: Floor):
    floor.dataset = SITES
    floor.promote(floor.put("county=06/a.parquet", {"n": [1, 5]}))
    assert counts(floor.promote(floor.put("county=06/b.parquet", {"n": [5, 3]}), number=1)) == (2, 1, 1, 0)
    assert counts(floor.promote(floor.put("county=07/b.parquet", {"n": [5, 3]}), number=2)) == (2, 2, 0, 0)


# --- bounds ---------------------------------------------------------------------------------------------------


def probed(name: str, table: pa.Table) -> Probed:
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=2)
    metadata = pq.ParquetFile(io.BytesIO(out.getvalue())).metadata
    return Probed(Arrived(name, 1, 1), table.num_rows, table.schema, intake._bounds(metadata))


def test_key_bounds__only_where_every_file_is_sure(floor: Floor):
    lake = floor.context.lake
    a = probed(lake.bronze("toy") + "/a", pa.table({"id": ["c", "b", "d"], "n": pa.array([7, 5, 6], pa.int32())}))
    b = probed(lake.bronze("toy") + "/b", pa.table({"ID": ["a"], "n": pa.array([9], pa.int64())}))
    nulls = probed(
        lake.bronze("toy") + "/c", pa.table({"id": ["x", "x", None, None], "n": pa.array([1, 2, 3, 4], pa.int32())})
    )
    assert intake.key_bounds([a], lake, TOY) == {"id": ("b", "d"), "n": (5, 7)}
    assert intake.key_bounds([a, b], lake, TOY) == {"id": ("a", "d")}
    assert intake.key_bounds([a, nulls], lake, TOY) == {"n": (1, 7)}


def test_bounds__an_instant_beyond_the_calendar_has_none():
    when = pa.array([1_767_225_600_000_000, 2**62], pa.timestamp("us", "UTC"))
    assert probed("x", pa.table({"at": when, "n": [1, 2]})).bounds == {"n": (1, 2)}


@pytest.mark.parametrize("kind", [pa.decimal128(10, 2), pa.time32("s"), pa.date32(), pa.float16(), pa.binary(4)])
def test_bounds__of_any_type_are_no_error(kind: pa.DataType):
    filled = pa.array([b"abcd"] if kind == pa.binary(4) else [np.float16(1)] if kind == pa.float16() else [1], kind)
    assert probed("x", pa.table({"x": filled, "n": [1]})).bounds["n"] == (1, 1)
