"""What becomes of each row: fresh, a duplicate, or refused with every reason. Nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation, SparkSession, Window, WindowSpec
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import delta, intake, quality, rivals
from jobs.lake.config import SilverSettings
from jobs.lake.conform import MISFIT, MISFITS, MOST_DRIFT, Drift, conform, folded, leaves
from jobs.lake.intake import Arrived, Probed
from jobs.lake.layout import Lake
from jobs.lake.sources import MAX_COLUMNS
from jobs.lake.tables import UNDECODABLE, Dataset, Decode

_REFUSED, _WHY, _VERDICT = "_refused", "_why", "_verdict"
_VERDICTS = ("fresh", "duplicate", "conflict", "implausible")
_CONFLICT = "conflicting_duplicate key: another row with this key and other values came first"
_MANY = 250_000  # rows of a batch from which comparing all of them takes longer than finding those that need it

REFUSAL: Mapping[str, str] = {
    "_row": "string",
    "_why": "array<string>",
    "_source_file": "string",
    "_source_row": "long",
    "_arrived_at": "timestamp",
    "_entity": "string",
    "_event_time": "timestamp",
}
"""Columns of a refused row: itself as JSON, the reasons, its place, its arrival, and entity and instant if known."""


@dataclass(frozen=True)
class Judged:
    """The rows of a batch, each to be decided when it is written.

    Attributes:
        checked: All rows, with whether they fit and keep the rules, and why not.
        rank: Rows that do -> those rows and what silver holds of their keys, with the verdict on each.
        columns: Columns of silver.
        drift: Differences from what is declared, each with the first file that showed it.
        kept: Decoded messages, which each look at the rows would decode again; None where bronze holds rows.
        arrived: The messages that they are of, with their places, for the refused ones; None where bronze holds rows.
    """

    checked: DataFrame
    rank: Callable[[DataFrame], DataFrame]
    columns: Sequence[str]
    drift: Mapping[Drift, str]
    kept: DataFrame | None = None
    arrived: DataFrame | None = None
    _refused: Observation = field(default_factory=Observation)
    _verdicts: Observation = field(default_factory=Observation)

    def close(self) -> None:
        """Give up what is kept."""
        if self.kept is not None:
            self.kept.unpersist()

    def fresh(self) -> DataFrame:
        """The rows for silver; once they are written :meth:`counts` knows the others."""
        checked = self.checked.observe(self._refused, F.count_if(_REFUSED).alias("refused"))
        verdicts = [F.count_if(F.col(_VERDICT) == verdict).alias(verdict) for verdict in _VERDICTS]
        ranked = self.rank(checked.where(f"NOT {_REFUSED}")).observe(self._verdicts, *verdicts)
        return ranked.where(F.col(_VERDICT) == "fresh").select(*self.columns)

    def counts(self) -> dict[str, int]:
        """Rows by what became of them: fresh, duplicate, conflict, implausible or refused."""
        return {**self._verdicts.get, **self._refused.get}

    def refusals(self) -> list[DataFrame]:
        """The refused rows as :data:`REFUSAL`: a second pass over those there are."""
        counts, found = self.counts(), []
        if counts["refused"]:
            found.append(self.checked.where(_REFUSED))
        if counts["conflict"] or counts["implausible"]:
            found.append(self._ranked().where(F.col(_VERDICT).isin("conflict", "implausible")))
        return [self._as_they_came(rows) for rows in found]

    def verdicts(self) -> DataFrame:
        """Every row as :data:`REFUSAL`; those that pass, or repeat what is there, have no reasons."""
        ranked = self._ranked().where(F.col(_VERDICT).isin(*_VERDICTS))
        return self._as_they_came(self.checked.where(_REFUSED)).unionByName(self._as_they_came(ranked))

    def _as_they_came(self, rows: DataFrame) -> DataFrame:
        """Rows as :data:`REFUSAL`."""
        if self.arrived is not None:
            rows = rows.join(self.arrived.select("_arrival", "_row"), "_arrival")
        return rows.select(*REFUSAL)

    def _ranked(self) -> DataFrame:
        return self.rank(self.checked.where(f"NOT {_REFUSED}"))


@dataclass(frozen=True)
class _Rivals:
    """Rows that have to be compared.

    Attributes:
        places: Their places in the order of arrival.
        held: What silver has that they could repeat.
    """

    places: rivals.Int64
    held: Sequence[DataFrame]


@dataclass(frozen=True)
class Judge:
    """Judges the rows of one dataset.

    Attributes:
        spark: The session.
        lake: The lake.
        dataset: Whose rows they are.
        thresholds: The dataset's settings.
        bounds: Bounds of a batch.
    """

    spark: SparkSession
    lake: Lake
    dataset: Dataset
    thresholds: Any
    bounds: SilverSettings

    def probe(self, files: Sequence[Arrived], base: int | None, *, thorough: bool = False) -> list[Probed]:
        """Read the files' footers, and refuse each file with which silver would have too many columns.

        Args:
            files: Files in their order of arrival.
            base: Version of silver; None if there is none yet.
            thorough: Read the data pages as well.
        """
        declared = self.declared(base)
        arrives, known = self.arrives(declared), set[pa.Schema]()
        target = self._target(declared, arrives)
        found = intake.probe(self.spark, self.lake, files, thorough=thorough)
        for place, item in enumerate(found):
            if not item.rows or item.schema in known:
                continue
            wider = intake.evolved_schema(arrives, [item], self.dataset.aliases)
            columns = self._target(declared, wider)
            if len(columns) > len(target) and (count := leaves(columns)) > MAX_COLUMNS:
                error = f"silver would have {count:,} columns with it; at most {MAX_COLUMNS:,} are taken in"
                found[place] = Probed(item.file, error=error)
            else:
                arrives, target = wider, columns
                known.add(item.schema)
        return found

    def judge(
        self,
        readable: Sequence[Probed],
        base: int | None,
        only: Callable[[DataFrame], DataFrame] | None = None,
    ) -> Judged:
        """Judge the rows of readable files against silver as it was.

        Args:
            readable: Files in their order of arrival.
            base: Version of silver; None if there is none yet.
            only: Rows with :data:`jobs.lake.intake.PROVENANCE` -> those of them that are wanted; None for all.
        """
        declared = self.declared(base)
        arrives = intake.evolved_schema(self.arrives(declared), readable, self.dataset.aliases)
        target = self._target(declared, arrives)
        arrived = intake.read(self.spark, self.lake, self.dataset, readable, arrives)
        arrived = only(arrived) if only else arrived
        messages = arrived if self.dataset.decode else None
        kept = None if messages is None else self._decoded(messages, target).drop("_row").persist()
        checked = self._checked(arrived if kept is None else kept)
        keys = self._key_ranges(checked, readable) if base is not None else {}
        drift = intake.find_drift(self.arrives(declared), readable, self.lake, self.dataset)
        drift |= _shown(checked, self.dataset.decode) if self.dataset.decode else {}

        held = [] if base is None else [self._held(target, base, keys)]
        count = sum(p.rows for p in readable)
        some = None if only else self._rivals(arrived, held, readable, base)

        def rank(valid: DataFrame) -> DataFrame:
            if some is None:
                return self._rank(valid, target, held, count)
            in_place = valid.coalesce(self._files(count))
            if not len(some.places):
                return in_place.withColumn(_VERDICT, F.lit("fresh"))
            # Not out of ``valid``, whose rows are counted as they pass.
            few = self._checked(rivals.having(arrived, F.col("_arrival"), some.places)).where(f"NOT {_REFUSED}")
            return _told(in_place, self._rank(few, target, some.held, len(some.places)))

        return Judged(checked, rank, target.names, drift, kept, messages)

    def _rivals(
        self, arrived: DataFrame, held: Sequence[DataFrame], readable: Sequence[Probed], base: int | None
    ) -> _Rivals | None:
        """The rows that have to be compared; None for all."""
        dataset, silver = self.dataset, self.lake.silver(self.dataset.name)
        count = sum(p.rows for p in readable)
        if dataset.decode or dataset.neighbours:
            return None
        if dataset.entity in dataset.key:
            if count < _MANY:
                return None
            files = [] if base is None else delta.whole_files(self.lake, silver, base)
            found = rivals.find(self.spark, self.lake, dataset, readable, files)
            return None if found is None else _Rivals(found, held)
        if count + sum(f.rows for f in ([] if base is None else delta.files(self.lake, silver, base))) < _MANY:
            return None
        rows = reduce(DataFrame.unionByName, (r.select(*dataset.key, "_arrival") for r in [arrived, *held]))
        told = rivals.alike(rows, dataset.key)
        if told is None:
            return None
        places, hashes = told
        return _Rivals(places, [rivals.having(r, rivals.hash_of(dataset.key), hashes) for r in held])

    def check(self, rows: DataFrame, target: T.StructType) -> DataFrame:
        """Decode rows of bronze, clean them and check them by the rules, each by itself.

        Args:
            rows: Conformed rows of bronze, with :data:`jobs.lake.intake.PROVENANCE`.
            target: Columns of silver.

        Returns:
            The rows with silver's columns, ``_refused`` and ``_why``, ``_entity`` and ``_event_time``.
        """
        return self._checked(self._decoded(rows, target))

    def _decoded(self, rows: DataFrame, target: T.StructType) -> DataFrame:
        """Messages as rows of silver; one that cannot be decoded has that for its only reason."""
        if not self.dataset.decode:
            return rows
        # No condition goes below an observation. Otherwise Spark would push "is refused" down to the payload, and write
        # out every column in it again and again: a plan of megabytes, and minutes.
        decoded = self.dataset.decode.rows(rows).observe(Observation(), F.count(F.lit(1)).alias("messages"))
        keep = [*intake.PROVENANCE, UNDECODABLE]
        arrived = T.StructType([f for f in decoded.schema if f.name not in {*keep, MISFIT, MISFITS}])
        conformed = conform(decoded, arrived, target, {}, {}, keep)
        failed = F.col(UNDECODABLE).isNotNull()
        return conformed.withColumns(
            {
                MISFIT: F.col(MISFIT) | failed,
                MISFITS: F.when(failed, F.array(UNDECODABLE)).otherwise(F.col(MISFITS)),
            }
        )

    def declared(self, base: int | None) -> T.StructType:
        """What silver has: the declared columns, and those that earlier files brought."""
        if base is None:
            return self.dataset.schema
        held = self._silver_at(base).schema
        extra = [f for f in held if f.name not in self.dataset.schema.names]
        return T.StructType([*self.dataset.schema, *extra])

    def arrives(self, declared: T.StructType) -> T.StructType:
        """What is known of bronze's columns: they are silver's, unless it holds messages."""
        return self.dataset.decode.bronze if self.dataset.decode else declared

    def _target(self, declared: T.StructType, arrives: T.StructType) -> T.StructType:
        """The columns of silver: those that it has, and those that arrive and that no message has."""
        known = {folded(name) for name in (*declared.names, *self.arrives(declared).names)}
        return T.StructType([*declared, *(f for f in arrives if folded(f.name) not in known)])

    def _silver_at(self, version: int) -> DataFrame:
        path = self.lake.silver(self.dataset.name)
        return self.spark.read.format("delta").option("versionAsOf", version).load(path)

    def _checked(self, rows: DataFrame) -> DataFrame:
        rules = self.dataset.rules(self.thresholds)
        # An instant that no calendar has would break whoever reads quarantine.
        time = F.col(self.dataset.time) if self.dataset.time else F.lit(None).cast("timestamp")
        return self.dataset.clean(rows).withColumns(
            {
                _REFUSED: F.col(MISFIT) | quality.any_reason(rules),
                _WHY: quality.bounded(F.concat(MISFITS, quality.all_reasons(rules))),
                "_entity": F.col(self.dataset.entity).cast("string"),
                "_event_time": F.when(F.year(time).between(1, 9999), time),
            }
        )

    def _rank(self, valid: DataFrame, target: T.StructType, held: Sequence[DataFrame], count: int) -> DataFrame:
        """Add the verdict: fresh, duplicate (equal to the first of its key), conflict (unequal), implausible or held.

        One shuffle serves the comparisons. By entity, if it is part of the key, it leaves the rows in the order that
        silver wants them in: the rows of an entity together, and in the order of the key.
        """
        located = [name for name in intake.PROVENANCE if name in valid.columns]
        rows = valid.select(*target.names, *located, "_entity", "_event_time")
        for more in held:
            rows = rows.unionByName(more, allowMissingColumns=True)
        compared = [f for f in target if f.name not in {*self.dataset.key, *self.dataset.incidental}]
        values_of_row = F.struct(*(comparable(f) for f in compared)) if compared else F.lit(0)
        together = [self.dataset.entity] if self.dataset.entity in self.dataset.key else self.dataset.key
        of_key = _rows_of_key(together, [name for name in self.dataset.key if name not in together])
        verdict = (
            F.when(F.col("_arrival") == intake.HELD, "held")
            .when(F.col("_arrival") == F.min("_arrival").over(of_key), "fresh")
            .when(F.min_by(values_of_row, "_arrival").over(of_key).eqNullSafe(values_of_row), "duplicate")
            .otherwise("conflict")
        )
        ranked = rows.repartition(self._files(count), *together).withColumn(_VERDICT, verdict)
        why = F.when(F.col(_VERDICT) == "conflict", F.array(F.lit(_CONFLICT))).otherwise(quality.no_reasons())
        ranked = ranked.withColumn(_WHY, why)
        return ranked if self.dataset.neighbours is None else self._compare_neighbours(ranked)

    def _files(self, count: int) -> int:
        """How many files so many rows are written to, at most."""
        used_by_all_cores = min(self.spark.sparkContext.defaultParallelism, -(-count // _MANY))
        return max(-(-count // self.bounds.rows_per_file), used_by_all_cores)

    def _compare_neighbours(self, ranked: DataFrame) -> DataFrame:
        how = self.dataset.neighbours
        assert how is not None
        # Duplicates and conflicts stand apart: they are no neighbours of the row that they repeat.
        is_kept = F.col(_VERDICT).isin("fresh", "held")
        checks = how.checks(self.thresholds, Window.partitionBy(self.dataset.entity, is_kept).orderBy(how.time))
        judged = ranked.withColumns({"_implausible": quality.all_reasons(checks)})
        is_implausible = (F.col(_VERDICT) == "fresh") & (F.size("_implausible") > 0)
        return judged.withColumns(
            {
                _VERDICT: F.when(is_implausible, "implausible").otherwise(F.col(_VERDICT)),
                _WHY: F.when(is_implausible, F.col("_implausible")).otherwise(F.col(_WHY)),
            }
        )

    def _held(self, target: T.StructType, base: int, keys: Mapping[str, tuple[Any, Any]]) -> DataFrame:
        """The part of silver that the rows could repeat, or stand beside."""
        held, how = self._silver_at(base), self.dataset.neighbours
        for name, (low, high) in keys.items():
            least, most = _around(low, high, how.reach) if how and how.time == name else (low, high)
            held = held.where(F.col(name).between(F.lit(least), F.lit(most)))
        columns = [
            (F.col(f.name) if f.name in held.columns else F.lit(None).cast(f.dataType)).alias(f.name) for f in target
        ]
        return held.select(*columns, F.lit(intake.HELD).cast("long").alias("_arrival"))

    def _key_ranges(self, checked: DataFrame, readable: Sequence[Probed]) -> dict[str, tuple[Any, Any]]:
        """Key column -> (smallest, largest) value, where it is known: from the footers, or from the messages."""
        if not self.dataset.decode:
            return intake.key_bounds(readable, self.lake, self.dataset)
        ends = [end(name).alias(f"{end.__name__}_{name}") for name in self.dataset.key for end in (F.min, F.max)]
        found = checked.where(f"NOT {_REFUSED}").agg(*ends).first()
        assert found is not None
        return {name: (found[f"min_{name}"], found[f"max_{name}"]) for name in self.dataset.key}


def _around(low: datetime, high: datetime, reach: timedelta) -> tuple[datetime, datetime]:
    """A span of time made wider on both sides, as far as Python's calendar goes: rows at its ends are yet to refuse."""
    first, last = (end.replace(tzinfo=low.tzinfo) for end in (datetime.min, datetime.max))
    return max(low, first + reach) - reach, min(high, last - reach) + reach


