"""spark-submit.sh: from any place, to any master; data on stdout, talk on stderr, and the job's exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pyspark
import pytest
from deltalake import DeltaTable

from jobs import package
from jobs.lake import submit
from jobs.lake.jars import Jar, read_pins
from sim.base import write
from sim.catalog import SIMULATORS
from sim.turbofan import TurbofanParameters
from sim.writers import LocalWriter

HOME = Path(__file__).parents[1]
SCRIPT = HOME / "spark-submit.sh"
SIMULATE = ["simulate", "--dataset", "turbofan", "--entities", "2", "--seed", "7", "--json"]
# What a shell starts in the background ignores it, and so would all that is started from there.
HEEDS_CTRL_C = [
    *(sys.executable, "-c"),
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
]
NOISE = ("WARN", "INFO", "SLF4J", "log4j", "Traceback", "incubator", ":: ")


def clean_environment() -> dict[str, str]:
    """This process's, without what the session of the other tests has set for itself."""
    ours = ("PYSPARK_", "SPARK_", "LAKEHOUSE_", "PYTHONPATH")
    return {n: v for n, v in os.environ.items() if not n.startswith(ours) or n == "LAKEHOUSE_CACHE"}


def run(*arguments: str, cwd: Path, script: Path = SCRIPT, **extra: str) -> subprocess.CompletedProcess[str]:
    command, environment = [str(script), *arguments], clean_environment() | extra
    return subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=300)


def simulated_rows(lake: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in (lake / "bronze" / "turbofan").rglob("*.parquet"))


def addresses(process: int) -> set[tuple[str, int]]:
    """Where a process and its descendants listen."""
    above = psutil.Process(process)
    found = [c for p in [above, *above.children(recursive=True)] for c in p.net_connections("inet")]
    return {(c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}


# --- without Spark --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["help"], ["--help"], []])
def test_help__lists_the_jobs(arguments: list[str], tmp_path: Path):
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "./spark-submit.sh JOB [options]" in done.stdout
    listed = {line.split()[0] for line in done.stdout.partition("Jobs:")[2].splitlines() if line.strip()}
    assert listed == {p.stem for p in (HOME / "jobs").glob("[a-z]*.py")} - {"catalog"}


def test_help__from_a_folder_with_a_blank_in_its_name(tmp_path: Path):
    home = tmp_path / "our suite"
    shutil.copytree(HOME / "jobs", home / "jobs")
    done = run("help", cwd=tmp_path, script=Path(shutil.copy(SCRIPT, home)))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nonsense"], "there is no job 'nonsense'"),
        (["../jobs/silver"], "there is no job '../jobs/silver'"),
        (["lake/jars"], "there is no job 'lake/jars'"),
        (["catalog"], "there is no job 'catalog'"),
        (["--on"], "--on needs a value"),
    ],
)
def test_wrong_use__is_2_and_says_what_to_type(arguments: list[str], what: str, tmp_path: Path):
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"LH200 {what}")
    assert "next: ./spark-submit.sh" in done.stderr


def test_unknown_stack__is_2(tmp_path: Path):
    done = run("status", cwd=tmp_path, LAKEHOUSE_STACK="old")
    assert done.returncode == 2
    assert "unknown stack 'old'" in done.stderr


def test_status__from_another_folder_through_links(tmp_path: Path):
    """One link to another, by relative paths, in folders with spaces."""
    bin_ = tmp_path / "my bin"
    bin_.mkdir()
    (bin_ / "first").symlink_to(os.path.relpath(SCRIPT, bin_))
    (tmp_path / "second").symlink_to("my bin/first")
    done = run("status", "--json", "--lake", "a lake", cwd=tmp_path, script=tmp_path / "second")
    assert (done.returncode, done.stderr) == (0, "")
    tables = {row["table"]: row for row in json.loads(done.stdout)["tables"]}
    assert tables["silver/turbofan"]["waits"] == "no batch yet"
    assert not (tmp_path / "a lake").exists()


def test_status__an_error_has_its_exit_code(tmp_path: Path):
    done = run("status", "--set", "silver.nonsense=1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("LH202 unknown setting")


def test_package__the_same_sources_give_the_same_bytes(tmp_path: Path):
    done = run("package", "out", cwd=tmp_path)
    archive = tmp_path / done.stdout.strip()
    again = package.build(tmp_path / "again")
    assert archive.read_bytes() == again.read_bytes()
    names = zipfile.ZipFile(archive).namelist()
    assert {
        "conf/lakehouse.yaml",
        "conf/profiles/demo.yaml",
        "jobs/silver.py",
        "jobs/lake/delta.py",
        "sim/base.py",
    } <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "docs"))]


def test_read_pins():
    text = "# comment\n\nio.delta:delta-spark_2.13:4.2.0 sha256:ab12  # why\n  a.b:c:1.0   sha256:ff\n"
    assert read_pins(text) == [Jar("io.delta", "delta-spark_2.13", "4.2.0", "ab12"), Jar("a.b", "c", "1.0", "ff")]
    assert read_pins(text)[1].file_name == "a.b_c-1.0.jar"


def test_read_pins__what_is_shipped_is_whole():
    pins = read_pins((HOME / "conf" / "jars.txt").read_text())
    assert any(pin.artifact.startswith("delta-spark") for pin in pins)
    assert all(len(pin.sha256) == 64 and int(pin.sha256, 16) for pin in pins)
    assert len({pin.file_name for pin in pins}) == len(pins)


