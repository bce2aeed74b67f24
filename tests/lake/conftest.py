"""A toy dataset on an empty lake: files are put by hand, promoted, and read back without Spark."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pydantic import BaseModel
from pyspark.sql import types as T

from jobs.lake import quality
from jobs.lake.cli import Context
from jobs.lake.delta import Transaction
from jobs.lake.intake import Arrived
from jobs.lake.ledger import Entry
from jobs.lake.promotion import Promotion
from jobs.lake.tables import Dataset, NoSettings, column

TOY = Dataset(
    name="toy",
    schema=T.StructType(
        [
            column("id", T.StringType(), "The thing", nullable=False),
            column("n", T.IntegerType(), "Its number", nullable=False),
            column("value", T.FloatType(), "What was measured"),
        ]
    ),
    key=("id", "n"),
    entity="id",
    rules=lambda settings: [quality.finite("value"), quality.in_range("value", -100, 100)],
    aliases={"identifier": "id"},
)


@dataclass
class Floor:
    """One dataset of a lake.

    Attributes:
        context: The job's context.
        dataset: What is promoted.
        thresholds: The dataset's settings.
    """

    context: Context
    dataset: Dataset = TOY
    thresholds: Any = field(default_factory=NoSettings)
    _minute: int = 0

    def put(self, name: str, content: pa.Table | bytes | Mapping[str, Sequence[Any]], minute: int = -1) -> Arrived:
        """Write a file into bronze; the minute of its arrival counts up unless it is given."""
        self._minute = minute if minute >= 0 else self._minute + 1
        path = Path(self.context.lake.bronze(self.dataset.name)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            table = content if isinstance(content, pa.Table) else pa.table(dict(content))
            pq.write_table(table, path)
        seconds = 1_767_225_600 + 60 * self._minute
        os.utime(path, (seconds, seconds))
        return Arrived(str(path), path.stat().st_size, seconds * 1_000_000)

    @property
    def promotion(self) -> Promotion:
        """What promotes it."""
        context = self.context
        return Promotion(
            context.spark,
            context.lake,
            self.dataset,
            self.thresholds,
            context.settings.silver,
            context.run_id,
        )

    def promote(self, *files: Arrived, number: int = 0, **changes: Any) -> Entry:
        """Promote files as one transaction."""
        return replace(self.promotion, **changes).promote(files, Transaction(f"silver/{self.dataset.name}/q", number))

    def rows(self, path: str) -> list[dict[str, Any]]:
        """The rows of a Delta table, by ``deltalake``; none if there is no table."""
        uri = f"{self.context.lake.uri}/{path}"
        if not DeltaTable.is_deltatable(uri):
            return []
        found: list[dict[str, Any]] = DeltaTable(uri).to_pyarrow_table().to_pylist()
        return found

    @property
    def silver(self) -> list[dict[str, Any]]:
        """Silver, in the order of the key."""
        return sorted(self.rows(f"silver/{self.dataset.name}"), key=lambda r: [r[k] for k in self.dataset.key])

    @property
    def values(self) -> list[tuple[Any, ...]]:
        """Silver as tuples, in the order of the key."""
        return [tuple(row.values()) for row in self.silver]

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        """Quarantine, in the order of file and row."""
        found = self.rows(f"quarantine/{self.dataset.name}")
        return sorted(found, key=lambda r: (r["source_file"], -1 if r["source_row"] is None else r["source_row"]))

    @property
    def refused(self) -> list[tuple[str, int | None, list[str]]]:
        """File name, row number and reasons of what is in quarantine."""
        return [(r["source_file"].rpartition("/")[2], r["source_row"], r["reasons"]) for r in self.quarantine]


def counts(entry: Entry) -> tuple[int, int, int, int]:
    """Rows read, written, duplicate and quarantined."""
    return entry.rows_read, entry.rows_written, entry.rows_duplicate, entry.rows_quarantined


@pytest.fixture
def floor(lake: Context) -> Floor:
    """The toy dataset on an empty lake."""
    return Floor(lake)


class Limit(BaseModel):
    """How large a value may be."""

    limit: float = 100


LIMITED = replace(
    TOY,
    settings=Limit,
    rules=lambda settings: [quality.finite("value"), quality.in_range("value", -settings.limit, settings.limit)],
)
"""The toy with a setting."""


@contextmanager
def killed_at(owner: Any, name: str) -> Iterator[None]:
    """Have what is done within be stopped where it calls a function."""

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            yield
