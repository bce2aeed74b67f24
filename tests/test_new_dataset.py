"""A sixth dataset is three small modules: with nothing changed elsewhere, every job knows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable

from tests.test_spark_submit import HOME, run

MODULES = HOME / "tests" / "tides"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite with the three modules beside those that it has."""
    copy = tmp_path_factory.mktemp("suite")
    for name in ("conf", "jobs", "sim"):
        shutil.copytree(HOME / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("spark-submit.sh", "requirements*.lock"):
        for file in HOME.glob(pattern):
            shutil.copy2(file, copy)
    (copy / ".venv").symlink_to(HOME / ".venv")
    added = list(MODULES.rglob("*.py"))
    assert len(added) == 3
    for file in added:
        target = copy / file.relative_to(MODULES)
        assert not target.exists()
        shutil.copy2(file, target)
    return copy


def job(suite: Path, *arguments: str) -> Any:
    done = run(*arguments, "--json", cwd=suite, script=suite / "spark-submit.sh")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_three_modules__make_a_dataset_from_the_simulator_to_the_report(suite: Path):
    simulate = ("simulate", "--dataset", "tides", "--entities", "3", "--seed", "7", "--faults", "0.01")
    (simulated,) = job(suite, *simulate)["books"]
    books = {(row["stage"], row["dataset"]): row for row in job(suite, "pipeline")["books"]}
    silver = books["silver", "tides"]
    assert silver["rows_quarantined"] > 20
    assert silver["rows_written"] + silver["rows_quarantined"] + silver["rows_duplicate"] == silver["rows_read"]
    assert silver["files"] == simulated["files"]

    levels = DeltaTable(suite / "lake" / "gold" / "tide_levels").to_pyarrow_dataset()
    truth = f"read_parquet('{suite}/lake/bronze/_truth/tides/*.parquet')"
    ((days, above, below, most),) = duckdb.sql(
        f"""SELECT count(*), max(abs(high_water_m - range_m)), max(abs(low_water_m + range_m)), max(levels)
        FROM levels JOIN {truth} USING (gauge_id)"""
    ).fetchall()
    assert days == 6  # three gauges, two days
    assert max(above, below) < 0.1
    assert 1400 < most <= 1440

    status = {row["table"]: row for row in job(suite, "status")["tables"]}
    assert status["silver/tides"]["rows"] == silver["rows_written"]
    (report,) = [row for row in job(suite, "report")["datasets"] if row["dataset"] == "tides"]
    assert report["books"]["missing"] == 0
    maintained = job(suite, "maintain", "--table", "silver/tides", "--plan")["would maintain"]
    assert [row["table"] for row in maintained] == ["silver/tides"]
    changed = job(suite, "silver", "--dataset", "tides", "--plan", "--set", "datasets.tides.level_limit_m=10")
    assert changed["would promote"][0]["files"] == 0