def test_command__java_is_given_a_path_with_a_blank_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LAKEHOUSE_HOME", "/our suite")
    monkeypatch.setenv("LAKEHOUSE_JARS", str(tmp_path))
    options = submit.command("local", [])[-1]
    assert "-Dlog4j2.configurationFile='/our suite/conf/log4j2.properties' -Duser" in options


# --- with Spark: every test is a JVM --------------------------------------------------------------------------


def test_job__data_on_stdout_and_progress_on_stderr(tmp_path: Path):
    done = run("--on", "local[1]", *SIMULATE, "--lake", "a lake", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (books,) = json.loads(done.stdout)["books"]
    assert books["rows_written"] == simulated_rows(tmp_path / "a lake") > 0
    (line,) = done.stderr.splitlines()
    assert line.split()[:2] == ["simulate", "turbofan"]


def test_job__redirected_among_others_to_one_file(tmp_path: Path):
    """What was there before stays, what comes after follows, and the exit code is the job's."""
    commands = f"""
        echo before
        "{SCRIPT}" {" ".join(SIMULATE)} --lake lake --param nonsense=1
        echo "between $?"
        "{SCRIPT}" {" ".join(SIMULATE)} --lake lake
        echo "after $?"
    """
    (tmp_path / "run").write_text(commands)
    (tmp_path / "out").write_text("earlier\n")
    subprocess.run("bash run >>out 2>&1", shell=True, cwd=tmp_path, env=clean_environment(), check=True, timeout=300)
    lines = (tmp_path / "out").read_text().splitlines()
    between = lines.index("between 2")
    assert lines[:2] == ["earlier", "before"]
    assert lines[2].startswith("LH201 turbofan: refused nonsense")
    assert lines[-1] == "after 0"
    rest = lines[between + 1 : -1]
    assert sorted(line[:8] for line in rest) == ["simulate", '{"books"']
    assert not [line for line in lines if any(word in line for word in NOISE)]


def test_job__on_a_cluster(tmp_path: Path):
    """Executors are processes of their own, as on YARN; the modules travel with --py-files."""
    done = run("--on", "local-cluster[1,1,1024]", *SIMULATE, "--lake", str(tmp_path / "lake"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (books,) = json.loads(done.stdout)["books"]
    assert books["rows_written"] == simulated_rows(tmp_path / "lake") > 0


def test_job__where_the_repository_is_not_on_disk(tmp_path: Path):
    """The real spark-submit with the archive alone: what EMR is given."""
    archive = package.build(tmp_path / "dist")
    shutil.copy(HOME / "jobs" / "simulate.py", tmp_path / "simulate.py")
    jars = os.environ["LAKEHOUSE_JARS"].rstrip("/")
    command = [
        str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
        *("--master", "local[1]", "--py-files", str(archive)),
        *("--jars", ",".join(f"{jars}/{name}" for name in sorted(os.listdir(jars)))),
        *("simulate.py", *SIMULATE[1:], "--lake", str(tmp_path / "lake")),
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=clean_environment() | {"PYSPARK_PYTHON": sys.executable},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    books = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"books"'))["books"]
    assert books[0]["rows_written"] == simulated_rows(tmp_path / "lake") > 0


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        pytest.param(lambda job: job.terminate(), 143, id="SIGTERM"),
        pytest.param(lambda job: os.killpg(job.pid, signal.SIGINT), 130, id="Ctrl-C, as a terminal sends it"),
    ],
)
def test_job__that_is_stopped_says_so_and_the_next_run_goes_on(
    tmp_path: Path, stop: Callable[[subprocess.Popen[bytes]], None], code: int
):
    lake, told = tmp_path / "lake", tmp_path / "told"
    for _ in write(SIMULATORS["turbofan"], TurbofanParameters(seed=7, entities=3), LocalWriter(lake)):
        continue
    silver = [str(SCRIPT), "silver", "--dataset", "turbofan", "--lake", str(lake), "--profile", "testing"]
    silver += ["--set", "silver.max_files_per_batch=1", "--set", "spark.conf.spark.ui.enabled=true"]
    with (
        told.open("w") as log,
        subprocess.Popen([*HEEDS_CTRL_C, *silver], env=clean_environment(), stderr=log, start_new_session=True) as job,
    ):
        deadline = time.monotonic() + 120
        while not list((lake / "silver" / "turbofan").glob("*.parquet")):
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        listening = addresses(job.pid)
        stop(job)
        job.wait(timeout=120)
    said = told.read_text()
    assert {ip for ip, _ in listening} == {"127.0.0.1"}
    assert [port for _, port in listening if 4040 <= port < 4060], "Spark's page"
    assert job.returncode == code, said
    assert "the same command does what was not finished" in said.splitlines()[-1]
    assert "Traceback" not in said
    done = run(*silver[1:], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ledger = DeltaTable(str(lake / "ops" / "ledger")).to_pyarrow_table().to_pylist()
    batches = [entry for entry in ledger if entry["stage"] == "silver" and entry["outcome"] == "done"]
    assert len({entry["batch_id"] for entry in batches}) == len(batches)
    assert (
        sum(entry["rows_written"] for entry in batches)
        == simulated_rows(lake)
        == len(DeltaTable(str(lake / "silver" / "turbofan")).to_pyarrow_table())
    )
