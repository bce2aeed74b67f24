"""``python -m docs.generate``: writes the pages that follow from the code: tables, settings and errors."""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, get_type_hints

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructField, StructType

from jobs.catalog import DATASETS, GOLD
from jobs.lake import config, ledger
from jobs.lake.drift import SCHEMA as DRIFT_SCHEMA
from jobs.lake.quarantine import SCHEMA as QUARANTINE_SCHEMA
from jobs.lake.tables import Grouped
from sim.catalog import SIMULATORS
from sim.errors import LakehouseError

FOLDER = Path(__file__).resolve().parent
HEADER = "<!-- Written by `python -m docs.generate` from the code; a test compares the two. -->\n\n"

EXIT_CODES = {
    0: "done",
    1: "the data's fault: a file or a row is not what it claims to be",
    2: "the caller's: an option, a parameter or a setting",
    3: "the machine's: Java, memory, disk, network or the store",
    4: "ours: an error nobody foresaw; its traceback is in the log that the message names",
    130: "stopped from the keyboard; the next run does what was not finished",
    143: "stopped by SIGTERM; the next run does what was not finished",
}

REFUSALS = {
    "conflicting_duplicate": "another row with the same key and other values came first",
    "in_future": "an instant later than its arrival, by more than a clock may be wrong",
    "jump": "a position that cannot be reached from those around it within the speed limit",
    "missing": "a column that every row needs has no value",
    "more_reasons": "the row has more reasons than are kept, 100",
    "not_finite": "NaN or an infinity",
    "out_of_range": "outside the limits that are set for the column",
    "unknown_schema": "a message whose fields are those of no known version",
    "unknown_value": "none of the values the column may have",
    "unparsable": "a message that is not one whole JSON object",
    "unparsable_line": "a line of a source file that is no row; `source_row` is its number, from 1",
    "unreadable_file": "the whole file: empty, torn, no Parquet, or of columns that silver cannot take; `row` is null",
    "wrong_type": "a value that the column's type cannot hold",
}

