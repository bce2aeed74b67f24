"""Leases: one writer per table, across processes and machines, and none that is lost commits."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from pyspark.sql import SparkSession

from jobs.lake import leases
from jobs.lake.config import LeaseSettings, S3Settings
from jobs.lake.errors import HeldError, StoreError, TakenOverError
from jobs.lake.layout import Lake
from jobs.lake.leases import Holder, Lease
from sim.writers import Writer
from tests.conftest import until

SECONDS = 2.0
QUICK = LeaseSettings(seconds=SECONDS, wait_seconds=0.0)
TABLE = "silver/toy"


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake of either kind, with leases of two seconds, that waits for none."""
    if request.param == "folder":
        return Lake(str(tmp_path / "lake"), leases=QUICK)
    endpoint = request.getfixturevalue("s3_endpoint")
    bucket = f"leases-{time.time_ns()}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return Lake(f"s3a://{bucket}/lake", S3Settings(endpoint=endpoint), QUICK)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no process were on this machine: nobody can tell whether a run lives."""
    monkeypatch.setattr(leases, "_machine", lambda: "")


def waiting(lake: Lake, seconds: float = 30.0, **changes: object) -> Lake:
    return replace(lake, leases=lake.leases.model_copy(update={"wait_seconds": seconds, **changes}))


def take(lake: Lake) -> Lease:
    lease = Lease(lake, TABLE)
    lease.take()
    return lease


def silent(lease: Lease) -> None:
    """Have a lease not renewed any more: its run hangs."""
    lease.abandon()


def test_take__one_holds_it_the_other_is_told_who_since_when_and_what_to_do(lake: Lake, elsewhere: None):
    first = take(lake)
    with pytest.raises(HeldError) as told:
        take(lake)
    text = str(told.value)
    assert "silver/toy is held by" in text
    assert f"since {first._holder.since}" in text
    assert "--set leases.take_over=true" in text
    assert told.value.exit_code == 3
    first.release()
    second = take(lake)
    assert not second.taken_over
    second.release()


def test_take__waits_until_it_is_free(lake: Lake, elsewhere: None, capsys: pytest.CaptureFixture[str]):
    first = take(lake)
    threading.Timer(2 * SECONDS, first.release).start()  # twice as long as a lease lasts: it is renewed
    begun = time.monotonic()
    second = take(waiting(lake))
    assert time.monotonic() - begun > 1.5 * SECONDS
    assert not second.taken_over
    assert "silver/toy is held by" in capsys.readouterr().err
    second.release()


def test_take__of_a_run_that_hangs_once_its_lease_has_run_out(lake: Lake, elsewhere: None):
    first = take(lake)
    silent(first)
    begun = time.monotonic()
    second = take(waiting(lake))
    assert time.monotonic() - begun > 0.9 * SECONDS
    assert second.taken_over
    second.check()
    with pytest.raises(TakenOverError):
        first.check()
    first.release()  # changes nothing
    second.check()
    second.release()


def test_take__by_order(lake: Lake, elsewhere: None):
    first = take(lake)
    second = take(waiting(lake, 0.0, take_over=True))
    assert second.taken_over
    with pytest.raises(TakenOverError, match="silver/toy was taken over by"):
        first.check()
    second.release()
    first.release()


