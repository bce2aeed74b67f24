"""The command line: what is said, written down and kept of a scenario that passes, fails, or cannot be played."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

import chaos.__main__ as command
from chaos.stores import BUCKET, Stores
from chaos.trial import Kind, References, ScenarioError, Stage, Trial

Play = Callable[..., int]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_endpoint: str) -> Play:
    """Play two scenarios of these kinds on a stage without a crew; the exit code."""

    def played(*kinds: Kind) -> int:
        stores = Stores()
        stores.server = None, s3_endpoint  # type: ignore[assignment]
        monkeypatch.setattr(stores, "close", lambda: None)
        crew: Any = SimpleNamespace(close=lambda: None)
        stage = Stage(tmp_path, tmp_path / "stage", crew, stores, References())
        stage.place.mkdir(exist_ok=True)
        monkeypatch.setattr(command, "_set_up", lambda home, number: [stage])
        monkeypatch.setattr(command, "KINDS", {kind.name: kind for kind in kinds})
        monkeypatch.setattr(sys, "argv", ["chaos", "--runs", "2", "--seed", "4", "--home", str(tmp_path), "--json"])
        return command.main()

    return played


def results(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "results.jsonl").read_text().splitlines()]


def spoil(trial: Trial) -> None:
    trial.say("something")
    lake = Path(trial.lake().uri)
    (lake / "silver").mkdir(parents=True)
    (lake / "silver" / "x").write_text(str(trial.seed))
    raise ScenarioError("a row is lost")


def spoil_s3(trial: Trial) -> None:
    trial.lake()
    lake = trial.lake_on_s3()
    boto3.client("s3", endpoint_url=lake.s3.endpoint).put_object(Bucket=BUCKET, Key="lake/silver/x", Body=b"there")
    raise ScenarioError("a row is lost")


def vanish(trial: Trial) -> None:
    trial.lake()
    raise OSError("no such thing")


def idle(trial: Trial) -> None:
    trial.effect = False


def test_main__a_scenario_that_fails(play: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert play(Kind("spoil", "a row is lost", spoil)) == 1
    told = capsys.readouterr()
    assert "again: ./spark-submit.sh chaos --runs 1 --seed 5 --only spoil" in told.err
    assert json.loads(told.out) == {
        "0 of 2 passed": [{"kind": "spoil", "what": "a row is lost", "passed": 0, "failed": 2}]
    }
    assert [(r["seed"], r["kind"], r["told"], r["wrong"]) for r in results(tmp_path)] == [
        (seed, "spoil", ["something"], "a row is lost\n") for seed in (4, 5)
    ]
    assert (tmp_path / "failed" / "spoil-4" / "silver" / "x").read_text() == "4"


def test_main__keeps_the_lake_that_failed_wherever_it_is(play: Play, tmp_path: Path):
    assert play(Kind("spoil-s3", "a row is lost", spoil_s3)) == 1
    assert (tmp_path / "failed" / "spoil-s3-5" / "silver" / "x").read_text() == "there"


def test_main__what_cannot_be_kept_is_said(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Trial, folder: Path) -> None:
        raise OSError("no room is left")

    monkeypatch.setattr(Trial, "keep", full)
    assert play(Kind("spoil", "a row is lost", spoil)) == 1
    assert ["no room is left" in r["wrong"] and "a row is lost" in r["wrong"] for r in results(tmp_path)] == [True] * 2


def test_main__an_error_of_its_own_is_a_failure(play: Play, tmp_path: Path):
    assert play(Kind("vanish", "nothing", vanish)) == 1
    assert all("OSError: no such thing" in r["wrong"] for r in results(tmp_path))


def test_main__what_cannot_be_played_is_skipped_and_shifts_no_seed(play: Play, capsys: pytest.CaptureFixture[str]):
    """Of two kinds seed 4 draws the first and seed 5 the second, whether that can be played or not."""
    nothing = Kind("nothing", "nothing", lambda trial: None)
    assert play(nothing, Kind("disk", "the disk", idle)) == 0
    assert json.loads(capsys.readouterr().out)["2 of 2 passed"] == [
        {"kind": "nothing", "what": "nothing", "passed": 1, "failed": 0, "without effect": 0},
        {"kind": "disk", "what": "the disk", "passed": 1, "failed": 0, "without effect": 1},
    ]
    assert play(nothing, Kind("disk", "the disk", idle, lambda: "no mounts")) == 0
    told = capsys.readouterr()
    assert "no mounts" in told.err
    assert json.loads(told.out)["1 of 2 passed"] == [
        {"kind": "nothing", "what": "nothing", "passed": 1, "failed": 0, "skipped": 0},
        {"kind": "disk", "what": "the disk", "passed": 0, "failed": 0, "skipped": 1},
    ]


def test_main__nothing_that_can_be_played(play: Play):
    with pytest.raises(SystemExit, match="nothing was played"):
        play(Kind("disk", "the disk", idle, lambda: "no mounts"))