def _told(valid: DataFrame, ranked: DataFrame) -> DataFrame:
    """Add the verdict where only a few rows are ranked: the others are fresh, and stay where they are."""
    verdicts = F.broadcast(ranked.select("_arrival", _VERDICT, _WHY))
    told = valid.drop(_WHY).join(verdicts, "_arrival", "left")
    return told.withColumns(
        {_VERDICT: F.coalesce(_VERDICT, F.lit("fresh")), _WHY: F.coalesce(_WHY, quality.no_reasons())}
    )


def _rows_of_key(together: Sequence[str], rest: Sequence[str]) -> WindowSpec:
    """For a row, all rows with its key.

    One partition for each entity and an order within, rather than a partition for each key: Spark's cost of opening a
    partition is several times that of a row.
    """
    partition = Window.partitionBy(*together)
    return partition.orderBy(*rest).rangeBetween(Window.currentRow, Window.currentRow) if rest else partition


def _shown(checked: DataFrame, decode: Decode) -> dict[Drift, str]:
    """What the messages of a batch show of their make, the first of it that arrived, each with its first file."""
    first = (
        checked.where(F.col(UNDECODABLE).isNull())
        .select(F.explode(decode.traits()).alias("trait"), "_source_file", "_arrival")
        .groupBy("trait")
        .agg(F.min_by("_source_file", "_arrival").alias("file"), F.min("_arrival").alias("_arrival"))
    )
    found = first.orderBy("_arrival", "trait").limit(MOST_DRIFT + 1).select("trait.*", "file").collect()
    return {Drift(*trait): file for *trait, file in found}


def comparable(field: T.StructField) -> Column:
    """The column, or its JSON where Spark cannot compare its type."""
    plain = isinstance(field.dataType, T.AtomicType)
    return F.col(field.name) if plain else F.to_json(F.struct(field.name)).alias(field.name)
