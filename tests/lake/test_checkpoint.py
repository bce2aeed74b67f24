"""What Spark's checkpoint says, and the stream of files that it is of."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import silver
from jobs.lake import checkpoint, cli
from jobs.lake.cli import Context
from jobs.lake.tables import NoSettings
from tests.lake.conftest import TOY, Floor, counts
from tests.lake.test_intake import NAMES, parquet


def with_toy(context: Context, **bounds: int) -> Context:
    settings = replace(
        context.settings, datasets={"toy": NoSettings()}, silver=context.settings.silver.model_copy(update=bounds)
    )
    return replace(context, settings=settings)


def waiting(context: Context) -> list[str]:
    return [context.lake.relative(f.path) for f in checkpoint.waiting(context.lake, "silver", "toy")]


def test_bronze_files__in_the_order_of_arrival_without_hidden_ones(lake: Context):
    floor = Floor(lake)
    names = ["b/z.parquet", "a.parquet", "c/_hidden.parquet", "_temporary/x.parquet", ".y.parquet", "d.parquet"]
    for minute, name in zip([3, 2, 1, 1, 1, 2], names, strict=True):
        floor.put(name, b"xy", minute)
    found = checkpoint.bronze_files(lake.lake, "toy")
    assert [lake.lake.relative(f.path) for f in found] == [
        f"bronze/toy/{n}" for n in ("a.parquet", "d.parquet", "b/z.parquet")
    ]
    assert [f.bytes for f in found] == [2, 2, 2]
    assert found[0].modified == (1_767_225_600 + 120) * 1_000_000
    assert checkpoint.bronze_files(lake.lake, "nothing") == []


@pytest.mark.parametrize("folder", ["lake", "a lake é, (1) {x} 100%"])
def test_waiting__before_and_after_a_promotion(lake: Context, tmp_path: Path, folder: str):
    context = with_toy(cli.context(str(tmp_path / folder), "testing"), max_files_per_batch=6)
    floor = Floor(context)
    for name in NAMES:
        floor.put(name, parquet(1, id=[name]))
    floor.put("empty.parquet", b"")
    everything = [*(f"bronze/toy/{name}" for name in NAMES), "bronze/toy/empty.parquet"]
    assert waiting(context) == everything
    assert not Path(context.lake.checkpoint("silver", "toy")).exists()
    entries = silver.promote(context, TOY)
    assert waiting(context) == []
    assert [entry.files for entry in entries] == [6, 6, len(NAMES) + 1 - 12]
    assert sum(entry.files_quarantined for entry in entries) == 1
    assert [row["id"] for row in floor.silver] == sorted(NAMES)
    floor.put("late.parquet", parquet(1, id=["late"]))
    assert waiting(context) == ["bronze/toy/late.parquet"]
    (entry,) = silver.promote(context, TOY)
    assert counts(entry) == (1, 1, 0, 0)
    (entry,) = silver.promote(context, TOY)
    assert (entry.outcome, waiting(context)) == ("nothing new", [])


def test_batch_files__of_every_batch_whatever_spark_has_joined_and_removed(lake: Context):
    context = with_toy(lake, max_files_per_batch=1)
    floor = Floor(context)
    names = [f"{i:02d}.parquet" for i in range(23)]
    for name in names:
        floor.put(name, parquet(1, id=[name]))
    assert len(silver.promote(context, TOY)) == len(names)
    parts = Path(context.lake.checkpoint("silver", "toy")) / "sources" / "0"
    assert {"9.compact", "19.compact", "20"} <= {part.name for part in parts.iterdir()}

    def told() -> list[list[str]]:
        batches = [checkpoint.batch_files(context.lake, "silver", "toy", number) for number in range(len(names))]
        return [[Path(file.path).name for file in batch] for batch in batches]

    assert told() == [[name] for name in names]
    for number in range(19):  # as Spark does, ten minutes later
        for part in (parts / f"{number}", parts / f"{number}.compact"):
            part.unlink(missing_ok=True)
    assert told() == [[name] for name in names]
    assert waiting(context) == []


def test_telling__only_the_parts_of_the_batches_that_are_asked_for():
    names = [*(str(n) for n in range(9)), "9.compact", "10", "11"]
    assert checkpoint._telling(names, 10, 11) == {"11"}
    assert checkpoint._telling(names, 7, 10) == {"8", "9.compact", "10"}
    assert checkpoint._telling(names[5:], 2, 10) == names[5:]


def test_silver__a_batch_that_failed_is_done_by_the_next_run(lake: Context, monkeypatch: pytest.MonkeyPatch):
    context = with_toy(lake)
    floor = Floor(context)
    floor.put("a.parquet", parquet(2))
    from jobs.lake import ledger

    def dies(*_: object) -> None:
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(ledger, "record", dies)
    with pytest.raises(RuntimeError, match="the power is gone"):
        silver.promote(context, TOY)
    monkeypatch.undo()
    assert waiting(context) == ["bronze/toy/a.parquet"]
    (entry,) = silver.promote(context, TOY)
    assert counts(entry) == (2, 2, 0, 0)
    assert len(floor.silver) == 2
    assert len(floor.rows("ops/ledger")) == 1
    assert waiting(context) == []


def test_silver__files_however_old_and_out_of_order_of_their_times(lake: Context):
    context = with_toy(lake)
    floor = Floor(context)
    floor.put("new.parquet", parquet(1, id=["new"]))
    silver.promote(context, TOY)
    old = floor.put("old.parquet", parquet(1, id=["old"]))
    os.utime(old.path, (1_000_000_000, 1_000_000_000))
    silver.promote(context, TOY)
    assert [row["id"] for row in floor.silver] == ["new", "old"]
