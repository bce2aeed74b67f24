"""The pages written from the code are current, and conf/lakehouse.yaml says what the code's defaults are."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from docs import generate
from jobs.catalog import DATASETS, GOLD
from jobs.datasets.turbofan import TurbofanSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["tables.md", "settings.md", "errors.md"])
def test_pages__are_current(name: str):
    assert (ROOT / "docs" / name).read_text() == generate.pages()[name], "run: .venv/bin/python -m docs.generate"


def test_tables__name_every_table_and_describe_every_column():
    text = (ROOT / "docs" / "tables.md").read_text()
    titles = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}
    assert titles >= {f"silver/{name}" for name in DATASETS} | {f"gold/{name}" for name in GOLD}
    assert titles >= {"quarantine/DATASET", "ops/ledger", "ops/drift"}
    for line in text.splitlines():
        if line.startswith("| `") and "bronze/" not in line:
            name, kind, _, meaning = (cell.strip() for cell in line.strip("| ").split(" | "))
            assert kind.startswith("`"), name
            assert len(meaning) > 1, name


def test_settings__every_one_is_described():
    models = [*generate.sections().values(), *(s.parameters for s in generate.SIMULATORS.values())]
    lacking = [f"{m.__name__}.{s.name}" for m in models for s in generate.settings_of(m) if not s.meaning]
    assert lacking == []


def test_settings__text_comes_from_the_field_or_the_docstring():
    class Both(BaseModel):
        """Two lines.

        Attributes:
            first: One thing, told
                in two lines.
            second: Not this.
        """

        first: int = 1

    (found,) = generate.settings_of(Both)
    assert found == generate.Setting("first", "`1`", "", "One thing, told in two lines")
    assert generate.settings_of(TurbofanSettings)[2] == generate.Setting(
        "max_cycle", "`10000`", ">= 1", "No engine flies longer"
    )


@pytest.mark.parametrize("section", generate.sections())
def test_shipped_settings__hold_every_default(section: str):
    model = generate.sections()[section]
    tree = yaml.safe_load((ROOT / "conf" / "lakehouse.yaml").read_text())
    found = reduce(lambda place, name: place.get(name) or {}, section.split("."), tree) if section else tree
    shipped = {name: found[name] for name in model.model_fields if name in found}
    assert sorted(shipped) == sorted(model.model_fields), (
        f"conf/lakehouse.yaml lacks settings of {section or 'the top'}"
    )
    assert model.model_validate(shipped) == model()


def test_errors__name_every_reason_the_code_gives():
    sources = [path.read_text() for part in ("jobs", "sim") for path in (ROOT / part).rglob("*.py")]
    for code in generate.REFUSALS:
        assert any(f'"{code} ' in text or f'"{code}"' in text for text in sources), code
    given = {code for text in sources for code in re.findall(r'F\.lit\(f?"([a-z_]+) (?:[a-z_]+|\{[a-z.]+\}): ', text)}
    assert len(given) > 6
    assert given <= generate.REFUSALS.keys()


def test_architecture__has_every_module_of_the_floor():
    named = re.findall(r"^\| `(\w+)\.py` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted({path.stem for path in (ROOT / "jobs" / "lake").glob("[a-z]*.py")})
