"""The checks of ``./spark-submit.sh check`` hold, and each of them can fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import check


def test_check__the_code_passes(capsys: pytest.CaptureFixture[str]):
    passed = check.main() == 0
    assert passed, capsys.readouterr().out


def test_check__every_tool_sees_what_it_is_there_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shutil.copy(check.ROOT / "pyproject.toml", tmp_path)
    for package in ("bench", "chaos", "docs", "jobs", "sim"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f'"""{package}."""\n')
    (tmp_path / "sim" / "bad.py").write_text('"""Bad."""\n\nimport os\nimport jobs\nNUMBER:int = "one"\n')
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert check.main() == 1
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines() if line.startswith(("ok ", "NO "))] == [
        ["NO", "lint"],
        ["NO", "format"],
        ["NO", "types"],
        ["NO", "imports"],
    ]
    for finding in ("F401", "unformatted", "[assignment]"):
        assert finding in said
