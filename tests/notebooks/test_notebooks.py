"""The notebooks, run from top to bottom on a small lake; what they show is what the lake holds."""

from __future__ import annotations

import base64
import gzip
import io
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.image
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from pyspark.sql import SparkSession

from jobs import pipeline
from jobs.catalog import DATASETS
from jobs.ingest import ingest
from jobs.lake import cli
from jobs.simulate import simulate

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FIGURES = {"01_signal_quality": 5, "02_engine_health": 4, "03_counties_and_fleet": 6}

START = {"start": "2026-01-01T00:00:00Z", "seed": 7}
SIMULATED: dict[str, dict[str, object]] = {
    "accelerometer": {**START, "entities": 2, "duration": "2m", "rate_hz": 100},
    "fleet": {**START, "entities": 3, "duration": "1h"},
    "waterways": {**START, "duration": "20m", "rate_hz": 1},
}
ENGINES = 20  # of FD001's hundred
DATA = resources.files("sim").joinpath("data")


def engines(split: str) -> list[str]:
    """The lines of the first engines in a file of NASA's."""
    lines = gzip.decompress(DATA.joinpath("turbofan", f"{split}_FD001.txt.gz").read_bytes()).decode().splitlines(True)
    return [line for line in lines if int(line.split()[0]) <= ENGINES]


@pytest.fixture(scope="module")
def address(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake that the demo's own functions made, with less in it."""
    folder = tmp_path_factory.mktemp("notebooks")
    context = cli.context(str(folder / "lake"), "testing")
    for name, values in SIMULATED.items():
        simulate(context, name, values)
    lives = DATA.joinpath("turbofan", "RUL_FD001.txt").read_text().splitlines(True)  # a line per engine
    for name, lines in {"train": engines("train"), "test": engines("test"), "RUL": lives[:ENGINES]}.items():
        (folder / f"{name}_FD001.txt").write_text("".join(lines))
    ingest(context, DATASETS["turbofan"], [str(folder / f"{name}_FD001.txt") for name in ("train", "test")])
    rivers = DATA.joinpath("waterways", "Recommended_Fishing_Rivers_And_Streams.csv.gz")
    ingest(context, DATASETS["waterways"], [str(rivers)])
    pipeline.run_stages(context)
    return context.lake.uri


@pytest.fixture(scope="module")
def executed(address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NotebookNode]:
    """Every notebook, as it is after a run in a kernel of its own with a Spark of its own."""
    changed = {
        "LAKEHOUSE_LAKE": address,
        "LAKEHOUSE_CACHE": str(tmp_path_factory.mktemp("cache")),
        "LAKEHOUSE__SPARK__DRIVER_MEMORY": "1g",
    }

    def execute(path: Path) -> NotebookNode:
        notebook = nbformat.read(path, as_version=4)
        where = {"metadata": {"path": str(FOLDER)}}
        return NotebookClient(notebook, timeout=300, resources=where).execute(env={**os.environ, **changed})

    with ThreadPoolExecutor(len(NOTEBOOKS)) as pool:
        return dict(zip([path.stem for path in NOTEBOOKS], pool.map(execute, NOTEBOOKS), strict=True))


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def shown(cell: NotebookNode, kind: str) -> list[Any]:
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def frame(notebook: NotebookNode, tag: str) -> pd.DataFrame:
    """The DataFrame that the one cell with the tag shows."""
    (cell,) = tagged(notebook, tag)
    (text,) = shown(cell, "text/plain")
    return pd.read_csv(io.StringIO(text), sep=r"\s+", engine="python")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__is_committed_clean(path: Path):
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert text == nbformat.writes(notebook) + "\n", "not as nbformat writes it, so that the next save changes lines"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}, "the version of somebody's Python"
    for cell in notebook.cells:
        assert cell.id.replace("-", "").isalpha(), f"cell {cell.id}: the id is to be a name that stays"
        if cell.cell_type == "code":
            assert not cell.outputs, f"cell {cell.id} has outputs: clear them before a commit"
            assert cell.execution_count is None, f"cell {cell.id} has a count: clear the outputs before a commit"
    assert max(Counter(cell.id for cell in notebook.cells).values()) == 1


def test_notebooks__show_a_figure_wherever_one_is_due(executed: dict[str, NotebookNode]):
    assert {name: len(tagged(notebook, "figure")) for name, notebook in executed.items()} == FIGURES
    for name, notebook in executed.items():
        for cell in notebook.cells:
            pictures = shown(cell, "image/png") if cell.cell_type == "code" else []
            assert len(pictures) == int("figure" in cell.metadata.get("tags", [])), (name, cell.id)
            for picture in pictures:
                pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(picture)))
                assert pixels.shape[1] > 800, (name, cell.id)
                assert pixels[..., :3].std() > 0.05, f"{name}: the figure of {cell.id} is blank"


def test_notebooks__have_nothing_to_complain_of(executed: dict[str, NotebookNode]):
    said = {
        (name, cell.id): output.text
        for name, notebook in executed.items()
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    }
    assert not said


@pytest.mark.parametrize("name", FIGURES)
def test_notebooks__two_ways_show_the_same(executed: dict[str, NotebookNode], name: str):
    pd.testing.assert_frame_equal(frame(executed[name], "without-spark"), frame(executed[name], "with-spark"))


def test_signal_quality__counts_windows_and_measures_frequency(executed: dict[str, NotebookNode]):
    notebook = executed["01_signal_quality"]
    opened = frame(notebook, "with-spark").set_index("axis")
    # 2 sensors for 120 s in windows of 10.24 s: eleven whole ones, and one that is cut short.
    assert opened["windows"].to_dict() == dict.fromkeys(("magnitude", "x", "y", "z"), 24)
    assert opened["complete"].to_dict() == dict.fromkeys(("magnitude", "x", "y", "z"), 22)
    assert 1.4 < opened["median_hz"]["y"] < 1.6  # strides a second: 1.5, and 0.1 either way
    measured = frame(notebook, "result").set_index("axis")
    assert measured["windows"].to_dict() == dict.fromkeys(("x", "y", "z", "magnitude"), 22)
    assert (measured["worst_mhz"] < 2).all()  # a bin is 98 mHz wide
    assert measured["rms_over_bound"].between(1, 4).all()  # no estimator is better than the bound


def test_engine_health__has_all_engines_and_cycles(executed: dict[str, NotebookNode]):
    opened = frame(executed["02_engine_health"], "with-spark").set_index("split")
    assert opened["engines"].to_dict() == {"test": ENGINES, "train": ENGINES}
    assert opened["cycles"].to_dict() == {split: len(engines(split)) for split in ("test", "train")}


def test_counties__every_event_is_in_five_windows(executed: dict[str, NotebookNode]):
    opened = frame(executed["03_counties_and_fleet"], "with-spark").set_index("county")
    assert opened["counted"]["(all)"] == 5 * 20 * 60
    assert opened["most"]["(all)"] == 5 * 60
    assert opened["windows"]["(all)"] == 20 + 4
