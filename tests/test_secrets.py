"""No secret is ever written down: two are planted, and everything that runs leave behind is searched for them."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import boto3
import pytest

from chaos.proxy import ANSWERS, Proxy, Trouble
from chaos.stores import put
from jobs import doctor
from jobs.lake import checkpoint, intake
from jobs.lake.config import S3Settings
from jobs.lake.errors import StoreError
from jobs.lake.layout import Lake
from sim.base import write
from sim.catalog import SIMULATORS
from sim.turbofan import TurbofanParameters
from sim.writers import LocalWriter
from tests.conftest import cache_in
from tests.test_spark_submit import SCRIPT, clean_environment

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAOFNOBODY",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+of=nobody",
    "AWS_SESSION_TOKEN": "planted.token.of.nobody",
}
SECRETS = [PLANTED["AWS_SECRET_ACCESS_KEY"].encode(), PLANTED["AWS_SESSION_TOKEN"].encode()]


class Listed:
    """What any process of this machine was called with, while the block runs."""

    def __enter__(self) -> Listed:
        self.lines, self._done = set[bytes](), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.2):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.lines.add(place.read_bytes())
                except OSError:  # it has ended
                    continue


def bucket_with_bronze(endpoint: str, tmp_path: Path) -> str:
    bucket = f"secrets-{time.time_ns()}"
    for _ in write(SIMULATORS["turbofan"], TurbofanParameters(seed=7, entities=2), LocalWriter(tmp_path / "made")):
        continue
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    lake = Lake(f"s3a://{bucket}/lake", S3Settings(endpoint=endpoint))
    for path in (tmp_path / "made").rglob("*.parquet"):
        put(lake, path.relative_to(tmp_path / "made").as_posix(), path.read_bytes(), 0)
    return bucket


@pytest.mark.parametrize("how", ["well", "denied", "expired", "unreachable"])
def test_run__leaves_no_secret_behind(s3_endpoint: str, tmp_path: Path, how: str):
    bucket, proxy = bucket_with_bronze(s3_endpoint, tmp_path), Proxy(s3_endpoint)
    endpoint = "http://127.0.0.1:9" if how == "unreachable" else proxy.endpoint
    trouble = {
        "denied": Trouble("denied", ("PUT", "POST"), "/lake/silver/", times=1 << 30),
        "expired": Trouble("expired", after=10, times=1 << 30),
    }.get(how, Trouble("denied", times=0))
    home = tmp_path / "home"
    (home / "cache").mkdir(parents=True)
    job = ["pipeline"] if how == "well" else ["silver", "--dataset", "turbofan"]
    command = [str(SCRIPT), *job, "--lake", f"s3a://{bucket}/lake", "--profile", "testing"]
    command += ["--verbose", "--set", f"s3.endpoint={endpoint}", "--set", "s3.attempts=2"]
    command += ["--set", "s3.timeout_seconds=3"]
    environment = clean_environment() | PLANTED
    environment |= {"TMPDIR": str(home), "LAKEHOUSE_CACHE": str(cache_in(home / "cache"))}
    environment |= {"SPARK_LOCAL_DIRS": str(home), "JDK_JAVA_OPTIONS": f"-Djava.io.tmpdir={home}"}
    with Listed() as listed, proxy.troubled(trouble):
        done = subprocess.run(command, env=environment, cwd=home, check=False, capture_output=True, timeout=300)
    proxy.close()
    assert done.returncode == (0 if how == "well" else 3), done.stderr.decode()
    written = {"stdout": done.stdout, "stderr": done.stderr}
    written |= {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert len([name for name in written if name.startswith(f"{home}/cache/logs/{job[0]}-")]) == 1
    store = boto3.resource("s3", endpoint_url=s3_endpoint).Bucket(bucket)
    written |= {item.key: item.get()["Body"].read() for item in store.objects.all()}
    assert any(job[0].encode() in line for line in listed.lines)
    written |= {f"command line {number}": line for number, line in enumerate(listed.lines)}
    assert [name for name, content in written.items() if any(secret in content for secret in SECRETS)] == []


def test_error__of_a_store_is_told_in_none_of_its_words(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What it answers may echo a secret."""
    secret = PLANTED["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setitem(ANSWERS, "denied", (403, "AccessDenied", secret))
    bucket, proxy = bucket_with_bronze(s3_endpoint, tmp_path), Proxy(s3_endpoint)
    lake = Lake(f"s3a://{bucket}/lake", S3Settings(endpoint=proxy.endpoint, attempts=1))
    files = checkpoint.bronze_files(lake, "turbofan")
    with proxy.troubled(Trouble("denied", times=1 << 30)):
        told = [finding.found for finding in doctor._bucket(lake)][1:]
    with proxy.troubled(Trouble("denied", ("GET",), times=1 << 30)), pytest.raises(StoreError) as refused:
        list(intake.probe_here(lake, files))
    told += [refused.value.why]
    assert ["AccessDenied" in text for text in told] == [True] * 5
    told += [str(checkpoint.unusable(lake, "silver", "turbofan", RuntimeError(secret)))]
    assert [text for text in told if secret in text] == []
