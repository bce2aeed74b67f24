"""The table of bad inputs in the docs is what they get: all of them are played."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from chaos import inputs

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_table__is_what_each_input_gets(spark: SparkSession, s3_endpoint: str, tmp_path: Path):
    found = inputs.table(inputs.outcomes(tmp_path, s3_endpoint))
    assert found in PAGE.read_text(), f"python -m chaos.inputs prints now:\n{found}"
