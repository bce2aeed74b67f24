"""The jobs need no more than ``conf/iam-policy.json`` allows: their own prefix of the bucket."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from chaos.crew import Driver
from chaos.proxy import Proxy, Trouble
from chaos.stores import Stores

POLICY = Path(__file__).resolve().parent.parent / "conf" / "iam-policy.json"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
JOBS = (
    ("simulate", "--dataset", "devices", "--entities", "2", "--duration", "2h", "--faults", "0.05"),
    ("doctor",),
    ("silver", "--dataset", "devices"),
    ("gold", "--table", "device_quality"),
    ("replay", "--dataset", "devices"),
    ("maintain", "--table", "silver/devices"),
    ("status",),
)


@contextmanager
def enforced(endpoint: str) -> Iterator[None]:
    """Have moto ask IAM for every request, from here on; whatever came before was a setting-up."""

    def ask_from(request: bytes) -> None:
        address, plain = f"{endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, request, plain)).close()

    ask_from(b"0")
    try:
        yield
    finally:
        ask_from(b"inf")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3 API of its own: others would be refused while it enforces."""
    stores = Stores()
    yield stores.endpoint
    stores.close()


@pytest.fixture(scope="module")
def keys(store: str) -> dict[str, str]:
    """Keys of a user who has the policy."""
    boto3.client("s3", endpoint_url=store).create_bucket(Bucket="my-bucket")
    iam = boto3.client("iam", endpoint_url=store, region_name="us-east-1")
    iam.create_user(UserName="jobs")
    iam.put_user_policy(UserName="jobs", PolicyName="lake", PolicyDocument=POLICY.read_text())
    key = iam.create_access_key(UserName="jobs")["AccessKey"]
    return dict(zip(KEYS, (key["AccessKeyId"], key["SecretAccessKey"]), strict=True))


def test_jobs__with_the_policy_and_nothing_else(store: str, keys: dict[str, str], tmp_path: Path):
    proxy, beyond = Proxy(store), Trouble("denied", ("GET",), r"list-type=2(?!.*prefix=lake(/|%2F|&|$))", times=1 << 30)
    with enforced(store), proxy.troubled(beyond), Driver(tmp_path / "driver.log", keys) as driver:
        for job, *arguments in JOBS:
            ran = driver.run(
                job, *arguments, "--lake", "s3a://my-bucket/lake", "--profile", "testing", "--set",
                f"s3.endpoint={proxy.endpoint}",
            )  # fmt: skip
            assert ran.code == 0, f"{job}\n{ran.out}{ran.err}"
    proxy.close()
    assert beyond.spoiled == 0
    written = boto3.resource("s3", endpoint_url=store).Bucket("my-bucket").objects.all()
    kinds = {"/".join(found.key.split("/")[:2]) for found in written}
    assert kinds == {"lake/bronze", "lake/silver", "lake/gold", "lake/quarantine", "lake/ops"}


def test_policy__is_enforced(store: str, keys: dict[str, str]):
    limited = boto3.client(
        "s3", endpoint_url=store, aws_access_key_id=keys[KEYS[0]], aws_secret_access_key=keys[KEYS[1]]
    )
    with enforced(store):
        limited.put_object(Bucket="my-bucket", Key="lake/ops/x", Body=b"")
        with pytest.raises(ClientError, match="AccessDenied"):
            limited.put_object(Bucket="my-bucket", Key="lakes/x", Body=b"")
        with pytest.raises(ClientError, match="AccessDenied"):
            limited.delete_bucket(Bucket="my-bucket")
