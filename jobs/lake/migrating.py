"""What became of source files: every row of them judged again, and compared with the lake by count and by hash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import intake
from jobs.lake.conform import conform
from jobs.lake.judging import Judge, comparable
from jobs.lake.sources import Parsed, SourceFile
from jobs.lake.tables import Ingest

_LINE = "_line"
_HASH = "decimal(38,0)"
_ANY = "(any)"  # stands for all reasons together


@dataclass(frozen=True)
class Source:
    """A source file and those beside it that complete it."""

    file: SourceFile
    beside: Sequence[SourceFile]


@dataclass(frozen=True)
class Comparison:
    """A source beside the lake, by day of the event; a row without one has the day None.

    Attributes:
        days: Per day: rows ``read``, ``refused``, ``duplicates`` within the source, ``loaded`` (in the lake with the
            same values), ``missing`` there, ``different`` there, and ``refusals`` by code.
        source_hash: Sum of the hashes of key and values over the source's valid rows, once per key. Keys that the
            source itself has with several values are left out here and in ``lake_hash``.
        lake_hash: The same over the lake's rows with those keys.
        conflicts: The keys left out.
    """

    days: list[dict[str, Any]]
    source_hash: int
    lake_hash: int
    conflicts: int

    def total(self, name: str) -> int:
        """The sum of a count over all days."""
        return sum(day[name] for day in self.days)

    @property
    def is_complete(self) -> bool:
        """Whether every valid row of the source is in the lake with the same values."""
        return not self.total("missing") and not self.total("different") and self.source_hash == self.lake_hash


def parsed(judge: Judge, how: Ingest, sources: Sequence[Source]) -> DataFrame:
    """Rows of source files as their parser gives them, in text, with provenance; ``_line`` has refused lines' reasons.

    The files are parsed by the workers, each in bounded pieces.
    """
    names = judge.arrives(judge.dataset.schema).names
    schema = pa.schema([(name, pa.string()) for name in (*names, _LINE, "_source_file", "_arrived_at")])

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                source = sources[number]
                for piece in how.parse(source.file, source.beside):
                    yield from _as_text(piece, source.file, schema).to_batches()

    spark = judge.spark
    numbers = spark.sparkContext.parallelize([(i,) for i in range(len(sources))], len(sources))
    kinds = ", ".join(f"`{field.name}` string" for field in schema)
    rows = spark.createDataFrame(numbers, "n int").mapInArrow(work, kinds)
    return rows.withColumns(
        {
            "_row": F.lit(None).cast("string"),
            "_arrival": F.monotonically_increasing_id(),
            "_source_row": F.lit(None).cast("long"),
            "_arrived_at": F.col("_arrived_at").cast("timestamp"),
        }
    )


def _as_text(piece: Parsed, file: SourceFile, schema: pa.Schema) -> pa.Table:
    reasons = pa.table({_LINE: pa.array([reason for _, _, reason in piece.refused], pa.string())})
    told = {"_source_file": file.name, "_arrived_at": file.modified.isoformat()}
    return pa.concat_tables([_filled(rows, told, schema) for rows in (piece.rows, reasons)])


def _filled(rows: pa.Table, told: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    """The columns of a schema of text: those that the rows have, what is told, and nulls."""
    count = rows.num_rows
    columns = [
        rows[name].cast(pa.string()) if name in rows.column_names else pa.array([told.get(name)] * count, pa.string())
        for name in schema.names
    ]
    return pa.table(columns, schema=schema)


def compare(judge: Judge, rows: DataFrame, silver: DataFrame) -> Comparison:
    """Judge the rows of a source by the rules of today, and look each valid one up in the lake.

    Args:
        judge: Of the dataset.
        rows: What :func:`parsed` gives.
        silver: The dataset's silver.
    """
    dataset = judge.dataset
    arrives = judge.arrives(dataset.schema)
    text = T.StructType([T.StructField(name, T.StringType()) for name in arrives.names])
    good = conform(rows.where(f"{_LINE} IS NULL"), text, arrives, {}, {}, list(intake.PROVENANCE))
    checked = judge.check(good, dataset.schema).withColumn("day", F.to_date("_event_time"))
    compared = [f for f in dataset.schema if f.name not in {*dataset.key, *dataset.incidental}]
    values = F.xxhash64(*dataset.key, *(comparable(f) for f in compared))
    lines = rows.where(f"{_LINE} IS NOT NULL").select(
        F.lit(None).cast("date").alias("day"), F.array(_LINE).alias("_why")
    )
    refused = checked.where("_refused").select("day", "_why").unionByName(lines)
    once = (
        checked.where("NOT _refused")
        .withColumn("_values", values)
        .groupBy(*dataset.key)
        .agg(F.min("day").alias("day"), F.count(F.lit(1)).alias("n"), F.collect_set("_values").alias("_sent"))
    )
    held = silver.select(*dataset.key, values.alias("_held"))
    found = once.join(held, list(dataset.key), "left").withColumns(
        {
            "loaded": F.coalesce(F.array_contains("_sent", F.col("_held")), F.lit(False)),
            "missing": F.col("_held").isNull(),
            "single": F.size("_sent") == 1,
        }
    )
    of_keys = found.groupBy("day").agg(
        F.sum("n").alias("valid"),
        F.count(F.lit(1)).alias("keys"),
        F.count_if("loaded").alias("loaded"),
        F.count_if("missing").alias("missing"),
        F.count_if(~F.col("single")).alias("conflicts"),
        F.sum(F.when(F.col("single"), F.array_min("_sent")).cast(_HASH)).alias("source_hash"),
        F.sum(F.when(F.col("single"), F.col("_held")).cast(_HASH)).alias("lake_hash"),
    )
    codes = F.array_distinct(F.transform("_why", lambda reason: F.split_part(reason, F.lit(" "), F.lit(1))))
    by_code = refused.select("day", F.explode(F.concat(codes, F.array(F.lit(_ANY)))).alias("code")).groupBy(
        "day", "code"
    )
    loaded = {row["day"]: row.asDict() for row in of_keys.collect()}
    turned_away: dict[date | None, dict[str, int]] = defaultdict(dict)
    for row in by_code.count().orderBy("code").collect():
        turned_away[row["day"]][row["code"]] = row["count"]
    days = sorted({*loaded, *turned_away}, key=lambda day: (day is None, day))
    return Comparison(
        [_day(day, loaded.get(day, {}), turned_away.get(day, {})) for day in days],
        *(sum(int(row[name] or 0) for row in loaded.values()) for name in ("source_hash", "lake_hash", "conflicts")),
    )


def _day(day: date | None, keys: Mapping[str, Any], codes: Mapping[str, int]) -> dict[str, Any]:
    refused = codes.get(_ANY, 0)
    count = {name: keys.get(name, 0) for name in ("valid", "keys", "loaded", "missing")}
    return {
        "day": day,
        "read": count["valid"] + refused,
        "refused": refused,
        "duplicates": count["valid"] - count["keys"],
        "loaded": count["loaded"],
        "missing": count["missing"],
        "different": count["keys"] - count["loaded"] - count["missing"],
        "refusals": {code: n for code, n in codes.items() if code != _ANY},
    }
