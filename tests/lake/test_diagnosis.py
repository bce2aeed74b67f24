"""What an exception of Spark's, of S3's or of the system's comes down to, for a person."""

from __future__ import annotations

import pickle

import pytest

from jobs.lake import diagnosis
from jobs.lake.errors import DataError, FileRefusedError, StoreError

# As they were seen, shortened.
HADOOP = (
    "An error occurred while calling o6945.save.\n: org.apache.spark.sql.delta.DeltaIOException: "
    "[DELTA_CANNOT_CREATE_LOG_PATH] Cannot create s3a://bucket/lake/silver/fleet/_delta_log\n"
    "Caused by: java.nio.file.AccessDeniedException: lake/silver/fleet/_delta_log/_staged_commits: PUT 0-byte object: "
    "software.amazon.awssdk.services.s3.model.S3Exception: Access Denied (Service: S3, Status Code: 403, "
    "Request ID: null):AccessDenied"
)
ARROW = (
    "When getting information for key 'lake/x' in bucket 'bucket': AWS Error ACCESS_DENIED during HeadObject "
    "operation: No response body."
)
ARROW_UNKNOWN = (
    "When listing objects: AWS Error UNKNOWN (HTTP status 400) during ListObjectsV2 operation: Unable to parse "
    "ExceptionName: ExpiredToken Message: The provided token has expired."
)
DELTALAKE = (
    "Generic S3 error: Error performing PUT in 1.2s - Server returned non-2xx status code: 403 Forbidden: "
    '<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>planted-secret</Message></Error>'
)


@pytest.mark.parametrize(
    ("text", "says", "code"),
    [
        (HADOOP, "S3 refused a request for s3a://bucket/lake/silver/fleet/_delta_log\n", "AccessDenied"),
        (ARROW, "S3 refused a request", "AccessDenied"),
        (ARROW_UNKNOWN, "S3 refused a request", "ExpiredToken"),
        (DELTALAKE, "S3 refused a request", "AccessDenied"),
    ],
)
def test_told__what_s3_refused_by_each_of_its_clients(text: str, says: str, code: str):
    error = diagnosis.told(RuntimeError(text))
    assert isinstance(error, StoreError)
    assert says in str(error)
    assert f"({code})" in error.why
    assert error.remedy.endswith("the same command: what is committed is not done again")
    assert "planted-secret" not in str(error)


def test_known__the_lake_is_named_where_the_store_does_not_say_where():
    assert diagnosis.known(RuntimeError(DELTALAKE), "s3a://b/lake").what == "S3 refused a request for s3a://b/lake"
    assert "s3a://bucket/lake/silver" in diagnosis.known(RuntimeError(HADOOP), "s3a://b/lake").what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Caused by: java.io.IOException: No space left on device", "there is no room left on a disk"),
        ("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left", "there is no room left"),
        ("org.apache.spark.SparkException: Python worker exited unexpectedly (crashed).", "a Python worker"),
        ("Caused by: java.lang.OutOfMemoryError: Java heap space", "Java's memory is used up"),
        ("Connect to 127.0.0.1:9 failed: Connection refused", "a server does not answer"),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 28", "a server does not answer"),
    ],
)
def test_told__what_is_the_machines_fault(text: str, says: str):
    error = diagnosis.told(RuntimeError(f"An error occurred while calling o1.save.\n{text}"))
    assert error.exit_code == 3
    assert says in error.what
    assert error.why
    assert error.remedy


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (DELTALAKE, "s3a://b/lake", "the credentials may not do this (AccessDenied)"),
        (DELTALAKE, "/lake", "the credentials may not do this (AccessDenied)"),
        ("planted-secret", "s3a://b/lake", "an answer nobody foresaw (RuntimeError)"),
        ("[Errno 5]\n  Input/output error", "/lake", "[Errno 5] Input/output error"),
    ],
)
def test_cause__never_in_a_servers_words(text: str, place: str, says: str):
    assert diagnosis.cause(RuntimeError(text), place) == says


@pytest.mark.parametrize(
    "text",
    [
        "Caused by: java.net.SocketTimeoutException: Read timed out",
        "java.util.concurrent.TimeoutException: Futures timed out after [300 seconds]",
        "ConnectionPoolTimeoutException: Timeout waiting for connection from pool",
        "AWS Error UNKNOWN: curlCode: 28, Timeout was reached",
        'Read timeout on endpoint URL: "http://127.0.0.1:9/bucket"',
        "Error performing GET: Server returned non-2xx status code: 504 Gateway Timeout",
        "org.apache.hadoop.fs.s3a.AWSClientIOException: getFileStatus on s3a://b/x: Connection reset",
    ],
)
def test_told__a_server_that_does_not_answer(text: str):
    assert "a server does not answer" in diagnosis.told(RuntimeError(text)).what


@pytest.mark.parametrize("name", ["timeouts", "TimeoutException", "UnknownHostException", "java.lang.OutOfMemoryError"])
@pytest.mark.parametrize(
    "text",
    [
        "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///lake/fleet/{}.parquet. SQLSTATE",
        "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file s3a://b/lake/{}/a.parquet. SQLSTATE",
        "java.io.IOException: cannot read /lake/bronze/fleet/{}.parquet: torn",
    ],
)
def test_told__what_a_file_is_called_is_no_machines_fault(text: str, name: str):
    assert diagnosis.told(RuntimeError(text.replace("{}", name))).exit_code == 4


@pytest.mark.parametrize(
    "name",
    ["timeout_ms", "timed out", "No space left on device", "Errno 28", "Connection refused", "<Code>Gone</Code>"],
)
@pytest.mark.parametrize(
    "text",
    [
        "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column with name `{}` cannot be resolved. Did you mean `a``{}`?",
        "Data type mismatches when reading Parquet column [{}]. Expected Spark type bigint, actual Parquet type INT96.",
        "SchemaColumnConvertNotSupportedException: column: [{}], physicalType: INT96, logicalType: timestamp_ntz",
    ],
)
def test_told__what_a_column_is_called_is_no_machines_fault(text: str, name: str):
    assert diagnosis.told(RuntimeError(text.replace("{}", name))).exit_code == 4


def test_told__what_a_worker_said():
    said = str(FileRefusedError("x.csv is refused", why="it is a picture", remedy="remove it"))
    error = diagnosis.told(RuntimeError(f"Traceback\nsim.errors.FileRefusedError: {said}\n\n\tat org.apache"))
    assert isinstance(error, FileRefusedError)
    assert str(error) == said


def test_error__what_it_quotes_is_bounded_and_what_to_type_is_whole():
    error = DataError("w" * 2_001, why="y" * 900_000, remedy="rm " + "z" * 5_000)
    assert [len(error.what), len(error.why), len(error.remedy)] == [1_960 + len("... (2,001 characters)"), 1_984, 5_003]
    assert error.why.endswith("yyy... (900,000 characters)")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert DataError("w" * 2_000).what == "w" * 2_000


def test_told__what_nobody_foresaw_is_ours_and_the_systems_is_the_machines():
    assert diagnosis.told(KeyError("x")).exit_code == 4
    assert diagnosis.told(OSError("odd")).exit_code == 3
    assert len(diagnosis.told(KeyError("x" * 10_000)).what) == 300
