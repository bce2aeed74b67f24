"""What all tests share: one Spark session, and an S3 server."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from pyspark.sql import SparkSession

from chaos.stores import KEYS, Stores
from jobs.lake import cli, config
from jobs.lake.cli import Context

os.environ["TZ"] = "UTC"
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # or workers take whatever python3 is first on PATH


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something to come true; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true within {seconds:.0f} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The one session; it reaches S3 as well, for the lakes of ``s3_lake``."""
    session = cli.context("unused", "testing").spark
    yield session
    session.stop()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 API of moto's server, on loopback.

    A process of its own: a client that keeps Python's lock while it waits would wait for a thread forever.
    """
    stores = Stores()
    yield stores.endpoint
    stores.close()


@pytest.fixture(scope="session", autouse=True)
def aws_keys() -> Iterator[None]:
    """Keys that open moto and nothing else; set before the JVM starts, which reads them from its environment."""
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for what tests run by the script, whose logs are not the user's; the JARs are."""
    before = os.environ.get("LAKEHOUSE_CACHE")
    os.environ["LAKEHOUSE_CACHE"] = str(cache_in(tmp_path_factory.mktemp("cache")))
    yield
    if before is None:
        os.environ.pop("LAKEHOUSE_CACHE")
    else:
        os.environ["LAKEHOUSE_CACHE"] = before


def cache_in(folder: Path) -> Path:
    """A cache that has the JARs of the one in use."""
    jars = (config.cache() / "jars").absolute()
    jars.mkdir(parents=True, exist_ok=True)
    (folder / "jars").symlink_to(jars)
    return folder


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Context:
    """A context on an empty lake in a folder."""
    return cli.context(str(tmp_path / "lake"), "testing")


@pytest.fixture
def s3_lake(spark: SparkSession, s3_endpoint: str, request: pytest.FixtureRequest) -> Context:
    """A context on an empty lake in a bucket of its own."""
    bucket = "lake-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=bucket)
    return cli.context(f"s3a://{bucket}/lake", "testing", [f"s3.endpoint={s3_endpoint}"])
