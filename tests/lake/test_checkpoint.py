"""What Spark's checkpoint says, and the stream of files that it is of."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import silver
from jobs.lake import checkpoint, cli, delta, ledger
from jobs.lake.cli import Context
from jobs.lake.errors import DataError
from jobs.lake.tables import NoSettings
from tests.lake.conftest import TOY, Floor, counts, killed_at
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
    names = [f"{i:02d}.parquet" for i in range(8)]
    for name in names:
        floor.put(name, parquet(1, id=[name]))
    with delta.configured(context.spark, {"spark.sql.streaming.fileSource.log.compactInterval": "3"}):
        assert len(silver.promote(context, TOY)) == len(names)
    parts = Path(context.lake.checkpoint("silver", "toy")) / "sources" / "0"
    assert {"2.compact", "5.compact", "6"} <= {part.name for part in parts.iterdir()}

    def told() -> list[list[str]]:
        batches = [checkpoint.batch_files(context.lake, "silver", "toy", number) for number in range(len(names))]
        return [[Path(file.path).name for file in batch] for batch in batches]

    assert told() == [[name] for name in names]
    for number in range(5):  # as Spark does, ten minutes later
        for part in (parts / f"{number}", parts / f"{number}.compact"):
            part.unlink(missing_ok=True)
    assert told() == [[name] for name in names]
    assert waiting(context) == []


def test_telling__only_the_parts_of_the_batches_that_are_asked_for():
    names = [*(str(n) for n in range(9)), "9.compact", "10", "11"]
    assert checkpoint._telling(names, 10, 11) == {"11"}
    assert checkpoint._telling(names, 7, 10) == {"8", "9.compact", "10"}
    assert checkpoint._telling(names[5:], 2, 10) == names[5:]


def test_silver__a_batch_that_failed_is_done_by_the_next_run(lake: Context):
    context = with_toy(lake)
    floor = Floor(context)
    floor.put("a.parquet", parquet(2))
    with killed_at(ledger, "record"):
        silver.promote(context, TOY)
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


def test_silver__without_its_checkpoint_reads_bronze_again_and_doubles_nothing(lake: Context):
    context = with_toy(lake, max_files_per_batch=1)
    floor = Floor(context)
    floor.put("a.parquet", parquet(2, id=["a", None]))
    floor.put("torn.parquet", b"PAR1")
    floor.put("c.parquet", parquet(2, id=[None, "c"]))
    silver.promote(context, TOY)
    before, refused = floor.silver, floor.refused
    assert (len(before), len(refused)) == (2, 3)
    shutil.rmtree(lake.lake.checkpoint("silver", "toy"))
    floor.put("d.parquet", parquet(2, id=[None, "d"]))
    entries = silver.promote(context, TOY)
    assert [counts(entry) for entry in entries] == [(2, 0, 2, 0), (0, 0, 0, 0), (2, 0, 2, 0), (2, 1, 0, 1)]
    assert [row["id"] for row in floor.silver] == ["a", "c", "d"]
    assert floor.refused == sorted([*refused, ("d.parquet", 0, ["missing id: no value"])], key=lambda r: r[0])


def test_silver__without_the_checkpoint_of_a_first_batch_that_was_not_booked(lake: Context):
    floor = Floor(with_toy(lake))
    for name in "abc":
        floor.put(f"{name}.parquet", parquet(2, id=[name, None]))
    with killed_at(ledger, "record"):
        silver.promote(floor.context, TOY)
    assert (len(floor.silver), len(floor.refused)) == (3, 3)
    shutil.rmtree(lake.lake.checkpoint("silver", "toy"))
    entries = silver.promote(with_toy(lake, max_files_per_batch=1), TOY)
    assert [counts(entry) for entry in entries] == [(2, 0, 2, 0)] * 3
    assert (len(floor.silver), len(floor.refused)) == (3, 3)


PARTS = ["metadata", "offsets/1", "offsets/2", "commits/1", "sources/0/0", "sources/0/2"]


@pytest.fixture(scope="module")
def promoted(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A lake with three batches."""
    context = with_toy(
        cli.context(str(tmp_path_factory.mktemp("checkpoint") / "lake"), "testing"), max_files_per_batch=1
    )
    floor = Floor(context)
    for name in "abc":
        floor.put(f"{name}.parquet", parquet(1, id=[name]))
    silver.promote(context, TOY)
    checkpoint.check(context.lake, "silver", "toy")
    return context


