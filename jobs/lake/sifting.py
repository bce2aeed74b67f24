"""A batch is written without the files that cannot be read, in spite of a sound footer; they are refused as well."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from jobs.lake import diagnosis
from jobs.lake.errors import MachineError
from jobs.lake.intake import Arrived, Probed
from jobs.lake.judging import Judge

_FAILED_FILE = re.compile(r"FAILED_READ_FILE\S* Encountered error while reading file (\S+)\.\s")
T = TypeVar("T")


def write(
    judge: Judge,
    files: Sequence[Arrived],
    base: int | None,
    taken: Callable[[list[Probed]], list[Probed]],
    attempt: Callable[[list[Probed]], T],
    *,
    thorough: bool = False,
) -> tuple[list[Probed], T]:
    """Write a batch, again without a file that turns out to be broken.

    Args:
        judge: Probes the files.
        files: Files in their order of arrival.
        base: Version of silver; None if there is none yet.
        taken: Files as they were probed -> as the batch takes them; asked before each attempt.
        attempt: Writes them, the same transaction each time.
        thorough: Read the data pages from the start, and not only when an attempt has failed.

    Returns:
        The files as they were taken, and what the attempt came to that went through.
    """
    probed, read_through = judge.probe(files, base, thorough=thorough), False
    while True:
        probed = taken(probed)
        try:
            return probed, attempt(probed)
        except (PySparkException, Py4JJavaError) as error:  # PySpark translates only some of its own
            if isinstance(diagnosis.told(error), MachineError):
                raise
            failed, known = _FAILED_FILE.search(str(error)), probed
            if not read_through:
                probed, read_through = judge.probe(files, base, thorough=True), True
                if failed or probed != known:
                    continue
            if failed is None:
                raise
            # Arrow can read all of it, and Spark could not twice.
            name = judge.lake.relative(unquote(failed[1]))
            broken = [i for i, p in enumerate(probed) if not p.error and judge.lake.relative(p.file.path) == name]
            if not broken:
                raise
            probed[broken[0]] = Probed(probed[broken[0]].file, error="Spark cannot read the file")
