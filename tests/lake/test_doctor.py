"""The doctor: what it finds of a lake on S3, and what it says to type."""

from __future__ import annotations

import boto3
import pytest

from jobs import doctor
from jobs.lake.config import S3Settings
from jobs.lake.layout import Lake
from sim.writers import S3Writer


@pytest.fixture
def bucket(s3_endpoint: str) -> Lake:
    """An empty lake in a bucket."""
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="doctored")
    return Lake("s3a://doctored/lake", S3Settings(endpoint=s3_endpoint))


def test_bucket__all_is_well_and_nothing_stays(bucket: Lake):
    assert [(f.found, f.remedy) for f in doctor._bucket(bucket)][1:] == [("allowed", "")] * 4
    assert bucket.files("doctored/lake") == []


def test_bucket__a_store_that_replaces_what_is_there_will_not_do(bucket: Lake, monkeypatch: pytest.MonkeyPatch):
    """As one does that ignores ``If-None-Match``: there two runs would hold one table."""
    monkeypatch.setattr(S3Writer, "create", lambda writer, key, body: writer.put(key, body) is None)
    (bad,) = (finding for finding in doctor._bucket(bucket) if finding.remedy)
    assert bad.check == "no two runs write one object"
    assert "If-None-Match" in bad.found
    assert "a store that heeds If-None-Match" in bad.remedy
