"""Every job's command line: exit codes, errors for people, --plan that changes nothing, --json that parses."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import gold, ingest, pipeline, report, silver, simulate, status
from jobs.lake import cli
from jobs.lake.cli import Context
from jobs.lake.errors import (
    BooksError,
    DataError,
    FileRefusedError,
    LakehouseError,
    MachineError,
    StoreError,
    UsageError,
)

Captured = pytest.CaptureFixture[str]
DATA = Path(__file__).parents[2] / "sim" / "data" / "turbofan"


def exits(
    run: Callable[[Context, argparse.Namespace], None],
    *argv: str,
    arguments: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
) -> int | str | None:
    """The exit code of a job."""
    with pytest.raises(SystemExit) as left:
        cli.main("A job.", arguments, run, argv)
    return left.value.code


def raising(error: BaseException) -> Callable[[Context, argparse.Namespace], None]:
    def run(context: Context, options: argparse.Namespace) -> None:
        raise error

    return run


def test_main__done_is_0():
    assert exits(lambda context, options: None) == 0


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (DataError, 1),
        (FileRefusedError, 1),
        (BooksError, 1),
        (UsageError, 2),
        (MachineError, 3),
        (StoreError, 3),
        (LakehouseError, 4),
    ],
)
def test_main__an_error_says_what_why_and_what_to_type(kind: type[LakehouseError], code: int, capsys: Captured):
    assert exits(raising(kind("it broke", why="it was old", remedy="buy a new one"))) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{kind.code} it broke\n  why:  it was old\n  next: buy a new one\n")


def test_main__an_error_nobody_foresaw_is_short_on_the_screen(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("LAKEHOUSE_LOG", str(tmp_path / "silver.log"))
    assert exits(raising(ValueError("first line\n" + "x\n" * 1000))) == 4
    err = capfd.readouterr().err.splitlines()
    assert err[0] == "LH400 first line"
    assert f"{tmp_path}/silver.log" in err[1]
    assert len(err) == 3


def test_main__an_error_without_a_message_has_its_name(capsys: Captured):
    exits(raising(AssertionError()))
    assert "LH400 AssertionError" in capsys.readouterr().err


def test_main__a_panic_of_rusts_is_an_error_nobody_foresaw(capsys: Captured):
    """It is no Exception."""

    class PanicException(BaseException):
        pass

    assert exits(raising(PanicException("index out of bounds"))) == 4
    assert "LH400 index out of bounds" in capsys.readouterr().err
    assert exits(raising(SystemExit(7))) == 7


def test_main__stopped(capsys: Captured):
    assert exits(raising(KeyboardInterrupt())) == 130
    assert "the same command does what was not finished" in capsys.readouterr().err


def test_main__the_machine_s_fault_is_not_ours(tmp_path: Path, capsys: Captured):
    (tmp_path / "file").touch()
    code = exits(simulate.run, "--dataset", "turbofan", "--entities", "1", "--lake", str(tmp_path / "file" / "lake"),
                 arguments=simulate.arguments)  # fmt: skip
    assert code == 3
    what, why, remedy = capsys.readouterr().err.splitlines()[-3:]
    assert what.startswith(f"LH301 could not write {tmp_path}/file/lake/bronze/_truth/turbofan")
    assert why.startswith("  why:  ")
    assert remedy.startswith("  next: ")


def test_main__what_the_operating_system_refuses_is_the_machine_s_fault(capsys: Captured):
    assert exits(raising(PermissionError(13, "Permission denied", "/lake"))) == 3
    assert "LH300 [Errno 13] Permission denied: '/lake'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--lak", "x"], ["--nonsense"], ["extra"], ["--set"]])
def test_main__wrong_options_are_2(argv: list[str], capsys: Captured):
    assert exits(lambda context, options: None, *argv) == 2
    out, err = capsys.readouterr()
    assert (out, "usage: ./spark-submit.sh" in err) == ("", True)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--set", "silver.nonsense=1"], "LH202"),
        (["--set", "silver.max_files_per_batch=0"], "LH202"),
        (["--profile", "nightly"], "LH202"),
        (["--lake", "hdfs://x"], "LH200"),
        (["--lake", "/data/[x]"], "LH200"),
    ],
)
def test_main__wrong_settings_are_2(argv: list[str], code: str, capsys: Captured):
    assert exits(lambda context, options: None, *argv) == 2
    assert capsys.readouterr().err.startswith(code)


@pytest.mark.parametrize("name", ["/data/a #b", "/data/a: b", "/data/(x)", "/data/é🙂", "/2026", "/data/'q\""])
def test_context__a_lake_is_taken_as_it_is_typed(name: str):
    assert cli.context(name).lake.uri == name
    assert cli.context("2026").lake.uri == f"{os.getcwd()}/2026"


def test_context__without_a_lake_the_settings_say():
    assert cli.context(overrides=["lake=/data/other"]).lake.uri == "/data/other"
    assert cli.context("/data/typed", overrides=["lake=/data/other"]).lake.uri == "/data/typed"


def test_context__runs_have_names_of_their_own():
    assert cli.context().run_id != cli.context().run_id


def test_choice__of_an_unknown_name_the_nearest_is_what_to_type():
    with pytest.raises(UsageError) as refused:
        cli.choice(["accelerometer", "devices"], "device", "dataset")
    assert refused.value.remedy == "--dataset devices"


def test_choice():
    assert cli.choice(["a", "b"], "all", "table") == ["a", "b"]
    assert cli.choice(["a", "b"], "b", "table") == ["b"]
    with pytest.raises(UsageError, match="there is no table 'c'"):
        cli.choice(["a", "b"], "c", "table")


# --- the jobs -------------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with length and time of change."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


PLANS = [
    (silver, ["--dataset", "all"]),
    (gold, ["--table", "all"]),
    (gold, ["--table", "all", "--rebuild"]),
    (pipeline, []),
    (simulate, ["--dataset", "accelerometer", "--entities", "2", "--duration", "1m"]),
    (ingest, ["--dataset", "turbofan", str(DATA / "train_FD001.txt.gz"), str(DATA / "test_FD001.txt.gz")]),
]


@pytest.mark.parametrize(("job", "argv"), PLANS, ids=lambda v: v.__name__ if hasattr(v, "__name__") else "")
def test_plan__of_an_empty_lake_changes_nothing(job: Any, argv: list[str], tmp_path: Path, capsys: Captured):
    lake = tmp_path / "lake"
    assert exits(job.run, "--plan", "--json", "--lake", str(lake), *argv, arguments=job.arguments) == 0
    assert tree(tmp_path) == {}
    for line in capsys.readouterr().out.splitlines():
        assert next(iter(json.loads(line))).startswith("would ")


def test_plan__of_a_lake_says_what_waits_and_changes_nothing(lake: Context, tmp_path: Path, capsys: Captured):
    """Without Spark: a context of its own has none open."""
    values = {"entities": 2, "start": "2026-01-01T00:00:00Z", "duration": "30s", "rate_hz": 100, "seed": 7}
    simulate.simulate(lake, "accelerometer", values)
    before = tree(tmp_path)
    capsys.readouterr()
    shared = ["--plan", "--json", "--lake", lake.lake.uri]
    for job, argv in PLANS:
        assert exits(job.run, *shared, *argv, arguments=job.arguments) == 0
    assert tree(tmp_path) == before
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    promoted = {row["dataset"]: row for row in lines[0]["would promote"]}
    assert (promoted["accelerometer"]["files"], promoted["accelerometer"]["rows"]) == (2, 6000)
    assert promoted["accelerometer"]["table"] == "silver/accelerometer"
    assert promoted["turbofan"]["files"] == 0

    silver.promote(lake, cli.DATASETS["accelerometer"])
    before = tree(tmp_path)
    capsys.readouterr()
    for job, argv in PLANS[:4]:
        assert exits(job.run, *shared, *argv, arguments=job.arguments) == 0
    assert tree(tmp_path) == before
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["dataset"]: row["files"] for row in lines[0]["would promote"]} == dict.fromkeys(cli.DATASETS, 0)
    assert {row["table"]: row["rows"] for row in lines[1]["would compute"]}["gold/sensor_spectra"] == 6000
    assert exits(status.run, "--json", "--lake", lake.lake.uri, arguments=status.arguments) == 0
    tables = {row["table"]: row for row in json.loads(capsys.readouterr().out)["tables"]}
    assert (tables["silver/accelerometer"]["rows"], tables["bronze/accelerometer"]["waits"]) == (6000, "")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("job", "argv"), [(silver, ["--dataset", "all", "--plan"]), (status, [])])
def test_jobs__a_bucket_that_is_not_there_is_named_and_nothing_else_said(
    job: Any, argv: list[str], s3_endpoint: str, capsys: Captured
):
    where = ["--lake", "s3a://never-made/lake", "--set", f"s3.endpoint={s3_endpoint}"]
    assert exits(job.run, *argv, *where, arguments=job.arguments) == 3
    said = capsys.readouterr()
    assert "LH301 S3 refused a request for s3a://never-made/lake\n  why:  there is no such bucket" in said.err
    assert "nothing new" not in said.err
    assert "Traceback" not in said.out


def test_status__config_says_where_each_value_is_from(capsys: Captured):
    assert exits(status.run, "--config", "--json", "--set", "silver.rows_per_file=5", arguments=status.arguments) == 0
    rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)["settings"]}
    assert rows["silver.rows_per_file"] == {"setting": "silver.rows_per_file", "value": "5", "from": "--set"}
    assert rows["spark.driver_memory"]["from"] == "conf/lakehouse.yaml"


@pytest.mark.parametrize("how", ["--json", "--verbose"])
def test_status__config_shows_no_secret(how: str, capsys: Captured):
    planted = ["--set", "spark.conf.spark.driver.extraJavaOptions=-Daws.secretKey=PLANTED"]
    assert exits(status.run, "--config", how, *planted, arguments=status.arguments) == 0
    said = capsys.readouterr()
    assert "PLANTED" not in said.out + said.err
    assert "***" in said.out


@pytest.mark.parametrize(
    ("job", "argv"),
    [
        (silver, ["--dataset", "x"]),
        (gold, ["--table", "x"]),
        (simulate, ["--dataset", "x"]),
        (ingest, ["--dataset", "x", "f"]),
    ],
)
def test_jobs__an_unknown_name_lists_the_known(job: Any, argv: list[str], tmp_path: Path, capsys: Captured):
    assert exits(job.run, "--lake", str(tmp_path / "lake"), *argv, arguments=job.arguments) == 2
    assert "known are" in capsys.readouterr().err


def test_report__into_a_folder_is_refused_with_a_file_in_it(tmp_path: Path, capsys: Captured):
    where = ["--lake", str(tmp_path / "lake"), "--output", f"{tmp_path}/"]
    assert exits(report.run, *where, arguments=report.arguments) == 2
    assert f"--output {tmp_path}/report.html" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_main__json_of_a_run_is_one_document(lake: Context, capsys: Captured):
    assert exits(pipeline.run, "--json", "--lake", lake.lake.uri, arguments=pipeline.arguments) == 0
    books = json.loads(capsys.readouterr().out)["books"]
    assert {row["outcome"] for row in books} == {"nothing new"}
