"""What a batch is judged by, written before its first commit: a repetition comes to the same, whatever has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from jobs.lake import checkpoint, delta, leases
from jobs.lake.delta import Transaction
from jobs.lake.errors import DataError
from jobs.lake.intake import Arrived, Probed, oldest_first
from jobs.lake.layout import Lake
from jobs.lake.tables import Dataset


@dataclass(frozen=True)
class Intent:
    """What a batch was begun with. There is one for each stage and dataset: that of the last batch.

    Attributes:
        transaction: The batch.
        thresholds: The dataset's settings.
        refused: Files that could not be read, relative to the lake, and why.
        arrived: When each of its files was written, in microseconds since the epoch.
        details: What else its stage needs to repeat it.
    """

    transaction: Transaction
    thresholds: Mapping[str, Any]
    refused: Mapping[str, str] = field(default_factory=dict)
    arrived: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, lake: Lake, dataset: Dataset) -> Any:
        """The dataset's settings as its own model.

        Raises:
            DataError: The suite no longer knows such settings.
        """
        try:
            return dataset.settings.model_validate(self.thresholds)
        except ValidationError as error:
            raise DataError(
                f"{self.transaction.tag} was begun with settings that are not known any more",
                why=f"it was stopped half-way, by another version of the suite: {error.errors()[0]['msg']}",
                remedy=lake.without_batch(self.transaction.application),
            ) from error

    def in_order(self, lake: Lake, files: Sequence[Arrived]) -> list[Arrived]:
        """Files in their order of arrival, by the times that they had when the batch was begun.

        One that is put again has another time, even if nothing in it has changed.
        """
        then = [replace(f, modified=self.arrived.get(lake.relative(f.path), f.modified)) for f in files]
        return oldest_first(then)

    def applied(self, lake: Lake, probed: Sequence[Probed]) -> list[Probed]:
        """Files as they were when the batch was begun: one that could not be read then is not read now.

        Raises:
            DataError: One that could be read then cannot be now.
        """
        taken = []
        for p in probed:
            name = lake.relative(p.file.path)
            if p.error and name not in self.refused:
                raise DataError(
                    f"{name} cannot be read now, and {self.transaction.tag} was begun with it",
                    why=p.error,
                    remedy="put it there as it was, then the same command; if it is lost:"
                    f" {lake.without_batch(self.transaction.application)}",
                )
            taken.append(Probed(p.file, error=self.refused[name]) if name in self.refused else p)
        return taken


def take(lake: Lake, stage: str, dataset: str, intent: Intent, probed: Sequence[Probed]) -> list[Probed]:
    """Files as a batch takes them: as when it was begun, or as they are, and then that is written down.

    It is begun with its first commit: from then on no attempt, of this run or another, takes other files.

    Raises:
        DataError: It was begun with a file that cannot be read now.
        TakenOverError: Another run has taken over the dataset.
    """
    last = read(lake, stage, dataset)
    if last and last.transaction == intent.transaction and has_committed(lake, stage, dataset, intent.transaction):
        return last.applied(lake, probed)
    refused = {lake.relative(p.file.path): p.error for p in probed if p.error}
    arrived = {lake.relative(p.file.path): p.file.modified for p in probed}
    write(lake, stage, dataset, replace(intent, refused=refused, arrived=arrived))
    return [*probed]


def write(lake: Lake, stage: str, dataset: str, intent: Intent) -> None:
    """Put it in the place of the last one.

    Raises:
        TakenOverError: Another run has taken over the dataset.
    """
    leases.check(lake)
    lake.writer().put(lake.relative(lake.intent(stage, dataset)), json.dumps(asdict(intent), indent=1).encode())


def read(lake: Lake, stage: str, dataset: str) -> Intent | None:
    """That of the last batch; None if there is none.

    Raises:
        DataError: It is damaged.
    """
    place = lake.intent(stage, dataset)
    try:
        with lake.filesystem().open_input_stream(lake.arrow_path(place)) as stream:
            found = json.loads(stream.read())
        return replace(Intent(**found), transaction=Transaction(**found["transaction"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{lake.relative(place)} is damaged",
            why=str(error),
            remedy=lake.without(place, "a batch that was stopped half-way is judged by today's settings"),
        ) from error


def has_committed(lake: Lake, stage: str, dataset: str, transaction: Transaction) -> bool:
    """Whether a batch has committed something before its last commit."""
    second = {"silver": lake.quarantine(dataset), "replay": lake.ledger}[stage]
    return any(delta.has(lake, table, transaction) for table in (lake.silver(dataset), second))


def is_half_done(lake: Lake, stage: str, dataset: str, transaction: Transaction) -> bool:
    """Whether a batch has committed something, and not all: it is to be repeated."""
    if not has_committed(lake, stage, dataset, transaction):
        return False
    # A promotion that is booked comes again all the same, until Spark has it as done.
    if stage == "silver" and checkpoint.is_open(lake, stage, dataset, transaction.number):
        return True
    last = {"silver": lake.ledger, "replay": lake.quarantine(dataset)}[stage]
    return not delta.has(lake, last, transaction)


def half_done(lake: Lake, dataset: str) -> str:
    """The stage by which a dataset's last batch is half done; empty if there is none.

    Its repetition compares with silver, and reads quarantine, as they were when it was begun.

    Raises:
        DataError: An intent is damaged.
    """
    for stage in ("silver", "replay"):
        last = read(lake, stage, dataset)
        if last and is_half_done(lake, stage, dataset, last.transaction):
            return stage
    return ""


def compare(lake: Lake, path: str, transaction: Transaction, fresh: int) -> None:
    """Make sure that a batch which is repeated comes to as many rows as it has written.

    Raises:
        DataError: It does not.
    """
    written = delta.rows_of(lake, path, transaction)
    if written != fresh:
        raise DataError(
            f"{transaction.tag} has written {written:,} rows to {lake.relative(path)}, and comes to {fresh:,} now",
            why="it was stopped half-way; its files in bronze, or the suite's rules, are no longer what they were",
            remedy=lake.without_batch(transaction.application),
        )
