"""Waterways from file to silver: the real list, a copy of it in other words, a stream with faults, and hard cases."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from deltalake import DeltaTable
from pydantic import ValidationError

from jobs import silver, simulate
from jobs.datasets.waterways import DATASET, WaterwaysSettings
from jobs.ingest import ingest
from jobs.lake.cli import Context
from sim import waterways as simulated
from sim.base import write
from sim.faults import FaultParameters, expected_duplicates, expected_refusals
from sim.writers import LocalWriter
from tests.lake.conftest import Floor, counts

PATH = Path(simulated.__file__).parent / "data" / "waterways" / simulated.FILE
NAMES = DATASET.schema.names


def held(context: Context, table: str) -> list[dict]:
    return DeltaTable(f"{context.lake.uri}/{table}").to_pyarrow_table().to_pylist()


def published() -> list[list[str]]:
    with gzip.open(PATH, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def retold(lines: list[list[str]]) -> bytes:
    """The list in other headers and another order, with one more column and coordinates to three decimals."""
    spelled = ["Waterbody_Name", "FISH_SPECIES", "comments", "Special Regulations", "COUNTY", "Types_of_Public_Access"]
    spelled += ["Access Owner", "waterbody.information", "Long", "Lat", "Location", "Stocked On"]
    rows = [[*cells[:8], f"{float(cells[8]):.3f}", f"{float(cells[9]):.3f}", "", "2019-04-01"] for cells in lines[1:]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(row[::-1] for row in [spelled, *rows])
    return text.getvalue().encode("utf-8-sig")


def test_list__the_real_one_and_a_copy_in_other_words(lake: Context, tmp_path: Path):
    lines = published()
    ingest(lake, DATASET, [str(PATH)])
    (entry,) = silver.promote(lake, DATASET)
    assert counts(entry) == (546, 544, 2, 0)
    rows = held(lake, "silver/waterways")
    assert [*rows[0]] == NAMES
    by_hand = {tuple(cells) for cells in lines[1:]}
    assert len(by_hand) == 544
    assert Counter(row["county"] for row in rows) == Counter(cells[4] for cells in by_hand)
    assert Counter(row["county"] for row in rows).most_common(2) == [("Delaware", 34), ("Jefferson", 30)]
    assert {(row["longitude"], row["latitude"]) for row in rows} == {(float(c[8]), float(c[9])) for c in by_hand}
    assert {row["event_time"] for row in rows} == {None}
    nulls = {name: sum(row[name] is None for row in rows) for name in NAMES}
    assert {name: count for name, count in nulls.items() if count} == {
        "event_time": 544,
        "comments": sum(cells[2] == "None" for cells in by_hand),
        "special_regulations": sum(not cells[3] for cells in by_hand),
        "access_types": 9,
        "fishing_access_owner": 9,
        "information_url": 56,
    }
    catskill = next(row for row in rows if row["location"] == "(42.447683387, -74.212227354)")
    assert (catskill["waterbody_name"], catskill["fish_species"]) == ("Catskill Creek", "Brown Trout*")

    copy = tmp_path / "copy.csv"
    copy.write_bytes(retold(lines))
    ingest(lake, DATASET, [str(copy)])
    (entry,) = silver.promote(lake, DATASET)
    distinct = {tuple(cells) for cells in csv.reader(io.StringIO(retold(lines).decode("utf-8-sig"), newline=""))}
    assert counts(entry) == (546, len(distinct) - 1, 547 - len(distinct), 0)
    rows = held(lake, "silver/waterways")
    assert Counter(row["stocked_on"] for row in rows) == {None: 544, "2019-04-01": len(distinct) - 1}
    added = [row for row in rows if row["stocked_on"]]
    assert {(row["county"], row["waterbody_name"]) for row in added} == {(c[4], c[0]) for c in by_hand}
    assert {(row["longitude"], row["latitude"]) for row in added} == {
        (round(float(c[8]), 3), round(float(c[9]), 3)) for c in by_hand
    }
    drift = {(row["column"], row["kind"]) for row in held(lake, "ops/drift")}
    assert drift == {("longitude", "retyped"), ("latitude", "retyped"), ("stocked_on", "added")}


def test_stream__each_injected_fault_is_refused_for_what_it_is(lake: Context):
    asked = {"duration": "3m", "rate_hz": 20}
    for seed in (1, 2, 3):
        simulate.simulate(lake, "waterways", {**asked, "seed": seed}, FaultParameters(seed=seed, rows=0.01, files=0.5))
    (entry,) = silver.promote(lake, DATASET)
    records = pads.dataset(lake.lake.truth("waterways_faults")).to_table()
    injected = [row for row in records.to_pylist() if row["event_id"] and row["expected"].startswith("refused:")]
    assert len({row["kind"] for row in injected}) == 7
    refused = [row for row in held(lake, "quarantine/waterways") if row["row"]]
    told = [(json.loads(row["row"])["event_id"], [r.split()[0] for r in row["reasons"]]) for row in refused]
    assert sorted(told) == sorted((row["event_id"], [row["expected"].removeprefix("refused:")]) for row in injected)
    assert entry.files_quarantined == expected_refusals(records).get("unreadable_file", 0)
    assert entry.rows_duplicate == expected_duplicates(records)
    conflicts = sum(row["kind"] == "conflict" for row in injected)
    assert entry.rows_written == 3 * 3_600 - len(injected) + conflicts


def test_export__a_stream_written_as_csv_is_the_same_stream(lake: Context, tmp_path: Path):
    run = simulated.WaterwaysParameters(seed=4, duration="20s")
    files = list(write(simulated.SIMULATOR, run, LocalWriter(tmp_path / "out"), format="csv"))
    ingest(lake, DATASET, [str(tmp_path / "out" / file.key) for file in files])
    simulate.simulate(lake, "waterways", {"seed": 4, "duration": "20s"})
    (entry,) = silver.promote(lake, DATASET)
    assert counts(entry) == (400, 200, 200, 0)


GOOD = {
    "event_id": "019b76da-a800-7000-9faf-e41c7ab61138",
    "event_time": "2026-01-01T01:30:00+01:00",
    "county": "Essex",
    "waterbody_name": "Chubb River",
    "fish_species": "Brook Trout",
    "comments": None,
    "special_regulations": None,
    "access_types": None,
    "fishing_access_owner": None,
    "information_url": None,
    "longitude": "-74.0",
    "latitude": "44.25",
    "location": "(44.25, -74.0)",
}
BOX = "out_of_range longitude: not within -79.77 to -71.77"
CASES: list[tuple[dict, dict | list[str]]] = [
    ({}, {}),
    ({"event_time": None}, {"event_time": None}),
    ({"county": "\u00a0 ST.\tLAWRENCE "}, {"county": "St. Lawrence"}),
    ({"waterbody_name": "  Big \n Creek "}, {"waterbody_name": "Big Creek"}),
    ({"comments": "None"}, {"comments": None}),
    ({"comments": " NONE "}, {"comments": None}),
    ({"comments": "None known"}, {"comments": "None known"}),
    ({"fish_species": "   "}, {"fish_species": None}),
    ({"waterbody_name": "None"}, {"waterbody_name": "None"}),
    ({"location": " as  it is "}, {"location": " as  it is "}),
    ({"longitude": " -79.77 ", "latitude": "45.02"}, {"longitude": -79.77, "latitude": 45.02}),
    ({"longitude": "-71.76"}, [BOX]),
    ({"longitude": "74.0"}, [BOX]),
    ({"longitude": "44.25", "latitude": "-74.0"}, [BOX, "out_of_range latitude: not within 40.47 to 45.02"]),
    ({"longitude": "west"}, ["wrong_type longitude: no double"]),
    ({"longitude": "NaN"}, ["not_finite longitude: NaN or infinite"]),
    ({"latitude": None}, ["missing latitude: no value"]),
    ({"county": None}, ["missing county: no value"]),
    ({"county": " "}, ["unknown_value county: not a name that begins with a letter"]),
    ({"county": "(ALL)"}, ["unknown_value county: not a name that begins with a letter"]),
    ({"waterbody_name": "\u00a0"}, ["unknown_value waterbody_name: not a name"]),
    ({"event_time": "noon"}, ["wrong_type event_time: no timestamp"]),
    ({"event_time": "1999-12-31T23:59:59Z"}, ["out_of_range event_time: not within 2000-01-01 to 2100-01-01"]),
    ({"event_time": "2026-01-01T00:35:01Z"}, ["in_future event_time: more than 300 s after its arrival"]),
    ({"event_time": "2026-01-01T00:35:00Z"}, {"event_time": datetime(2026, 1, 1, 0, 35, tzinfo=UTC)}),
]


def test_promote__each_case_as_written_by_hand(lake: Context):
    floor = Floor(lake, DATASET, WaterwaysSettings())
    identities = [f"{number:08x}{GOOD['event_id'][8:]}" for number in range(len(CASES))]
    arrived = [{**GOOD, "event_id": key, **changes} for key, (changes, _) in zip(identities, CASES, strict=True)]
    arrived += [{**GOOD, "event_id": "17"}, {**GOOD, "event_id": identities[0].upper()}, {**GOOD, "event_id": None}]
    schema = pa.schema([(name, pa.string()) for name in NAMES])
    floor.promote(floor.put("a.parquet", pa.Table.from_pylist(arrived, schema), minute=30))
    clean = {
        "event_time": datetime(2026, 1, 1, 0, 30, tzinfo=UTC),
        "longitude": -74.0,
        "latitude": 44.25,
    }
    expected = {
        key: {**GOOD, **clean, "event_id": key, **outcome}
        for key, (_, outcome) in zip(identities, CASES, strict=True)
        if isinstance(outcome, dict)
    }
    expected[identities[0].upper()] = {**GOOD, **clean, "event_id": identities[0].upper()}
    assert {row["event_id"]: row for row in floor.silver} == expected
    reasons = [outcome for _, outcome in CASES if isinstance(outcome, list)]
    reasons += [["unknown_value event_id: not a UUID"], ["missing event_id: no value"]]
    assert [told for _, _, told in floor.refused] == reasons


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("west", {"west": -200}),
        ("west", {"west": -70}),
        ("south", {"south": 50}),
        ("earliest", {"earliest": "2101-01-01T00:00:00Z"}),
        ("future_tolerance_seconds", {"future_tolerance_seconds": -1}),
    ],
)
def test_settings__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        WaterwaysSettings.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or detail["msg"].removeprefix("Value error, ").split())[0] == field
