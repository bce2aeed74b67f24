"""Checks this machine and the lake: each line passes, or says what to type."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from jobs.lake import cli, diagnosis
from jobs.lake.cli import Context
from jobs.lake.errors import LakehouseError, MachineError, StoreError
from jobs.lake.layout import Lake

_DISK_NEEDED = 5 * 1024**3


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: What was looked at.
        found: What is there.
        remedy: What to type if it will not do; empty if it will.
    """

    check: str
    found: str
    remedy: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``doctor``: only those of every job."""


def run(context: Context, options: argparse.Namespace) -> None:
    """Print every finding; raise if one will not do."""
    findings = list(examine(context))
    rows = [
        {"": "ok" if not f.remedy else "NO", "check": f.check, "found": f.found, "next": f.remedy} for f in findings
    ]
    context.console.table("doctor", rows)
    bad = [f for f in findings if f.remedy]
    if bad:
        raise MachineError(f"{len(bad)} of {len(findings)} checks failed", remedy=bad[0].remedy)


def examine(context: Context) -> Iterator[Finding]:
    """Look at Java, Python, the pinned versions, memory, disk and the lake."""
    yield _java()
    yield _python()
    yield from _versions()
    yield _memory(context.settings.spark.driver_memory)
    yield _disk(context.lake)
    yield from _bucket(context.lake) if context.lake.on_s3 else _folder(context.lake)


def _java() -> Finding:
    java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else "java"
    remedy = "install a JDK 17 or 21 (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME to one"
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    except FileNotFoundError:
        return Finding("Java 17 or 21", "none", remedy)
    version = re.search(r'version "(\d+)([^"]*)', said)
    if version is None:
        return Finding("Java 17 or 21", said.strip()[:80], remedy)
    return Finding("Java 17 or 21", version[1] + version[2], "" if version[1] in ("17", "21") else remedy)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding(
        "Python 3.11 to 3.13",
        found,
        "" if fits else "rm -r .venv; LAKEHOUSE_PYTHON=python3.11 ./spark-submit.sh doctor",
    )


def _versions() -> Iterator[Finding]:
    """Spark, Delta and Hadoop must be the ones that belong together, in Python and among the JARs."""
    spark, delta = metadata.version("pyspark"), metadata.version("delta-spark")
    reset = "rm -r .venv; ./spark-submit.sh doctor"
    jars = {p.name for p in Path(os.environ.get("LAKEHOUSE_JARS", "/nowhere")).glob("*.jar")}
    if not jars:
        yield Finding("JARs", "none", "./spark-submit.sh doctor (it fetches them; run it rather than doctor.py)")
        return
    line = ".".join(spark.split(".")[:2])
    wanted = f"io.delta_delta-spark_{line}_2.13-{delta}.jar"
    yield Finding(
        f"Delta {delta} for Spark {spark}",
        wanted if wanted in jars else "another",
        "" if wanted in jars else reset,
    )
    import pyspark

    (client,) = (Path(pyspark.__file__).parent / "jars").glob("hadoop-client-api-*.jar")
    hadoop = client.stem.removeprefix("hadoop-client-api-")
    aws = next((n for n in jars if "hadoop-aws" in n), "none")
    yield Finding(f"hadoop-aws {hadoop}", aws, "" if aws.endswith(f"-{hadoop}.jar") else reset)


def _memory(driver: str) -> Finding:
    wanted = int(driver[:-1]) * {"m": 1 << 20, "g": 1 << 30}[driver[-1].lower()]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    remedy = "" if wanted * 2 <= total else f"--set spark.driver_memory={max(total >> 31, 1)}g"
    return Finding(f"memory for a driver of {driver}", f"{total / 1e9:.1f} GB", remedy)


def _disk(lake: Lake) -> Finding:
    place = Path(tempfile.gettempdir() if lake.on_s3 else lake.uri)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    remedy = "" if free >= _DISK_NEEDED else f"free some space on {place}, or --lake on another disk"
    return Finding("disk, 5 GB free", f"{free / 1e9:.1f} GB", remedy)


def _folder(lake: Lake) -> Iterator[Finding]:
    place = Path(lake.uri)
    while not place.exists():
        place = place.parent
    yield Finding(f"write to {lake.uri}", "allowed" if os.access(place, os.W_OK) else "refused",
                  "" if os.access(place, os.W_OK) else f"chmod u+w {place}, or --lake elsewhere")  # fmt: skip


def _bucket(lake: Lake) -> Iterator[Finding]:
    """Try what the jobs do: find credentials, list the prefix, write an object, once, and delete it."""
    import boto3

    credentials = boto3.Session().get_credentials()
    if credentials is None:
        yield Finding("AWS credentials", "none", "aws configure, or export AWS_PROFILE=...")
        return
    yield Finding("AWS credentials", f"from {credentials.method}")
    yield _attempt(f"list {lake.uri}", lambda: lake.filesystem().get_file_info(lake.arrow_path(lake.uri)))
    probe = f"ops/.doctor-{os.getpid()}"
    yield _attempt(f"write to {lake.uri}", lambda: lake.writer().put(probe, b""))
    yield _attempt("no two runs write one object", lambda: _write_again(lake, probe))
    place = lake.arrow_path(f"{lake.uri}/{probe}")
    yield _attempt(f"delete from {lake.uri}", lambda: lake.filesystem().delete_file(place))


def _write_again(lake: Lake, probe: str) -> None:
    """Make sure that the store does not replace an object that is to be made unless it is there."""
    if lake.writer().create(probe, b""):
        raise StoreError(
            f"{lake.uri} does not keep two runs apart",
            why="the store replaced an object in spite of If-None-Match: *",
            remedy="a store that heeds If-None-Match, as S3 itself does: here nothing keeps two runs from one table",
        )


def _attempt(check: str, action: Callable[[], object]) -> Finding:
    try:
        action()
    except LakehouseError as error:
        return Finding(check, error.why or error.what, error.remedy or "see the cause")
    except OSError as error:
        return Finding(
            check, diagnosis.cause(error, "s3a://"), "check the bucket's name, region and policy, and s3.endpoint"
        )
    return Finding(check, "allowed")


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
