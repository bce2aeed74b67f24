"""The C-MAPSS parser: what it reads, what it sets aside line by line, what it refuses whole."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.datasets import cmapss
from jobs.lake.errors import FileRefusedError

DATA = Path(__file__).parents[2] / "sim" / "data" / "turbofan"
READINGS = " ".join(["0.0023", "-0.0003", "100.0", *(f"{n}.5" for n in range(1, 22))])


def line(unit: int, cycle: int, readings: str = READINGS) -> bytes:
    return f"{unit} {cycle} {readings}  ".encode()


def parsed(
    lines: list[bytes], name: str = "train_FD001.txt", rul: list[int] | None = None, **bounds: int
) -> tuple[pa.Table, list[cmapss.Refused]]:
    batches = list(cmapss.parse(lines, name, cmapss.last_cycles(lines), rul, **bounds))
    return pa.concat_tables([b.rows for b in batches]), [r for b in batches for r in b.refused]


def real(name: str) -> list[bytes]:
    with gzip.open(DATA / name) as stream:
        return list(cmapss.read_lines(stream))


@pytest.mark.parametrize(
    ("name", "split", "subset"),
    [
        ("train_FD001.txt", "train", "FD001"),
        ("test_FD004.txt.gz", "test", "FD004"),
        ("RUL_FD002.txt", "rul", "FD002"),
    ],
)
def test_parse_name__accepted(name: str, split: str, subset: str) -> None:
    told = cmapss.parse_name(name)
    assert (told.split, told.subset) == (split, subset)


@pytest.mark.parametrize(
    "name",
    ["train_FD005.txt", "Train_FD001.txt", "train_FD001.csv", "x/train_FD001.txt", "train_FD001.txt\n", ""],
)
def test_parse_name__refused_with_the_accepted_names(name: str) -> None:
    with pytest.raises(FileRefusedError) as refused:
        cmapss.parse_name(name)
    assert "train_FD001.txt, test_FD001.txt, RUL_FD001.txt" in str(refused.value)


def test_parse__train_fd001_equals_pandas() -> None:
    rows, refused = parsed(real("train_FD001.txt.gz"), "train_FD001.txt.gz")
    expected = pd.read_csv(DATA / "train_FD001.txt.gz", sep=r"\s+", header=None)
    assert rows.num_rows == 20_631
    assert refused == []
    for position, column in enumerate(cmapss.SCHEMA.names[2:28]):
        told = rows[column].to_numpy()
        np.testing.assert_array_equal(told, expected[position].to_numpy().astype(told.dtype))
    remaining = expected.groupby(0)[1].transform("max") - expected[1]
    np.testing.assert_array_equal(rows["remaining_useful_life"].to_numpy(), remaining)
    assert set(rows["subset"].to_pylist()) == {"FD001"}
    assert set(rows["split"].to_pylist()) == {"train"}


def test_parse__test_fd001_ends_with_the_lives_of_its_rul_file() -> None:
    with (DATA / "RUL_FD001.txt").open("rb") as stream:
        lives = cmapss.parse_remaining_life(cmapss.read_lines(stream), "RUL_FD001.txt")
    rows, refused = parsed(real("test_FD001.txt.gz"), "test_FD001.txt.gz", lives)
    assert rows.num_rows == 13_096
    assert refused == []
    least = rows.to_pandas().groupby("unit_number").remaining_useful_life.min()
    np.testing.assert_array_equal(least, np.loadtxt(DATA / "RUL_FD001.txt"))


def test_parse__narrow_types() -> None:
    rows, _ = parsed([line(1, 1)])
    kinds = {str(field.type) for field in rows.schema if field.name.startswith(("setting_", "sensor_"))}
    assert kinds == {"float"}
    whole = ("unit_number", "cycle", "remaining_useful_life")
    assert {str(rows.schema.field(name).type) for name in whole} == {"int16"}
    assert rows.schema == cmapss.SCHEMA


def test_parse__remaining_life_of_engines_out_of_order() -> None:
    rows, _ = parsed([line(2, 2), line(1, 3), line(2, 1), line(1, 1), line(2, 5), line(1, 2)])
    assert rows["remaining_useful_life"].to_pylist() == [3, 0, 4, 2, 0, 1]


def test_parse__remaining_life_of_test_engines() -> None:
    lines = [line(1, 1), line(1, 2), line(2, 1)]
    assert parsed(lines, "test_FD001.txt", [10, 20])[0]["remaining_useful_life"].to_pylist() == [11, 10, 20]
    assert parsed(lines, "test_FD001.txt")[0]["remaining_useful_life"].to_pylist() == [None] * 3


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"1 2 3", "unparsable_line line: 3 fields instead of 26"),
        (line(1, 2) + b" 7", "unparsable_line line: 27 fields instead of 26"),
        (line(1, 2).replace(b" 3.5 ", b" x3.5 "), "unparsable_line sensor_3: x3.5 is not a number"),
        (line(1, 2).replace(b" 3.5 ", b" NaN "), "unparsable_line sensor_3: NaN is not a finite number"),
        (line(1, 2).replace(b" 3.5 ", b" -inf "), "unparsable_line sensor_3: -inf is not a finite number"),
        (line(1, 2).replace(b" 3.5 ", b" 1e999 "), "unparsable_line sensor_3: 1e999 is not a finite number"),
        (line(1, 2).replace(b" 3.5 ", b" 4e38 "), "unparsable_line sensor_3: 4e38 is beyond float32"),
        (line(1, 2).replace(b" 3.5 ", b" 1_0 "), "unparsable_line sensor_3: 1_0 is not a plain number"),
        (line(1, 2).replace(b" 3.5 ", b" 1.2.3 "), "unparsable_line sensor_3: 1.2.3 is not a number"),
        (
            line(1, 2).replace(b" 3.5 ", b" \xff3 "),
            "unparsable_line sensor_3: bytes that are not ASCII text, \\xff3",
        ),
        (line(0, 2), "unparsable_line unit_number: 0 is not a whole number of at least 1"),
        (line(-1, 2), "unparsable_line unit_number: -1 is not a whole number of at least 1"),
        (b"1.0" + line(1, 2)[1:], "unparsable_line unit_number: 1.0 is not a whole number of at least 1"),
        (line(1, 0), "unparsable_line cycle: 0 is not a whole number of at least 1"),
        (line(1, 32_768), "unparsable_line cycle: 32768 is beyond int16"),
        (line(1, int("9" * 50)), f"unparsable_line cycle: {'9' * 50} is beyond int16"),
        (line(1, 2) + b" " * 5_000, "unparsable_line line: longer than 4096 bytes"),
    ],
)
def test_parse__bad_line_is_set_aside(bad: bytes, reason: str) -> None:
    rows, refused = parsed([line(1, 1), b"", bad, line(1, 2)])
    assert rows["cycle"].to_pylist() == [1, 2]
    assert [(one.line_number, one.reason) for one in refused] == [(3, reason)]
    assert refused[0].text == bad[:200].decode("utf-8", "backslashreplace")


def test_parse__largest_int16_is_a_cycle() -> None:
    assert parsed([line(32_767, 32_767)])[0]["cycle"].to_pylist() == [32_767]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("train_FD001.txt", [b"112", b"98", b"69"]),
        ("train_FD001.txt", []),
        ("train_FD001.txt", [b" ", b""]),
        ("train_FD001.txt", [b"\x1f\x8b\x08\x00garbage", b"\x00\xff\xfe"]),
        ("train_FD001.txt", [b"bad"] * 51 + [line(1, n) for n in range(1, 1000)]),
        ("test_FD001.txt", [b"bad", b"bad", line(1, 1)]),
        ("RUL_FD001.txt", [line(1, 1)]),
        ("sensors.txt", [line(1, 1)]),
    ],
)
def test_parse__foreign_file_is_refused_before_any_batch(name: str, lines: list[bytes]) -> None:
    with pytest.raises(FileRefusedError, match=name):
        next(cmapss.parse(lines, name, cmapss.last_cycles(lines), block_rows=1))


def test_parse__half_bad_is_not_foreign() -> None:
    rows, refused = parsed([b"bad"] * 50 + [line(1, n) for n in range(1, 51)])
    assert (rows.num_rows, len(refused)) == (50, 50)


@pytest.mark.parametrize("lives", [[5], [5, 6, 7], []])
def test_parse__lives_do_not_match_the_units(lives: list[int]) -> None:
    with pytest.raises(FileRefusedError, match="2 units"):
        parsed([line(1, 1), line(2, 1)], "test_FD001.txt", lives)


def test_parse__units_with_a_hole_do_not_match_the_lives() -> None:
    with pytest.raises(FileRefusedError, match="numbered 1 to 3"):
        parsed([line(1, 1), line(3, 1)], "test_FD001.txt", [5, 6])


def test_parse__life_beyond_int16() -> None:
    with pytest.raises(FileRefusedError, match="beyond int16"):
        parsed([line(1, 9)], "test_FD001.txt", [32_760])


def test_parse__blocks_are_bounded() -> None:
    lines = [line(1, n) if n % 7 else b"bad" for n in range(1, 251)]
    batches = list(cmapss.parse(lines, "train_FD001.txt", {1: 250}, block_rows=100))
    assert [b.rows.num_rows + len(b.refused) for b in batches] == [100, 100, 50]
    assert [r.line_number for b in batches for r in b.refused] == list(range(7, 251, 7))


@pytest.mark.parametrize("lines", [[line(1, 1)], [b"1 2"], [b"7.0"], [b"-1"], [b"x"], [], [b"40000"]])
def test_parse_remaining_life__refused(lines: list[bytes]) -> None:
    with pytest.raises(FileRefusedError, match=r"RUL_FD001\.txt"):
        cmapss.parse_remaining_life(lines, "RUL_FD001.txt")


def test_parse_remaining_life__of_another_file() -> None:
    with pytest.raises(FileRefusedError, match=r"train_FD001\.txt"):
        cmapss.parse_remaining_life([b"1"], "train_FD001.txt")


def test_parse_remaining_life__zero_is_a_life() -> None:
    assert cmapss.parse_remaining_life([b"112 ", b"0", b""], "RUL_FD001.txt") == [112, 0]


class Counting(io.BytesIO):
    """A stream that remembers the longest line it was asked for."""

    asked = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size > 0
        self.asked = max(self.asked, size)
        return super().readline(size)


def test_read_lines__bounds_what_it_holds() -> None:
    stream = Counting(b"one\r\ntwo\n" + b"x" * 10_000 + b"\n\nlast")
    assert list(cmapss.read_lines(stream, limit=10)) == [b"one", b"two", b"x" * 11, b"", b"last"]
    assert stream.asked <= 13


@given(
    st.lists(st.binary(max_size=30).filter(lambda each: b"\n" not in each and b"\r" not in each)),
    st.integers(20, 40),
)
def test_read_lines__equals_splitting(lines: list[bytes], limit: int) -> None:
    told = list(cmapss.read_lines(io.BytesIO(b"".join(each + b"\n" for each in lines)), limit))
    assert told == [each[: limit + 1] for each in lines]


singles = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 32_767), st.lists(singles, min_size=24, max_size=24)),
        min_size=1,
        max_size=8,
    )
)
def test_parse__round_trip(engines: list[tuple[int, int, list[float]]]) -> None:
    lines = [f"{unit} {cycle} {' '.join(map(repr, values))}".encode() for unit, cycle, values in engines]
    rows, refused = parsed(lines, block_rows=3)
    assert refused == []
    names = cmapss.SCHEMA.names
    told = list(zip(*(rows[name].to_pylist() for name in names[2:28]), strict=True))
    assert told == [(unit, cycle, *values) for unit, cycle, values in engines]
    for (unit, cycle, _), life in zip(engines, rows["remaining_useful_life"].to_pylist(), strict=True):
        assert life == max(c for u, c, _ in engines if u == unit) - cycle


damage = st.one_of(
    st.binary(max_size=60).map(lambda each: each.replace(b"\n", b"")),
    st.tuples(st.integers(0, len(line(1, 1)) - 1), st.binary(min_size=1, max_size=2)).map(
        lambda cut: line(1, 1)[: cut[0]] + cut[1] + line(1, 1)[cut[0] + 1 :]
    ),
)


@given(st.lists(damage, max_size=20))
def test_parse__every_line_is_a_row_or_refused(damaged: list[bytes]) -> None:
    lines = [line(1, n) for n in range(1, 31)] + damaged
    rows, refused = parsed(lines, block_rows=10)
    assert rows.num_rows + len(refused) == sum(bool(each.strip()) for each in lines)
    for name in cmapss.SCHEMA.names[4:28]:
        assert np.isfinite(rows[name].to_numpy()).all()
