"""The proxy that makes trouble: each kind of it as a client sees it, and everything else handed on as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from chaos.proxy import Proxy, Trouble

BUCKET = "trouble"


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    found = Proxy(s3_endpoint)
    yield found
    found.close()


@pytest.fixture
def client(proxy: Proxy, s3_endpoint: str) -> Any:
    """A client behind the proxy that tries once, and waits for a second."""
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=BUCKET)
    once = Config(retries={"total_max_attempts": 1, "mode": "standard"}, read_timeout=1, connect_timeout=1)
    return boto3.client("s3", endpoint_url=proxy.endpoint, config=once)


def test_proxy__hands_on_what_it_does_not_spoil(client: Any):
    body = bytes(range(256)) * 1000
    client.put_object(Bucket=BUCKET, Key="a/b c", Body=body)
    assert client.get_object(Bucket=BUCKET, Key="a/b c")["Body"].read() == body
    assert client.get_object(Bucket=BUCKET, Key="a/b c", Range="bytes=5-9")["Body"].read() == body[5:10]
    assert client.head_object(Bucket=BUCKET, Key="a/b c")["ContentLength"] == len(body)
    assert [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["a/b c"]
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=BUCKET, Key="nothing")


@pytest.mark.parametrize(
    ("how", "code"),
    [("slow down", "SlowDown"), ("expired", "ExpiredToken"), ("denied", "AccessDenied"), ("no bucket", "NoSuchBucket")],
)
def test_trouble__answers(proxy: Proxy, client: Any, how: str, code: str):
    with proxy.troubled(Trouble(how, times=2)) as trouble:
        for _ in range(2):
            with pytest.raises(ClientError) as refused:
                client.put_object(Bucket=BUCKET, Key="x", Body=b"x" * 10_000)
            assert refused.value.response["Error"]["Code"] == code
        client.put_object(Bucket=BUCKET, Key="x", Body=b"x")
    assert trouble.spoiled == 2


def test_trouble__of_some_requests_and_after_some(proxy: Proxy, client: Any):
    with proxy.troubled(Trouble("denied", ("PUT",), "/trouble/silver/", after=1, times=1)) as trouble:
        client.put_object(Bucket=BUCKET, Key="gold/x", Body=b"")
        client.put_object(Bucket=BUCKET, Key="silver/x", Body=b"")
        client.list_objects_v2(Bucket=BUCKET)
        with pytest.raises(ClientError):
            client.put_object(Bucket=BUCKET, Key="silver/y", Body=b"")
        client.put_object(Bucket=BUCKET, Key="silver/y", Body=b"")
    assert trouble.spoiled == 1


def test_trouble__a_cut_upload_is_not_there_and_one_whose_answer_is_lost_is(
    proxy: Proxy, client: Any, s3_endpoint: str
):
    there = boto3.client("s3", endpoint_url=s3_endpoint)
    for how, found in (("cut", 0), ("lost reply", 1)):
        with proxy.troubled(Trouble(how)), pytest.raises((ConnectionClosedError, ClientError)):
            client.put_object(Bucket=BUCKET, Key=f"{how}/x", Body=b"x" * 1_000_000)
        assert there.list_objects_v2(Bucket=BUCKET, Prefix=f"{how}/")["KeyCount"] == found


def test_trouble__silence(proxy: Proxy, client: Any):
    with proxy.troubled(Trouble("silence", seconds=3)), pytest.raises(ReadTimeoutError):
        client.list_objects_v2(Bucket=BUCKET)
    client.list_objects_v2(Bucket=BUCKET)
