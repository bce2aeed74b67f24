"""Rows that share their key with another are found in the key columns, and a promotion that uses it changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from jobs.lake import cli, delta, intake, judging, rivals
from jobs.lake.cli import Context
from jobs.lake.tables import Dataset, column
from tests.lake.conftest import TOY, Floor, counts
from tests.lake.test_promotion import CONFLICT, toy

NAN = float("nan")


def found(floor: Floor, *files: intake.Arrived) -> list[tuple[int, int]] | None:
    """Number of the file and of the row in it, of every row with a rival."""
    context, dataset = floor.context, floor.dataset
    silver = context.lake.silver(dataset.name)
    readable = intake.probe(context.spark, context.lake, files)
    places = rivals.find(context.spark, context.lake, dataset, readable, delta.files(context.lake, silver))
    return None if places is None else sorted(divmod(int(place), 1 << intake.ROW_BITS) for place in places)


def test_find__rows_of_one_file_of_two_and_of_silver(floor: Floor):
    floor.promote(floor.put("0.parquet", toy(("a", 1, 1.0), ("a", 2, 1.0), ("c", 1, 1.0))))
    main = floor.put("1.parquet", toy(("a", 2, 1.0), ("a", 3, 1.0), ("a", 4, NAN), ("a", 3, 2.0)))
    companion = floor.put("2.parquet", toy(("a", 4, 1.0)))
    other = floor.put("3.parquet", toy(("b", 1, 1.0), ("b", 2, 1.0)))
    assert found(floor, main, companion, other) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert found(floor, other) == []


def test_find__the_entity_in_the_path_and_a_column_of_another_name(lake: Context):
    when = datetime(2026, 1, 1, tzinfo=UTC)
    schema = [
        column("sensor", T.StringType(), "", nullable=False),
        column("at", T.TimestampType(), "", nullable=False),
        column("day", T.DateType(), "", nullable=False),
    ]
    dataset = Dataset(
        "timed", T.StructType(schema), ("sensor", "at", "day"), "sensor", lambda _: [], aliases={"t": "at"}
    )
    floor = Floor(lake, dataset)
    times = [when + timedelta(seconds=s) for s in (0, 1, 2, 1)]
    days = pa.array([when.date()] * 4)
    seconds = pa.table({"t": pa.array(times, pa.timestamp("s", "UTC")), "day": days})
    micros = pa.table({"at": pa.array(times[2:3], pa.timestamp("us", "Europe/Berlin")), "day": days[:1]})
    files = floor.put("sensor=a/1.parquet", seconds), floor.put("sensor=a/2.parquet", micros)
    assert found(floor, *files) == [(0, 1), (0, 2), (0, 3), (1, 0)]
    assert counts(floor.promote(*files)) == (5, 3, 2, 0)
    nanos = floor.put("sensor=a/3.parquet", pa.table({"t": pa.array(times, pa.timestamp("ns", "UTC")), "day": days}))
    assert found(floor, nanos) is None
    wild = pa.array([0, 2**62], pa.timestamp("ms", "UTC"))
    beyond = floor.put("sensor=b/4.parquet", pa.table({"t": wild, "day": days[:2]}))
    assert found(floor, beyond) is None


def test_alike__the_rows_whose_key_another_has(floor: Floor):
    rows = [
        (1, 0),
        (2, 1),
        (1, 2),
        (3, 3),
        (4, 4),
        (4, 5),
        (4, 6),
        (3, intake.HELD),
        (9, intake.HELD),
        (9, intake.HELD),
    ]
    there = floor.context.spark.createDataFrame(rows, "n int, _arrival long")
    found = rivals.alike(there, ["n"])
    assert found is not None
    places, hashes = found
    assert sorted(places.tolist()) == [0, 2, 3, 4, 5, 6]
    assert len(hashes) == 3
    alone = rivals.alike(there.where("n IN (2, 9)"), ["n"])
    assert alone is not None
    assert [part.tolist() for part in alone] == [[], []]


def test_promote__a_key_without_the_entity_gives_the_same_either_way(lake: Context, monkeypatch: pytest.MonkeyPatch):
    both = []
    for name, many in (("all", 1 << 30), ("few", 1)):
        monkeypatch.setattr(judging, "_MANY", many)
        context = cli.context(f"{lake.lake.uri}-{name}", "testing")
        floor = Floor(context, replace(TOY, key=("n",)))
        books = [
            counts(floor.promote(floor.put("a.parquet", toy(("a", 3, 1.0), ("a", 1, 1.0), ("b", 2, 1.0))), number=0)),
            counts(
                floor.promote(
                    floor.put("b.parquet", toy(("a", 1, 1.0), ("c", 2, 1.0), ("c", 7, 1.0), ("c", 8, NAN))),
                    floor.put("c.parquet", toy(("c", 7, 1.0), ("c", 8, 1.0), ("d", None, 1.0), ("d", 9, 1.0))),
                    number=1,
                )
            ),
        ]
        both.append((books, floor.silver, [(*row[:2], sorted(row[2])) for row in floor.refused]))
    assert both[0] == both[1]
    books, silver, refused = both[0]
    assert books == [(3, 3, 0, 0), (8, 3, 2, 3)]
    assert [(row["id"], row["n"]) for row in silver] == [("a", 1), ("b", 2), ("a", 3), ("c", 7), ("c", 8), ("d", 9)]
    assert refused == [
        ("b.parquet", 1, CONFLICT),
        ("b.parquet", 3, ["not_finite value: NaN or infinite"]),
        ("c.parquet", 2, ["missing n: no value"]),
    ]


@pytest.mark.parametrize(
    ("names", "tables"),
    [
        ("two entities in a file", [toy(("a", 1, 1.0), ("b", 1, 1.0))]),
        ("not in order", [toy(("a", 2, 1.0), ("a", 1, 1.0))]),
        ("an entity in two files", [toy(("a", 1, 1.0)), toy(("a", 2, 1.0))]),
        ("a key that is not there", [toy(("a", 1, 1.0), ("a", None, 1.0))]),
        ("an entity that is not known", [toy((None, 1, 1.0))]),
        ("another type", [toy(("a", 1, 1.0), n=pa.int64())]),
        ("no key", [toy(("a", 1, 1.0)).drop_columns("n")]),
    ],
)
def test_find__leaves_it_to_spark_where_the_layout_does_not_tell(floor: Floor, names: str, tables: list[pa.Table]):
    assert found(floor, *(floor.put(f"{i}.parquet", table) for i, table in enumerate(tables))) is None, names


def test_find__leaves_it_to_spark_where_many_have_a_rival(floor: Floor, monkeypatch: pytest.MonkeyPatch):
    file = floor.put("a.parquet", toy(*[("a", 1, 1.0)] * 3))
    assert found(floor, file) == [(0, 0), (0, 1), (0, 2)]
    monkeypatch.setattr(rivals, "_MOST_RIVALS", 2)
    assert found(floor, file) is None
    monkeypatch.setattr(rivals, "_MOST_RIVALS", 3)
    monkeypatch.setattr(rivals, "_MOST_ROWS", 2)
    assert found(floor, file) is None


def drawn(seed: int, start: int, more: Floor) -> list[intake.Arrived]:
    """Files of 20 entities in order, with rows that are sent again, contradict others, or break a rule."""
    stream = np.random.default_rng(seed)
    files = []
    for entity in range(20):
        name = f"e{entity:02d}"
        rows: list[tuple[Any, ...]] = [(name, n, float(stream.integers(3))) for n in range(start, start + 40)]
        rows = [(i, n, NAN) if stream.random() < 0.1 else (i, n, value) for i, n, value in rows]
        again = [rows[i] for i in stream.integers(40, size=4)]
        rows += [*again, *((i, n, value + 1) for i, n, value in again[:2])]
        files.append(more.put(f"{start}/{name}.parquet", toy(*rows), minute=start + 1))
        companion = [(i, n, float(stream.integers(3))) for i, n, _ in (rows[k] for k in stream.integers(40, size=2))]
        files.append(more.put(f"{start}/{name}-late.parquet", toy(*companion), minute=start + 2))
    return files


def test_promote__the_same_whichever_way_rows_are_compared(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = {}
    for way, many in (("all", 1 << 40), ("rivals", 1)):
        monkeypatch.setattr(judging, "_MANY", many)
        floor = Floor(cli.context(str(tmp_path / way), "testing"))
        told = []
        for number, start in enumerate((0, 30)):  # the second batch repeats a quarter of the first
            files = drawn(number, start, floor)
            if way == "rivals":
                places = found(floor, *sorted(files, key=lambda f: (f.modified, f.path)))
                assert places is not None
                assert 0 < len(places) < 600
            told.append(counts(floor.promote(*files, number=number)))
        reasons = Counter(why for _, _, reasons in floor.refused for why in reasons)
        assert reasons[CONFLICT[0]] > 40
        made[way] = (told, floor.values, floor.refused)
    assert made["rivals"] == made["all"]


def test_promote__rows_without_rivals_stay_in_the_order_of_their_file(floor: Floor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judging, "_MANY", 1)
    files = [
        floor.put(f"{name}.parquet", toy(*((name, n, 1.0) for n in [*range(1000), 5]))) for name in ("a", "b", "c")
    ]
    assert counts(floor.promote(*files)) == (3003, 3000, 3, 0)
    written = delta.files(floor.context.lake, floor.context.lake.silver("toy"))
    assert len(written) == floor.context.spark.sparkContext.defaultParallelism
    for file in written:
        ids, numbers = (pq.read_table(file.path)[name].to_pylist() for name in ("id", "n"))
        assert [n for i, n in zip(ids, numbers, strict=True) if i == ids[0]] == list(range(1000))
        assert sum(a != b for a, b in pairwise(ids)) < 3


def test_promote__a_file_of_silver_has_no_more_rows_than_its_readers_want(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(judging, "_MANY", 1)
    file = floor.put("a.parquet", toy(*(("a", n, 1.0) for n in range(100))))
    floor.promote(file, bounds=floor.context.settings.silver.model_copy(update={"rows_per_file": 40}))
    assert sorted(f.rows for f in delta.files(floor.context.lake, floor.context.lake.silver("toy"))) == [20, 40, 40]
