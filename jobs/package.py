"""Builds dist/sensor_lakehouse.zip, the modules that ``--py-files`` ships to a cluster."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

_PARTS = ("conf", "jobs", "sim")


def build(folder: Path) -> Path:
    """Zip the suite's modules, settings and data into ``folder`` and return the archive's path.

    Entries are in order and dated alike, so the same sources give the same bytes.
    """
    home = Path(__file__).resolve().parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "sensor_lakehouse.zip"
    partial = archive.with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as out:
        for part in _PARTS:
            for file in sorted((home / part).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    out.writestr(zipfile.ZipInfo(file.relative_to(home).as_posix()), file.read_bytes())
    partial.replace(archive)
    return archive


if __name__ == "__main__":
    print(build(Path(__file__).resolve().parent.parent / "dist"))