def test_take__of_a_dead_process_of_this_machine_at_once(lake: Lake):
    long = replace(lake, leases=LeaseSettings(seconds=600, wait_seconds=0))
    code = (
        "import os, signal, pickle, sys\n"
        "from jobs.lake.leases import Lease\n"
        "lease = Lease(pickle.loads(bytes.fromhex(sys.argv[1])), 'silver/toy')\n"
        "lease.take()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, pickle.dumps(long).hex()], check=False, timeout=60)
    begun = time.monotonic()
    lease = take(long)
    assert lease.taken_over
    assert time.monotonic() - begun < 5
    lease.release()


def test_check__a_run_that_was_not_heard_of_does_not_commit_though_nobody_took_over(
    lake: Lake, elsewhere: None, monkeypatch: pytest.MonkeyPatch
):
    lease = take(lake)
    silent(lease)
    lease.check()
    later = leases.now() + 1.1 * SECONDS
    monkeypatch.setattr(leases, "now", lambda: later)
    with pytest.raises(TakenOverError, match="its lease was not renewed for 2 s"):
        lease.check()


def test_renew__keeps_it_and_tells_when_it_is_lost(lake: Lake, elsewhere: None, monkeypatch: pytest.MonkeyPatch):
    told = threading.Event()
    monkeypatch.setattr(leases, "_cancel_spark", told.set)
    first = take(lake)
    until(lambda: first._holder.beat >= 4)
    first.check()
    second = take(waiting(lake, 0.0, take_over=True))
    assert told.wait(5)
    second.release()


def test_create__a_number_that_was_tidied_away_does_not_count(lake: Lake, elsewhere: None):
    for _ in range(3):
        take(lake).release()
    late = Lease(lake, TABLE)
    assert not late._create(2)
    assert late._numbers() == [3]
    assert not late._create(3)
    assert late._create(4)
    assert late._numbers() == [4]
    late.release()


def test_create__whose_answer_was_lost_is_found_to_be_ours(
    lake: Lake, elsewhere: None, monkeypatch: pytest.MonkeyPatch
):
    lease = Lease(lake, TABLE)
    kind = type(lease._writer)
    honest = kind.create
    monkeypatch.setattr(kind, "create", lambda *a: honest(*a) and honest(*a))  # the client has sent it twice
    lease.take()
    lease.check()
    lease.release()


def test_create__in_a_store_that_lets_two_make_one_file_the_later_has_it(
    lake: Lake, elsewhere: None, monkeypatch: pytest.MonkeyPatch
):
    """As a store does that ignores ``If-None-Match``."""
    told = threading.Event()
    monkeypatch.setattr(leases, "_cancel_spark", told.set)
    first, second, third = (Lease(lake, TABLE) for _ in range(3))
    kind = type(first._writer)
    monkeypatch.setattr(kind, "create", lambda writer, key, body: writer.put(key, body) is None)
    first.take()
    assert second._create(1)
    assert told.wait(SECONDS)  # by the next renewal
    with pytest.raises(TakenOverError, match="silver/toy was taken over by"):
        first.check()

    def overtaken(writer: Writer, key: str, body: bytes) -> bool:
        for each in (body, leases._written(second._holder)):
            writer.put(key, each)
        return True

    monkeypatch.setattr(kind, "create", overtaken)
    assert not third._create(1)
    second.check()
    second.release()


def test_written__is_of_one_length_so_that_a_reader_who_has_asked_for_it_can_read_the_next(lake: Lake, elsewhere: None):
    lease = take(lake)
    place = f"ops/leases/silver.toy/{lease._number:012d}.json"

    def length() -> int:
        size: int = lake.filesystem().get_file_info(lake.arrow_path(f"{lake.uri}/{place}")).size
        return size

    before = length()
    lease._write(beat=1_000_000)
    assert length() == before
    lease.release()
    assert length() == before


def test_last__a_lease_that_is_tidied_away_while_it_is_read(
    lake: Lake, elsewhere: None, monkeypatch: pytest.MonkeyPatch
):
    take(lake).release()
    reader, honest = Lease(lake, TABLE), leases._read

    def slow(text: bytes) -> Holder:
        monkeypatch.setattr(leases, "_read", honest)
        take(lake).release()
        raise OSError("AWS Error NO_SUCH_KEY")

    monkeypatch.setattr(leases, "_read", slow)
    assert reader._last()[0] == [2]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"job": "silver.py"}'])
def test_take__a_lease_that_cannot_be_read_is_somebodys(
    lake: Lake, elsewhere: None, content: bytes, monkeypatch: pytest.MonkeyPatch
):
    lake.writer().create("ops/leases/silver.toy/000000000001.json", content)
    with pytest.raises(HeldError, match="held by a run that died while it took it, or of another version"):
        take(lake)
    monkeypatch.setattr(leases, "_UNKNOWN", replace(leases._UNKNOWN, seconds=SECONDS))
    lease = take(waiting(lake))
    assert lease.taken_over
    lease.release()


def test_hold__is_held_once_by_a_process_however_often(lake: Lake):
    with leases.hold(lake, TABLE, "quarantine/toy"):
        with leases.hold(lake, TABLE):
            leases.check(lake)
        leases.check(lake)
        numbers = Lease(lake, TABLE)._numbers()
        assert numbers == [1]
    last = Lease(lake, TABLE)._last()[1]
    assert last is not None
    assert last.released
    leases.check(lake)  # of nothing


def test_hold__lets_go_when_the_work_fails_but_not_when_it_is_interrupted(lake: Lake, elsewhere: None):
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), leases.hold(lake, TABLE):
            raise error
        last = Lease(lake, TABLE)._last()[1]
        assert last is not None
        assert last.released == (error is ValueError)
    leases._held.pop((lake.uri, TABLE)).release()


