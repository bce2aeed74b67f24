"""Writers: tables to Parquet, CSV or JSON lines under Hive partitions, in a folder or in S3."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, get_args
from urllib.parse import unquote, urlsplit

import boto3
import botocore.session
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from numpy.typing import NDArray
from pydantic import SecretStr

from sim.errors import StoreError, UsageError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

FileFormat = Literal["parquet", "csv", "jsonl"]
Encryption = Literal["AES256", "aws:kms"]
Data: TypeAlias = pa.Table | pd.DataFrame | Sequence[Mapping[str, Any]]

DEFAULT_PARTITIONS = ("year", "month", "day", "hour", "sensor_id")
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark, Arrow and DuckDB all read as null
EVENT_TIME = "event_time"

_MEBIBYTE = 1 << 20
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_TIME_PARTS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "year": (pc.year, 4),
    "month": (pc.month, 2),
    "day": (pc.day, 2),
    "hour": (pc.hour, 2),
}
# What Hive percent-encodes in a path segment, and NUL. Other characters stay as they are: Spark decodes %XX
# to one character, not to one byte of UTF-8, so an encoded emoji would come back as four wrong letters.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{\[\]^]")


@dataclass(frozen=True)
class Written:
    """One file that was written.

    Attributes:
        key: Path below the root of the lake, with "/" between segments; the same in a folder and in S3.
        rows: Rows in the file.
        bytes: Size of the file.
    """

    key: str
    rows: int
    bytes: int


class Writer(ABC):
    """Writes tables under a lake's root. Keys are deterministic: writing again replaces, never doubles."""

    @abstractmethod
    def put(self, key: str, body: bytes | memoryview) -> None:
        """Write one object as it is, replacing what is there. A reader sees all of it or nothing.

        Args:
            key: Path below the root of the lake.
            body: Its bytes.

        Raises:
            UsageError: The key would leave the root.
            StoreError: The store refused or could not be reached.
        """

    @abstractmethod
    def create(self, key: str, body: bytes) -> bool:
        """Write one object unless it is there: of all that try, one does.

        Args:
            key: Path below the root of the lake.
            body: Its bytes.

        Returns:
            Whether this call wrote it. If the answer of a store is lost, the request is sent again and finds what the
            first one wrote: so who is told no, and must be sure, reads the object.

        Raises:
            UsageError: The key would leave the root.
            StoreError: The store refused or could not be reached.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove one object; none need be there.

        Args:
            key: Path below the root of the lake.

        Raises:
            UsageError: The key would leave the root.
            StoreError: The store refused or could not be reached.
        """

    def write(
        self,
        data: Data,
        prefix: str,
        *,
        name: str,
        partition_by: Sequence[str] = DEFAULT_PARTITIONS,
        format: FileFormat = "parquet",
    ) -> list[Written]:
        """Write rows to one file per partition, ``<prefix>/<column>=<value>/.../<name>.<format>``.

        Times become microseconds UTC: without a time zone they are taken as UTC, and digits below a
        microsecond are cut. Partition columns are in the path and not in the file. ``year``, ``month``,
        ``day`` and ``hour`` are taken from ``event_time`` unless the data has such a column. Null and empty
        text share one partition, as in Hive. CSV writes NaN as ``nan`` and null as nothing. JSON has neither
        NaN nor infinity, so JSON lines writes null for them: use Parquet where the difference matters.

        Args:
            data: Rows as dicts (a key that a row lacks is null), a DataFrame (named index levels are columns,
                NaN in a float column stays NaN), or an Arrow table.
            prefix: Where below the root of the lake, such as ``bronze/accelerometer``.
            name: File name without suffix.
            partition_by: Hive partition columns, outermost first.
            format: Parquet, CSV or JSON lines.

        Returns:
            The files written, ordered by partition. None if the data has no rows but would be partitioned.

        Raises:
            UsageError: The data, a name or a partition column cannot be written as asked.
            StoreError: The store refused or could not be reached.
        """
        if format not in get_args(FileFormat):
            raise UsageError(f"cannot write format {format!r}", remedy="choose parquet, csv or jsonl")
        if not name or name[0] in "._" or "/" in name:
            raise UsageError(
                f"cannot name a file {name!r}",
                why="readers of a lake skip hidden files, and a name is not a path",
                remedy="give a name that starts with neither '.' nor '_' and has no '/'",
            )
        written = []
        for path, rows in _partitions(as_table(data), partition_by):
            key = "/".join(part for part in (prefix.strip("/"), path, f"{name}.{format}") if part)
            body = encode(rows, format)
            self.put(key, memoryview(body))
            written.append(Written(key, rows.num_rows, body.size))
        return written


