"""Messages by their fields: every expected row is written by hand."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.datasets import messages
from jobs.datasets.messages import Version

COMMON = {"id": "device"}
FLAT = Version(1, lambda fields: "t" in fields, {"t": "t"})
NESTED = Version(2, lambda fields: "r" in fields, {"t": "r.t", "u": "r.u"})
NOT_AN_OBJECT = {"id": None, "t": None, "u": None, "schema_version": None, "extras": None, "is_object": False}


def decoded(*payloads: str | None) -> list[dict[str, Any]]:
    found = messages.decode(pa.array(payloads, pa.string()), COMMON, (FLAT, NESTED))
    assert found.type == pa.struct(list(messages.schema(COMMON, (FLAT, NESTED))))
    return found.to_pylist()


def row(version: int | None, *, extras: list[tuple[str, str | None]] | None = None, **values: str) -> dict[str, Any]:
    return {**NOT_AN_OBJECT, "schema_version": version, "extras": extras, "is_object": True, **values}


def test_decode__a_message_is_of_the_first_version_that_fits():
    assert decoded('{"device":"d","t":1}', '{"device":"d","r":{"t":1,"u":2}}', '{"t":1,"r":{"t":2}}') == [
        row(1, id="d", t="1"),
        row(2, id="d", t="1", u="2"),
        row(1, t="1", extras=[("r", '{"t":2}')]),
    ]


def test_decode__of_no_version_what_all_have_in_common():
    assert decoded('{"device":"d","x":1}', "{}") == [row(None, id="d"), row(None)]


def test_decode__numbers_stay_as_they_were_written():
    numbers = ["1.50", "-0", "1e3", "0.1000000000000000055511151231257827", "123456789012345678901234567890", "NaN"]
    assert [found["t"] for found in decoded(*(f'{{"t":{number}}}' for number in numbers))] == numbers
    assert decoded('{"t":1,"x":[1.50,{"y":1E2}]}')[0]["extras"] == [("x", '[1.50,{"y":1E2}]')]


def test_decode__values_of_every_kind_are_text():
    texts = ['"a b"', "true", "false", "null", '["é",null,true]', '""', '"\\ud83d\\ude00"']
    assert [found["t"] for found in decoded(*(f'{{"t":{text}}}' for text in texts))] == [
        *("a b", "true", "false", None, '["é",null,true]', "", "\U0001f600"),
    ]


def test_decode__what_the_version_does_not_know_is_kept():
    known = '{"device":"d","r":{"t":1,"v":2,"w":null},"x":null,"y":"z"}'
    assert decoded(known) == [row(2, id="d", t="1", extras=[("r.v", "2"), ("r.w", None), ("x", None), ("y", "z")])]


def test_decode__an_object_that_is_none_is_kept_as_it_is():
    assert decoded('{"r":5}', '{"r":null}', '{"r":[{"t":1}]}') == [
        row(2, extras=[("r", "5")]),
        row(2),
        row(2, extras=[("r", '[{"t":1}]')]),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "",
        "  ",
        "null",
        "[1]",
        '"text"',
        "5",
        '{"t":1',
        '{"t":1}{"t":1}',
        '{"t":1} x',
        "{'t':1}",
        '{"t":1,}',
        '{"t":01}',
        '{"t":1,"t":1}',
        '{"t":1,"x":{"y":1,"y":2}}',
        '{"t":"\\ud800"}',  # half of a surrogate pair
        '{"\\udfff":1,"t":1}',
        '{"t":"a\nb"}',
        "\ufeff" + '{"t":1}',
        '{"t":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"r":{"v":1},"r.v":2}',  # would be one in extras
    ],
)
def test_decode__what_is_not_one_object_with_different_names(payload: str | None):
    assert decoded(payload, '{"t":1}') == [NOT_AN_OBJECT, row(1, t="1")]


def test_decode__white_space_around_an_object_and_no_messages_at_all():
    assert decoded(' \n{ "t" : 1 }\t') == [row(1, t="1")]
    assert decoded() == []


texts = st.text('aé"\\\n\x00\u2028\U0001f600{}[]:, ', max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["device", "t", "r", "x", "é", ""]), values), st.booleans())
def test_decode__every_value_of_a_message_is_in_its_row(fields: dict[str, Any], ascii_only: bool):
    (found,) = decoded(json.dumps(fields, ensure_ascii=ascii_only))
    if not ({"t", "r"} & fields.keys()):
        assert found["schema_version"] is None
        return
    assert found["is_object"]
    extras = dict(found["extras"] or [])
    for name in fields.keys() - {"device", "t", "r"}:
        assert same(extras[name], fields[name])
    if "t" in fields:
        assert found["schema_version"] == 1
        assert same(found["t"], fields["t"])


@given(st.text('{}[]",:\\u0d8tr1. ', max_size=30))
def test_decode__never_fails(payload: str):
    assert len(decoded(payload)) == 1


def same(text: str | None, value: Any) -> bool:
    """Whether a text is a value's own, or its JSON."""
    if value is None or isinstance(value, str):
        return text == value
    return text is not None and repr(json.loads(text)) == repr(value)
