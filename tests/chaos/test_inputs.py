"""The tables of the docs: what bad inputs get when they are played, and the kinds of scenario."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from chaos import inputs
from chaos.kinds import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_table__is_what_each_input_gets(spark: SparkSession, s3_endpoint: str, tmp_path: Path):
    found = inputs.table(inputs.outcomes(tmp_path, s3_endpoint))
    assert found in PAGE.read_text(), f"python -m chaos.inputs prints now:\n{found}"


def test_kinds__are_all_in_the_docs():
    page = PAGE.read_text()
    assert [name for name, kind in KINDS.items() if f"| `{name}` | {kind.title} |" not in page] == []
