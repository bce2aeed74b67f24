"""What every simulator is: parameters, units of work, a table per unit, and the truth behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sim.errors import ParameterError
from sim.faults import FaultParameters, FaultSchema, dirty, write_dirty

if TYPE_CHECKING:
    from sim.writers import FileFormat, Writer, Written


class Parameters(BaseModel):
    """What every dataset is asked for; each simulator adds its own fields.

    Attributes:
        extent: Names of the fields that say how much is wanted; two runs that differ only there agree where they meet.
        seed: Everything random follows from it.
        entities: How many sensors, engines or machines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Fields that say how much is wanted, not what it is like.
    extent: ClassVar[frozenset[str]] = frozenset({"entities"})

    seed: int = 0
    entities: int = Field(default=8, ge=1)


P = TypeVar("P", bound=Parameters)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Unit:
    """The smallest piece of a run that is made at once: one bronze file, or one per partition it spans.

    Attributes:
        name: The file's name without suffix; the same for the same piece of any run.
        entity: The entity, or block of entities, it belongs to.
        start: First item, in the simulator's own count (samples since 1970, engines).
        stop: One past the last item.
    """

    name: str
    entity: int
    start: int
    stop: int


@dataclass(frozen=True)
class Simulator(Generic[P]):
    """One dataset's simulator, as plain functions over its parameters.

    Attributes:
        name: The dataset's name, and its folder below ``bronze/``.
        parameters: The model its parameters are validated by.
        partition_by: Hive partition columns of its bronze files.
        units: The units of a run, in order. Any subset, in any order, on any worker, gives the same rows.
        table: The rows of one unit.
        truth: What was simulated, for the whole run.
        faults: What may be spoiled in its rows.
        encode: (rows of a file, its name) -> what bronze holds of them; for sensors that send messages. Faults are
            faults of the rows, before.
    """

    name: str
    parameters: type[P]
    partition_by: tuple[str, ...]
    units: Callable[[P], list[Unit]]
    table: Callable[[P, Unit], pa.Table]
    truth: Callable[[P], pa.Table]
    faults: FaultSchema
    encode: Callable[[pa.Table, str], pa.Table] = lambda rows, _name: rows


def write(
    simulator: Simulator[P],
    params: P,
    writer: Writer,
    units: Iterable[Unit] | None = None,
    *,
    format: FileFormat = "parquet",
    faults: FaultParameters | None = None,
) -> Iterator[Written]:
    """Write units of a run to bronze, holding one unit in memory at a time.

    Args:
        simulator: The dataset's simulator.
        params: Its parameters.
        writer: Where to write.
        units: The units wanted; all of the run when not given.
        format: File format of the bronze files.
        faults: How much to spoil. The record goes to ``bronze/_truth/<dataset>_faults``, one file per unit.

    Returns:
        Each bronze file as it is written; nothing is until it is asked for.

    Raises:
        ParameterError: Faults are asked for in a format that does not have them.
        StoreError: The store refused or could not be reached.
    """
    if faults is not None and format != "parquet":
        raise ParameterError(
            f"format {format} cannot be written with faults",
            why="faults are faults of Parquet files and their types",
            remedy="use format parquet, or no faults",
        )
    return _written(simulator, params, writer, simulator.units(params) if units is None else units, format, faults)


def _written(
    simulator: Simulator[P],
    params: P,
    writer: Writer,
    units: Iterable[Unit],
    format: FileFormat,
    faults: FaultParameters | None,
) -> Iterator[Written]:
    prefix, partition_by = f"bronze/{simulator.name}", simulator.partition_by
    digest = _digest(params, faults)
    for unit in units:
        rows, name = simulator.table(params, unit), f"{unit.name}-{digest}"
        if faults is None:
            sent = simulator.encode(rows, name)
            yield from writer.write(sent, prefix, name=name, partition_by=partition_by, format=format)
        else:
            spoiled = dirty(rows, name, faults, simulator.faults)
            writer.write(spoiled.records, f"bronze/_truth/{simulator.name}_faults", name=name, partition_by=())
            yield from write_dirty(writer, prefix, spoiled, partition_by, simulator.encode)


def _digest(params: Parameters, faults: FaultParameters | None) -> str:
    """Tell files of other parameters apart: bronze, once written, never changes."""
    texts = [params.model_dump_json(exclude=set(params.extent)), faults.model_dump_json() if faults else ""]
    return blake2b("\n".join(texts).encode(), digest_size=4).hexdigest()


def write_truth(simulator: Simulator[P], params: P, writer: Writer) -> list[Written]:
    """Write what was simulated to ``bronze/_truth/<dataset>``.

    The name is a hash of the table's content: a truth that is written again, by another worker or for another
    hour of the same sensors, replaces itself and never doubles.
    """
    truth = simulator.truth(params)
    digest = blake2b(truth.schema.to_string().encode(), digest_size=8)
    digest.update(repr(truth.to_pydict()).encode())
    prefix = f"bronze/_truth/{simulator.name}"
    return writer.write(truth, prefix, name=f"truth-{digest.hexdigest()}", partition_by=())


def parameters_from(simulator: Simulator[P], values: Mapping[str, object]) -> P:
    """Validate a simulator's parameters as a command line or a configuration file gives them.

    Args:
        simulator: The simulator they are for.
        values: Field name to value; numbers and times may be strings.

    Raises:
        ParameterError: A value is refused or a name is unknown; every such field is named.
    """
    return validated(simulator.parameters, values, simulator.name)


def validated(model: type[M], values: Mapping[str, object], subject: str) -> M:
    """Validate named values, and refuse them in our words.

    Args:
        model: What they are fields of.
        values: Field name to value; numbers and times may be strings.
        subject: What they are for, to begin the refusal with.

    Raises:
        ParameterError: A value is refused or a name is unknown; every such field is named.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        known = model.model_fields
        problems = [_problem(dict(detail), known) for detail in error.errors(include_url=False)]
        fields = ", ".join(field for field, _, _ in problems)
        raise ParameterError(
            f"{subject}: refused {fields}",
            why="; ".join(why for _, why, _ in problems),
            remedy="; ".join(dict.fromkeys(remedy for _, _, remedy in problems)),
        ) from error


def _problem(detail: Mapping[str, object], known: Iterable[str]) -> tuple[str, str, str]:
    """Put one of Pydantic's details as (field, why, remedy)."""
    location = detail["loc"]
    # A rule over several fields has no location; its message starts with the field at fault.
    message = str(detail["msg"]).removeprefix("Value error, ")
    field = ".".join(map(str, location)) if isinstance(location, tuple) and location else message.split()[0]
    if detail["type"] == "extra_forbidden":
        near = get_close_matches(field, list(known), n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose from: {', '.join(known)}"
        return field, f"there is no parameter {field}", remedy
    why = message if message.startswith(field) else f"{field}={detail['input']}: {message}"
    return field, why, f"give {field} another value"
