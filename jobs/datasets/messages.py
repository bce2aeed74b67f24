"""JSON messages in several makes: each text becomes a row of texts, by the fields it has. Plain Python, without Spark.

Nothing is converted here but by name: a number stays as it was written, and what no make knows is kept beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

_SHAPES = 1024  # makes of message, by their fields, that are remembered: few are sent, and any may be
_NOWHERE: tuple[str | None, str] = (None, "")


class Number(str):
    """A number as it was written."""


@dataclass(frozen=True)
class Version:
    """One make of message.

    Attributes:
        number: Its number.
        is_sent: Names of a message's fields -> whether it is of this make.
        columns: Column -> field that it is in; ``outer.inner`` is a field of an object. Besides those of all makes.
    """

    number: int
    is_sent: Callable[[frozenset[str]], bool]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class _Shape:
    """What messages with the same fields have in common.

    Attributes:
        number: Of the version; None if none fits.
        paths: Of every column the field, None if it has none, and the one within it, which may be empty.
        extras: Fields that the version does not know, each with those within it that it does know.
    """

    number: int | None
    paths: tuple[tuple[str | None, str], ...]
    extras: tuple[tuple[str, frozenset[str]], ...]


def schema(common: Mapping[str, str], versions: Sequence[Version]) -> pa.Schema:
    """The fields of what :func:`decode` returns."""
    names = dict.fromkeys([*common, *(name for version in versions for name in version.columns)])
    return pa.schema(
        [
            *((name, pa.string()) for name in names),
            ("schema_version", pa.int32()),
            ("extras", pa.map_(pa.string(), pa.string())),
            ("is_object", pa.bool_()),
        ]
    )


def decode(payloads: pa.Array, common: Mapping[str, str], versions: Sequence[Version]) -> pa.StructArray:
    """Messages as rows.

    Args:
        payloads: Text, any text.
        common: Column -> field, of all versions, and of a message that is of none.
        versions: The makes to tell apart; a message is of the first that fits.

    Returns:
        A row a message: each column's value as text; ``schema_version``, null if no make fits; ``extras``, the fields
        that the make does not know, null if there are none; ``is_object``, whether the text is one JSON object whose
        fields have different names.
    """
    row = schema(common, versions)
    names = row.names[:-3]
    shape = lru_cache(_SHAPES)(lambda fields: _shape(fields, common, versions, names))
    nothing = (*(None for _ in names), None, None, False)
    cells: list[Any] = []  # of all rows: a container for each would keep Python's collector of garbage busy
    for payload in payloads.to_pylist():
        fields = _object(payload)
        cells += nothing if fields is None else _row(fields, shape(tuple(fields))) or nothing
    width = len(row)
    columns = [pa.array(cells[place::width], field.type) for place, field in enumerate(row)]
    return pa.StructArray.from_arrays(columns, fields=list(row))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("two fields have the same name")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=Number, parse_float=Number, parse_constant=Number)


def _object(payload: str | None) -> dict[str, Any] | None:
    """The fields of a text that is one JSON object, None for any other text."""
    try:
        found = _DECODER.decode(payload or "")
        if "\\u" in (payload or ""):  # half of a surrogate pair is JSON, but no text that could be stored
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _shape(
    fields: tuple[str, ...], common: Mapping[str, str], versions: Sequence[Version], names: Sequence[str]
) -> _Shape:
    version = next((v for v in versions if v.is_sent(frozenset(fields))), None)
    columns = {**common, **(version.columns if version else {})}
    paths = [columns[name].partition(".")[::2] if name in columns else _NOWHERE for name in names]
    within = {outer: frozenset(inner for name, inner in paths if name == outer) for outer, _ in paths}
    extras = [(name, within.get(name, frozenset())) for name in fields if "" not in within.get(name, ())]
    return _Shape(version.number if version else None, tuple(paths), tuple(extras) if version else ())


def _row(fields: dict[str, Any], shape: _Shape) -> tuple[Any, ...] | None:
    """The row of a message; None if two of its extras would have the same name."""
    values: list[Any] = []
    for outer, inner in shape.paths:
        value = fields.get(outer) if outer is not None else None
        if inner:
            value = value.get(inner) if isinstance(value, dict) else None
        values.append(_text(value))
    extras: list[tuple[str, str | None]] = []
    for name, known in shape.extras:
        value = fields[name]
        if not known or not isinstance(value, dict | None):
            extras.append((name, _text(value)))
        elif value:
            extras += [(f"{name}.{inner}", _text(item)) for inner, item in value.items() if inner not in known]
    if len(dict(extras)) < len(extras):
        return None
    return (*values, shape.number, extras or None, True)


def _text(value: Any) -> str | None:
    """A value as text: a string's own, or JSON; None stays None."""
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    match value:
        case Number():
            return value
        case dict():
            return "{" + ",".join(f"{_json(name)}:{_json(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
