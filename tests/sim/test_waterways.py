"""The file of New York State, counted by hand, and its replay: all rows of the file in every pass, as other events."""

from __future__ import annotations

import csv
import gzip
import math
import subprocess
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from jobs import package
from sim import waterways
from sim.base import Unit, write
from sim.faults import FaultParameters, dirty, expected_refusals
from sim.waterways import COLUMNS, FILE, SIMULATOR, WaterwaysParameters, table, truth, units
from sim.writers import LocalWriter

PATH = Path(waterways.__file__).parent / "data" / "waterways" / FILE
START = datetime(2026, 1, 1, tzinfo=UTC)


def params(**values: object) -> WaterwaysParameters:
    return WaterwaysParameters.model_validate({"seed": 7, **values})


def replay(run: WaterwaysParameters) -> list[dict]:
    return pa.concat_tables([table(run, unit) for unit in units(run)]).unify_dictionaries().to_pylist()


@pytest.fixture(scope="module")
def published() -> list[dict[str, str]]:
    with gzip.open(PATH, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def content(row: dict) -> tuple[object, ...]:
    """What a row of the file or of the replay says, in the file's order."""
    names = COLUMNS if "County" in row else COLUMNS.values()
    cells = [row[name] or None for name in names]
    return tuple(float(cell) if place in (8, 9) else cell for place, cell in enumerate(cells))


# The file


def test_file__is_what_its_provenance_says(published: list[dict[str, str]]):
    assert len(published) == 546
    counties = Counter(row["County"] for row in published)
    assert len(counties) == 55
    assert counties.most_common(3) == [("Delaware", 34), ("Jefferson", 30), ("Sullivan", 27)]
    assert Counter(row["Comments"] for row in published)["None"] == 477
    assert sum("None" in row.values() for row in published) == 477
    repeated = [row for row, count in Counter(tuple(row.values()) for row in published).items() if count > 1]
    assert sorted(row[0] for row in repeated) == ["Kayaderosseras Creek", "Schoharie Creek (Upper)"]
    blanks = {name: sum(not row[name] for row in published) for name in published[0]}
    assert {name: count for name, count in blanks.items() if count} == {
        "Special Regulations on Waterbody": 143,
        "Waterbody Information": 56,
        "Types of Public Access": 9,
        "Public Fishing Access Owner": 9,
    }


def test_file__lies_within_the_box(published: list[dict[str, str]]):
    for name, (low, high) in (("Longitude", waterways.LONGITUDES), ("Latitude", waterways.LATITUDES)):
        assert all(low < float(row[name]) < high for row in published)


def test_file__is_found_in_a_zip(tmp_path: Path):
    archive = package.build(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(archive)!r}); from sim import waterways as w; "
    code += "print(w.__file__, len(w.listings()))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [f"{archive}/sim/waterways.py", "546"]


# The stream


def test_table__every_pass_is_the_whole_file_in_another_order(published: list[dict[str, str]]):
    # Event n since 1970 is of pass n // 546: from the first event of a pass, two passes and a bit.
    first = 546 * 1_000_000
    rows = table(params(), Unit("any", 0, first, first + 2 * 546 + 100)).to_pylist()
    told = [content(row) for row in rows]
    once = Counter(content(row) for row in published)
    assert Counter(told[:546]) == once
    assert Counter(told[546:1092]) == once
    assert len({content(row) for row in rows[1092:]}) >= 98
    orders = [told[:100], told[546:646], told[1092:], [content(row) for row in published[:100]]]
    assert len({tuple(order) for order in orders}) == 4


def test_table__the_columns_are_bronze_in_silvers_types():
    kinds = {field.name: field.type for field in table(params(), units(params())[0]).schema}
    assert [*kinds] == ["event_id", "event_time", *COLUMNS.values()]
    assert kinds["event_time"] == pa.timestamp("us", tz="UTC")
    assert kinds["longitude"] == kinds["latitude"] == pa.float64()
    assert kinds["event_id"] == pa.string()
    assert kinds["county"].value_type == pa.string()


def test_table__rate_and_span_are_those_asked_for():
    rows = replay(params(start="2026-01-01T00:59:59Z", duration="3s", rate_hz=2.5))
    seconds = [(row["event_time"] - START).total_seconds() for row in rows]
    assert seconds == [3599.2, 3599.6, 3600.0, 3600.4, 3600.8, 3601.2, 3601.6]


def test_table__identities_are_their_own_and_tell_the_time():
    rows = replay(params(entities=3, duration="20s", rate_hz=1000))
    identities = [uuid.UUID(row["event_id"]) for row in rows]
    assert len(set(identities)) == 60_000
    assert {(each.version, each.variant) for each in identities} == {(7, uuid.RFC_4122)}
    assert all(str(each) == row["event_id"] for each, row in zip(identities, rows, strict=True))
    for each, row in zip(identities, rows, strict=True):
        assert (
            START.timestamp() * 1000
            <= each.int >> 80
            == (row["event_time"] - datetime(1970, 1, 1, tzinfo=UTC)) // (timedelta(milliseconds=1))
        )
    in_time = sorted(rows, key=lambda row: row["event_id"])
    assert [row["event_time"] for row in in_time] == sorted(row["event_time"] for row in rows)


