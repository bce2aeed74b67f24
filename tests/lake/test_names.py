"""Names from data: whatever an entity is called, it stays a value; no path and no SQL is made of it unescaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from jobs import pipeline, replay
from jobs.catalog import DATASETS
from jobs.lake.cli import Context
from jobs.lake.replaying import Selection
from sim.writers import LocalWriter

LONG = "x" * 10_000
NAMES = [
    "../../x",
    "a=b/c",
    "a%2Fb",
    "it's",
    'say "no"',
    "`tick`",
    "'; DROP TABLE silver --",
    "back\\slash",
    "*?[a]{b}",
    "sensor 🛰",
    "e\u0301",
    "tab\there",
    LONG,
]


def events(names: Sequence[str], minute: int, volts: float = 50.0) -> pa.Table:
    """An event of each robot in this minute."""
    at = 1_767_225_600_000_000 + 60_000_000 * minute
    return pa.table(
        {
            "robot_id": names,
            "event_time": pa.array([at] * len(names), pa.timestamp("us", tz="UTC")),
            "latitude": [42.6] * len(names),
            "longitude": [-73.7] * len(names),
            "battery_v": [volts] * len(names),
            "status": ["working"] * len(names),
        }
    )


def test_pipeline__any_name_stays_a_value_from_bronze_to_gold(lake: Context, tmp_path: Path):
    bronze = Path(lake.lake.bronze("fleet"))
    bronze.mkdir(parents=True)
    pq.write_table(events(NAMES, 0), bronze / "in a column.parquet")
    in_path = [name for name in NAMES if name != LONG]  # no file system takes a folder of that name
    LocalWriter(lake.lake.uri).write(events(in_path, 1), "bronze/fleet", name="f", partition_by=("robot_id",))
    refused = events(NAMES, 2, volts=-1.0)
    pq.write_table(refused, bronze / "refused.parquet")
    entries = pipeline.run_stages(lake)
    assert {entry.rows_quarantined for entry in entries if entry.dataset == "fleet"} == {len(NAMES)}

    def column(table: str, name: str) -> list[str]:
        found: list[str] = DeltaTable(f"{lake.lake.uri}/{table}").to_pyarrow_table()[name].to_pylist()
        return sorted(found)

    assert column("silver/fleet", "robot_id") == sorted([*NAMES, *in_path])
    assert {*column("gold/fleet_status", "robot_id")} - {"(all)"} == {*NAMES}
    assert column("quarantine/fleet", "entity") == sorted(NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]
    (again,) = replay.replay(lake, DATASETS["fleet"], Selection())
    assert again.rows_read == len(NAMES)
    assert column("quarantine/fleet", "entity") == sorted(NAMES)
