"""What a quality report says of a dataset, counted by DuckDB over the lake's tables, without Spark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.lake import checkpoint, delta, drift, ledger, quarantine
from jobs.lake.layout import Lake
from jobs.lake.tables import Dataset, GoldTable

FORMULA = "score = 100 x validity x uniqueness x readability"
SHARES = {
    "validity": "1 - rows refused, and not passed since / rows read",
    "uniqueness": "1 - duplicates / rows read",
    "readability": "1 - files refused / files read",
}
"""The parts of the score, each a share from 0 to 1; one of which nothing was read counts as 1."""

SHOWN = 5
"""Entities listed at either end; marked rows, twice as many."""

_BINS = 60
_SECOND = 1_000_000
_TIME_STEPS = [
    n * _SECOND
    for n in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800)
]


@dataclass(frozen=True)
class Series:
    """Counts in bins of equal width.

    Attributes:
        over: What the bins divide: a column, or ``rows``.
        is_time: Whether ``start`` and ``step`` are microseconds, since 1970 and long, or plain numbers.
        start: Where the first bin begins.
        step: Width of a bin.
        counts: Per bin; for refusals of one reason each.
    """

    over: str
    is_time: bool
    start: int
    step: int
    counts: tuple[int, ...]

    @property
    def end(self) -> int:
        """Where the last bin ends."""
        return self.start + self.step * len(self.counts)


@dataclass(frozen=True)
class Books:
    """Where the rows are that were read over the lake's life.

    Attributes:
        read: Rows that silver read, lines that ``ingest`` refused, and rows of files that were refused and mended.
        silver: Rows in silver now.
        duplicates: Rows equal to one that was there.
        quarantined: Rows in quarantine now.
        expired: Rows that ``maintain`` took out of silver, because they were older than it keeps.
        refusals_expired: The same of quarantine.
        mended: Those of ``read`` that came from mended files.
    """

    read: int
    silver: int
    duplicates: int
    quarantined: int
    mended: int
    expired: int = 0
    refusals_expired: int = 0

    @property
    def missing(self) -> int:
        """Rows read that are nowhere; negative if there are more than were read."""
        there = self.silver + self.duplicates + self.quarantined
        return self.read - there - self.expired - self.refusals_expired


@dataclass(frozen=True)
class Entity:
    """One entity and its rows."""

    name: str
    rows: int


@dataclass(frozen=True)
class Reason:
    """Why rows and files are in quarantine.

    Attributes:
        code: The reason's code.
        rows: Rows that have it; a row with two reasons counts for both.
        files: Files that have it.
        example: One such reason in full.
        source_file: Where it is from.
        source_row: The row there; None for a file.
        over_time: Rows and files by event time, or by arrival where they have no good one.
    """

    code: str
    rows: int
    files: int
    example: str
    source_file: str
    source_row: int | None
    over_time: Series


@dataclass(frozen=True)
class Freshness:
    """How new the data are.

    Attributes:
        newest_event: The newest row of silver.
        newest_arrival: When bronze's newest file was written.
        last_batch: Start of the last promotion.
        waiting: Files in bronze that no finished batch has promoted.
        delay_median: Seconds from event to arrival, where silver knows both.
        delay_p95: The same, exceeded by one row in twenty.
        delay_max: The longest.
    """

    newest_event: datetime | None
    newest_arrival: datetime | None
    last_batch: datetime | None
    waiting: int
    delay_median: float | None = None
    delay_p95: float | None = None
    delay_max: float | None = None

    @property
    def age(self) -> timedelta | None:
        """How old the newest event was when the newest file arrived."""
        if self.newest_event is None or self.newest_arrival is None:
            return None
        return self.newest_arrival - self.newest_event


@dataclass(frozen=True)
class Marks:
    """Rows of a gold table that crossed a threshold.

    Attributes:
        table: The gold table.
        total: How many are marked.
        graded: How many rows there are.
        worst: Key, score and marks of the lowest scores.
    """

    table: str
    total: int
    graded: int
    worst: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Facts:
    """All that the report says of a dataset.

    Attributes:
        dataset: Its name.
        entity: Columns that name an entity.
        rows: Rows in silver.
        entities: Entities in silver.
        first_event: Oldest row; None if rows have no time.
        files_read: Files of bronze that silver took.
        files_refused: Files in quarantine as a whole.
        books: Where the rows are.
        top: Entities with the most rows.
        bottom: Those with the fewest, fewest first; none that is in ``top``.
        median_rows: Rows of the entity in the middle.
        sizes: Entities by their number of rows.
        activity: Rows over time, or over the column that orders them.
        reasons: Why rows are in quarantine, most frequent first.
        drift: Changes of schema, newest first.
        fresh: How new the data are.
        marks: Marked rows of gold tables that have a score.
    """

    dataset: str
    entity: tuple[str, ...]
    rows: int
    entities: int
    first_event: datetime | None
    files_read: int
    files_refused: int
    books: Books
    fresh: Freshness
    top: tuple[Entity, ...] = ()
    bottom: tuple[Entity, ...] = ()
    median_rows: float | None = None
    sizes: Series | None = None
    activity: Series | None = None
    reasons: tuple[Reason, ...] = ()
    drift: tuple[dict[str, Any], ...] = ()
    marks: tuple[Marks, ...] = field(default=())

    @property
    def shares(self) -> dict[str, float | None]:
        """The parts of the score; None where nothing was read that could be good or bad."""
        books = self.books
        return {
            "validity": _good(books.quarantined + books.refusals_expired, books.read),
            "uniqueness": _good(books.duplicates, books.read),
            "readability": _good(self.files_refused, self.files_read),
        }

    @property
    def score(self) -> float | None:
        """From 0 to 100, as :data:`FORMULA`; None if nothing was read."""
        told = [share for share in self.shares.values() if share is not None]
        return 100 * math.prod(told) if told else None

    @property
    def is_empty(self) -> bool:
        """Whether the lake has nothing of this dataset."""
        return not (self.rows or self.files_read or self.books.read or self.reasons or self.fresh.newest_arrival)

    def as_dict(self) -> dict[str, Any]:
        """All facts, with those that follow from others."""
        return {
            **asdict(self),
            "books": {**asdict(self.books), "missing": self.books.missing},
            "shares": self.shares,
            "score": self.score,
        }


def _good(bad: int, of: int) -> float | None:
    return max(0.0, 1 - bad / of) if of else None


def facts(lake: Lake, dataset: Dataset, gold: Sequence[GoldTable] = ()) -> Facts:
    """Read what the lake has of a dataset.

    Of silver only the columns are read that name an entity and a time, piece by piece, so memory is bounded by the
    number of entities.

    Args:
        lake: The lake.
        dataset: The dataset.
        gold: Gold tables of it; those with the columns ``score`` and ``marks`` are looked at for marked rows.
    """
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"}) as db:
        silver = _silver(db, lake, dataset)
        books = _ledger(db, lake, dataset.name)
        refused_rows, refused_files, reasons = _quarantine(db, lake, dataset, silver.get("activity"))
        promoted, replayed = books.get("silver", {}), books.get("replay", {})
        expired, refusals_expired = (
            books.get(f"{kind}/{dataset.name}", {}).get("rows_expired", 0) for kind in ("silver", "quarantine")
        )
        mended = 0
        if promoted.get("files_quarantined", 0) > refused_files:
            # Rows of files that could not be counted when they were refused, and can be now.
            ever = promoted.get("rows_quarantined", 0) + books.get("ingest", {}).get("rows_quarantined", 0)
            passed = replayed.get("rows_written", 0) + replayed.get("rows_duplicate", 0)
            mended = max(0, refused_rows + refusals_expired - ever + passed)
        newest = silver.pop("newest_event", None)
        bronze = checkpoint.bronze_files(lake, dataset.name)
        done = checkpoint.promoted(lake, "silver", dataset.name)
        delays = silver.pop("delays", (None, None, None))
        return Facts(
            dataset=dataset.name,
            entity=entity_columns(dataset),
            rows=silver.pop("rows", 0),
            entities=silver.pop("entities", 0),
            first_event=silver.pop("first_event", None),
            files_read=promoted.get("files", 0),
            files_refused=refused_files,
            books=Books(
                read=promoted.get("rows_read", 0) + books.get("ingest", {}).get("rows_quarantined", 0) + mended,
                silver=silver.pop("in_silver", 0),
                duplicates=promoted.get("rows_duplicate", 0) + replayed.get("rows_duplicate", 0),
                quarantined=refused_rows,
                mended=mended,
                expired=expired,
                refusals_expired=refusals_expired,
            ),
            fresh=Freshness(
                newest,
                _instant(max((f.modified for f in bronze), default=None)),
                _instant(promoted.get("last")),
                sum(lake.relative(f.path) not in done for f in bronze),
                *delays,
            ),
            reasons=reasons,
            drift=_drift(db, lake, dataset.name),
            marks=tuple(m for table in gold if (m := _marks(db, lake, table))),
            **silver,
        )


def entity_columns(dataset: Dataset) -> tuple[str, ...]:
    """The columns that name an entity: the key up to the entity's own, for numbers that count within a group."""
    if dataset.entity not in dataset.key:
        return (dataset.entity,)
    return dataset.key[: dataset.key.index(dataset.entity) + 1]


