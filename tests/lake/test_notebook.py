from __future__ import annotations

from pathlib import Path

import boto3
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from jobs.lake.errors import MachineError, UsageError
from jobs.lake.notebook import open_lake

ROWS = pa.table({"unit": [1, 2, 3], "health": [1.0, 0.5, 0.25]})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAKEHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_table__opens_delta_and_parquet_without_spark(tmp_path: Path):
    write_deltalake(str(tmp_path / "lake/gold/health"), ROWS)
    folder = tmp_path / "lake/bronze/_truth/wear/day=1"
    folder.mkdir(parents=True)
    pq.write_table(ROWS, folder / "a.parquet")
    lake = open_lake(str(tmp_path / "lake"))
    health, wear = lake.table("gold/health"), lake.table("bronze/_truth/wear")
    assert health.df()["health"].tolist() == [1.0, 0.5, 0.25]
    assert duckdb.sql("SELECT sum(health), count(*) FROM health").fetchall() == [(1.75, 3)]
    assert wear.order("unit").fetchall()[0] == (1, 1.0, 1)


def test_table__instants_are_in_utc_wherever_the_machine_is(tmp_path: Path):
    instant = pa.array([1_767_225_600_000_000], pa.timestamp("us", "UTC"))
    write_deltalake(str(tmp_path / "gold/seen"), pa.table({"at": instant}))
    duckdb.execute("SET TimeZone = 'Asia/Tokyo'")
    (at,) = open_lake(str(tmp_path)).table("gold/seen").df()["at"]
    assert str(at) == "2026-01-01 00:00:00+00:00"


def test_table__says_what_to_do_where_there_is_none(tmp_path: Path):
    with pytest.raises(UsageError, match=r"there is no table gold/healht in (.|\n)*spark-submit.sh status"):
        open_lake(str(tmp_path)).table("gold/healht")


def test_spark__says_what_to_do_without_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LAKEHOUSE_JARS", raising=False)
    with pytest.raises(MachineError, match=r"JARs are not in (.|\n)*spark-submit.sh demo"):
        _ = open_lake(str(tmp_path)).spark


def test_lake_on_s3__opens_both_ways(spark: SparkSession, s3_endpoint: str, cache: Path):
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="notebook")
    options = {"AWS_ENDPOINT_URL": s3_endpoint, "AWS_ALLOW_HTTP": "true"}
    write_deltalake("s3://notebook/lake/gold/health", ROWS, storage_options=options)
    lake = open_lake("s3a://notebook/lake", overrides=[f"s3.endpoint={s3_endpoint}"])
    assert lake.table("gold/health").to_arrow_table() == ROWS
    rows = lake.spark_table("gold/health").orderBy("unit").collect()
    assert [tuple(row) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    (log,) = (cache / "logs").iterdir()
    assert log.name.startswith("notebook-")