@dataclass(frozen=True)
class LocalWriter(Writer):
    """Writes to a folder.

    Attributes:
        root: The lake's root; made when first written to.
    """

    root: Path

    def __post_init__(self) -> None:
        """Take the root as text, too."""
        object.__setattr__(self, "root", Path(self.root).expanduser())

    def put(self, key: str, body: bytes | memoryview) -> None:
        """Write one file as it is, atomically; see `Writer.put`."""
        # Hidden, so that no reader takes it for data if this process dies before the rename.
        with self._place(key) as path:
            temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
            try:
                temporary.write_bytes(body)
                temporary.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise

    def create(self, key: str, body: bytes) -> bool:
        """Make one file unless it is there (``O_EXCL``); see `Writer.create`."""
        with self._place(key) as path:
            try:
                file = path.open("xb")
            except FileExistsError:
                return False
            try:
                with file:
                    file.write(body)
            except BaseException:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                raise
        return True

    def delete(self, key: str) -> None:
        """Remove one file; see `Writer.delete`."""
        with self._place(key) as path:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _place(self, key: str) -> Iterator[Path]:
        """The path of a key, its folder made; what the system refuses within is told for people."""
        path = self.root / checked_key(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
        except OSError as error:
            raise StoreError(
                f"could not write {path}",
                why=error.strerror or type(error).__name__,
                remedy="check the folder's permissions and free space, or give another --lake",
            ) from error


@dataclass(frozen=True)
class S3Writer(Writer):
    """Writes to S3, or to a store that speaks its protocol.

    Credentials are those given, else boto3's standard chain; with ``role_arn`` they are used to assume that
    role by STS, and its temporary credentials are renewed before they expire. The writer can be pickled,
    secrets included, and makes its client on first use in each process. Secrets are in neither ``repr`` nor
    any error.

    Attributes:
        bucket: The bucket.
        prefix: The lake's root in the bucket.
        endpoint_url: Another store than AWS, addressed by path.
        region: AWS region; by default that of the environment or the profile.
        access_key: Access key id, with ``secret_key``, instead of the standard chain.
        secret_key: Its secret.
        session_token: Its session token, if it is temporary.
        role_arn: A role to assume.
        external_id: What the role's trust policy asks for.
        sts_endpoint_url: Another STS than AWS's.
        encryption: Server-side encryption; by default the bucket's own.
        kms_key_id: Key for ``aws:kms``; by default the account's.
        multipart_threshold: Objects of this many bytes and more go up in parts.
        multipart_chunksize: Bytes of a part, at least 5 MiB.
        max_attempts: Attempts of one request, the first included.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer.
    """

    bucket: str
    prefix: str = ""
    _: KW_ONLY
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | SecretStr | None = None
    secret_key: str | SecretStr | None = None
    session_token: str | SecretStr | None = None
    role_arn: str | None = None
    external_id: str | SecretStr | None = None
    sts_endpoint_url: str | None = None
    encryption: Encryption | None = None
    kms_key_id: str | None = None
    multipart_threshold: int = 64 * _MEBIBYTE
    multipart_chunksize: int = 16 * _MEBIBYTE
    max_attempts: int = 5
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    # By process: a client's open connections must not be shared with a fork.
    _clients: dict[int, S3Client] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hide the secrets, and refuse settings that contradict each other."""
        prefix = self.prefix.strip("/")
        object.__setattr__(self, "prefix", checked_key(prefix) if prefix else "")
        for name in ("access_key", "secret_key", "session_token", "external_id"):
            value = getattr(self, name)
            object.__setattr__(self, name, SecretStr(value) if isinstance(value, str) else value)
        for what, wrong in _s3_mistakes(self):
            if wrong:
                raise UsageError(f"cannot write to bucket {self.bucket!r}", why=what, remedy="correct the S3 settings")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the client behind: its connections belong to this process."""
        return {**vars(self), "_clients": {}}

    def put(self, key: str, body: bytes | memoryview) -> None:
        """Upload one object as it is, in parts if it is large; see `Writer.put`."""
        transfer = TransferConfig(
            multipart_threshold=self.multipart_threshold,
            multipart_chunksize=self.multipart_chunksize,
            preferred_transfer_client="classic",  # the other one, where installed, ignores these settings
        )
        with self._place(key) as path:
            self._client().upload_fileobj(
                pa.BufferReader(body), self.bucket, path, ExtraArgs=self._encrypted, Config=transfer
            )

    def create(self, key: str, body: bytes) -> bool:
        """Upload one object unless it is there (``If-None-Match: *``); see `Writer.create`."""
        with self._place(key) as path:
            try:
                self._client().put_object(Bucket=self.bucket, Key=path, Body=body, IfNoneMatch="*", **self._encrypted)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                    raise
                return False
        return True

    def delete(self, key: str) -> None:
        """Remove one object; see `Writer.delete`."""
        with self._place(key) as path:
            self._client().delete_object(Bucket=self.bucket, Key=path)

    @contextlib.contextmanager
    def _place(self, key: str) -> Iterator[str]:
        """The key in the bucket; what the store refuses within is told for people."""
        path = "/".join(part for part in (self.prefix, checked_key(key)) if part)
        try:
            yield path
        except (BotoCoreError, ClientError, Boto3Error) as error:
            # Not chained: botocore's text may quote a header or an answer that holds a secret.
            raise _store_error(error, self.bucket, path) from None

    @property
    def _encrypted(self) -> dict[str, Any]:
        extra = {"ServerSideEncryption": self.encryption, "SSEKMSKeyId": self.kms_key_id}
        return {name: value for name, value in extra.items() if value}

    def _client(self) -> S3Client:
        client = self._clients.get(os.getpid())
        if client is None:
            bounded = Config(
                retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
            )
            # A bucket's name as host name is for AWS; other stores need not have a DNS entry for it.
            config = bounded.merge(Config(s3={"addressing_style": "path"})) if self.endpoint_url else bounded
            client = self._session(bounded).client("s3", endpoint_url=self.endpoint_url, config=config)
            self._clients[os.getpid()] = client
        return client

    def _session(self, config: Config) -> boto3.Session:
        own = boto3.Session(
            aws_access_key_id=_reveal(self.access_key),
            aws_secret_access_key=_reveal(self.secret_key),
            aws_session_token=_reveal(self.session_token),
            region_name=self.region,
        )
        if self.role_arn is None:
            return own
        credentials = own.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        external_id = _reveal(self.external_id)
        fetcher = AssumeRoleCredentialFetcher(
            partial(
                botocore.session.get_session().create_client,
                region_name=own.region_name,
                endpoint_url=self.sts_endpoint_url,
                config=config,
            ),
            credentials,
            self.role_arn,
            extra_args={"RoleSessionName": "sensor-lakehouse"} | ({"ExternalId": external_id} if external_id else {}),
        )
        assumed = botocore.session.get_session()
        assumed.register_component("credential_provider", CredentialResolver([_AssumedRole(fetcher)]))
        return boto3.Session(botocore_session=assumed, region_name=own.region_name)


class S3Options(TypedDict, total=False):
    """The settings of `S3Writer`, by name."""

    endpoint_url: str | None
    region: str | None
    access_key: str | SecretStr | None
    secret_key: str | SecretStr | None
    session_token: str | SecretStr | None
    role_arn: str | None
    external_id: str | SecretStr | None
    sts_endpoint_url: str | None
    encryption: Encryption | None
    kms_key_id: str | None
    multipart_threshold: int
    multipart_chunksize: int
    max_attempts: int
    connect_timeout: float
    read_timeout: float


def open_writer(lake: str, **s3_options: Unpack[S3Options]) -> Writer:
    """Open the writer for a lake.

    Args:
        lake: A folder, ``file://`` with a folder, or ``s3://bucket/prefix`` (``s3a`` is the same).
        **s3_options: Settings of `S3Writer`; a folder has no use for them.

    Raises:
        UsageError: The address is of another kind, has no bucket, or holds credentials.
    """
    scheme, separator, rest = lake.partition("://")
    if not separator:
        if not lake:
            raise UsageError("the lake has no address", remedy="give a folder or s3://bucket/prefix")
        return LocalWriter(Path(lake))
    match scheme.lower():
        case "file":
            host, _, path = rest.partition("/")
            if host not in ("", "localhost"):
                raise UsageError(
                    f"cannot write to {lake!r}", why=f"{host} is another machine", remedy="use file:///folder"
                )
            return LocalWriter(Path("/" + unquote(path)))
        case "s3" | "s3a":
            bucket, _, prefix = rest.partition("/")
            if "@" in bucket:  # the address is not repeated: it may hold the secret
                raise UsageError(
                    "the lake's address holds credentials",
                    why="an address ends up in logs and tables",
                    remedy="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            return S3Writer(bucket, prefix, **s3_options)
        case _:
            raise UsageError(
                f"cannot write to a lake of kind {scheme}://",
                remedy="give a folder, file:///folder or s3://bucket/prefix",
            )


def checked_key(key: str) -> str:
    """Return a key that stays below the root.

    Raises:
        UsageError: It is absolute, or a segment is empty, ``.``, ``..`` or has a NUL.
    """
    if any(segment in ("", ".", "..") or "\0" in segment for segment in key.split("/")):
        raise UsageError(
            f"cannot write to key {key!r}",
            why="it would leave the lake",
            remedy="give a path below the lake's root",
        )
    return key


# --- Data in ------------------------------------------------------------------------------------------------


def as_table(data: Data) -> pa.Table:
    """Return rows as an Arrow table with one chunk per column and times as microseconds UTC.

    Args:
        data: Rows as dicts, a DataFrame, or an Arrow table; see `Writer.write`.

    Raises:
        UsageError: The data is of another kind, a column holds values of different kinds, a time is out of
            range, or two columns have one name.
    """
    if isinstance(data, pa.Table):
        table = data
    elif isinstance(data, pd.DataFrame):
        table = _from_frame(data)
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        # Over all rows: Table.from_pylist takes the names of the first row, and drops the others in silence.
        names = dict.fromkeys(name for row in data for name in row)
        table = pa.table({str(name): _array(str(name), [row.get(name) for row in data]) for name in names})
    else:
        raise UsageError(
            f"cannot write a {type(data).__name__}",
            remedy="give a list of dicts, a pandas DataFrame or an Arrow table",
        )
    if len(set(table.column_names)) < table.num_columns:
        twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        raise UsageError(f"two columns are named {', '.join(twice)}", remedy="rename one of them")
    # Without metadata (pandas puts its own version there) and in one chunk, equal rows give equal bytes.
    return _to_utc(table).replace_schema_metadata(None).combine_chunks()


def _from_frame(frame: pd.DataFrame) -> pa.Table:
    levels = [name for name in frame.index.names if name is not None and name not in frame.columns]
    frame = frame.reset_index(level=levels) if levels else frame
    columns = [frame.iloc[:, place] for place in range(frame.shape[1])]
    # As numpy, NaN stays NaN. Of a Series Arrow makes it null: a broken reading would look missing.
    arrays = [
        _array(str(c.name), c.to_numpy() if isinstance(c.dtype, np.dtype) and c.dtype.kind == "f" else c)
        for c in columns
    ]
    return pa.Table.from_arrays(arrays, names=[str(name) for name in frame.columns])


def _array(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"column {name} cannot be written",
            why=str(error),
            remedy="give all its values one type that Arrow knows",
        ) from error


def _to_utc(table: pa.Table) -> pa.Table:
    for place, column_field in enumerate(table.schema):
        target = _utc_type(column_field.type)
        if target == column_field.type:
            continue
        # Cut digits below a microsecond, but let no far-off time wrap round to a near one.
        options = pc.CastOptions(target_type=target, allow_time_truncate=True)
        try:
            column = table.column(place).cast(options=options)
        except pa.ArrowException as error:
            raise UsageError(
                f"column {column_field.name} cannot be written",
                why=f"its times do not fit microseconds: {error}",
                remedy="give times between the years -290000 and 290000",
            ) from error
        table = table.set_column(place, column_field.with_type(target), column)
    return table


def _utc_type(kind: pa.DataType) -> pa.DataType:
    """Return a type with every timestamp in it, however deep, as microseconds UTC."""
    if pa.types.is_timestamp(kind):
        return _TIMESTAMP
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_utc_type(kind.field(i).type)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_utc_type(kind.value_type)))
    return kind


