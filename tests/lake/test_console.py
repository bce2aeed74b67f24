"""The console: data on stdout, talk on stderr, tables for people and JSON for programs."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import termios
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.lake.console import Console, reopen_streams

Captured = pytest.CaptureFixture[str]
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def test_say__on_stderr_only(capsys: Captured) -> None:
    Console().say("silver   accelerometer [bold] 12 rows")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "silver   accelerometer [bold] 12 rows\n")


def test_detail__only_when_verbose(capsys: Captured) -> None:
    Console().detail("quiet")
    Console(verbose=True).detail("loud")
    assert capsys.readouterr().err == "loud\n"


def test_line__on_stdout_and_not_in_json(capsys: Captured) -> None:
    Console().line("a result " + "x" * 300)
    assert capsys.readouterr().out == "a result " + "x" * 300 + "\n"
    Console(as_json=True).line("a result")
    assert capsys.readouterr().out == ""


def test_table__numbers_to_the_right_with_separators(capsys: Captured) -> None:
    rows = [
        {"name": "a", "rows": 1234567, "seconds": 1.5, "done": True, "at": NOON, "note": None},
        {"name": "long name", "rows": 8, "seconds": 0.25, "done": False, "at": NOON, "note": None},
    ]
    Console().table("books", rows)
    out, err = capsys.readouterr()
    assert err == ""
    title, _, first, second, *_ = out.splitlines()
    assert title.strip() == "books"
    assert first.split() == ["a", "1,234,567", "1.500", "yes", "2026-01-01", "12:00:00", "-"]
    assert second.index("8") == first.index("1,234,567") + len("1,234,567") - 1


def test_table__in_a_narrow_terminal_no_number_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    above, below = os.openpty()
    fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with open(below, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        Console().table("books", [{f"rows_{n}": 480_000 + n for n in range(8)}])
    assert os.read(above, 10_000).decode().split()[-8:] == [f"480,00{n}" for n in range(8)]
    os.close(above)


def test_reopen_streams__the_log_names_the_process_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not there is a /proc."""
    monkeypatch.setenv("LAKEHOUSE_LOG", str(tmp_path / "log"))
    monkeypatch.delenv("LAKEHOUSE_STDOUT", raising=False)
    reopen_streams()
    assert (tmp_path / "log").read_text() == f"lakehouse: job started, process {os.getpid()}\n"


def test_table__markup_in_data_is_data(capsys: Captured) -> None:
    Console().table("files", [{"file": "a[bold]b[/].parquet"}])
    assert "a[bold]b[/].parquet" in capsys.readouterr().out


def test_table__chosen_columns_in_their_order(capsys: Captured) -> None:
    Console(as_json=True).table("t", [{"a": 1, "b": 2, "c": 3}], ["c", "a"])
    assert capsys.readouterr().out == '{"t": [{"c": 3, "a": 1}]}\n'


def test_table__without_rows(capsys: Captured) -> None:
    Console(as_json=True).table("t", [])
    assert capsys.readouterr().out == '{"t": []}\n'
    Console().table("t", [])


def test_json__times_in_utc_and_letters_as_they_are(capsys: Captured) -> None:
    rows = [{"at": NOON, "naive": NOON.replace(tzinfo=None), "county": "Córdoba " + "x" * 300, "none": None}]
    Console(as_json=True).table("t", rows)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "Córdoba" in out
    assert json.loads(out)["t"] == [
        {
            "at": "2026-01-01T12:00:00Z",
            "naive": "2026-01-01T12:00:00Z",
            "county": "Córdoba " + "x" * 300,
            "none": None,
        }
    ]


def test_json__markup_in_data_is_data(capsys: Captured) -> None:
    Console(as_json=True).table("t", [{"file": "[bold]x[/bold]"}])
    assert json.loads(capsys.readouterr().out) == {"t": [{"file": "[bold]x[/bold]"}]}


def test_json__what_json_has_no_word_for_is_null(capsys: Captured) -> None:
    Console(as_json=True).table("t", [{"x": float("nan"), "y": float("inf"), "z": [float("nan")]}])
    assert json.loads(capsys.readouterr().out, parse_constant=lambda c: f"not JSON: {c}") == {
        "t": [{"x": None, "y": None, "z": [None]}]
    }


def test_step__prints_nothing_where_nobody_looks(capsys: Captured) -> None:
    with Console().step("starting Spark"):
        pass
    assert capsys.readouterr().out == ""