def order_column(dataset: Dataset) -> tuple[str, bool] | None:
    """The column along which rows come, and whether it is a time; None if there is none."""
    kinds = {f.name: f.dataType for f in dataset.schema}
    times = [name for name, kind in kinds.items() if isinstance(kind, T.TimestampType)]
    if times:
        return times[0], True
    last = dataset.key[-1]
    return (last, False) if last != dataset.entity and isinstance(kinds[last], T.IntegralType) else None


def _rows(lake: Lake, path: str, declared: T.StructType | None = None) -> pads.Dataset | None:
    """A table; columns that came with a later release than the one that wrote it are null."""
    rows = delta.scan(lake, path)
    if rows is None:
        return None
    later = [f for f in to_arrow_schema(declared) if f.name not in rows.schema.names] if declared else []
    return rows.replace_schema(pa.schema([*rows.schema, *later])) if later else rows


def _scan(db: duckdb.DuckDBPyConnection, name: str, rows: pads.Dataset, columns: Sequence[str]) -> None:
    """Let the next query, and no other, read columns of a table; little is read ahead of it."""
    scanner = rows.scanner(columns=list(columns), batch_readahead=2, fragment_readahead=1)
    db.register(name, scanner.to_reader())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _silver(db: duckdb.DuckDBPyConnection, lake: Lake, dataset: Dataset) -> dict[str, Any]:
    rows = _rows(lake, lake.silver(dataset.name))
    if rows is None:
        return {}
    names, order = entity_columns(dataset), order_column(dataset)
    place = "NULL::BIGINT"
    if order:
        place = f"epoch_us({_quoted(order[0])})" if order[1] else f"{_quoted(order[0])}::BIGINT"
    group = ", ".join(_quoted(name) for name in names)
    name = f"concat_ws(' / ', {', '.join(f'{_quoted(n)}::VARCHAR' for n in names)})"
    _scan(db, "silver", rows, [*{*names, *([order[0]] if order else [])}])
    db.execute(
        f"""CREATE TEMP TABLE entities AS
        SELECT {name} AS name, count(*) AS n, min({place}) AS low, max({place}) AS high FROM silver GROUP BY {group}"""
    )
    [(total, entities, low, high, median, least, most)] = db.execute(
        "SELECT coalesce(sum(n), 0)::BIGINT, count(*), min(low), max(high), median(n), min(n), max(n) FROM entities"
    ).fetchall()
    found: dict[str, Any] = {"rows": total, "in_silver": total, "entities": entities, "median_rows": median}
    for end, by, limit in (("top", "n DESC, name", SHOWN), ("bottom", "n, name DESC", min(SHOWN, entities - SHOWN))):
        query = f"SELECT name, n FROM entities ORDER BY {by} LIMIT {max(0, limit)}"
        found[end] = tuple(Entity(*row) for row in db.execute(query).fetchall())
    if entities:
        found["sizes"] = _series(db, "rows", False, "entities", "n", least, most, 20)
    if order and low is not None:
        _scan(db, "silver", rows, [order[0]])
        found["activity"] = _series(db, order[0], order[1], "silver", place, low, high)
        if order[1]:
            found |= {"first_event": _instant(low), "newest_event": _instant(high)}
            if "arrived_at" in rows.schema.names:
                _scan(db, "silver", rows, [order[0], "arrived_at"])
                found["delays"] = _delays(db, order[0])
    return found


