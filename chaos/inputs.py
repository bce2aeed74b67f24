"""Bad inputs, and what each gets: ``python -m chaos.inputs`` plays all of them and prints the table of the docs."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chaos import checks
from chaos.driver import run
from chaos.stores import KEYS, Stores, put
from jobs.lake.layout import Lake

_START = 1_780_272_000  # 1 June 2026, s since 1970
_READINGS = " ".join(["0.0023", "-0.0003", "100.0", *(f"{n}.5" for n in range(1, 22))])


@dataclass(frozen=True)
class Outcome:
    """What an input gets.

    Attributes:
        what: The input.
        refused: What of it is refused: the file, a row or line of it, or the command.
        reason: Why, as it is written down or said.
        code: Exit code of the job.
    """

    what: str
    refused: str
    reason: str
    code: int


def parquet(**changed: object) -> bytes:
    """A sound file of three samples of an accelerometer, with columns changed or added."""
    sound: dict[str, object] = {
        "sensor_id": ["s"] * 3,
        "event_time": _times(0, 1, 2),
        **{axis: pa.array([0.25, 0.5, 0.75], pa.float32()) for axis in ("ax", "ay", "az")},
    }
    out = io.BytesIO()
    pq.write_table(pa.table(sound | changed), out, compression="none", use_dictionary=False, write_page_checksum=True)
    return out.getvalue()


def _times(*seconds: float | None) -> pa.Array:
    """Instants, in seconds after the start."""
    micros = [None if second is None else round((_START + second) * 1e6) for second in seconds]
    return pa.array(micros, pa.timestamp("us", tz="UTC"))


def _at(second: int, **changed: object) -> bytes:
    """Three samples from a second on."""
    return parquet(**{"event_time": _times(second, second + 1, second + 2), **changed})


def _flipped() -> bytes:
    content = bytearray(parquet())
    content[content.index(np.float32(0.5).tobytes())] ^= 1
    return bytes(content)


_TWICE = {axis: [0.1, 0.2, 0.1] for axis in ("ax", "ay", "az")}
BRONZE: Mapping[str, Callable[[], bytes]] = {
    "an empty file": lambda: b"",
    "a file cut short": lambda: parquet()[:300],
    "a text called .parquet": lambda: b"sensor_id,ax\ns,1\n" * 50,
    "a bit flipped in a page": _flipped,
    "100,000 columns": lambda: parquet(**{f"c{n}": [0, 0, 0] for n in range(100_000)}),
    "two columns that differ by case": lambda: parquet(AX=[1, 2, 3]),
    "a type that silver cannot hold": lambda: parquet(taken=pa.array([1, 2, 3], pa.time64("us"))),
    "no instant": lambda: parquet(event_time=_times(10, 11, None)),
    "the year 1970": lambda: parquet(event_time=_times(20, 21, -_START)),
    "the year 2262": lambda: parquet(event_time=_times(30, 31, 9_223_372_036 - _START)),
    "NaN": lambda: _at(50, ax=[0.1, 0.2, float("nan")]),
    "infinity": lambda: _at(60, ay=[0.1, 0.2, float("inf")]),
    "a text for a number": lambda: _at(70, az=["0.1", "0.2", "n/a"]),
    "more than the sensor can measure": lambda: _at(80, ax=[0.1, 0.2, 1e9]),
    "the same key with other values": lambda: parquet(event_time=_times(90, 91, 90)),
    "the same row again": lambda: parquet(event_time=_times(95, 96, 95), **_TWICE),
}
"""Files that arrive in bronze, one each, and are promoted together; those with one bad row have two good ones."""

SOURCES: Mapping[str, tuple[str, str, Callable[[Path], object]]] = {
    "a picture called .txt": (
        "turbofan",
        "train_FD001.txt",
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20),
    ),
    "another name": ("turbofan", "engines.txt", lambda path: path.write_text("1 2 3\n")),
    "a damaged gzip": (
        "turbofan",
        "train_FD001.txt.gz",
        lambda path: path.write_bytes(gzip.compress(b"1 " * 9_999)[:-20]),
    ),
    "a line with too few fields": (
        "turbofan",
        "train_FD002.txt",
        lambda path: path.write_text("".join(f"1 {n} {_READINGS}\n" for n in range(1, 20)) + "1 20 0.5\n"),
    ),
    "a line of 3 GB": ("turbofan", "train_FD003.txt", lambda path: _long(path, 3 << 30)),
    "a line that is no JSON": (
        "devices",
        "messages.jsonl",
        lambda path: path.write_text('{"deviceId": \n'),
    ),
    "bytes that are no UTF-8": ("devices", "latin.jsonl", lambda path: path.write_bytes(b'{"deviceId": "\xe9"}\n')),
    "a file that is not there": ("turbofan", "train_FD004.txt", lambda path: None),
}
"""Files that are ingested, each by a run of its own."""


def _long(path: Path, size: int) -> None:
    """A good start, and a line of so many bytes, which take no room on the disk."""
    with path.open("wb") as file:
        file.write("".join(f"1 {n} {_READINGS}\n" for n in range(1, 20)).encode())
        file.truncate(size)


COMMANDS: Mapping[str, tuple[str, ...]] = {
    "an unknown dataset": ("silver", "--dataset", "accelerometers"),
    "a typing error in a setting": ("silver", "--dataset", "all", "--set", "silver.max_file_per_batch=9"),
    "a setting that is no number": ("silver", "--dataset", "all", "--set", "silver.max_files_per_batch=many"),
    "a lake that is no place": ("silver", "--dataset", "all", "--lake", "gs://bucket/lake"),
    "a bucket that is not there": ("status", "--lake", "s3a://no-such-bucket-of-ours/lake"),
}


def outcomes(home: Path, s3_endpoint: str) -> Iterator[Outcome]:
    """Play all of them in a lake of their own."""
    lake = Lake(str(home / "lake"))
    yield from _promoted(lake)
    for what, (dataset, name, make) in SOURCES.items():
        make(home / name)
        known = len(checks.rows(lake, f"quarantine/{dataset}"))
        ended = _job(lake, "ingest", "--dataset", dataset, str(home / name))
        if ended["code"]:
            yield Outcome(what, "the file", _said(ended["err"], home), ended["code"])
            continue
        silver = _job(lake, "silver", "--dataset", dataset)
        (row,) = sorted(checks.rows(lake, f"quarantine/{dataset}"), key=lambda row: row["quarantined_at"])[known:]
        place = "line" if row["source_file"] == name else "row"
        yield Outcome(what, f"{place} {row['source_row']}", row["reasons"][0], silver["code"])
    for what, words in COMMANDS.items():
        ended = _job(lake, *words, "--set", f"s3.endpoint={s3_endpoint}", "--set", "s3.attempts=1")
        yield Outcome(what, "the command", _said(ended["err"], home), ended["code"])


def _promoted(lake: Lake) -> Iterator[Outcome]:
    """The files of bronze, promoted by one run; of those with one bad row the others must be there."""
    names = {what: f"bronze/accelerometer/{number:02d}.parquet" for number, what in enumerate(BRONZE)}
    for what, name in names.items():
        put(lake, name, BRONZE[what](), 0)
    ended = _job(lake, "silver", "--dataset", "accelerometer", "--json")
    (books,) = json.loads(ended["out"].splitlines()[-1])["books"]
    held = {row["source_file"]: row for row in checks.rows(lake, "quarantine/accelerometer")}
    rows = [row for row in held.values() if row["source_row"] is not None]
    good = 2 * (len(rows) + books["rows_duplicate"])
    if (books["rows_duplicate"], books["rows_written"]) != (1, good):
        raise AssertionError(f"{good} rows beside the bad ones are to be written, and one is a duplicate: {books}")
    for what, name in names.items():
        row = held.get(name)
        if row is None:
            yield Outcome(what, "row 2", "counted as a duplicate", ended["code"])
        else:
            refused = "the file" if row["source_row"] is None else f"row {row['source_row']}"
            yield Outcome(what, refused, row["reasons"][0], ended["code"])


def _job(lake: Lake, job: str, *words: str) -> dict[str, Any]:
    place = () if "--lake" in words else ("--lake", lake.uri)
    return run(job, [*words, *place, "--profile", "testing"], None)


def _said(text: str, home: Path) -> str:
    """The error as it was said, without the place of this machine."""
    found = re.search(r"^(LH\d+ .*)(?:\n +why: +(.*))?", text, re.M)
    said = ": ".join(filter(None, found.groups())) if found else text
    return said.replace(f"{home}/", "")


def table(found: Iterable[Outcome]) -> str:
    """As Markdown."""
    lines = ["| input | refused | reason | exit code |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {o.what} | {o.refused} | `{o.reason}` | {o.code} |" for o in found)])


def main() -> None:
    """Print the table."""
    os.environ.update(KEYS)
    stores = Stores()
    with tempfile.TemporaryDirectory() as home:
        print(table(outcomes(Path(home), stores.endpoint)))
    stores.close()


if __name__ == "__main__":
    main()
