"""Turbofan: engines run to failure, with the columns of NASA's C-MAPSS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column
from pyspark.sql import types as T

from jobs.datasets import cmapss
from jobs.lake import quality
from jobs.lake.sources import Parsed, SourceFile
from jobs.lake.tables import Dataset, Ingest, column

SETTINGS = tuple(f"setting_{i}" for i in range(1, 4))
SENSORS = tuple(f"sensor_{i}" for i in range(1, 22))

# Table 2 of Saxena, Goebel, Simon and Eklund, PHM 2008: symbol, meaning and unit of each sensor.
_MEANING = (
    ("T2, total temperature at the fan inlet", "degR"),
    ("T24, total temperature at the low-pressure compressor outlet", "degR"),
    ("T30, total temperature at the high-pressure compressor outlet", "degR"),
    ("T50, total temperature at the low-pressure turbine outlet", "degR"),
    ("P2, pressure at the fan inlet", "psia"),
    ("P15, total pressure in the bypass duct", "psia"),
    ("P30, total pressure at the high-pressure compressor outlet", "psia"),
    ("Nf, physical fan speed", "rpm"),
    ("Nc, physical core speed", "rpm"),
    ("epr, engine pressure ratio P50/P2", "1"),
    ("Ps30, static pressure at the high-pressure compressor outlet", "psia"),
    ("phi, ratio of fuel flow to Ps30", "pps/psi"),
    ("NRf, corrected fan speed", "rpm"),
    ("NRc, corrected core speed", "rpm"),
    ("BPR, bypass ratio", "1"),
    ("farB, burner fuel-air ratio", "1"),
    ("htBleed, bleed enthalpy", "1"),
    ("Nf_dmd, demanded fan speed", "rpm"),
    ("PCNfR_dmd, demanded corrected fan speed", "rpm"),
    ("W31, high-pressure turbine coolant bleed", "lbm/s"),
    ("W32, low-pressure turbine coolant bleed", "lbm/s"),
)


class TurbofanSettings(BaseModel):
    """Thresholds for turbofan rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sensor_limit: float = Field(20_000.0, gt=0, description="No C-MAPSS sensor exceeds 9,300; a lost one reads 0")
    setting_limit: float = Field(1_000.0, gt=0, description="Operating settings are at most 100 in size")
    max_cycle: int = Field(10_000, ge=1, description="No engine flies longer")


def rules(settings: TurbofanSettings) -> list[Column]:
    """A known subset and split, counted engines and cycles, all settings and sensors finite and plausible."""
    return [
        quality.matches("subset", r"\A(FD00[1-4]|SIM)\z", "FD001 to FD004 or SIM"),
        quality.one_of("split", ("train", "test")),
        quality.in_range("unit_number", 1, 32_767),
        quality.in_range("cycle", 1, settings.max_cycle),
        *(quality.finite(name) for name in (*SETTINGS, *SENSORS)),
        *(quality.in_range(name, -settings.setting_limit, settings.setting_limit) for name in SETTINGS),
        *(quality.in_range(name, 0.0, settings.sensor_limit) for name in SENSORS),
    ]


def companions(name: str) -> list[str]:
    """The remaining lives of a test file's engines are in a file beside it."""
    told = cmapss.parse_name(name)
    return [f"RUL_{told.subset}.txt", f"RUL_{told.subset}.txt.gz"] if told.split == "test" else []


def parse(file: SourceFile, beside: Sequence[SourceFile]) -> Iterator[Parsed]:
    """Rows of a ``train_`` or ``test_`` file; read twice, because remaining life counts from the last cycle."""
    lives = None
    for companion in beside[:1]:
        with companion.open() as stream:
            lives = cmapss.parse_remaining_life(cmapss.read_lines(stream), companion.name)
    with file.open() as stream:
        last = cmapss.last_cycles(cmapss.read_lines(stream))
    with file.open() as stream:
        yield from cmapss.parse(cmapss.read_lines(stream), file.name, last, lives)


DATASET = Dataset(
    name="turbofan",
    schema=T.StructType(
        [
            column("subset", T.StringType(), "FD001 to FD004, or SIM for simulated", nullable=False),
            column("split", T.StringType(), "train (run to failure) or test (cut before it)", nullable=False),
            column("unit_number", T.ShortType(), "The engine, from 1 within its subset and split", nullable=False),
            column("cycle", T.ShortType(), "Flight of the engine, from 1", nullable=False),
            column("setting_1", T.FloatType(), "Altitude", "1000 ft", nullable=False),
            column("setting_2", T.FloatType(), "Mach number", "1", nullable=False),
            column("setting_3", T.FloatType(), "Throttle resolver angle", "deg", nullable=False),
            *(
                column(name, T.FloatType(), meaning, unit, nullable=False)
                for name, (meaning, unit) in zip(SENSORS, _MEANING, strict=True)
            ),
            column("remaining_useful_life", T.ShortType(), "Cycles left to fly, where known", "cycles"),
        ]
    ),
    key=("subset", "split", "unit_number", "cycle"),
    entity="unit_number",
    settings=TurbofanSettings,
    rules=rules,
    ingest=Ingest(
        partition_by=("subset", "split"),
        companions=companions,
        is_companion=lambda name: cmapss.parse_name(name).split == "rul",
        parse=parse,
    ),
)