def _delays(db: duckdb.DuckDBPyConnection, time: str) -> tuple[Any, ...]:
    delay = f"(epoch_us(arrived_at) - epoch_us({_quoted(time)})) / 1e6"
    query = f"SELECT approx_quantile(d, 0.5), approx_quantile(d, 0.95), max(d) FROM (SELECT {delay} AS d FROM silver)"
    [found] = db.execute(query).fetchall()
    return found


def _bins(is_time: bool, low: int, high: int, most: int) -> tuple[int, int, int]:
    """Start, step and number of at most ``most`` bins (and one) of a round width that hold low and high."""
    span = high - low
    if is_time:
        years = 365 * 86400 * _SECOND
        steps = [*_TIME_STEPS, 30 * 86400 * _SECOND, years, *(years * 10**k for k in range(1, 6))]
    else:
        steps = [n * 10**k for k in range(19) for n in (1, 2, 5)]
    step = next((s for s in steps if span // s < most), steps[-1])
    start = low // step * step
    return start, step, (high - start) // step + 1


def _series(
    db: duckdb.DuckDBPyConnection,
    over: str,
    is_time: bool,
    table: str,
    value: str,
    low: int,
    high: int,
    most: int = _BINS,
) -> Series:
    start, step, size = _bins(is_time, low, high, most)
    query = f"SELECT ({value} - {start}) // {step} AS bin, count(*) FROM {table} WHERE {value} IS NOT NULL GROUP BY bin"
    return Series(over, is_time, start, step, _filled(db.execute(query).fetchall(), size))


def _filled(counted: Sequence[tuple[int, int]], size: int) -> tuple[int, ...]:
    counts = [0] * size
    for number, count in counted:
        if 0 <= number < size:  # a row written since the bounds were read has no bin
            counts[number] = count
    return tuple(counts)


def _ledger(db: duckdb.DuckDBPyConnection, lake: Lake, name: str) -> Mapping[str, Mapping[str, int]]:
    """Sums of a dataset's rows in the books, and the start of its last batch: by stage, by table for ``maintain``."""
    rows = _rows(lake, lake.ledger, ledger.SCHEMA)
    if rows is None:
        return {}
    summed = [n for n in ledger.SCHEMA.names if n.startswith(("files", "rows"))]
    _scan(db, "ledger", rows, ["stage", "dataset", "outcome", "started_at", *summed])
    found = db.execute(
        f"""SELECT if(stage = 'maintain', dataset, stage) AS what,
        max(epoch_us(started_at)) FILTER (outcome = 'done') AS last,
        {", ".join(f"coalesce(sum({n}), 0)::BIGINT" for n in summed)}
        FROM ledger WHERE dataset IN (?, 'silver/' || ?, 'quarantine/' || ?) GROUP BY what""",
        [name, name, name],
    ).fetchall()
    return {stage: {"last": last, **dict(zip(summed, sums, strict=True))} for stage, last, *sums in found}


def _quarantine(
    db: duckdb.DuckDBPyConnection, lake: Lake, dataset: Dataset, activity: Series | None
) -> tuple[int, int, tuple[Reason, ...]]:
    """Rows and files in quarantine, and why; in the bins of silver's activity if they fall into its time."""
    rows = _rows(lake, lake.quarantine(dataset.name), quarantine.SCHEMA)
    if rows is None:
        return 0, 0, ()
    # `row` can be megabytes, and `source_row` is null for the same rows: those that stand for files.
    columns = ("reasons", "source_file", "source_row", "arrived_at", "event_time")
    order = order_column(dataset)
    refused = """(SELECT source_file, source_row, reasons,
        list_distinct(list_transform(reasons, lambda text: split_part(text, ' ', 1))) AS codes,
        epoch_us(CASE WHEN list_contains(list_transform(reasons, lambda text: split_part(text, ' ', 2)), ?)
          THEN arrived_at ELSE coalesce(event_time, arrived_at) END) AS place
        FROM quarantine)"""
    # A time that is itself refused is no place on a time axis.
    bad_time = [f"{order[0] if order else 'event_time'}:"]
    _scan(db, "quarantine", rows, columns)
    [(n_rows, n_files, low, high)] = db.execute(
        f"SELECT count(source_row), count(*) - count(source_row), min(place), max(place) FROM {refused}", bad_time
    ).fetchall()
    start, step, size = _bins(True, low or 0, high or 0, _BINS)
    if activity and activity.is_time and low is not None and activity.start <= low and high < activity.end:
        start, step, size = activity.start, activity.step, len(activity.counts)
    _scan(db, "quarantine", rows, columns)
    by_code: dict[str, list[tuple[int, int]]] = {}
    for code, number, count in db.execute(
        f"""SELECT code, (place - {start}) // {step} AS bin, count(*)
        FROM (SELECT unnest(codes) AS code, place FROM {refused} WHERE place IS NOT NULL) GROUP BY code, bin""",
        bad_time,
    ).fetchall():
        by_code.setdefault(code, []).append((number, count))
    _scan(db, "quarantine", rows, columns)
    found = db.execute(
        f"""SELECT code, count(source_row), count(*) - count(source_row),
        min(struct_pack(file := source_file, row := source_row,
          text := list_filter(reasons, lambda text: split_part(text, ' ', 1) = code)[1]))
        FROM (SELECT unnest(codes) AS code, * FROM {refused}) GROUP BY code ORDER BY count(*) DESC, code""",
        bad_time,
    ).fetchall()
    reasons = tuple(
        Reason(
            code,
            of_rows,
            of_files,
            first["text"],
            first["file"],
            first["row"],
            Series("time", True, start, step, _filled(by_code.get(code, []), size)),
        )
        for code, of_rows, of_files, first in found
    )
    return n_rows, n_files, reasons


def _drift(db: duckdb.DuckDBPyConnection, lake: Lake, name: str) -> tuple[dict[str, Any], ...]:
    rows = _rows(lake, lake.drift, drift.SCHEMA)
    if rows is None:
        return ()
    columns = ("column", "kind", "before", "after", "source_file", "seen_at")
    _scan(db, "drift", rows, ["dataset", *columns])
    found = db.execute(
        """SELECT "column", kind, before, after, source_file, epoch_us(seen_at) AS seen FROM drift
        WHERE dataset = ? ORDER BY seen DESC, "column", after""",
        [name],
    ).fetchall()
    return tuple(dict(zip(columns, (*row[:-1], _instant(row[-1])), strict=True)) for row in found)


def _marks(db: duckdb.DuckDBPyConnection, lake: Lake, table: GoldTable) -> Marks | None:
    rows = _rows(lake, lake.gold(table.name)) if {"score", "marks"} <= set(table.schema.names) else None
    if rows is None:
        return None
    columns = (*table.key, "score", "marks")
    _scan(db, "graded", rows, ["marks"])
    [(total, graded)] = db.execute("SELECT count(*) FILTER (len(marks) > 0), count(*) FROM graded").fetchall()
    _scan(db, "graded", rows, columns)
    keys = ", ".join(f"{_quoted(name)}::VARCHAR" for name in table.key)
    found = db.execute(
        f"SELECT {keys}, score, marks FROM graded WHERE len(marks) > 0 ORDER BY score, {keys} LIMIT {2 * SHOWN}"
    ).fetchall()
    return Marks(table.name, total, graded, tuple(dict(zip(columns, row, strict=True)) for row in found))


def _instant(micros: int | None) -> datetime | None:
    """The instant, or the nearest that Python knows."""
    if micros is None:
        return None
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    except OverflowError:
        return (datetime.max if micros > 0 else datetime.min).replace(tzinfo=UTC)
