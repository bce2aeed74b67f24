r"""README's commands work as they stand.

A ``console`` block is run: every line that begins with ``$`` must succeed, and the lines below it must be in
what it prints, in that order (``...`` stands for anything, and runs of blanks for each other). A ``python``
block is run by the environment's Python. Blocks of other kinds are for reading.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ENDPOINT = "http://127.0.0.1:9000"
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of the console blocks, with the lines of output shown for it."""
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, shown


COMMANDS = list(_commands())
DEMO = COMMANDS[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Path:
    """A folder where README's relative names mean something, and a bucket."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "spark-submit.sh").symlink_to(ROOT / "spark-submit.sh")
    (folder / ".venv").symlink_to(sys.prefix)
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="my-bucket")
    return folder


@pytest.fixture(scope="module")
def demo(home: Path, s3_endpoint: str) -> str:
    """What the demo printed; its lake is there for all that follows."""
    return run(DEMO[0], home, s3_endpoint)


def run(command: str, folder: Path, endpoint: str) -> str:
    """Run a line as a person would, and return what appears on the screen."""
    done = subprocess.run(
        ["bash", "-c", command.replace(ENDPOINT, endpoint)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_shown(shown: list[str], printed: str) -> None:
    """Every line shown begins a line printed, in the same order."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in shown:
        parts = (re.escape(" ".join(part.split())) for part in line.split("..."))
        pattern = re.compile(".*".join(parts))
        assert any(pattern.match(candidate) for candidate in lines), f"not printed (in this order): {line}\n{printed}"


def test_demo__prints_what_the_readme_shows(demo: str):
    assert DEMO[0] == "./spark-submit.sh demo"
    assert_shown(DEMO[1], demo)


@pytest.mark.parametrize(("command", "shown"), COMMANDS[1:], ids=[command[:60] for command, _ in COMMANDS[1:]])
@pytest.mark.usefixtures("demo")
def test_command__works_as_shown(command: str, shown: list[str], home: Path, s3_endpoint: str):
    assert_shown(shown, run(command, home, s3_endpoint))


@pytest.mark.parametrize("code", PYTHON, ids=[f"block_{n}" for n in range(1, len(PYTHON) + 1)])
@pytest.mark.usefixtures("demo")
def test_python__runs(code: str, home: Path, s3_endpoint: str):
    (home / "block.py").write_text(code.replace(ENDPOINT, s3_endpoint))
    run(f"{sys.executable} block.py", home, s3_endpoint)


def test_links__lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_jobs__are_all_in_the_table():
    jobs = {path.stem for path in (ROOT / "jobs").glob("[a-z]*.py")} - {"catalog"}
    section = README.partition("## Jobs\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == jobs
