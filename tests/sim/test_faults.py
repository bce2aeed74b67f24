"""Faults: what the record says is what the files hold, and nothing else in them is dirty."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim import accelerometer, turbofan
from sim.errors import ParameterError
from sim.faults import (
    FILE_KINDS,
    ROW_KINDS,
    DirtyUnit,
    FaultParameters,
    FaultSchema,
    dirty,
    expected_duplicates,
    expected_refusals,
    write_dirty,
)
from sim.writers import LocalWriter

START = datetime(2026, 1, 1, 5, tzinfo=UTC)
LIMIT = 156.9064
AXES = ("ax", "ay", "az")
Row = dict[str, Any]
Key = tuple[str, ...]


def _samples(count: int) -> pa.Table:
    rng = np.random.default_rng(1)
    axes = {axis: rng.normal(size=count).astype(np.float32) for axis in AXES}
    times = pa.array([START + timedelta(milliseconds=10 * i) for i in range(count)], pa.timestamp("us", "UTC"))
    return pa.table({"sensor_id": pa.array(["s-1"] * count, pa.string()), "event_time": times, **axes})


def _engine(cycles: int) -> pa.Table:
    levels = {f"sensor_{n}": np.full(cycles, 0.03 if n == 16 else 518.67, np.float32) for n in range(1, 22)}
    return pa.table(
        {
            "subset": ["SIM"] * cycles,
            "split": ["train"] * cycles,
            "unit_number": pa.array([1] * cycles, pa.int16()),
            "cycle": pa.array(range(1, cycles + 1), pa.int16()),
            **levels,
        }
    )


def _key(row: Row, schema: FaultSchema) -> Key:
    return tuple(
        f"{row[name]:%Y-%m-%dT%H:%M:%S.%fZ}" if isinstance(row[name], datetime) else str(row[name])
        for name in schema.key
    )


def _rows(unit: DirtyUnit, name: str) -> list[Row]:
    [content] = [file.content for file in unit.files if file.name == name]
    assert isinstance(content, pa.Table)
    return list(content.to_pylist())


def _check_row(kind: str, row: Row, clean: Row, column: str | None, schema: FaultSchema) -> None:
    """Demand that a row has its fault, in its column, and is otherwise as it was."""
    rest = {name: value for name, value in row.items() if name != column}
    assert rest == {name: value for name, value in clean.items() if name != column}
    if kind in ("late", "duplicate", "out_of_order"):
        assert column is None
        return
    assert column is not None
    low, high = schema.measured[column]
    match kind:
        case "nan":
            assert math.isnan(row[column])
        case "infinity":
            assert math.isinf(row[column])
        case "out_of_range":
            assert math.isfinite(row[column])
            assert not low - 0.4 * (high - low) <= row[column] <= high + 0.4 * (high - low)
        case "conflict":
            assert row[column] != clean[column]
            assert low <= row[column] <= high
        case "wrong_type":
            with pytest.raises(ValueError, match="could not convert"):
                float(row[column])
        case "missing_field":
            assert column not in row
        case _:
            pytest.fail(kind)


def _verify(table: pa.Table, unit: DirtyUnit, schema: FaultSchema, name: str = "u") -> None:
    """Compare every row of every file with the record, both ways."""
    clean = {_key(row, schema): (place, row) for place, row in enumerate(table.to_pylist())}
    records = unit.records.to_pylist()
    of_rows = [record for record in records if record["kind"] in ROW_KINDS]
    recorded = {tuple(record[part] for part in schema.key): record for record in of_rows}
    assert len(recorded) == len(of_rows), "a row has two faults"
    assert {record["file"] for record in records} <= {f"{file.name}.parquet" for file in unit.files}

    in_main: dict[Key, list[tuple[str, Row]]] = defaultdict(list)
    in_companion: dict[Key, list[tuple[str, Row]]] = defaultdict(list)
    for file in unit.files:
        if isinstance(file.content, pa.Table):
            for row in file.content.to_pylist():
                held = in_main if file.name == name else in_companion
                held[_key(row, schema)].append((f"{file.name}.parquet", row))
    assert set(in_main) | set(in_companion) == set(clean)
    for key, (_, original) in clean.items():
        record = recorded.get(key)
        here, apart = in_main[key], in_companion[key]
        if record is None:
            assert here == [(f"{name}.parquet", original)]
            assert apart == []
            continue
        kind, column = record["kind"], record["column"]
        stays = kind in ("nan", "infinity", "out_of_range", "out_of_order")
        moved = kind in ("late", "wrong_type", "missing_field")
        copied = record["file"] == f"{name}.parquet" and kind == "duplicate"
        assert (len(here), len(apart)) == (1 + copied - moved, 0 if stays or copied else 1)
        if not stays and not moved:
            assert here[0][1] == original
        held_in, spoiled = (here if stays or copied else apart)[-1]
        assert held_in == record["file"]
        _check_row(kind, spoiled, original, column, schema)

    # In the main file, only what is recorded as out of order stands behind a row it came before.
    copies = sum(r["kind"] == "duplicate" and r["file"] == f"{name}.parquet" for r in records)
    order = [_key(row, schema) for row in _rows(unit, name)]
    latest = -1
    for key in order[: len(order) - copies]:
        displaced = key in recorded and recorded[key]["kind"] == "out_of_order"
        assert (clean[key][0] < latest) == displaced
        latest = max(latest, clean[key][0])


@given(
    count=st.integers(0, 60),
    rows=st.floats(0, 1),
    seed=st.integers(0, 2**64),
    kinds=st.lists(st.sampled_from(ROW_KINDS + FILE_KINDS), min_size=1, unique=True),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_dirty__record_and_files_agree(count: int, rows: float, seed: int, kinds: list[Any], data: Any) -> None:
    weights = data.draw(st.dictionaries(st.sampled_from(kinds), st.floats(0.01, 100)))
    parameters = FaultParameters(seed=seed, rows=rows, files=0.5, kinds=tuple(kinds), weights=weights)
    table = _samples(count)
    unit = dirty(table, "u", parameters, accelerometer.FAULTS)
    _verify(table, unit, accelerometer.FAULTS)
    made = Counter(unit.records["kind"].to_pylist())
    assert set(made) <= set(kinds)
    faulty = sum(made[kind] for kind in ROW_KINDS)
    most = max(count - 1, 0) if set(kinds) & set(ROW_KINDS) else 0
    assert min(math.floor(rows * count), most) <= faulty <= min(math.ceil(rows * count), most)


def test_dirty__turbofan_spoils_sensors_only() -> None:
    table = _engine(200)
    unit = dirty(table, "u", FaultParameters(seed=2, rows=0.5), turbofan.FAULTS)
    _verify(table, unit, turbofan.FAULTS)
    assert unit.records.num_rows == 100
    assert {c for c in unit.records["column"].to_pylist() if c} <= {f"sensor_{n}" for n in range(1, 22)}


def test_dirty__counts_by_hand() -> None:
    # 1,000 rows x 0.18 = 180, over nine kinds of equal weight: 20 each.
    parameters = FaultParameters(seed=3, rows=0.18, files=1, kinds=(*ROW_KINDS, "torn"))
    unit = dirty(_samples(1_000), "u", parameters, accelerometer.FAULTS)
    assert Counter(unit.records["kind"].to_pylist()) == dict.fromkeys(ROW_KINDS, 20) | {"torn": 1}
    assert expected_refusals(unit.records) == {
        "conflicting_duplicate": 20,
        "missing": 20,
        "not_finite": 40,
        "out_of_range": 20,
        "unreadable_file": 1,
        "wrong_type": 20,
    }
    assert expected_duplicates(unit.records) == 20


def test_dirty__weights_by_hand() -> None:
    parameters = FaultParameters(rows=0.1, kinds=("late", "nan", "duplicate"), weights={"nan": 8})
    unit = dirty(_samples(1_000), "u", parameters, accelerometer.FAULTS)
    assert Counter(unit.records["kind"].to_pylist()) == {"nan": 80, "late": 10, "duplicate": 10}


def test_dirty__share_holds_over_small_units() -> None:
    # 300 units x 30 rows x 1 % = 90 rows expected. A unit has at most one: a binomial, of spread 8.
    parameters = FaultParameters(seed=4, rows=0.01, files=0.2)
    units = [dirty(_samples(30), f"u-{i}", parameters, accelerometer.FAULTS) for i in range(300)]
    made = Counter(kind for unit in units for kind in unit.records["kind"].to_pylist())
    assert 60 <= sum(made[kind] for kind in ROW_KINDS) <= 120
    assert set(made) == {*ROW_KINDS, *FILE_KINDS}
    assert 40 <= made["torn"] + made["empty"] <= 80  # 60 expected, spread 7


def test_dirty__depends_on_seed_and_name_alone() -> None:
    table, parameters = _samples(500), FaultParameters(seed=5, rows=0.2, files=1)
    one = dirty(table, "u", parameters, accelerometer.FAULTS)
    chunked = pa.concat_tables([table.slice(0, 123), table.slice(123)])
    again = dirty(chunked, "u", parameters.model_copy(update={"kinds": parameters.kinds[::-1]}), accelerometer.FAULTS)
    assert [file.name for file in one.files] == [file.name for file in again.files]
    # As text, because NaN is not equal to itself.
    contents = [
        [repr(f.content if isinstance(f.content, bytes) else f.content.to_pylist()) for f in unit.files]
        for unit in (one, again)
    ]
    assert contents[0] == contents[1]
    assert one.records.equals(again.records)
    assert not one.records.equals(dirty(table, "v", parameters, accelerometer.FAULTS).records)
    other = dirty(table, "u", FaultParameters(seed=6, rows=0.2, files=1), accelerometer.FAULTS)
    assert not one.records.equals(other.records)


@pytest.mark.parametrize("parameters", [FaultParameters(rows=0, files=0), FaultParameters(rows=1, kinds=("torn",))])
def test_dirty__nothing_asked_nothing_done(parameters: FaultParameters) -> None:
    unit = dirty(_samples(50), "u", parameters, accelerometer.FAULTS)
    assert [file.name for file in unit.files] == ["u"]
    assert unit.files[0].content == _samples(50)
    assert unit.records.num_rows == 0
    assert unit.records.column_names == [
        "unit",
        "kind",
        "file",
        "sensor_id",
        "event_time",
        "column",
        "expected",
    ]


def test_dirty__optional_columns_are_not_left_out() -> None:
    schema = FaultSchema(accelerometer.FAULTS.key, accelerometer.FAULTS.measured, optional=frozenset({"ax", "az"}))
    for seed in range(10):
        parameters = FaultParameters(seed=seed, rows=0.1, kinds=("missing_field",))
        unit = dirty(_samples(100), "u", parameters, schema)
        assert set(unit.records["column"].to_pylist()) == {"ay"}


def test_dirty__nulls_of_other_rows_stay() -> None:
    table = _samples(100).set_column(2, "ax", pa.array([None, 1.0] * 50, pa.float32()))
    unit = dirty(table, "u", FaultParameters(rows=0.5, kinds=("nan", "conflict")), accelerometer.FAULTS)
    _verify(table, unit, accelerometer.FAULTS)


# --- On disk ------------------------------------------------------------------------------------------------


def _promote(files: list[Path], schema: FaultSchema) -> tuple[Counter[str], int, set[Key]]:
    """Promote in plain Python: refusals by code, duplicates, keys accepted. First come, first kept."""
    refused: Counter[str] = Counter()
    duplicates, kept = 0, dict[Key, Row]()
    for path in files:
        try:
            rows = pq.ParquetFile(path).read().to_pylist()
        except pa.ArrowInvalid:
            refused["unreadable_file"] += 1
            continue
        for found in rows:
            row = {"sensor_id": "s-1", **found}  # the partition column
            reasons = set()
            for name, (low, high) in schema.measured.items():
                value = row.get(name)
                if value is None:
                    reasons.add("missing")
                elif isinstance(value, str):
                    reasons.add("wrong_type")
                elif not math.isfinite(value):
                    reasons.add("not_finite")
                elif not low <= value <= high:
                    reasons.add("out_of_range")
            key = _key(row, schema)
            if reasons:
                assert len(reasons) == 1
                refused.update(reasons)
            elif key not in kept:
                kept[key] = row
            elif kept[key] == row:
                duplicates += 1
            else:
                refused["conflicting_duplicate"] += 1
    return refused, duplicates, set(kept)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_write_dirty__a_promotion_finds_exactly_the_record(tmp_path: Path, seed: int) -> None:
    table = _samples(2_000)
    kinds = (*ROW_KINDS, FILE_KINDS[seed % 2])
    unit = dirty(table, "sensor-1", FaultParameters(seed=seed, rows=0.1, files=1, kinds=kinds), accelerometer.FAULTS)
    partitions = ("year", "month", "day", "hour", "sensor_id")
    written = write_dirty(LocalWriter(tmp_path), "bronze/accelerometer", unit, partitions)
    keys = [w.key for w in written]
    # The order of arrival is by time and then by path: within one second, the path alone must give it.
    assert keys == sorted(keys)
    assert len({key.rpartition("/")[0] for key in keys}) == 1
    assert sorted(tmp_path / key for key in keys) == sorted(tmp_path.rglob("*.parquet"))
    assert {key.rpartition("/")[2] for key in keys} >= set(unit.records["file"].to_pylist())

    refused, duplicates, kept = _promote([tmp_path / key for key in sorted(keys)], accelerometer.FAULTS)
    assert dict(refused) == expected_refusals(unit.records)
    assert duplicates == expected_duplicates(unit.records)
    rows = sum(w.rows for w in written)
    assert rows == len(kept) + duplicates + sum(refused.values()) - refused["unreadable_file"]


@pytest.mark.parametrize("seed", range(8))
def test_write_dirty__torn_and_empty_files(tmp_path: Path, seed: int) -> None:
    unit = dirty(_samples(300), "u", FaultParameters(seed=seed, rows=0, files=1), accelerometer.FAULTS)
    main, broken = write_dirty(LocalWriter(tmp_path), "p", unit, ("hour", "sensor_id"))
    [record] = unit.records.to_pylist()
    assert broken.key == f"p/hour=05/sensor_id=s-1/{record['file']}"
    size = (tmp_path / broken.key).stat().st_size
    assert size == broken.bytes
    assert (size == 0) == (record["kind"] == "empty")
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(tmp_path / broken.key)
    assert pq.ParquetFile(tmp_path / main.key).metadata.num_rows == 300
    assert record == {
        "unit": "u",
        "kind": record["kind"],
        "file": f"u_{record['kind']}.parquet",
        "sensor_id": None,
        "event_time": None,
        "column": None,
        "expected": "refused:unreadable_file",
    }


# --- Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rows": 1.1}, "rows"),
        ({"rows": -0.1}, "rows"),
        ({"files": float("nan")}, "files"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": ("nan", "nan")}, "kinds"),
        ({"kinds": ("rust",)}, "kinds"),
        ({"kinds": ("nan",), "weights": {"late": 1.0}}, "weights"),
        ({"weights": {"nan": 0.0}}, "weights"),
        ({"share": 0.1}, "share"),
    ],
)
def test_parameters__refused(values: Any, match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        FaultParameters(**values)


@pytest.mark.parametrize(
    ("key", "measured"),
    [
        (("k",), {"v": (1.0, 1.0)}),
        (("k",), {"v": (0.0, math.inf)}),
        (("k",), {}),
        ((), {"v": (0.0, 1.0)}),
        (("v",), {"v": (0.0, 1.0)}),
        (("kind",), {"v": (0.0, 1.0)}),
    ],
)
def test_schema__refused(key: Key, measured: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ParameterError):
        FaultSchema(key, measured)


def test_dirty__refuses_a_table_of_another_kind() -> None:
    with pytest.raises(ParameterError, match="lacks ay"):
        dirty(_samples(5).drop_columns(["ay"]), "u", FaultParameters(), accelerometer.FAULTS)
    whole = _samples(5).set_column(2, "ax", pa.array(range(5)))
    with pytest.raises(ParameterError, match="ax cannot be NaN"):
        dirty(whole, "u", FaultParameters(), accelerometer.FAULTS)
    schema = FaultSchema(accelerometer.FAULTS.key, accelerometer.FAULTS.measured, optional=frozenset(AXES))
    with pytest.raises(ParameterError, match="missing_field"):
        dirty(_samples(5), "u", FaultParameters(), schema)