def test_hold__says_what_was_taken_over(lake: Lake, elsewhere: None):
    silent(take(lake))
    told: list[str] = []
    with leases.hold(waiting(lake, 0.0, take_over=True), TABLE, on_take_over=told.append):
        pass
    with leases.hold(lake, TABLE, on_take_over=told.append):
        pass
    assert told == [TABLE]


def test_hold__what_fails_as_a_table_is_taken_over_is_done_by_who_comes_next(lake: Lake, elsewhere: None):
    silent(take(lake))
    told: list[str] = []

    def fence(table: str) -> None:
        told.append(table)
        if len(told) == 1:
            raise StoreError("the store is gone")

    with (
        pytest.raises(StoreError),
        leases.hold(waiting(lake, 0.0, take_over=True), TABLE, on_take_over=fence),
    ):
        pytest.fail("it was not fenced")
    with leases.hold(waiting(lake), TABLE, on_take_over=fence):  # in this process, once the lease has run out
        pass
    assert told == [TABLE, TABLE]


def test_hold__many_processes_one_at_a_time(lake: Lake, tmp_path: Path):
    """Each adds one to a number in a file, slowly; without leases some would be lost."""
    code = (
        "import pickle, sys, time\n"
        "from pathlib import Path\n"
        "from jobs.lake import leases\n"
        "lake, counter = pickle.loads(bytes.fromhex(sys.argv[1])), Path(sys.argv[2])\n"
        "for _ in range(5):\n"
        "    with leases.hold(lake, 'silver/toy'):\n"
        "        number = int(counter.read_text())\n"
        "        time.sleep(0.01)\n"
        "        counter.write_text(str(number + 1))\n"
    )
    counter = tmp_path / "counter"
    counter.write_text("0")
    long = replace(lake, leases=LeaseSettings(seconds=60, wait_seconds=120))
    command = [sys.executable, "-c", code, pickle.dumps(long).hex(), str(counter)]
    runs = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [run.wait(120) for run in runs] == [0] * 4
    assert counter.read_text() == "20"


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        (lambda h: h, False),
        (lambda h: replace(h, processes=("999999999:1",)), True),
        (lambda h: replace(h, processes=(h.processes[0] + "1",)), True),  # the number was given to another
        (lambda h: replace(h, processes=("999999999:1", h.processes[0])), False),
        (lambda h: replace(h, machine="another", processes=("999999999:1",)), False),
        (lambda h: replace(h, machine="", processes=("999999999:1",)), False),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="without /proc nobody can tell who lives")
def test_is_dead(tmp_path: Path, change: Callable[[Holder], Holder], dead: bool):
    lease = take(Lake(str(tmp_path), leases=QUICK))
    assert change(lease._holder).is_dead == dead
    lease.release()


def test_is_dead__a_process_that_nobody_has_waited_for(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = f"{child.pid}:{leases._start(child.pid)}"
    assert leases._lives(process)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and still has its number
    assert not leases._lives(process)
    child.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="without /proc nobody can tell who lives")
def test_processes__python_and_the_jvm_that_writes_for_it(spark: SparkSession):
    python, java = leases._processes()
    assert python.partition(":")[0] == str(os.getpid())
    assert Path(f"/proc/{java.partition(':')[0]}/comm").read_text() == "java\n"
    assert leases._lives(python)
    assert leases._lives(java)


@pytest.mark.parametrize("shown", [FileNotFoundError, PermissionError])  # hidepid=2, hidepid=1
@pytest.mark.parametrize(("answer", "lives"), [(None, True), (PermissionError, True), (ProcessLookupError, False)])
def test_lives__another_users_process_that_proc_does_not_show(
    monkeypatch: pytest.MonkeyPatch, shown: type[OSError], answer: type[OSError] | None, lives: bool
):
    def refuse(*_: object) -> str:
        raise shown

    def kill(number: int, signal: int) -> None:
        assert signal == 0
        if answer:
            raise answer

    monkeypatch.setattr(leases.Path, "read_text", refuse)
    monkeypatch.setattr(leases.os, "kill", kill)
    assert leases._lives("4711:1234") == lives


def test_written__can_be_read_by_people(tmp_path: Path):
    lease = take(Lake(str(tmp_path), leases=QUICK))
    (file,) = (tmp_path / "ops/leases/silver.toy").iterdir()
    found = json.loads(file.read_text())
    assert found["since"].endswith("Z")
    assert found["job"]
    assert found["host"]
    lease.release()