def test_table__microseconds_apart_sort_by_identity():
    rows = table(params(rate_hz=99_999.5), Unit("any", 0, 10**13, 10**13 + 5_000)).to_pylist()
    assert [row["event_id"] for row in rows] == sorted(row["event_id"] for row in rows)
    assert len({row["event_time"] for row in rows}) == 5_000


def test_table__a_part_equals_that_part_of_the_whole():
    whole = replay(params(entities=2, duration="4m", rate_hz=100))
    part = replay(params(entities=1, start=START + timedelta(seconds=90), duration="7.5s", rate_hz=100))
    assert len(part) == 750
    assert part == [row for row in whole if row in part]
    assert {row["event_id"] for row in part} <= {row["event_id"] for row in whole}


def test_table__another_seed_is_another_order_and_other_identities():
    ours, theirs = replay(params()), replay(params(seed=8))
    assert [content(row) for row in ours] != [content(row) for row in theirs]
    assert not {row["event_id"] for row in ours} & {row["event_id"] for row in theirs}


def test_write__same_bytes_in_any_order_and_any_part(tmp_path: Path):
    run = params(entities=2, start="2026-01-01T00:30:00Z", duration="1h", rate_hz=20)
    for name, asked in (("whole", None), ("reverse", units(run)[::-1]), ("part", units(run)[1:2])):
        list(write(SIMULATOR, run, LocalWriter(tmp_path / name), asked))
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")}
        for name in ("whole", "reverse", "part")
    }
    assert len(files["whole"]) == 4
    assert files["reverse"] == files["whole"]
    assert files["part"].items() <= files["whole"].items()
    assert {str(path.parent) for path in files["whole"]} == {
        f"bronze/waterways/year=2026/month=01/day=01/hour={hour}" for hour in ("00", "01")
    }


@pytest.mark.parametrize(("rate", "seconds"), [(0.001, 3600), (277, 3600), (278, 1800), (1000, 900), (100_000, 10)])
def test_units__hold_a_million_events_at_most_and_meet_the_hour(rate: float, seconds: int):
    run = params(rate_hz=rate, start="2026-01-01T00:00:00Z", duration="2h")
    found = units(run)
    assert len(found) == 7200 // seconds
    assert max(unit.stop - unit.start for unit in found) <= 1_000_000
    assert all(later.start == earlier.stop for earlier, later in pairwise(found))
    assert found[-1].stop - found[0].start == round(7200 * rate)


def test_units__a_whole_piece_has_one_name_and_a_part_another():
    long = {unit.name for unit in units(params(duration="3h"))}
    assert {unit.name for unit in units(params(start="2026-01-01T01:00:00Z", duration="1h"))} < long
    assert not {unit.name for unit in units(params(duration="30m"))} & long


# The truth, the faults, the refusals


@pytest.mark.parametrize("span", [{"duration": "10m"}, {"duration": "7s"}, {"duration": "2s"}, {"duration": "1h"}])
def test_truth__counts_the_events_of_each_county(span: dict[str, str]):
    run = params(entities=2, rate_hz=50, start="2026-01-01T00:00:17Z", **span)
    told = truth(run).to_pylist()
    assert {row["county"]: row["events"] for row in told} == Counter(row["county"] for row in replay(run))
    assert [row["county"] for row in told] == sorted(row["county"] for row in told)
    assert {(row["start"], row["stop"]) for row in told} == {(run.start, run.start + run.duration)}


def test_faults__of_every_kind_leave_a_conflict_valid_and_a_future_far():
    run = params(duration="10m", rate_hz=20)
    rows = table(run, units(run)[0])
    clean = {row["event_id"]: row for row in rows.to_pylist()}
    spoiled = dirty(rows, "unit", FaultParameters(seed=3, rows=0.2), SIMULATOR.faults)
    expected = expected_refusals(spoiled.records)
    assert set(expected) == {
        "conflicting_duplicate",
        "in_future",
        "missing",
        "not_finite",
        "out_of_range",
        "wrong_type",
    }
    files = {file.name: file.content for file in spoiled.files}
    conflicts = files["unit_conflict"].to_pylist()
    assert len(conflicts) == expected["conflicting_duplicate"]
    for row in conflicts:
        assert -79.77 <= row["longitude"] <= -71.77
        assert 40.47 <= row["latitude"] <= 45.02
        before = clean[row["event_id"]]
        assert (row["longitude"] != before["longitude"]) + (row["latitude"] != before["latitude"]) == 1
    main = files["unit"].to_pylist()
    outside = [
        row
        for row in main
        if not (-79.77 <= row["longitude"] <= -71.77 and 40.47 <= row["latitude"] <= 45.02)
        and math.isfinite(row["longitude"] + row["latitude"])
    ]
    assert len(outside) == expected["out_of_range"]
    future = [row for row in main if row["event_time"] != clean[row["event_id"]]["event_time"]]
    assert len(future) == expected["in_future"]
    assert {2090 <= row["event_time"].year < 2096 for row in future} == {True}
    assert len({row["event_time"].replace(minute=0, second=0, microsecond=0) for row in future}) == 1


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("entities", {"entities": 0}),
        ("rate_hz", {"rate_hz": 0}),
        ("rate_hz", {"rate_hz": 1e6}),
        ("duration", {"duration": "0s"}),
        ("start", {"start": "1969-12-31T00:00:00Z"}),
        ("counties", {"counties": 3}),
    ],
)
def test_parameters__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        WaterwaysParameters.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or detail["msg"].removeprefix("Value error, ").split())[0] == field