# --- Partitions ---------------------------------------------------------------------------------------------


def _partitions(table: pa.Table, partition_by: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Split a table by its partitions, ordered by path; rows keep their order within each.

    Yields:
        The Hive path (``"year=2026/month=01"``) and its rows without the partition columns.
    """
    if isinstance(partition_by, str) or len(set(partition_by)) < len(partition_by):
        raise UsageError(f"cannot partition by {partition_by!r}", remedy="give a list of different column names")
    stored = table.drop_columns([name for name in partition_by if name in table.column_names])
    if table.num_rows and not stored.num_columns:
        raise UsageError("no column would be left in the file", remedy="partition by fewer columns")
    if not partition_by:
        if stored.num_columns:
            yield "", stored
        return
    if not table.num_rows:
        return
    factors = _factors(table, partition_by)
    varying = [factor for factor in factors if factor.codes is not None]
    if not varying:  # the common case, one sensor and one hour: nothing is sorted or copied
        yield "/".join(factor.segments[0] for factor in factors), stored
        return
    group = _group(varying)
    order = np.argsort(group, kind="stable")
    if (group[1:] < group[:-1]).any():
        stored = stored.take(order)
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(group)], strict=True):
        yield "/".join(factor.segment(order[start]) for factor in factors), stored.slice(start, stop - start)


@dataclass(frozen=True)
class _Factor:
    """One partition column: its distinct path segments, sorted, and each row's (None: all have the first)."""

    segments: list[str]
    codes: NDArray[np.int64] | None

    def segment(self, row: int) -> str:
        return self.segments[0 if self.codes is None else self.codes[row]]


def _group(factors: list[_Factor]) -> NDArray[np.int64]:
    """Number every row's combination of segments, in the order of their paths."""
    shape = [len(factor.segments) for factor in factors]
    if math.prod(shape) > np.iinfo(np.int64).max:
        raise UsageError("too many partitions", why=f"distinct values: {shape}", remedy="partition by fewer columns")
    numbers: NDArray[np.int64] = np.ravel_multi_index([f.codes for f in factors if f.codes is not None], shape)
    return numbers


def _factors(table: pa.Table, partition_by: Sequence[str]) -> list[_Factor]:
    derived = [name for name in partition_by if name in _TIME_PARTS and name not in table.column_names]
    codes, hours = _distinct(_hours(table)) if derived and _has_event_time(table) else (None, None)
    factors = []
    for name in partition_by:
        if name in derived and hours is not None:
            part, width = _TIME_PARTS[name]
            texts = [None if value is None else f"{value:0{width}d}" for value in part(hours).to_pylist()]
            factors.append(_factor(name, codes, texts))
        elif name in table.column_names:
            factors.append(_own_factor(name, _decoded(table[name])))
        else:
            raise UsageError(
                f"cannot partition by {name}",
                why=f"the data has neither {name} nor a timestamp {EVENT_TIME}"
                if name in _TIME_PARTS
                else f"the data has the columns {', '.join(table.column_names)}",
                remedy="name other partition columns",
            )
    return factors


def _factor(name: str, codes: NDArray[np.int64] | None, texts: list[str | None]) -> _Factor:
    segments, rank = np.unique([_segment(name, text) for text in texts], return_inverse=True)
    # Values may share a segment (null and ""), and then they share a file: two would replace each other.
    shared = len(segments) == 1 or codes is None
    return _Factor(segments.tolist(), None if shared else rank[codes])


def _own_factor(name: str, column: pa.Array) -> _Factor:
    try:
        codes, values = _distinct(column)
        texts = iso_8601(values) if pa.types.is_timestamp(values.type) else values.cast(pa.string())
    except pa.ArrowException as error:
        raise UsageError(
            f"cannot partition by {name}",
            why=f"its type is {column.type}",
            remedy="partition by text, numbers or times",
        ) from error
    return _factor(name, codes, texts.to_pylist())


def _segment(column: str, text: str | None) -> str:
    """Return ``column=value`` as Hive escapes it; null and empty text become Hive's default partition."""
    return f"{_escape(column)}={_escape(text) if text else NULL_PARTITION}"


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _distinct(column: pa.Array) -> tuple[NDArray[np.int64] | None, pa.Array]:
    """Return each row's place among the distinct values, or None if there is one, and the values."""
    if column.null_count == 0 and pc.all(pc.equal(column, column[0])).as_py():
        return None, column[:1]
    encoded = column.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(), encoded.dictionary


def _has_event_time(table: pa.Table) -> bool:
    return EVENT_TIME in table.column_names and pa.types.is_timestamp(table.schema.field(EVENT_TIME).type)


def _hours(table: pa.Table) -> pa.Array:
    """Return every row's hour, or that hour alone when all rows are in one."""
    # Without the zone, which is UTC: Arrow would look it up in a database that a small container may lack.
    times = _decoded(table[EVENT_TIME]).cast(pa.timestamp("us"))
    bounds = pc.min_max(times)
    ends = pc.floor_temporal(pa.array([bounds["min"], bounds["max"]]), unit="hour")
    if times.null_count == 0 and ends[0] == ends[1]:
        return ends[:1]
    return pc.floor_temporal(times, unit="hour")


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks()
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


# --- Data out -----------------------------------------------------------------------------------------------


def encode(table: pa.Table, format: FileFormat) -> pa.Buffer:
    """Return a table, as `as_table` gives it, as the bytes of a file. Equal tables give equal bytes.

    Raises:
        UsageError: The format cannot hold a column.
    """
    try:
        return _ENCODERS[format](table)
    except (pa.ArrowException, TypeError) as error:
        raise UsageError(f"cannot write this table as {format}", why=str(error), remedy="write Parquet") from error


def _parquet(table: pa.Table) -> pa.Buffer:
    """Parquet, zstd. Dictionaries only where values repeat: on measured floats they cost six times the time.

    Times are delta-encoded: a steady clock then takes next to nothing. Spark, DuckDB and Delta read that. Pages have
    checksums, so that a bit that was flipped on the way does not pass for a value.
    """
    times = [column.name for column in table.schema if pa.types.is_timestamp(column.type)]
    repeating = [column.name for column in table.schema if _repeats(column.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=repeating,
        column_encoding=dict.fromkeys(times, "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
    )
    return sink.getvalue()


def _repeats(kind: pa.DataType) -> bool:
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_dictionary)
    return any(is_kind(kind) for is_kind in known)


def _csv(table: pa.Table) -> pa.Buffer:
    for place, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            table = table.set_column(place, column.name, iso_8601(_decoded(table.column(place))))
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink)
    return sink.getvalue()


def _json_lines(table: pa.Table) -> pa.Buffer:
    if not table.num_rows:
        return pa.py_buffer(b"")
    parts: list[Any] = []
    for place, name in enumerate(table.column_names):
        label = f"{'{' if place == 0 else ','}{json.dumps(name, ensure_ascii=False)}:"
        parts += [label, _json_texts(table.column(place).combine_chunks())]
    lines = pc.binary_join_element_wise(*parts, "}\n", "")  # the last argument separates: by nothing
    # Strings lie end to end in Arrow, so the array's own buffer is the file.
    _, offsets, text = lines.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)
    return text.slice(ends[lines.offset], ends[lines.offset + len(lines)] - ends[lines.offset])


