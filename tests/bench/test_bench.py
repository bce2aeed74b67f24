"""The benchmark: contenders in turns, what they make compared, ratios that say who is faster."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from bench import __main__ as bench
from bench import registry
from bench.measure import Result, alike, measure, prepared
from bench.stage import SIZES, Size, Task, linked
from bench.stages import whole
from jobs.catalog import DATASETS, GOLD

ROOT = Path(__file__).parents[2]


def result(contender: str, role: str, rows: int, *seconds: float) -> Result:
    return Result("simulate", contender, role, rows, list(seconds), 100)


def test_table__a_ratio_above_one_says_that_ours_is_faster():
    ours = result("sensor-lakehouse", "ours", 1_000, 2.0, 1.0, 9.0)
    slow = result("pandas, sensor by sensor", "peer", 1_000, 4.0, 4.0, 4.0)
    limit = result("noise and Parquet only", "limit", 500, 0.3, 0.3, 0.3)  # half the rows: as if 0.6 for all
    rows = bench.table([ours, slow, limit])
    assert [row["ratio"] for row in rows] == [1.0, 2.0, 0.3]
    assert [row["seconds"] for row in rows] == [2.0, 4.0, 0.3]
    assert [row["target"] for row in rows] == ["", "", ">= 0.40 NOT met"]
    assert rows[0]["rows/s"] == 500


def test_page__the_table_is_put_between_its_marks_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = tmp_path / "page.md"
    page.write_text("# Before\n<!-- written by bench -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(bench, "PAGE", page)
    rows = bench.table([result("sensor-lakehouse", "ours", 1_000_000, 1.0)])
    for _ in range(2):
        bench.write_page(rows, "the command")
        text = page.read_text()
        assert text.startswith("# Before\n<!-- written by bench -->\n")
        assert "the command" in text
        assert "| simulate | sensor-lakehouse | 1.0 |  | 1.0 | 1,000,000 | 100 |" in text
        assert text.endswith("<!-- end -->\nafter\n")
        assert "old" not in text


def test_measure__runs_in_turns_and_refuses_contenders_that_make_different_things(tmp_path: Path):
    stage = registry.stage("simulate")
    task = prepared(stage, SIZES["small"], tmp_path, cores=1)
    said: list[str] = []
    found = measure(stage, task, tmp_path, rounds=2, say=said.append)
    names = [c.name for c in stage.contenders]
    assert [line.split("  ")[-1] for line in said[:3]] == ["(warm-up)"] * 3
    assert [name for line in said for name in names if name in line] == names * 3
    assert [(r.role, r.rows, len(r.seconds)) for r in found] == [(c.role, 480_000, 2) for c in stage.contenders]
    assert all(r.peak_rss_mb > 50 for r in found)
    other = replace(stage, digest=lambda contender, _: contender)
    with pytest.raises(AssertionError, match="pandas, sensor by sensor made"):
        measure(other, task, tmp_path, rounds=0, say=said.append)


def test_linked__a_folder_of_the_same_files(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    linked(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c" / "b" / "file").samefile(tmp_path / "a" / "b" / "file")


def columns(files: Path) -> list[str]:
    """Names of the columns that are not in the path, in order of the alphabet."""
    query = f"SELECT column_name FROM (DESCRIBE FROM read_parquet('{files}', hive_partitioning = false)) ORDER BY 1"
    return [name for (name,) in duckdb.sql(query).fetchall()]


def test_whole__the_script_makes_every_table_with_all_of_its_columns(tmp_path: Path):
    task = Task(Size("tiny", sensors=2, minutes=2, windows=0, events=20_000), tmp_path / "data", cores=2)
    whole.prepare(task)
    out = tmp_path / "out"
    out.mkdir()
    rows = whole.Script(task).run(out)
    silver = {name: out / "silver" / name for name in DATASETS}
    files = {name: place / "*.parquet" if place.is_dir() else f"{place}.parquet" for name, place in silver.items()}
    for name, dataset in DATASETS.items():
        assert columns(files[name]) == sorted(dataset.schema.names), name
    for name, table in GOLD.items():
        assert columns(out / f"{name}.parquet") == sorted(table.schema.names), name
    counts = [duckdb.sql(f"SELECT count(*) FROM '{place}'").fetchall()[0][0] for place in files.values()]
    assert rows == sum(counts)
    assert whole.digest(whole.Script.name, out).keys() == GOLD.keys()


def test_worker__that_dies_is_said_with_the_end_of_its_log(tmp_path: Path):
    stage = registry.stage("simulate")
    gone = replace(stage, name="no_such_stage")
    with pytest.raises(RuntimeError, match=r"(?s)a contender died.*No module named"):
        measure(gone, prepared(stage, SIZES["small"], tmp_path, 1), tmp_path, 1, lambda _: None)


def test_command__one_stage_as_json(tmp_path: Path):
    words = ["--only", "simulate", "--size", "small", "--rounds", "1", "--home", str(tmp_path), "--json"]
    done = subprocess.run([sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    (rows,) = json.loads(done.stdout).values()
    assert [row["contender"] for row in rows] == [c.name for c in registry.stage("simulate").contenders]


def test_alike__fractions_to_six_digits_and_all_else_exactly():
    one = {"table": [(7, "a", 49.328125, None)]}
    assert alike(one, {"table": [(7, "a", 49.32812501, None)]})
    for other in ((8, "a", 49.328125, None), (7, "a", 49.3282, None), (7, "a", 49.328125, 0), (7, "a", 49.328125)):
        assert not alike(one, {"table": [other]})
    assert not alike(one, {"other": one["table"]})
