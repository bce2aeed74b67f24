"""Where everything in a lake is, and the clients that reach it: the one place that knows paths."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from jobs.lake.config import LeaseSettings, S3Settings
from jobs.lake.errors import DataError, UsageError

if TYPE_CHECKING:
    from sim.writers import Writer

_CREDENTIALS = re.compile(r"(s3a?:/*|[^/]*://)[^/]*[:@]", re.I)


@dataclass(frozen=True)
class Lake:
    """A lake at a URI: a folder or ``s3a://bucket/prefix``.

    Attributes:
        uri: Absolute path or ``s3a://bucket/prefix``, without a trailing slash.
        s3: How S3 is reached; unused for a folder.
        leases: How its tables are held by one run at a time.
    """

    uri: str
    s3: S3Settings = field(default_factory=S3Settings)
    leases: LeaseSettings = field(default_factory=LeaseSettings)

    @classmethod
    def parse(cls, text: str, s3: S3Settings | None = None, leases: LeaseSettings | None = None) -> Lake:
        """Make a lake of what a person types.

        Raises:
            UsageError: The scheme is neither a folder's nor S3's, or the address holds credentials.
        """
        if _CREDENTIALS.match(text):  # which is not repeated: it may hold the secret
            raise UsageError(
                "the lake's address holds credentials, or a server",
                why="an address ends up in logs and tables; it names a bucket, which has neither ':' nor '@'",
                remedy="--lake s3a://my-bucket/lake; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
                " and s3.endpoint for a server",
            )
        scheme, separator, rest = text.partition("://")
        how = (s3 or S3Settings(), leases or LeaseSettings())
        if not separator and text.strip() and not text.startswith(("file:", "s3:", "s3a:")):
            return cls(str(Path(text).expanduser().resolve()), *how)
        if scheme == "file":
            return cls(str(Path("/" + unquote(rest).lstrip("/")).resolve()), *how)
        if scheme in ("s3", "s3a") and rest.partition("/")[0]:
            return cls(f"s3a://{rest.rstrip('/')}", *how)
        raise UsageError(
            f"'{text}' is not a lake",
            why="a lake is a folder or s3a://bucket/prefix",
            remedy="--lake ./lake, or --lake s3a://my-bucket/lake",
        )

    @property
    def on_s3(self) -> bool:
        """Whether the lake is in an object store."""
        return self.uri.startswith("s3a://")

    @property
    def bucket(self) -> str:
        """The bucket of a lake on S3."""
        return self.uri.removeprefix("s3a://").partition("/")[0]

    def bronze(self, dataset: str) -> str:
        """Raw Parquet of a dataset, as it arrived."""
        return f"{self.uri}/bronze/{dataset}"

    def truth(self, name: str) -> str:
        """What was simulated or injected, for grading."""
        return f"{self.uri}/bronze/_truth/{name}"

    def silver(self, dataset: str) -> str:
        """Valid, deduplicated rows of a dataset."""
        return f"{self.uri}/silver/{dataset}"

    def quarantine(self, dataset: str) -> str:
        """Refused rows of a dataset, with their reasons."""
        return f"{self.uri}/quarantine/{dataset}"

    def gold(self, table: str) -> str:
        """A table of features or aggregates."""
        return f"{self.uri}/gold/{table}"

    @property
    def ledger(self) -> str:
        """The books: one row per batch, stage and dataset."""
        return f"{self.uri}/ops/ledger"

    @property
    def drift(self) -> str:
        """Every change of schema that was seen."""
        return f"{self.uri}/ops/drift"

    def checkpoint(self, stage: str, dataset: str) -> str:
        """Spark's own record of the files it has handed out."""
        return f"{self.uri}/ops/checkpoints/{stage}/{dataset}"

    def intent(self, stage: str, dataset: str) -> str:
        """What the last batch is judged by."""
        return f"{self.uri}/ops/intents/{stage}.{dataset}.json"

    def without_checkpoint(self, stage: str, dataset: str) -> str:
        """What to type to go on without a checkpoint."""
        then = "bronze is read anew, and what the tables have counts as duplicates"
        return self.without(self.checkpoint(stage, dataset), then, folder=True)

    def without_batch(self, application: str) -> str:
        """What to type to go on without a batch of ``stage/dataset/...`` that was stopped half-way."""
        stage, _, rest = application.partition("/")
        dataset = rest.partition("/")[0]
        if stage == "silver":
            return self.without_checkpoint(stage, dataset)
        return self.without(self.intent(stage, dataset), "what is written counts as duplicates")

    def without(self, place: str, then: str, *, folder: bool = False) -> str:
        """What to type to go on without a file, or a folder, and what happens then."""
        # Of a single file the AWS client removes nothing when it is told to go down from there.
        remove, all_of_it = (["aws", "s3", "rm"], "--recursive") if self.on_s3 else (["rm"], "-r")
        words = [*remove, *([all_of_it] if folder else []), self.delta_uri(place)]
        return f"{shlex.join(words)}, then the same command: {then}"

    def relative(self, path: str) -> str:
        """A path as it stands below the lake's root: the same for a folder and for S3."""
        root = self.uri if self.on_s3 else self.uri.rstrip("/")
        plain = path if path.startswith("s3a://") else "/" + path.removeprefix("file:").lstrip("/")
        return plain.removeprefix(root).lstrip("/")

    def filesystem(self) -> pafs.FileSystem:
        """An Arrow file system that reads this lake; it pickles, so Spark's workers use it as well."""
        return _s3_client(self.s3, os.getpid()) if self.on_s3 else pafs.LocalFileSystem()

    def listed(self, folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        """What is in a folder, a path of :meth:`arrow_path`; nothing if it is not there.

        Raises:
            DataError: A name is not UTF-8.
            OSError: The store refuses, or there is no such bucket.
        """
        # On S3 a bucket that is not there would be allowed for as well.
        selector = pafs.FileSelector(folder, recursive=recursive, allow_not_found=not self.on_s3)
        try:
            found: list[pafs.FileInfo] = self.filesystem().get_file_info(selector)
            for info in found:
                str(info.path)  # Arrow decodes a name when it is asked for
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise _renamed(error) from None
        return found

    def files(self, folder: str) -> list[pafs.FileInfo]:
        """Every file below a folder, a path of :meth:`arrow_path`; hidden ones (``_x``, ``.x``) are none.

        Raises:
            DataError: A name is not UTF-8.
            OSError: The store refuses, or there is no such bucket.
        """
        infos = (info for info in self.listed(folder, recursive=True) if info.type == pafs.FileType.File)
        return [info for info in infos if not re.search("(^|/)[_.]", info.path.removeprefix(folder))]

    def arrow_path(self, path: str) -> str:
        """``path`` as :meth:`filesystem` wants it: without a scheme."""
        if self.on_s3:
            return path.removeprefix("s3a://")
        return "/" + path.removeprefix("file:").lstrip("/")

    def delta_uri(self, table: str) -> str:
        """A table's address for ``deltalake`` and DuckDB, which know ``s3://`` only."""
        return table.replace("s3a://", "s3://", 1)

    def delta_options(self) -> dict[str, str]:
        """Storage options for ``deltalake``: the endpoint and region; credentials come from the environment."""
        if not self.on_s3:
            return {}
        options = {
            "AWS_REGION": self.s3.region,
            "timeout": f"{self.s3.timeout_seconds}s",
            "connect_timeout": f"{self.s3.connect_seconds}s",
            "max_retries": str(self.s3.attempts - 1),
        }
        if self.s3.endpoint:
            options["AWS_ENDPOINT_URL"] = self.s3.endpoint
            options["AWS_ALLOW_HTTP"] = str(self.s3.endpoint.startswith("http://")).lower()
        return options

    def writer(self) -> Writer:
        """The writer of bronze files."""
        from sim.writers import (
            open_writer,
        )  # boto3 and pandas take a second to load, which a look does not need

        if not self.on_s3:
            return open_writer(self.uri)
        options: dict[str, Any] = {
            "endpoint_url": self.s3.endpoint or None,
            "region": self.s3.region,
            "max_attempts": self.s3.attempts,
            "read_timeout": self.s3.timeout_seconds,
            "connect_timeout": self.s3.connect_seconds,
        }
        if self.s3.encryption:
            options |= {"encryption": self.s3.encryption, "kms_key_id": self.s3.kms_key_id or None}
        return open_writer(self.uri, **options)


@cache
def _s3_client(s3: S3Settings, process: int) -> pafs.S3FileSystem:
    """One for each way to S3, so that its connections are kept; and for each process: a fork must not share them."""
    scheme, _, host = s3.endpoint.rpartition("://")
    return pafs.S3FileSystem(
        region=s3.region,
        endpoint_override=host or None,
        scheme=scheme or "https",
        connect_timeout=s3.connect_seconds,
        request_timeout=s3.timeout_seconds,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=s3.attempts),
    )


def _renamed(error: UnicodeDecodeError) -> DataError:
    """What to say of a file or folder whose name is not UTF-8, and how to give it another."""
    path = error.object[: (error.object + b"/").index(b"/", error.start)]
    spelt = path.replace(b"\\", b"\\\\").replace(b"'", b"\\'").decode("ascii", "backslashreplace")
    folder = path.rpartition(b"/")[0].decode()
    return DataError(
        f"the name $'{spelt}' is not UTF-8",
        why="Spark passes over such a file without a word, and its rows would be lost",
        remedy=f"give it another, in bash: mv $'{spelt}' {shlex.quote(f'{folder}/NEW_NAME')}",
    )


def hive_values(relative: str) -> dict[str, str | None]:
    """The partition values in a path: ``a=1/b=x%3Dy/f.parquet`` gives ``{"a": "1", "b": "x=y"}``.

    Values stay text, so that ``county=06`` keeps its zero; Hive's name for null gives None.
    """
    pairs = (part.split("=", 1) for part in os.path.dirname(relative).split("/") if "=" in part)
    return {unquote(k): None if v == "__HIVE_DEFAULT_PARTITION__" else unquote(v) for k, v in pairs}
