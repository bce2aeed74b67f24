"""Bronze to silver, one batch at a time: probe, read, conform, check, deduplicate, write, record."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import delta, intake, ledger, quality
from jobs.lake.config import SilverSettings
from jobs.lake.conform import MISFIT, MISFITS, Drift
from jobs.lake.delta import Transaction
from jobs.lake.intake import Arrived, Probed
from jobs.lake.layout import Lake
from jobs.lake.tables import Dataset, column

QUARANTINE_SCHEMA = T.StructType(
    [
        column("row", T.StringType(), "The row as it arrived, as JSON; null for a whole file"),
        column("reasons", T.ArrayType(T.StringType()), "All reasons: `code column: detail`"),
        column("source_file", T.StringType(), "The file, relative to the lake"),
        column("source_row", T.LongType(), "The row's number in the file, from 0; a line's, from 1"),
        column("batch_id", T.StringType(), "The transaction that refused it"),
        column("quarantined_at", T.TimestampType(), "When it was refused", "UTC"),
        column("attempts", T.IntegerType(), "How often it was tried"),
    ]
)

DRIFT_SCHEMA = T.StructType(
    [
        column("dataset", T.StringType(), "The dataset"),
        column("column", T.StringType(), "The column, as silver names it"),
        column("kind", T.StringType(), "added, retyped, renamed or missing"),
        column("before", T.StringType(), "What silver declares"),
        column("after", T.StringType(), "What the file has"),
        column("source_file", T.StringType(), "The first file that showed it, relative to the lake"),
        column("batch_id", T.StringType(), "The transaction that saw it"),
        column("seen_at", T.TimestampType(), "When it was seen", "UTC"),
    ]
)

_FAILED_FILE = re.compile(r"FAILED_READ_FILE\S* Encountered error while reading file (\S+)\.\s")

_HELD = -1  # place in the order of arrival of rows that silver holds: before any that arrives


@dataclass(frozen=True)
class Promotion:
    """Promotes batches of one dataset.

    Attributes:
        spark: The session.
        lake: The lake.
        dataset: What is promoted.
        thresholds: The dataset's settings.
        bounds: Bounds of a batch.
        run_id: The run, for the books.
    """

    spark: SparkSession
    lake: Lake
    dataset: Dataset
    thresholds: Any
    bounds: SilverSettings
    run_id: str

    def promote(self, files: Sequence[Arrived], transaction: Transaction) -> ledger.Entry:
        """Promote a batch of files; repeated with the same transaction it changes nothing.

        Raises:
            BooksError: A row is unaccounted for.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        ordered = sorted(files, key=lambda f: (f.modified, f.path))
        probed, counts = self._write_readable(ordered, transaction)
        entry = ledger.Entry(
            run_id=self.run_id,
            stage="silver",
            dataset=self.dataset.name,
            batch_id=transaction.tag,
            started_at=started,
            seconds=round(time.monotonic() - clock, 3),
            files=len(files),
            files_quarantined=sum(bool(p.error) for p in probed),
            rows_read=sum(p.rows for p in probed),
            bytes_read=sum(f.bytes for f in files),
            rows_written=counts["rows_written"],
            rows_duplicate=counts["rows_duplicate"],
            rows_quarantined=counts["rows_quarantined"],
        ).check()
        ledger.record(self.spark, self.lake, [entry], transaction)
        return entry

    def _write_readable(
        self, files: Sequence[Arrived], transaction: Transaction
    ) -> tuple[list[Probed], dict[str, int]]:
        """Write all but the files that cannot be read, in spite of a sound footer; they are refused as well."""
        probed, read_through = intake.probe(self.spark, self.lake, files), False
        while True:
            try:
                return probed, self._write(probed, transaction)
            except (PySparkException, Py4JJavaError) as error:  # PySpark translates only some of its own
                failed = _FAILED_FILE.search(str(error))
                if failed is None:
                    raise
                if not read_through:
                    probed, read_through = intake.probe(self.spark, self.lake, files, thorough=True), True
                    continue
                # Arrow can read all of it, and Spark could not twice.
                name = self.lake.relative(unquote(failed[1]))
                broken = [i for i, p in enumerate(probed) if not p.error and self.lake.relative(p.file.path) == name]
                if not broken:
                    raise
                probed[broken[0]] = Probed(probed[broken[0]].file, error="Spark cannot read the file")

    def _write(self, probed: Sequence[Probed], transaction: Transaction) -> dict[str, int]:
        """Write silver, quarantine and drift; return the counts for the books."""
        readable = [p for p in probed if not p.error and p.rows]
        refused = self._refused_files(probed)
        counts = {"rows_written": 0, "rows_duplicate": 0, "rows_quarantined": 0}
        if readable:
            silver = self.lake.silver(self.dataset.name)
            base = delta.version_before(self.lake, silver, transaction)
            declared = self._declared(base)
            self._record_drift(declared, readable, transaction)
            rules = self.dataset.rules(self.thresholds)
            target = intake.evolved_schema(declared, readable, self.dataset.aliases)
            arrived = self.dataset.clean(intake.read(self.spark, self.lake, self.dataset, readable, target))
            checked = arrived.withColumn("_refused", F.col(MISFIT) | quality.any_reason(rules))
            judged, verdicts = Observation(), Observation()
            valid = checked.observe(judged, F.count_if("_refused").alias("refused")).where("NOT _refused")
            ranked = self._rank(valid, target, base, readable).observe(
                verdicts,
                *(F.count_if(F.col("_verdict") == v).alias(v) for v in ("fresh", "duplicate", "conflict")),
            )
            delta.append(self.lake, ranked.where("_verdict = 'fresh'").select(*target.names), silver, transaction)
            counts |= {"rows_written": verdicts.get["fresh"], "rows_duplicate": verdicts.get["duplicate"]}
            if judged.get["refused"]:
                refused.append(_refusals(checked.where("_refused"), F.concat(MISFITS, quality.all_reasons(rules))))
            if verdicts.get["conflict"]:
                again = self._rank(checked.where("NOT _refused"), target, base, readable)
                reason = F.lit("conflicting_duplicate key: another row with this key and other values came first")
                refused.append(_refusals(again.where("_verdict = 'conflict'"), F.array(reason)))
        if refused:
            counts["rows_quarantined"] = self._quarantine(refused, transaction)
        return counts

    def _declared(self, base: int | None) -> T.StructType:
        """What silver has: the declared columns, and those that earlier files brought."""
        if base is None:
            return self.dataset.schema
        held = self._silver_at(base).schema
        extra = [f for f in held if f.name not in self.dataset.schema.names]
        return T.StructType([*self.dataset.schema, *extra])

    def _silver_at(self, version: int) -> DataFrame:
        path = self.lake.silver(self.dataset.name)
        return self.spark.read.format("delta").option("versionAsOf", version).load(path)

    def _rank(self, valid: DataFrame, target: T.StructType, base: int | None, readable: Sequence[Probed]) -> DataFrame:
        """Add ``_verdict``: fresh, duplicate (equal to the first with its key), conflict (unequal), or held.

        One shuffle by entity serves the comparison and leaves the rows in the order silver wants them in: the rows
        of an entity together, and in the order of the key.
        """
        rows = valid.select(*target.names, *intake.PROVENANCE)
        if base is not None:
            rows = rows.unionByName(self._held(target, base, readable))
        values = [_comparable(f) for f in target if f.name not in self.dataset.key]
        values_of_row = F.struct(*values) if values else F.lit(0)
        order = Window.partitionBy(*self.dataset.key).orderBy("_arrival")
        first = F.first(values_of_row).over(order.rowsBetween(Window.unboundedPreceding, Window.currentRow))
        verdict = (
            F.when(F.col("_arrival") == _HELD, "held")
            .when(F.row_number().over(order) == 1, "fresh")
            .when(first.eqNullSafe(values_of_row), "duplicate")
            .otherwise("conflict")
        )
        count = sum(p.rows for p in readable)
        partitions = max(
            -(-count // self.bounds.rows_per_file),
            min(self.spark.sparkContext.defaultParallelism, -(-count // 250_000)),
        )
        return rows.repartition(partitions, self.dataset.entity).withColumn("_verdict", verdict)

    def _held(self, target: T.StructType, base: int, readable: Sequence[Probed]) -> DataFrame:
        """The part of silver that rows of these files could repeat: bounded by the footers' key ranges."""
        held = self._silver_at(base)
        for name, (low, high) in intake.key_bounds(readable, self.lake, self.dataset).items():
            held = held.where(F.col(name).between(F.lit(low), F.lit(high)))
        columns = [
            (F.col(f.name) if f.name in held.columns else F.lit(None).cast(f.dataType)).alias(f.name) for f in target
        ]
        nothing = [F.lit(None).cast(kind).alias(name) for name, kind in intake.PROVENANCE.items() if name != "_arrival"]
        return held.select(*columns, F.lit(_HELD).cast("long").alias("_arrival"), *nothing)

    def _refused_files(self, probed: Sequence[Probed]) -> list[DataFrame]:
        rows = [
            (None, [f"unreadable_file file: {p.error}"], self.lake.relative(p.file.path), None)
            for p in probed
            if p.error
        ]
        kinds = "_row string, _reasons array<string>, _source_file string, _source_row long"
        return [self.spark.createDataFrame(rows, kinds)] if rows else []

    def _quarantine(self, refused: Sequence[DataFrame], transaction: Transaction) -> int:
        """Append to quarantine and return how many rows (not whole files) went there."""
        written = Observation()
        rows = reduce(DataFrame.unionByName, refused).select(
            F.col("_row").alias("row"),
            F.col("_reasons").alias("reasons"),
            F.col("_source_file").alias("source_file"),
            F.col("_source_row").alias("source_row"),
            F.lit(transaction.tag).alias("batch_id"),
            F.lit(datetime.now(UTC)).alias("quarantined_at"),
            F.lit(1).alias("attempts"),
        )
        observed = rows.coalesce(1).observe(written, F.count("row").alias("rows"))
        delta.append(self.lake, observed, self.lake.quarantine(self.dataset.name), transaction)
        return int(written.get["rows"])

    def _record_drift(self, declared: T.StructType, readable: Sequence[Probed], transaction: Transaction) -> None:
        """Write the differences of schema that were not seen before."""
        found = intake.find_drift(declared, readable, self.lake, self.dataset)
        if not found:
            return
        known = set()
        if delta.latest_version(self.lake, self.lake.drift) is not None:
            seen = self.spark.read.format("delta").load(self.lake.drift).where(F.col("dataset") == self.dataset.name)
            known = {Drift(*row) for row in seen.select("column", "kind", "before", "after").collect()}
        now = datetime.now(UTC)
        rows = [
            (self.dataset.name, d.column, d.kind, d.before, d.after, file, transaction.tag, now)
            for d, file in found.items()
            if d not in known
        ]
        if rows:
            delta.append(
                self.lake,
                self.spark.createDataFrame(rows, DRIFT_SCHEMA).coalesce(1),
                self.lake.drift,
                transaction,
            )


def _refusals(rows: DataFrame, reasons: Column) -> DataFrame:
    return rows.select("_row", reasons.alias("_reasons"), "_source_file", "_source_row")


def _comparable(field: T.StructField) -> Column:
    """The column, or its JSON where Spark cannot compare its type."""
    plain = isinstance(field.dataType, T.AtomicType)
    return F.col(field.name) if plain else F.to_json(F.struct(field.name)).alias(field.name)