def _json_texts(values: pa.Array) -> pa.Array:
    """Return each value as JSON text."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        texts = pc.binary_join_element_wise('"', iso_8601(values), '"', "")
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        texts = values.cast(pa.string())
    elif pa.types.is_float32(kind) or pa.types.is_float64(kind):
        texts = pc.if_else(pc.is_finite(values), values.cast(pa.string()), None)
    elif pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        encoded = values if pa.types.is_dictionary(kind) else values.dictionary_encode()
        distinct = [_dumps(value) for value in encoded.dictionary.to_pylist()]
        texts = pa.array(distinct, pa.string()).take(encoded.indices)
    else:
        texts = pa.array([_dumps(value) for value in values.to_pylist()], pa.string())
    return texts.fill_null("null")


def _dumps(value: object) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _plain(value: object) -> object:
    """Return a value as JSON knows it: no NaN, times as ISO 8601."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case date() | time() | Decimal():
            return str(value)
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


def iso_8601(times: pa.Array) -> pa.Array:
    """Return times as text, ``2026-01-01T00:00:00.000000Z`` (ten times faster than strftime)."""
    text = times.cast(pa.timestamp("us")).cast(pa.string())
    return pc.binary_join_element_wise(pc.binary_replace_slice(text, start=10, stop=11, replacement="T"), "Z", "")