# The tables of what was simulated carry no metadata: their readers are tests and `spectra_accuracy`.
TRUTH: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "accelerometer": {
        "sensor_id": ("", "Sensor, a UUID"),
        "axis": ("", "x, y, z, or magnitude: the length of the acceleration vector"),
        "true_hz": ("Hz", "Frequency of the strongest line, without noise"),
        "true_amplitude": ("m/s2", "Its amplitude"),
        "harmonics": ("Hz, m/s2", "Every line: multiples of the gait frequency below half the sample rate"),
        "gait_hz": ("Hz", "Strides per second"),
        "gait_phase": ("rad", "Phase of the gait at 1970-01-01"),
        "speed_m_s": ("m/s", "Walking speed"),
        "bounce_m_s2": ("m/s2", "Vertical acceleration, at twice the gait frequency"),
        "sway_m_s2": ("m/s2", "Lateral acceleration, at the gait frequency"),
        "surge_m_s2": ("m/s2", "Forward acceleration, at twice the gait frequency"),
        "roll": ("rad", "Amplitude of the roll, at the gait frequency"),
        "pitch": ("rad", "Amplitude of the pitch, at twice the gait frequency"),
        "bounce_phase": ("rad", "Phase of the bounce"),
        "sway_phase": ("rad", "Phase of the sway"),
        "surge_phase": ("rad", "Phase of the surge"),
        "roll_phase": ("rad", "Phase of the roll"),
        "pitch_phase": ("rad", "Phase of the pitch"),
        "roll_offset": ("rad", "How far the sensor is mounted off level, in roll"),
        "pitch_offset": ("rad", "The same, in pitch"),
        "bias_x": ("m/s2", "Constant bias of x"),
        "bias_y": ("m/s2", "Constant bias of y"),
        "bias_z": ("m/s2", "Constant bias of z"),
    },
    "fleet": {
        "robot_id": ("", "Robot, a UUID"),
        "site_id": ("", "Where it works"),
        "hour": ("UTC", "Start of the hour"),
        "seconds": ("s", "Of the hour that are in the run"),
        "distance_m": ("m", "Way driven"),
        "idle_seconds": ("s", "Time idle"),
        "moving_seconds": ("s", "Time moving"),
        "working_seconds": ("s", "Time working"),
        "charging_seconds": ("s", "Time charging"),
        "fault_seconds": ("s", "Time broken down"),
        "outside_seconds": ("s", "Time off the site"),
        "faults": ("fault", "Faults that began"),
        "charges": ("charge", "Charges that began"),
        "capacity_ah": ("Ah", "Capacity of the battery"),
    },
    "turbofan": {
        "subset": ("", "SIM"),
        "split": ("", "train (run to failure) or test (cut before it)"),
        "unit_number": ("", "Engine"),
        "kind": ("", "spike, drift, stuck, dropout or bias"),
        "sensor": ("", "Column of the sensor, such as sensor_9"),
        "first_cycle": ("cycle", "First cycle of the anomaly"),
        "last_cycle": ("cycle", "Last cycle of it, included"),
        "magnitude": ("the sensor's", "What was added at its largest, or the value a stuck sensor keeps"),
    },
    "devices": {
        "device_id": ("", "Device, a UUID"),
        "rollout": ("UTC", "From when it sends version 2; null if never"),
        "clock": ("", "How version 1 writes its timestamps: seconds or milliseconds"),
        "utc_offset": ("min", "How far its local time is ahead of UTC, as version 2 writes it"),
        "interval_seconds": ("s", "Between two messages"),
        "latitude": ("deg", "Place, north positive"),
        "longitude": ("deg", "Place, east positive"),
        "gaps": ("UTC", "When it was silent: start, included, and stop, not"),
    },
    "waterways": {
        "county": ("", "County, as the file spells it"),
        "events": ("1", "Events of all feeds in it"),
        "start": ("UTC", "Start of the run, included"),
        "stop": ("UTC", "End of the run, excluded"),
        "rate_hz": ("Hz", "Events of a feed per second"),
    },
}
_TRUTH_KEYS = {
    "accelerometer": ("sensor_id", "axis"),
    "devices": ("device_id",),
    "fleet": ("robot_id", "hour"),
    "turbofan": ("subset", "split", "unit_number", "first_cycle"),
    "waterways": ("county", "start", "stop", "rate_hz"),
}


def pages() -> dict[str, str]:
    """The text of every generated page, by file name."""
    return {"tables.md": _tables(), "settings.md": _settings(), "errors.md": _errors()}


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _fill(text: str) -> str:
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False) + "\n\n"


# Tables


def _tables() -> str:
    parts = [
        HEADER,
        "# Tables\n\n",
        _fill(
            "Every table of a lake: its columns, types, units and key. Types are Spark's; instants are"
            " microseconds in UTC. Delta tables open with Spark, `deltalake` and DuckDB."
        ),
        *_bronze(),
        *(
            _table(
                f"silver/{name}",
                _fill(
                    "Valid rows, once each. A column that arrives and is not listed here is added to the"
                    " table, and noted in `ops/drift`."
                ),
                dataset.key,
                dataset.schema,
            )
            for name, dataset in DATASETS.items()
        ),
        *(_table(f"gold/{name}", _fill(_follows(name)), table.key, table.schema) for name, table in GOLD.items()),
        _table(
            "quarantine/DATASET",
            _fill("One table per dataset: every refused row and file. The codes are in [errors.md](errors.md)."),
            ("source_file", "source_row"),
            QUARANTINE_SCHEMA,
        ),
        _table(
            "ops/ledger",
            _fill(
                "The books: a row per batch, stage and dataset. For ingest and silver,"
                " `rows_read = rows_written + rows_duplicate + rows_quarantined`, or the batch fails."
            ),
            ("run_id", "stage", "dataset", "batch_id"),
            ledger.SCHEMA,
        ),
        _table(
            "ops/drift",
            _fill("Every difference between a file's columns and silver's, once."),
            ("dataset", "column", "kind", "before", "after"),
            DRIFT_SCHEMA,
        ),
    ]
    return "".join(parts).rstrip("\n") + "\n"


