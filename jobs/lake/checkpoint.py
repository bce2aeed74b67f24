"""What Spark's checkpoint says of the files it has handed out, read without Spark."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from jobs.lake.intake import Arrived
from jobs.lake.layout import Lake


def waiting(lake: Lake, stage: str, dataset: str) -> list[Arrived]:
    """Bronze files that no finished batch has promoted, oldest first."""
    done = promoted(lake, stage, dataset)
    return [f for f in bronze_files(lake, dataset) if lake.relative(f.path) not in done]


def bronze_files(lake: Lake, dataset: str) -> list[Arrived]:
    """All files of a dataset's bronze, as a promotion would order them; hidden ones (``_x``, ``.x``) are none."""
    folder = lake.arrow_path(lake.bronze(dataset))
    selector = pafs.FileSelector(folder, recursive=True, allow_not_found=True)
    found = []
    for info in lake.filesystem().get_file_info(selector):
        parts = info.path.removeprefix(folder).strip("/").split("/")
        if info.type == pafs.FileType.File and not any(p.startswith(("_", ".")) for p in parts):
            path = f"s3a://{info.path}" if lake.on_s3 else info.path
            found.append(Arrived(path, info.size, (info.mtime_ns or 0) // 1000))
    return sorted(found, key=lambda f: (f.modified, f.path))


def promoted(lake: Lake, stage: str, dataset: str) -> set[str]:
    """Paths, relative to the lake, of the files in finished batches."""
    root = lake.arrow_path(lake.checkpoint(stage, dataset))
    batches = [int(name) for name, _ in _entries(lake, f"{root}/commits") if name.isdigit()]
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


def arrived(lake: Lake, names: Sequence[str]) -> list[Arrived]:
    """Files by their names relative to the lake; one that is gone has a length of -1."""
    return _arrived(lake, [f"{lake.uri}/{name}" for name in names])


def _arrived(lake: Lake, paths: Sequence[str]) -> list[Arrived]:
    infos = lake.filesystem().get_file_info([lake.arrow_path(path) for path in paths])
    return [
        Arrived(path, -1 if info.type == pafs.FileType.NotFound else info.size, (info.mtime_ns or 0) // 1000)
        for path, info in zip(paths, infos, strict=True)
    ]


def _handed_out(lake: Lake, root: str, after: int, upto: int) -> list[str]:
    """Files of the batches after ``after`` and up to ``upto``, each once, as :func:`bronze_files` spells them."""
    offsets = dict(_entries(lake, f"{root}/offsets", lambda names: {str(after), str(upto)}))
    low = int(offsets[str(after)][-1]["logOffset"]) if str(after) in offsets else -1
    high = int(offsets[str(upto)][-1]["logOffset"])
    found: dict[str, None] = {}
    for _, lines in _entries(lake, f"{root}/sources/0", lambda names: _telling(names, low, high)):
        for entry in lines:
            if low < int(entry["batchId"]) <= high:
                # Spark writes the path as a URI: percent-encoded, and with a scheme.
                path = unquote(str(entry["path"]))
                found[path if lake.on_s3 else lake.arrow_path(path)] = None
    return list(found)


def _telling(names: Collection[str], low: int, high: int) -> Collection[str]:
    """Parts of the source's log that tell of its batches after ``low`` and up to ``high``.

    Each batch has a part of its own, every tenth with all before it. Those that such a one repeats are removed by
    Spark in time: then all parts are read.
    """
    parts = {name.removesuffix(".compact"): name for name in names}
    wanted = [str(number) for number in range(low + 1, high + 1)]
    return {parts[number] for number in wanted} if all(number in parts for number in wanted) else names


def _entries(
    lake: Lake, folder: str, choose: Callable[[Collection[str]], Collection[str]] = lambda names: names
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Files of one part of a checkpoint: name and JSON lines; each begins with a line of its version."""
    filesystem = lake.filesystem()
    infos = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    there = {i.base_name: i.path for i in infos if i.type == pafs.FileType.File and not i.base_name.startswith(".")}
    chosen = choose(there)
    for name, path in there.items():
        if name in chosen:
            with filesystem.open_input_stream(path) as stream:
                lines = stream.read().decode().splitlines()[1:]
            yield name, [json.loads(line) for line in lines if line.startswith("{")]
