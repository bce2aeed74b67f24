"""Reads source files into bronze, as they are; a line that is no row goes to quarantine."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import IO, cast

import pyarrow.compute as pc
import pyarrow.fs as pafs

from jobs.catalog import DATASETS
from jobs.lake import cli, delta, ledger, quarantine
from jobs.lake.cli import Context
from jobs.lake.delta import Transaction
from jobs.lake.errors import FileRefusedError, UsageError
from jobs.lake.layout import Lake
from jobs.lake.ledger import Entry
from jobs.lake.sources import Refused, SourceFile
from jobs.lake.tables import Dataset, Ingest

_REFUSED_AT_ONCE = 50_000  # lines that wait for quarantine, a few dozen MB: a file of nothing else may have any number


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``ingest``."""
    able = ", ".join(name for name, dataset in DATASETS.items() if dataset.ingest)
    parser.add_argument("--dataset", required=True, metavar="NAME", help=able)
    parser.add_argument("files", nargs="+", metavar="FILE", help="a path, or s3a://bucket/key; plain or gzip")


def run(context: Context, options: argparse.Namespace) -> None:
    """Ingest the files, and print the books."""
    (name,) = cli.choice([n for n, d in DATASETS.items() if d.ingest], options.dataset, "dataset")
    if context.plan:
        sizes = {file: _located(context.lake, file)[1].size for file in options.files}
        rows = [{"file": file, "bytes": size, "to": f"bronze/{name}"} for file, size in sizes.items()]
        context.console.table("would ingest", rows)
        return
    context.close_books(ingest(context, DATASETS[name], options.files))


def ingest(
    context: Context, dataset: Dataset, files: Sequence[str], refused: dict[str, str] | None = None
) -> list[Entry]:
    """Write the rows of source files to bronze, and lines that are none to quarantine.

    A file that was ingested is known by its content and not read again. A changed file gets names of its own in
    bronze, so its rows are promoted as well.

    Args:
        context: The job's context.
        dataset: What the files hold.
        files: Paths, or addresses in S3.
        refused: Takes the files that are refused whole, and why, and the others go on; without it the first one raises.

    Raises:
        FileRefusedError: A file is not what its name says; the files before it are in.
        UsageError: A file is not there.
    """
    entries, unbooked = list[Entry](), _unbooked(context.lake, dataset)
    for file in files:
        try:
            entries += _ingest_file(context, dataset, file, unbooked)
        except FileRefusedError as error:
            if refused is None:
                raise
            refused[file] = error.why or error.what
    return entries


def _ingest_file(context: Context, dataset: Dataset, file: str, unbooked: set[str]) -> list[Entry]:
    """Ingest a file, after lines of it as it was before it was mended were booked; nothing for a companion."""
    how, found = dataset.ingest, source_file(context.lake, file)
    assert how is not None
    if how.is_companion(found.name):
        return []
    names, companions = how.companions(found.name), beside(context.lake, how, file)
    if names and not companions:
        context.console.say(f"ingest   {found.name}: no {' or '.join(names)} beside it")
    with delta.holding(context.lake, f"bronze/{dataset.name}"):
        application = f"ingest/{dataset.name}/{found.name}/{_digest([found, *companions])}"
        left = {other for other in unbooked if other.split("/")[2] == found.name and other != application}
        unbooked -= left  # nobody is to finish those
        entries = [_book_left(context, dataset, other) for other in sorted(left)]
        return [*entries, _ingest_one(context, dataset, how, Transaction(application, 0), found, companions)]


def beside(lake: Lake, how: Ingest, file: str) -> list[SourceFile]:
    """The files next to a source file that complete it, as far as they are there."""
    folder, _, name = file.rpartition("/")
    places = [f"{folder}/{other}" if folder else other for other in how.companions(name)]
    return [source_file(lake, place) for place in places if _is_there(lake, place)]