def _bronze() -> Iterator[str]:
    yield "## bronze\n\n"
    yield _fill("Parquet under Hive partitions, exactly as it arrived, and never changed.")
    rows = [
        (f"`bronze/{name}`", _names(simulator.partition_by), _bronze_columns(name))
        for name, simulator in SIMULATORS.items()
    ]
    yield _grid(("folder", "partitions, in the path only", "columns"), rows) + "\n"
    for name, simulator in SIMULATORS.items():
        schema = simulator.truth(simulator.parameters(entities=1)).schema
        yield _table(
            f"bronze/_truth/{name}",
            _fill("What was simulated, for grading (Parquet)."),
            _TRUTH_KEYS.get(name, ()),
            _said(schema, TRUTH.get(name, {})),
        )


def _bronze_columns(name: str) -> str:
    decode = DATASETS[name].decode
    return _names(decode.bronze.names) if decode else f"those of `silver/{name}`"


def _said(schema: pa.Schema, words: Mapping[str, tuple[str, str]]) -> StructType:
    spark = from_arrow_schema(schema)
    for field in spark:
        unit, comment = words.get(field.name, ("", ""))
        field.metadata = {"unit": unit, "comment": comment}
    return spark


def _follows(name: str) -> str:
    how = GOLD[name].how
    inputs = how.inputs if isinstance(how, Grouped) else (f"silver/{GOLD[name].dataset}",)
    places = [place.replace("truth/", "bronze/_truth/") for place in inputs]
    return f"Computed from {_names(places)} when `silver/{GOLD[name].dataset}` has new rows."


def _table(title: str, text: str, key: Sequence[str], schema: StructType) -> str:
    rows = [
        (
            f"`{field.name}`",
            _type(field),
            field.metadata.get("unit", ""),
            field.metadata.get("comment", "").rstrip("."),
        )
        for field in schema
    ]
    return f"## {title}\n\n{text}Key: {_names(key)}\n\n{_grid(('column', 'type', 'unit', 'meaning'), rows)}\n"


def _type(field: StructField) -> str:
    text = re.sub(r"([,:])", r"\1 ", field.dataType.simpleString())
    return f"`{text}`" if field.nullable else f"`{text}`, never null"


# Settings


class Setting(NamedTuple):
    """A setting of a model: its name in a dotted path, its default, its bounds and what it is."""

    name: str
    default: str
    bounds: str
    meaning: str


def sections() -> dict[str, type[BaseModel]]:
    """Every settings model by the dotted name of its section; the empty name is the top of the file."""
    kinds = get_type_hints(config.Settings).items()
    core = {name: kind for name, kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)}
    return {
        **{"" if name == "general" else name: kind for name, kind in core.items()},
        **{f"datasets.{name}": dataset.settings for name, dataset in DATASETS.items()},
        **{f"tables.{name}": table.settings for name, table in GOLD.items()},
    }


def settings_of(model: type[BaseModel]) -> list[Setting]:
    """The fields of a model, described by themselves or else by its docstring's ``Attributes``."""
    inherited = [_attributes(base.__doc__ or "") for base in reversed(model.__mro__) if issubclass(base, BaseModel)]
    words = {name: text for attributes in inherited for name, text in attributes.items()}
    return [
        Setting(name, _default(field), _bounds(field), (field.description or words.get(name, "")).rstrip("."))
        for name, field in model.model_fields.items()
    ]


def _attributes(docstring: str) -> dict[str, str]:
    """The ``Attributes`` section of a Google-style docstring: name -> text."""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, timedelta | datetime):
        return f"`{to_jsonable_python(value)}`"
    return f"`{json.dumps(to_jsonable_python(value))}`"


_BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "pattern": "matches `{}`"}


def _bounds(field: FieldInfo) -> str:
    found = [(text, getattr(item, name, None)) for item in field.metadata for name, text in _BOUNDS.items()]
    return " and ".join(text.format(_shown(bound)) for text, bound in found if bound is not None)


def _shown(bound: object) -> object:
    if isinstance(bound, int | float):
        return f"{bound:,}"
    return f"{bound.total_seconds():,g} s" if isinstance(bound, timedelta) else bound


