"""Where things are: what a person may type for a lake, and paths as each reader spells them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.lake.config import S3Settings
from jobs.lake.errors import DataError, UsageError
from jobs.lake.layout import Lake, hive_values


@pytest.mark.parametrize(
    ("typed", "uri"),
    [
        ("/data/lake", "/data/lake"),
        ("/data/lake/", "/data/lake"),
        ("/data/x/../lake", "/data/lake"),
        ("file:///data/lake", "/data/lake"),
        ("s3a://bucket/a/b", "s3a://bucket/a/b"),
        ("s3a://bucket/a/b/", "s3a://bucket/a/b"),
        ("s3://bucket/a", "s3a://bucket/a"),
        ("s3://bucket", "s3a://bucket"),
        ("s3://bucket/team@x/a:b", "s3a://bucket/team@x/a:b"),
        ("/data/a@b:c", "/data/a@b:c"),
        ("file:///a@b:c", "/a@b:c"),
    ],
)
def test_parse__accepted(typed: str, uri: str) -> None:
    assert Lake.parse(typed).uri == uri


def test_parse__relative_and_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert Lake.parse("./lake").uri == f"{tmp_path}/lake"
    assert Lake.parse("lake").uri == f"{tmp_path}/lake"
    assert Lake.parse("~/lake").uri == "/home/ada/lake"


@pytest.mark.parametrize(
    "typed",
    [
        "hdfs://host/lake",
        "http://host/lake",
        "s3://",
        "s3a:///",
        "s3a:///lake",
        "://x",
        "file:/data",
        "",
        " ",
    ],
)
def test_parse__nonsense_refused(typed: str) -> None:
    with pytest.raises(UsageError, match="is not a lake") as refused:
        Lake.parse(typed)
    assert "--lake" in refused.value.remedy


@pytest.mark.parametrize(
    "typed",
    [
        "s3a://KEY:PLANTED@bucket/lake",  # as Hadoop once took it
        "S3A://KEY:PLANTED@bucket/lake",
        "s3://KEY:PLA/NTED@bucket/lake",
        "s3a:/KEY:PLANTED@bucket/lake",
        "s3a:KEY:PLANTED@bucket/lake",
        "https://KEY:PLANTED@bucket.s3.amazonaws.com/lake",
    ],
)
def test_parse__credentials_are_refused_and_not_repeated(typed: str) -> None:
    with pytest.raises(UsageError, match="holds credentials") as refused:
        Lake.parse(typed)
    assert "AWS_PROFILE" in refused.value.remedy
    assert not [part for part in ("KEY", "PLA", "NTED") if part in str(refused.value).replace("_KEY", "")]


def test_bucket() -> None:
    lake = Lake.parse("s3://bucket/a/b")
    assert (lake.on_s3, lake.bucket) == (True, "bucket")
    assert not Lake.parse("/data").on_s3


def test_places() -> None:
    lake = Lake.parse("/data/lake")
    assert lake.bronze("fleet") == "/data/lake/bronze/fleet"
    assert lake.truth("fleet") == "/data/lake/bronze/_truth/fleet"
    assert lake.silver("fleet") == "/data/lake/silver/fleet"
    assert lake.quarantine("fleet") == "/data/lake/quarantine/fleet"
    assert lake.gold("fleet_status") == "/data/lake/gold/fleet_status"
    assert lake.ledger == "/data/lake/ops/ledger"
    assert lake.checkpoint("silver", "fleet") == "/data/lake/ops/checkpoints/silver/fleet"


@pytest.mark.parametrize("path", ["/data/lake/a/b", "file:/data/lake/a/b", "file:///data/lake/a/b"])
def test_relative__folder(path: str) -> None:
    lake = Lake.parse("/data/lake")
    assert lake.relative(path) == "a/b"
    assert lake.arrow_path(path) == "/data/lake/a/b"


def test_relative__s3() -> None:
    lake = Lake.parse("s3a://bucket/x")
    assert lake.relative("s3a://bucket/x/a/b") == "a/b"
    assert lake.arrow_path("s3a://bucket/x/a/b") == "bucket/x/a/b"


@pytest.mark.parametrize("place", ["/data/lake", "/data/our lake", "/data/it's a lake", "s3a://bucket/it's ours"])
def test_without_checkpoint__can_be_typed_as_it_stands(place: str) -> None:
    command, _, _ = Lake.parse(place).without_checkpoint("silver", "fleet").partition(", then")
    typed = shlex.split(command)
    assert typed[-1] == f"{place.replace('s3a:', 's3:')}/ops/checkpoints/silver/fleet"
    assert typed[:-1] in (["rm", "-r"], ["aws", "s3", "rm", "--recursive"])


@pytest.mark.parametrize(
    ("place", "application", "command", "then"),
    [
        ("/lake", "silver/fleet/0b7c", "rm -r /lake/ops/checkpoints/silver/fleet", "bronze is read anew"),
        ("/lake", "replay/fleet", "rm /lake/ops/intents/replay.fleet.json", "what is written counts as duplicates"),
        ("s3a://b/x", "silver/fleet/0b7c", "aws s3 rm --recursive s3://b/x/ops/checkpoints/silver/fleet", "bronze is"),
        ("s3a://b/x", "replay/fleet", "aws s3 rm s3://b/x/ops/intents/replay.fleet.json", "what is written counts"),
    ],
)
def test_without_batch(place: str, application: str, command: str, then: str) -> None:
    typed, _, goes_on = Lake.parse(place).without_batch(application).partition(", then the same command: ")
    assert typed == command
    assert goes_on.startswith(then)


def test_files__hidden_ones_are_none(tmp_path: Path) -> None:
    for name in ("a", "b/c", "d=_e/f", "g_h/i.j", "_k", ".l", "_m/n", "o/.p/q"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).touch()
    root = str(tmp_path / "x")
    assert {info.path for info in Lake.parse(root).files(root)} == {
        f"{root}/{name}" for name in ("a", "b/c", "d=_e/f", "g_h/i.j")
    }
    assert Lake.parse(root).files(f"{root}/nowhere") == []


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has no such names")
@pytest.mark.parametrize("name", [b"caf\xe9.parquet", b"it's caf\xe9/a.parquet"])
def test_files__a_name_that_is_not_utf8_is_refused_with_what_to_type(name: bytes, tmp_path: Path) -> None:
    root = tmp_path / "a lake é"
    file = os.fsencode(root) + b"/x/" + name
    os.makedirs(os.path.dirname(file))
    open(file, "wb").close()
    lake = Lake.parse(str(root))
    with pytest.raises(DataError, match=r"caf\\xe9.*' is not UTF-8") as refused:
        lake.files(f"{root}/x")
    command = refused.value.remedy.partition(": ")[2]
    subprocess.run(["bash", "-c", command], check=True)
    renamed = f"{root}/x/NEW_NAME"
    assert [info.path for info in lake.files(f"{root}/x")] in ([renamed], [f"{renamed}/a.parquet"])


def test_relative__root_of_the_file_system() -> None:
    assert Lake.parse("/").relative("file:/a/b") == "a/b"


def test_delta_uri() -> None:
    assert Lake.parse("s3a://b/x").delta_uri("s3a://b/x/silver/s3a") == "s3://b/x/silver/s3a"
    assert Lake.parse("/x").delta_uri("/x/silver/fleet") == "/x/silver/fleet"


def test_delta_options() -> None:
    assert Lake.parse("/x").delta_options() == {}
    bounds = {"timeout": "60.0s", "connect_timeout": "10.0s", "max_retries": "4"}
    assert Lake.parse("s3://b").delta_options() == {"AWS_REGION": "us-east-1", **bounds}
    there = S3Settings(endpoint="http://127.0.0.1:9000", region="eu-west-1", timeout_seconds=3, attempts=1)
    assert Lake.parse("s3://b", there).delta_options() == {
        "AWS_REGION": "eu-west-1",
        "timeout": "3.0s",
        "connect_timeout": "3.0s",
        "max_retries": "0",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_ALLOW_HTTP": "true",
    }


def test_filesystem() -> None:
    assert isinstance(Lake.parse("/x").filesystem(), pafs.LocalFileSystem)
    there = Lake.parse("s3://b").filesystem()
    assert isinstance(there, pafs.S3FileSystem)
    assert Lake.parse("s3://c").filesystem() is there  # with the connections that it has
    assert Lake.parse("s3://b", S3Settings(region="eu-west-1")).filesystem() is not there


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("bronze/x/county=06/f.parquet", {"county": "06"}),
        ("bronze/x/a=1/b=x%3Dy%2Fz/f.parquet", {"a": "1", "b": "x=y/z"}),
        ("bronze/x/a=b=c/f.parquet", {"a": "b=c"}),
        ("bronze/x/a=__HIVE_DEFAULT_PARTITION__/f.parquet", {"a": None}),
        ("bronze/x/a=/f.parquet", {"a": ""}),
        ("bronze/x/a=Zürich 🙂/f.parquet", {"a": "Zürich 🙂"}),
        ("bronze/x/a=100%25/f.parquet", {"a": "100%"}),
        ("bronze/x/f=1.parquet", {}),
        ("f.parquet", {}),
    ],
)
def test_hive_values__case(path: str, values: dict[str, str | None]) -> None:
    assert hive_values(path) == values


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_hive_values__any_text_survives(value: str) -> None:
    escaped = quote(value, safe="")
    assert hive_values(f"bronze/x/key={escaped}/f.parquet") == {"key": value}