_ENCODERS: dict[str, Callable[[pa.Table], pa.Buffer]] = {
    "parquet": _parquet,
    "csv": _csv,
    "jsonl": _json_lines,
}


# --- S3 -----------------------------------------------------------------------------------------------------


class _AssumedRole(CredentialProvider):
    """Hands botocore the credentials of a role, which it renews by itself before they expire."""

    METHOD = "assume-role"

    def __init__(self, fetcher: AssumeRoleCredentialFetcher) -> None:
        super().__init__()
        self._fetcher = fetcher

    def load(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(self._fetch, self.METHOD)

    def _fetch(self) -> dict[str, Any]:
        try:
            credentials: dict[str, Any] = self._fetcher.fetch_credentials()
        except ClientError as error:
            # botocore logs what is raised here, with its text: let that be no more than the code.
            raise ClientError({"Error": {"Code": _code(error)}}, error.operation_name) from None
        return credentials


def _reveal(value: str | SecretStr | None) -> str | None:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _s3_mistakes(writer: S3Writer) -> Iterator[tuple[str, bool]]:
    """Yield what may be wrong with a writer's settings, and whether it is."""
    urls = [url for url in (writer.endpoint_url, writer.sts_endpoint_url) if url is not None]
    yield "the bucket has no name", not writer.bucket
    yield "access_key and secret_key go together", (writer.access_key is None) != (writer.secret_key is None)
    yield (
        "session_token needs access_key and secret_key",
        writer.session_token is not None and writer.access_key is None,
    )
    yield "external_id needs role_arn", writer.external_id is not None and writer.role_arn is None
    yield "encryption is AES256 or aws:kms", writer.encryption not in (None, *get_args(Encryption))
    yield (
        "kms_key_id needs encryption aws:kms",
        writer.kms_key_id is not None and writer.encryption != "aws:kms",
    )
    yield (
        "an endpoint starts with http:// or https://",
        any(not re.match(r"https?://[^/]", url) for url in urls),
    )
    yield "an endpoint must not hold credentials", any("@" in urlsplit(url).netloc for url in urls)
    yield "multipart_chunksize is at least 5 MiB", writer.multipart_chunksize < 5 * _MEBIBYTE
    yield "multipart_threshold is at least 1", writer.multipart_threshold < 1
    yield "max_attempts is at least 1", writer.max_attempts < 1
    yield "timeouts are above 0", min(writer.connect_timeout, writer.read_timeout) <= 0


_WHO = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is attached"
_EXPIRED = (
    "the temporary credentials have expired",
    "renew them (aws sso login), or run where a role is attached: it renews itself",
)
_WHERE = ("the bucket is in another region", "set the region to the bucket's (AWS_REGION)")
_BUSY = ("the store is overloaded", "run again: written files are replaced, never doubled")
_UNREACHABLE = ("the store cannot be reached", "check the network and the endpoint")
# By the error code of S3, STS and KMS, or by botocore's class.
_CAUSES: dict[str, tuple[str, str]] = {
    "NoSuchBucket": ("there is no such bucket", "create it, or correct the lake's address"),
    "AccessDenied": (
        "the credentials may not do this",
        "allow what conf/iam-policy.json allows, and the use of the key if the bucket is encrypted",
    ),
    "AccessDeniedException": (
        "the credentials may not do this",
        "allow it in the policy of the role or of the key",
    ),
    "AllAccessDisabled": ("the bucket is closed to everyone", "choose another bucket"),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidAccessKeyId": ("the store does not know the access key", _WHO),
    "InvalidClientTokenId": ("STS does not know the access key", _WHO),
    "SignatureDoesNotMatch": ("the secret does not belong to the access key", _WHO),
    "InvalidToken": ("the session token is not valid", _WHO),
    "PermanentRedirect": _WHERE,
    "AuthorizationHeaderMalformed": _WHERE,
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set the clock"),
    "EntityTooLarge": ("the object is too large for the store", "write smaller files"),
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
    "InternalFailure": _BUSY,
    "NotFoundException": ("there is no such encryption key", "correct kms_key_id"),
    "KMS.NotFoundException": ("there is no such encryption key", "correct kms_key_id"),
    "NoCredentialsError": ("there are no AWS credentials", _WHO),
    "PartialCredentialsError": ("half of the AWS credentials is missing", _WHO),
    "CredentialRetrievalError": ("the AWS credentials could not be fetched", _WHO),
    "ProfileNotFound": ("there is no such AWS profile", "correct AWS_PROFILE"),
    "NoRegionError": ("no AWS region is set", "set the region (AWS_REGION)"),
    "ParamValidationError": (
        "the bucket or the key has a name S3 does not allow",
        "correct the lake's address",
    ),
    "EndpointConnectionError": _UNREACHABLE,
    "ConnectTimeoutError": _UNREACHABLE,
    "ReadTimeoutError": (
        "the store does not answer",
        "run again, or wait longer (s3.timeout_seconds; read_timeout of a writer)",
    ),
    "ConnectionClosedError": ("the store hung up", "run again: written files are replaced, never doubled"),
    "SSLError": ("the store's certificate is not trusted", "set AWS_CA_BUNDLE, or correct the endpoint"),
}


def _code(error: ClientError) -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else "an unknown error"


def meaning(code: str) -> tuple[str, str]:
    """Why a store refuses with this code, empty if that is not known, and what to do."""
    return _CAUSES.get(code, ("", "ask the store by its own client: aws s3 ls"))


def _store_error(error: Exception, bucket: str, key: str) -> StoreError:
    """Say a refusal in our own words. Of a server's answer only the code is kept: it may echo a secret."""
    name, where = type(error).__name__, ""
    if isinstance(error, ClientError):
        name, where = _code(error), f" to {error.operation_name}"
    cause, remedy = meaning(name)
    why = f"{cause} ({name}{where})" if cause else f"{name}{where}"
    return StoreError(f"could not write s3://{bucket}/{key}", why=why, remedy=remedy)