def _ingest_one(
    context: Context,
    dataset: Dataset,
    how: Ingest,
    transaction: Transaction,
    file: SourceFile,
    companions: Sequence[SourceFile],
) -> Entry:
    batch = ledger.Batch(context.run_id, "ingest", dataset.name)
    digest = transaction.application.rpartition("/")[2]
    if delta.progress(context.lake, context.lake.ledger, transaction.application) is not None:
        return context.nothing_new("ingest", file.name)
    writer, stem = context.lake.writer(), file.name.split(".")[0]
    written = quarantined = 0
    refused: list[Refused] = []

    def put_away() -> None:
        nonlocal quarantined
        rows = [
            (json.dumps({"line": text}), [reason], file.name, number, batch.started_at, None, None)
            for number, text, reason in refused
        ]
        part = Transaction(transaction.application, quarantined // _REFUSED_AT_ONCE)
        quarantine.append(context.lake, dataset.name, [quarantine.refused(context.spark, rows)], part)
        quarantined += len(refused)
        refused.clear()

    for number, piece in enumerate(how.parse(file, companions)):
        written += piece.rows.num_rows
        for line in piece.refused:
            refused.append(line)
            if len(refused) == _REFUSED_AT_ONCE:
                put_away()
        if piece.rows.num_rows:
            name = f"{stem}-{digest}-{number:05d}"
            writer.write(piece.rows, f"bronze/{dataset.name}", name=name, partition_by=how.partition_by)
    if refused:
        put_away()
    booked = ledger.booked(context.lake, _left(transaction.application), "rows_quarantined") if quarantined else 0
    entry = batch.entry(
        transaction,
        files=1,
        rows_read=written + quarantined - booked,
        rows_written=written,
        rows_quarantined=quarantined - booked,
        bytes_read=sum(len(block) for block in _blocks(file)),
    )
    ledger.record(context.lake, [entry], transaction)
    context.progress(entry)
    return entry


def _unbooked(lake: Lake, dataset: Dataset) -> set[str]:
    """Applications of runs that had refused lines, and were stopped before they booked them."""
    there = delta.scan(lake, lake.quarantine(dataset.name))
    if there is None:
        return set()
    mine = pc.starts_with(pc.field("batch_id"), f"ingest/{dataset.name}/")
    tags = there.to_table(["batch_id"], filter=mine)["batch_id"].unique().to_pylist()
    booked = ledger.applications(lake, "ingest", dataset.name)
    return {name for tag in tags if not {name := tag.rpartition("/")[0], _left(name).application} & booked}


def _left(application: str) -> Transaction:
    return Transaction(f"{application}/left", 0)


def _book_left(context: Context, dataset: Dataset, application: str) -> Entry:
    """Book the lines of a run that was stopped; should somebody finish it, they are taken off what it books."""
    there = delta.scan(context.lake, context.lake.quarantine(dataset.name))
    assert there is not None
    lines = there.count_rows(filter=pc.starts_with(pc.field("batch_id"), f"{application}/"))
    batch, once = ledger.Batch(context.run_id, "ingest", dataset.name), _left(application)
    entry = batch.entry(once, rows_read=lines, rows_quarantined=lines)
    ledger.record(context.lake, [entry], once)
    return entry


def _digest(files: Sequence[SourceFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode())
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()[:12]


def _blocks(file: SourceFile) -> Iterator[bytes]:
    try:
        with file.open() as stream:
            yield from iter(lambda: stream.read(1 << 20), b"")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileRefusedError(
            f"{file.name} is refused whole", why=f"its name says gzip, but: {error}", remedy="fetch it again"
        ) from error


def source_file(lake: Lake, text: str) -> SourceFile:
    """A file named on the command line, or by a walk.

    Raises:
        UsageError: It is not there.
    """
    filesystem, info = _located(lake, text)
    place: str = info.path  # the info itself would not travel to Spark's workers

    def opened() -> IO[bytes]:
        raw = filesystem.open_input_file(place)
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw) if place.endswith(".gz") else io.BufferedReader(raw))

    return SourceFile(PurePath(text).name, opened, info.mtime)  # as it was named, though it may be a link


def _is_there(lake: Lake, text: str) -> bool:
    try:
        _located(lake, text)
    except UsageError:
        return False
    return True


def _located(lake: Lake, text: str) -> tuple[pafs.FileSystem, pafs.FileInfo]:
    """The file system of a file named on the command line, and what it says of it.

    Raises:
        UsageError: It is not there.
    """
    home = Lake.parse(text, lake.s3)
    filesystem, place = home.filesystem(), home.arrow_path(home.uri)
    info = filesystem.get_file_info(place)
    if info.type != pafs.FileType.File:
        why = "it is a folder" if info.type == pafs.FileType.Directory else "nothing is there"
        raise UsageError(f"there is no file {text}", why=why, remedy="check the path")
    return filesystem, info


if __name__ == "__main__":
    cli.main(__doc__ or "", arguments, run)