@pytest.mark.parametrize("how", ["torn", "empty", "gone"])
@pytest.mark.parametrize("part", PARTS)
def test_check__a_part_that_is_torn_or_gone_is_named_with_what_to_type(promoted: Context, part: str, how: str):
    path = Path(promoted.lake.checkpoint("silver", "toy")) / part
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "torn" else b"")
    try:
        with pytest.raises(DataError) as told:
            silver.promote(promoted, TOY)
    finally:
        path.write_bytes(content)
    assert f"the checkpoint ops/checkpoints/silver/toy is damaged: {part}" in str(told.value)
    assert f"rm -r {promoted.lake.checkpoint('silver', 'toy')}," in told.value.remedy


@pytest.mark.parametrize("size", [0, 10])
def test_check__the_commit_of_the_last_batch_may_be_gone_but_not_torn(promoted: Context, size: int):
    path = Path(promoted.lake.checkpoint("silver", "toy")) / "commits" / "2"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match="toy is damaged: commits/2"):
            checkpoint.check(promoted.lake, "silver", "toy")
        path.unlink()
        checkpoint.check(promoted.lake, "silver", "toy")
    finally:
        path.write_bytes(content)


def test_check__the_last_batch_but_one_is_wanted_though_all_before_the_last_are_gone(promoted: Context):
    parts = [Path(promoted.lake.checkpoint("silver", "toy"), "offsets", str(number)) for number in (0, 1)]
    contents = [part.read_bytes() for part in parts]
    for part in parts:
        part.unlink()
    try:
        with pytest.raises(DataError, match="toy is damaged: offsets/1"):
            checkpoint.check(promoted.lake, "silver", "toy")
    finally:
        for part, content in zip(parts, contents, strict=True):
            part.write_bytes(content)


@pytest.mark.parametrize("folder", ["offsets", "commits", "sources/0"])
def test_check__a_file_that_is_not_sparks_is_in_nobodys_way(promoted: Context, folder: str):
    stranger = Path(promoted.lake.checkpoint("silver", "toy"), folder, "notes.txt")
    stranger.write_text("kept here by somebody")
    try:
        (entry,) = silver.promote(promoted, TOY)
        assert entry.outcome == "nothing new"
    finally:
        stranger.unlink()


def test_check__a_store_that_does_not_hand_a_part_out_is_no_damage(promoted: Context, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush response stream")

    monkeypatch.setattr(checkpoint, "_check_part", refuse)
    with pytest.raises(OSError, match="INTERNAL_FAILURE"):
        checkpoint.check(promoted.lake, "silver", "toy")


def test_check__of_a_source_that_spark_has_joined(lake: Context):
    root = Path(lake.lake.checkpoint("silver", "toy"))
    for folder in ("offsets", "commits", "sources/0"):
        (root / folder).mkdir(parents=True)
    (root / "metadata").write_text('{"id":"x"}')
    for number in (10, 11):
        (root / "offsets" / str(number)).write_text('v1\n{}\n{"logOffset":11}')
        (root / "commits" / str(number)).write_text('v1\n{"nextBatchWatermarkMs":0}')
        (root / "sources/0" / str(number)).write_text("v1")
    log = root / "sources/0/9.compact"
    log.write_text("v1\n" + "\n".join('{"path":"file:///x","timestamp":1,"batchId":9}' for _ in range(10_000)))
    checkpoint.check(lake.lake, "silver", "toy")
    log.write_text(log.read_text()[:-20])
    with pytest.raises(DataError, match=r"9\.compact"):
        checkpoint.check(lake.lake, "silver", "toy")
    log.unlink()
    with pytest.raises(DataError, match=r"sources/0/0"):
        checkpoint.check(lake.lake, "silver", "toy")