def _settings() -> str:
    parts = [
        HEADER,
        "# Settings\n\n",
        _fill(
            "A value is looked for in four places, and the last one found counts: the default in"
            " `conf/lakehouse.yaml`, the profile named with `--profile` (`conf/profiles/`), the environment,"
            " and `--set`. An unknown name is refused, with the nearest known one."
        ),
        "```\n"
        "./spark-submit.sh silver --dataset all --profile production --set silver.max_files_per_batch=5000\n"
        "LAKEHOUSE__SILVER__MAX_FILES_PER_BATCH=5000 ./spark-submit.sh silver --dataset all\n"
        "```\n\n",
        _fill(
            "In the environment a name is upper case, begins with `LAKEHOUSE__`, and has two underscores for"
            " each dot. `./spark-submit.sh status --config` prints every value in force and where it comes"
            " from. When a gold table's settings change, its next run computes it anew."
        ),
    ]
    for section, model in sections().items():
        found = settings_of(model)
        if found:
            title = f"`{section}`" if section else "The lake"
            prefix = f"{section}." if section else ""
            parts.append(f"## {title}\n\n{_fill(_first(model))}{_setting_grid(found, prefix)}\n")
    parts.append("## Parameters of the simulators\n\n")
    parts.append(
        _fill(
            "Not settings: `simulate` and `python -m sim` take them as options (`--entities`, `--seed`,"
            " `--start`, `--duration`, `--rate-hz`) or as `--param NAME=VALUE`."
        )
    )
    for name, simulator in SIMULATORS.items():
        found = settings_of(simulator.parameters)
        parts.append(f"### {name}\n\n{_setting_grid(found, '')}\n")
    return "".join(parts).rstrip("\n") + "\n"


def _first(model: type[BaseModel]) -> str:
    """The text of a docstring before its first section."""
    text, _, _ = (model.__doc__ or "").partition("Attributes:")
    return " ".join(text.split()).replace("``", "`")


def _setting_grid(settings: Iterable[Setting], prefix: str) -> str:
    rows = [(f"`{prefix}{s.name}`", s.default, s.bounds, s.meaning.replace("``", "`")) for s in settings]
    return _grid(("name", "default", "bounds", "meaning"), rows)


# Errors


def _errors() -> str:
    kinds = sorted(_kinds(LakehouseError), key=lambda kind: kind.code)
    rows = [(f"`{kind.code}`", str(kind.exit_code), _meaning(kind)) for kind in kinds]
    return "".join(
        [
            HEADER,
            "# Errors\n\n",
            _fill(
                "An error says what happened, why, and what to type next, on standard error."
                " `spark-submit.sh` itself uses the same codes."
            ),
            "```\n" + _example() + "\n```\n\n",
            "## Exit codes\n\n",
            _grid(("exit code", "meaning"), [(str(code), text) for code, text in EXIT_CODES.items()]) + "\n",
            "## Error codes\n\n",
            _grid(("code", "exit code", "meaning"), rows) + "\n",
            "## Reasons in quarantine\n\n",
            _fill(
                "A refused row is no error: the run goes on, and the row is in `quarantine/DATASET` with all"
                " its reasons. A reason reads `code column: detail`."
            ),
            _grid(("code", "meaning"), [(f"`{code}`", text) for code, text in REFUSALS.items()]),
        ]
    )


def _kinds(kind: type[LakehouseError]) -> Iterator[type[LakehouseError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == LakehouseError.__module__:
            yield from _kinds(below)


def _meaning(kind: type[LakehouseError]) -> str:
    if kind is LakehouseError:
        return "An error nobody foresaw."
    return " ".join((kind.__doc__ or "").split())


def _example() -> str:
    models = sections()
    datasets = {name: models[f"datasets.{name}"] for name in DATASETS}
    tables = {name: models[f"tables.{name}"] for name in GOLD}
    try:
        config.load(overrides=["silver.max_file_per_batch=5"], environment={}, datasets=datasets, tables=tables)
    except LakehouseError as error:
        return str(error)
    raise AssertionError("a misspelt setting was not refused")


def main() -> int:
    """Write the pages, and say which of them changed."""
    for name, text in pages().items():
        path = FOLDER / name
        changed = not path.exists() or path.read_text() != text
        path.write_text(text)
        print(f"{'written' if changed else 'current'}  docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
