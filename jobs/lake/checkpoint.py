"""What Spark's checkpoint says of the files it has handed out, read without Spark."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from jobs.lake.diagnosis import cause, shortened
from jobs.lake.errors import DataError, MachineError
from jobs.lake.intake import Arrived, oldest_first
from jobs.lake.layout import Lake

_TAIL = 1 << 16  # bytes: holds the last line of any part


def check(lake: Lake, stage: str, dataset: str) -> None:
    """Make sure that no part of a checkpoint is torn or gone: Spark would hand out files again, or forget some.

    Raises:
        DataError: A part is.
    """
    root = lake.arrow_path(lake.checkpoint(stage, dataset))
    there = {folder: _parts(lake, f"{root}/{folder}") for folder in ("offsets", "commits", "sources/0")}
    batches, commits, told = (_numbers(parts) for parts in there.values())
    if not batches and not told:
        return
    begun = max([*batches, *commits], default=-1)
    joined = max((number for number in told if f"{number}.compact" in there["sources/0"]), default=-1)
    first = min([*batches, max(begun - 1, 0)])  # of the two that Spark reads the first may be gone
    wanted = ["metadata", *(f"offsets/{number}" for number in range(first, begun + 1))]
    wanted += [f"commits/{begun - 1}"] if begun > first else []
    wanted += [f"commits/{begun}"] if begun in commits else []
    wanted += [f"sources/0/{joined}.compact"] if joined >= 0 else []
    try:
        for part in wanted:
            folder, _, name = part.rpartition("/")
            if folder and name not in there[folder]:
                raise FileNotFoundError("it is gone")
            # Of the batches that Spark keeps, a hundred or so, it reads the last two.
            if folder != "offsets" or int(name) >= begun - 1:
                _check_part(lake, f"{root}/{part}", versioned=folder != "")
        reached = int(_read(lake, there["offsets"][str(begun)])[-1]["logOffset"]) if batches else -1
        for number in range(joined + 1, max([reached, *told]) + 1):
            part = f"sources/0/{number}"
            _check_part(lake, f"{root}/{part}", versioned=True)
    except (FileNotFoundError, ValueError, LookupError) as error:  # and no store that does not answer
        raise _damaged(lake, stage, dataset, part, str(error)) from error


def _check_part(lake: Lake, path: str, *, versioned: bool) -> None:
    """Read the first line and the last of a part: of files that were handed out it may have a great many."""
    with lake.filesystem().open_input_file(path) as stream:
        size = stream.size()
        head, tail = stream.read_at(min(size, 3), 0), stream.read_at(min(size, _TAIL), max(size - _TAIL, 0))
    lines = tail.decode().splitlines()
    if not lines or (versioned and head.rstrip() != b"v1"):
        raise ValueError("it is cut short")
    if len(lines) > 1 or not versioned:  # a part that tells of nothing has its version only
        json.loads(lines[-1])


def _damaged(lake: Lake, stage: str, dataset: str, part: str, why: str) -> DataError:
    """What to say of a checkpoint that cannot be relied on, and how to go on without it."""
    return DataError(
        f"the checkpoint {lake.relative(lake.checkpoint(stage, dataset))} is damaged: {part}",
        why=shortened(why),
        remedy=lake.without_checkpoint(stage, dataset),
    )


def unusable(lake: Lake, stage: str, dataset: str, error: Exception) -> MachineError:
    """What to say of a checkpoint that is sound as far as one can tell, and that Spark could not read or write."""
    return MachineError(
        f"Spark could not use the checkpoint {lake.relative(lake.checkpoint(stage, dataset))}",
        why=cause(error, lake.uri),
        remedy="./spark-submit.sh doctor tells whether the lake can be read and written; if so, the same command,"
        f" and if that fails again: {lake.without_checkpoint(stage, dataset)}",
    )


def waiting(lake: Lake, stage: str, dataset: str) -> list[Arrived]:
    """Bronze files that no finished batch has promoted, oldest first."""
    done = promoted(lake, stage, dataset)
    return [f for f in bronze_files(lake, dataset) if lake.relative(f.path) not in done]


def bronze_files(lake: Lake, dataset: str) -> list[Arrived]:
    """All files of a dataset's bronze, as a promotion would order them; hidden ones (``_x``, ``.x``) are none."""
    folder = lake.arrow_path(lake.bronze(dataset))
    scheme = "s3a://" if lake.on_s3 else ""
    found = [Arrived(scheme + i.path, i.size, (i.mtime_ns or 0) // 1000) for i in lake.files(folder)]
    return oldest_first(found)


def promoted(lake: Lake, stage: str, dataset: str) -> set[str]:
    """Paths, relative to the lake, of the files in finished batches."""
    root = lake.arrow_path(lake.checkpoint(stage, dataset))
    batches = _numbers(_parts(lake, f"{root}/commits"))
    if not batches:
        return set()
    return {lake.relative(path) for path in _handed_out(lake, root, -1, max(batches))}


def batch_files(lake: Lake, stage: str, dataset: str, number: int) -> list[Arrived]:
    """The files of one batch, as Spark has written them down before it started it.

    The batch's own rows would not do: Spark leaves out empty files, which would then be lost without a word.
    A file that is gone by now has a length of -1.
    """
    root = lake.arrow_path(lake.checkpoint(stage, dataset))
    return _arrived(lake, _handed_out(lake, root, number - 1, number))


def is_open(lake: Lake, stage: str, dataset: str, number: int) -> bool:
    """Whether Spark has begun a batch and not written down that it is done: then it comes again."""
    root = lake.arrow_path(lake.checkpoint(stage, dataset))
    offsets, commits = (_parts(lake, f"{root}/{folder}") for folder in ("offsets", "commits"))
    return str(number) in offsets and str(number) not in commits


def arrived(lake: Lake, names: Sequence[str]) -> list[Arrived]:
    """Files by their names relative to the lake, oldest first; one that is gone has a length of -1."""
    found = _arrived(lake, [f"{lake.uri}/{name}" for name in names])
    return oldest_first(found)


def _arrived(lake: Lake, paths: Sequence[str]) -> list[Arrived]:
    infos = lake.filesystem().get_file_info([lake.arrow_path(path) for path in paths])
    return [
        Arrived(path, -1 if info.type == pafs.FileType.NotFound else info.size, (info.mtime_ns or 0) // 1000)
        for path, info in zip(paths, infos, strict=True)
    ]


def _handed_out(lake: Lake, root: str, after: int, upto: int) -> list[str]:
    """Files of the batches after ``after`` and up to ``upto``, each once, as :func:`bronze_files` spells them."""
    offsets, log = _parts(lake, f"{root}/offsets"), _parts(lake, f"{root}/sources/0")
    low = int(_read(lake, offsets[str(after)])[-1]["logOffset"]) if str(after) in offsets else -1
    high = int(_read(lake, offsets[str(upto)])[-1]["logOffset"])
    telling = _telling(log, low, high)
    found: dict[str, None] = {}
    for path in (path for name, path in log.items() if name in telling):
        for entry in _read(lake, path):
            if low < int(entry["batchId"]) <= high:
                # Spark writes the path as a URI: percent-encoded, and with a scheme.
                file = unquote(str(entry["path"]))
                found[file if lake.on_s3 else lake.arrow_path(file)] = None
    return list(found)


def _telling(names: Collection[str], low: int, high: int) -> Collection[str]:
    """Parts of the source's log that tell of its batches after ``low`` and up to ``high``.

    Each batch has a part of its own, every tenth with all before it. Those that such a one repeats are removed by
    Spark in time: then all parts are read.
    """
    parts = {name.removesuffix(".compact"): name for name in names}
    wanted = [str(number) for number in range(low + 1, high + 1)]
    return {parts[number] for number in wanted} if all(number in parts for number in wanted) else names


def _numbers(parts: Collection[str]) -> list[int]:
    """Their numbers, in order; those of a source may end in ``.compact``."""
    return sorted(int(name.removesuffix(".compact")) for name in parts)


def _parts(lake: Lake, folder: str) -> dict[str, str]:
    """The files of one part of a checkpoint, path by name; what has no number for its name is not Spark's."""
    infos = [info for info in lake.listed(folder) if info.type == pafs.FileType.File]
    return {i.base_name: i.path for i in infos if i.base_name.removesuffix(".compact").isdigit()}


def _read(lake: Lake, path: str) -> list[dict[str, Any]]:
    """The JSON lines of a checkpoint's file, which begins with a line of its version."""
    with lake.filesystem().open_input_stream(path) as stream:
        lines = stream.read().decode().splitlines()[1:]
    return [json.loads(line) for line in lines if line.startswith("{")]
