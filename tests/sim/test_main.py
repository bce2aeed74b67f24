"""``python -m sim``, and the refusals it shares with the Spark job."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from sim import __main__ as command
from sim.__main__ import main
from sim.accelerometer import SIMULATOR
from sim.base import parameters_from
from sim.catalog import SIMULATORS
from sim.errors import ParameterError
from sim.writers import Written


def run(lake: Path, *arguments: str) -> int:
    return main(["--lake", str(lake), *arguments])


def files(lake: Path) -> dict[Path, bytes]:
    return {path.relative_to(lake): path.read_bytes() for path in lake.rglob("*") if path.is_file()}


SMALL = ("--dataset", "accelerometer", "--entities", "3", "--duration", "20s", "--seed", "7")


def test_main__writes_bronze_and_truth(tmp_path: Path):
    assert run(tmp_path, *SMALL, "--start", "2026-01-01T00:59:50Z", "--rate-hz", "50") == 0
    bronze = ds.dataset(tmp_path / "bronze" / "accelerometer", partitioning="hive").to_table()
    assert bronze.num_rows == 3 * 20 * 50
    assert set(bronze["hour"].to_pylist()) == {0, 1}
    assert bronze.schema.field("event_time").type == pa.timestamp("us", tz="UTC")
    assert bronze.schema.field("ax").type == pa.float32()
    truth = ds.dataset(tmp_path / "bronze" / "_truth" / "accelerometer", ignore_prefixes=["."]).to_table()
    assert set(truth["sensor_id"].to_pylist()) == set(bronze["sensor_id"].to_pylist())
    assert truth.num_rows == 3 * 4


def test_main__a_repeated_run_replaces_and_never_doubles(tmp_path: Path):
    run(tmp_path, *SMALL)
    once = files(tmp_path)
    run(tmp_path, *SMALL)
    assert files(tmp_path) == once


def test_main__the_truth_of_another_hour_of_the_same_sensors_is_the_same_file(tmp_path: Path):
    run(tmp_path, *SMALL, "--start", "2026-01-01T00:00:00Z")
    run(tmp_path, *SMALL, "--start", "2026-01-02T00:00:00Z")
    assert len(list((tmp_path / "bronze" / "_truth" / "accelerometer").iterdir())) == 1
    run(tmp_path, *SMALL, "--param", "bounce_m_s2=3")
    assert len(list((tmp_path / "bronze" / "_truth" / "accelerometer").iterdir())) == 2


def test_main__any_field_can_be_given(tmp_path: Path):
    arguments = ("--entities", "40", "--param", "test-share=0.5", "--param", "operating_conditions = 6")
    assert run(tmp_path, "--dataset", "turbofan", *arguments, "--param", "anomaly_kinds=spike,drift") == 0
    bronze = ds.dataset(tmp_path / "bronze" / "turbofan", partitioning="hive").to_table()
    assert set(bronze["split"].to_pylist()) == {"train", "test"}
    assert len(set(bronze["unit_number"].to_pylist())) == 40
    assert bronze["setting_1"].to_numpy().max() > 41


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_main__writes_other_formats(tmp_path: Path, format: str):
    assert run(tmp_path, *SMALL, "--format", format) == 0
    assert len(list((tmp_path / "bronze" / "accelerometer").rglob(f"*.{format}"))) == 3


def test_main__spoils_a_share_and_records_it(tmp_path: Path):
    assert run(tmp_path / "clean", *SMALL) == 0
    assert run(tmp_path / "dirty", *SMALL, "--faults", "0.1") == 0
    records = ds.dataset(tmp_path / "dirty" / "bronze" / "_truth" / "accelerometer_faults", ignore_prefixes=["."])
    rows = [row for row in records.to_table().to_pylist() if row["event_time"] is not None]
    assert len(rows) == pytest.approx(3 * 2000 * 0.1, abs=3)
    # Names end in a digest of the parameters, the faults included.
    assert {row["unit"][:-9] for row in rows} == {
        path.stem[:-9] for path in files(tmp_path / "clean") if "sensor-" in path.name
    }
    for name in ("accelerometer", "_truth/accelerometer"):
        assert len(files(tmp_path / "dirty" / "bronze" / name)) >= len(files(tmp_path / "clean" / "bronze" / name))
    assert len(files(tmp_path / "dirty" / "bronze" / "accelerometer")) > 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "turbofan", "--rate-hz", "100"), ["turbofan", "rate_hz"]),
        (("--dataset", "accelerometer", "--entities", "0"), ["entities=0"]),
        (("--dataset", "accelerometer", "--entities", "few"), ["entities=few"]),
        (("--dataset", "accelerometer", "--param", "gait_hz=60"), ["gait_hz", "Nyquist"]),
        (("--dataset", "accelerometer", "--param", "noise_m_s=1"), ["noise_m_s", "did you mean noise_m_s2?"]),
        (("--dataset", "accelerometer", "--param", "gait_hz"), ["gait_hz", "name=value"]),
        (("--dataset", "accelerometer", "--seed", "1", "--param", "seed=2"), ["seed", "twice"]),
        (("--dataset", "accelerometer", "--duration=-5m"), ["duration"]),
        (("--dataset", "accelerometer", "--faults", "2"), ["--faults 2", "rows", "less than or equal to 1"]),
        (("--dataset", "accelerometer", "--faults", "0.1", "--format", "csv"), ["csv", "faults"]),
        (
            ("--dataset", "accelerometer", "--param", "sway_m_s2=-1", "--param", "roll_deg=-1"),
            ["sway_m_s2", "roll_deg"],
        ),
    ],
)
def test_main__refuses_nonsense_and_writes_nothing(tmp_path: Path, capsys, arguments: tuple, words: list[str]):
    assert run(tmp_path, *arguments) == 2
    said = capsys.readouterr()
    assert all(word in said.err for word in words)
    assert said.err.startswith("LH201 ")
    assert said.out == ""
    assert not files(tmp_path)


def test_main__a_lake_that_cannot_be_written_is_the_machines_fault(tmp_path: Path, capsys):
    (tmp_path / "lake").write_text("a file, not a folder")
    assert run(tmp_path / "lake", *SMALL) == 3
    assert "LH301" in capsys.readouterr().err


def test_main__stopped_from_the_keyboard_and_run_again(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    honest = command.write

    def interrupted(*arguments: Any, **options: Any) -> Iterator[Written]:
        yield next(iter(honest(*arguments, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write", interrupted)
    assert run(tmp_path / "stopped", *SMALL) == 130
    assert "the same command writes the others" in capsys.readouterr().err
    monkeypatch.undo()
    assert len([*(tmp_path / "stopped" / "bronze" / "accelerometer").rglob("*.parquet")]) == 1
    for lake in ("stopped", "whole"):
        assert run(tmp_path / lake, *SMALL) == 0
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_main__runs_as_a_module(tmp_path: Path):
    typed = [sys.executable, "-m", "sim", "--lake", str(tmp_path), *SMALL]
    done = subprocess.run(typed, capture_output=True, text=True, check=True)
    assert "accelerometer: 6,000 rows in 3 files" in done.stderr
    assert done.stdout == ""


def test_main__needs_no_spark():
    code = "import sim.__main__, sys; print({name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = literal_eval(done.stdout)
    assert {"sim", "pyarrow"} <= loaded
    assert not loaded & {"pyspark", "jobs", "delta"}


def test_simulators__are_registered_by_their_name():
    assert {"accelerometer", "turbofan"} <= set(SIMULATORS)
    assert all(simulator.name == name for name, simulator in SIMULATORS.items())


def test_parameters_from__names_every_refused_field():
    with pytest.raises(ParameterError) as refusal:
        parameters_from(SIMULATOR, {"entities": -1, "rate_hz": "fast", "gait": 1})
    for field in ("entities", "rate_hz", "gait"):
        assert field in refusal.value.what
        assert field in refusal.value.why


def test_parameters_from__reads_text():
    params = parameters_from(SIMULATOR, {"entities": "3", "duration": "1h", "start": "2026-01-01T00:00:00Z"})
    assert (params.entities, params.duration.total_seconds(), params.start.year) == (3, 3600, 2026)
