"""The CSV parser: headers by meaning, cells as they are, what is no row set aside, what is no such file refused."""

from __future__ import annotations

import csv
import gzip
import io
import random
import tracemalloc
import uuid
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.datasets import nys_waterways
from jobs.datasets.nys_waterways import ALIASES, COLUMNS, Refused, column_names
from jobs.lake.errors import FileRefusedError

PATH = Path(__file__).parents[2] / "sim" / "data" / "waterways" / "Recommended_Fishing_Rivers_And_Streams.csv.gz"
HEAD = b"County,Waterbody Name,Longitude,Latitude,Comments\n"


def parsed(content: bytes, **bounds: int) -> tuple[pa.Table, list[Refused]]:
    batches = list(nys_waterways.parse(io.BytesIO(content), "rivers.csv", **bounds))
    return pa.concat_tables([b.rows for b in batches]), [r for b in batches for r in b.refused]


def comments(content: bytes, **bounds: int) -> list[str | None]:
    return parsed(content, **bounds)[0]["comments"].to_pylist()


def row(comment: str = "x", number: int = 1) -> str:
    return f"Essex,Brook {number},-74.1,44.2,{comment}\n"


@pytest.fixture(scope="module")
def published() -> bytes:
    return gzip.decompress(PATH.read_bytes())


# The real file


def test_parse__the_real_file_cell_by_cell(published: bytes):
    rows, refused = parsed(published)
    assert refused == []
    expected = list(csv.DictReader(io.StringIO(published.decode(), newline="")))
    assert len(expected) == rows.num_rows == 546
    for header, name in [
        ("Waterbody Name", "waterbody_name"),
        ("Fish Species Present at Waterbody", "fish_species"),
        ("Comments", "comments"),
        ("Special Regulations on Waterbody", "special_regulations"),
        ("County", "county"),
        ("Types of Public Access", "access_types"),
        ("Public Fishing Access Owner", "fishing_access_owner"),
        ("Waterbody Information", "information_url"),
        ("Longitude", "longitude"),
        ("Latitude", "latitude"),
        ("Location", "location"),
    ]:
        assert rows[name].to_pylist() == [cells[header] or None for cells in expected]
    assert rows["location"][0].as_py() == "(42.447683387, -74.212227354)"
    assert Counter(rows["comments"].to_pylist())["None"] == 477
    assert {field.type for field in rows.schema} == {pa.string()}


def test_parse__equal_rows_and_no_others_are_the_same_event(published: bytes):
    rows, _ = parsed(published)
    contents: dict[str, set[tuple[str, ...]]] = {}
    for cells in rows.to_pylist():
        identity = cells.pop("event_id")
        contents.setdefault(identity, set()).add(tuple(map(str, cells.values())))
    assert len(contents) == 544
    assert all(len(content) == 1 for content in contents.values())
    assert {uuid.UUID(identity).version for identity in contents} == {5}


def test_parse__identity_is_of_the_content_not_of_its_layout(published: bytes):
    cells = list(csv.reader(io.StringIO(published.decode(), newline="")))
    cells[0] = [name.upper().replace(" ", "_") for name in cells[0]]
    order = random.Random(1).sample(range(11), 11)
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows([line[i] for i in order] for line in cells)
    again, _ = parsed(text.getvalue().encode("utf-8-sig"))
    assert again["event_id"].to_pylist() == parsed(published)[0]["event_id"].to_pylist()


def test_parse__another_value_in_any_column_is_another_event():
    base = b"Essex,Brook,-74.1,44.2,x\n"
    changed = [b"Erie,Brook,-74.1,44.2,x\n", b"Essex,Brook,-74.2,44.2,x\n", b"Essex,Brook,-74.1,44.2,\n"]
    rows, _ = parsed(HEAD + base + b"".join(changed))
    assert len(set(rows["event_id"].to_pylist())) == 4


# Headers


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("Waterbody_Name", "waterbody_name"),
        ("WATERBODY NAME", "waterbody_name"),
        ("waterbodyName", "waterbody_name"),
        (" Waterbody.Name ", "waterbody_name"),
        ("Water-body  name", "waterbody_name"),
        ("COUNTY", "county"),
        ("Lat", "latitude"),
        ("LNG", "longitude"),
        ("long.", "longitude"),
        ("Types_of_Public_Access", "access_types"),
        ("fish.species", "fish_species"),
        ("Event ID", "event_id"),
        ("Event_Time", "event_time"),
        ("Stocking Year (last)", "stocking_year_last"),
        ("StockingYear", "stocking_year"),
        ("Größe", "größe"),
        ("_row", "row"),
    ],
)
def test_column_names__by_meaning(header: str, column: str):
    assert column_names([header]) == [column]


def test_aliases__stand_for_columns_that_there_are():
    assert set(ALIASES.values()) <= set(COLUMNS)


def test_parse__a_column_nobody_declared_is_kept():
    rows, _ = parsed(b"County,Waterbody Name,Long,Lat,Stocked On\nEssex,Brook,-74.1,44.2,2019-04-01\n")
    assert rows.column_names == ["event_id", "county", "waterbody_name", "longitude", "latitude", "stocked_on"]
    assert rows["stocked_on"].to_pylist() == ["2019-04-01"]


def test_parse__a_stream_keeps_its_identities_and_times():
    rows, _ = parsed(
        b"event_id,event_time,county,waterbody_name,longitude,latitude\na,2026-01-01T00:00:00Z,E,B,1,2\n,,E,B,1,2\n"
    )
    assert rows["event_id"].to_pylist() == ["a", None]
    assert rows["event_time"].to_pylist() == ["2026-01-01T00:00:00Z", None]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it has no lines"),
        (b"\n \n", "it has no lines"),
        (b"County,Longitude,Comments\nEssex,-74.1,x\n", "no header stands for waterbody_name, latitude"),
        (b"County,Waterbody,Lat,Long,Latitude\n", "'Lat' and 'Latitude' are both latitude"),
        (b"County,Waterbody,Lat,Long,a b,A_B\n", "'a b' and 'A_B' are both a_b"),
        (b"County,Waterbody,Lat,Long,\n", "column 5 has no name"),
        (b"County,Waterbody,Lat,Long," + b"x," * 50_000, "it has 50,005 columns; at most 2,000 are taken in"),
        ("County,Waterbody,Lat,Long,Länge".encode("latin-1"), "not UTF-8, byte 0xe4 at 27"),
        ("County,Waterbody,Lat,Long\n".encode("utf-16"), "not UTF-8"),
        (b'County,"Waterbody,Lat,Long\nEssex,Brook,44,-74\n', "quotes that do not match"),
        (b"County,Waterbody,Lat,Long\rEssex,Brook,44,-74\r", "a carriage return that ends no line"),
        (b"PAR1" + bytes(range(256)), r"the headers are 'PAR1\x00\x01"),
    ],
)
def test_parse__what_is_no_such_file_is_refused_whole(content: bytes, why: str):
    with pytest.raises(FileRefusedError) as refused:
        parsed(content)
    assert refused.value.what == "rivers.csv is no list of waterways"
    assert why in refused.value.why
    assert "county, waterbody_name, longitude, latitude" in refused.value.remedy


def test_parse__a_header_alone_is_a_list_of_nothing():
    assert list(nys_waterways.parse(io.BytesIO(HEAD), "rivers.csv")) == []


# Records


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_parse__commas_quotes_and_line_breaks_in_quotes(end: str, mark: str):
    cells = ['"a, b"', '"say ""when"""', f'"one{end}two"', 'in 5" rain', "", '""', " padded ", "ünïcödé 鱼"]
    content = (mark + HEAD.decode() + "".join(row(cell) for cell in cells)).replace("\n", end).replace("\r\r", "\r")
    expected = ["a, b", 'say "when"', f"one{end}two", 'in 5" rain', None, None, " padded ", "ünïcödé 鱼"]
    rows, refused = parsed(content.encode())
    assert refused == []
    assert rows["comments"].to_pylist() == expected
    assert set(rows["county"].to_pylist()) == {"Essex"}


@pytest.mark.parametrize("header", ["Long", '"Long"'])
def test_parse__a_byte_order_mark_is_no_part_of_the_first_header(header: str):
    content = f"\ufeff{header},Lat,County,Waterbody\n-74.1,44.2,Essex,Brook\n"
    rows, _ = parsed(content.encode())
    assert rows["longitude"].to_pylist() == ["-74.1"]


def test_parse__the_last_line_needs_no_end_and_blank_ones_do_not_count():
    assert comments(HEAD + b"\r\n" + row("a").encode() + b"  \n\n" + row("b").strip().encode()) == ["a", "b"]


def test_parse__another_encoding_is_refused_and_the_rest_is_read():
    content = HEAD + row("a").encode() + row("café").encode("latin-1") + row("c").encode()
    rows, refused = parsed(content)
    assert rows["comments"].to_pylist() == ["a", "c"]
    assert refused == [
        Refused(3, r"Essex,Brook 1,-74.1,44.2,caf\xe9", "unparsable_line line: not UTF-8, byte 0xe9 at 28")
    ]


def test_parse__another_encoding_within_quotes_is_one_record():
    content = HEAD + row('"one\ncafé\nthree"').encode("latin-1") + row("c").encode()
    rows, refused = parsed(content)
    assert rows["comments"].to_pylist() == ["c"]
    assert [(each.line_number, each.reason) for each in refused] == [
        (2, "unparsable_line line: not UTF-8, byte 0xe9 at 3")
    ]
    assert refused[0].text == 'Essex,Brook 1,-74.1,44.2,"one\ncaf\\xe9\nthree"'


def test_parse__too_many_and_too_few_fields_are_refused():
    content = HEAD + b"Essex,Brook,-74.1,44.2,x,y\nEssex,Brook,-74.1\n" + row("kept").encode()
    rows, refused = parsed(content)
    assert rows["comments"].to_pylist() == ["kept"]
    assert refused == [
        Refused(2, "Essex,Brook,-74.1,44.2,x,y", "unparsable_line line: 6 fields instead of 5"),
        Refused(3, "Essex,Brook,-74.1", "unparsable_line line: 3 fields instead of 5"),
    ]


@pytest.mark.parametrize("after", [row("b") + row("c"), row("b") + row('"c"'), row('"b"') + row('"c, d"')])
def test_parse__a_stray_quote_costs_its_own_line_only(after: str):
    content = row("a") + row('"never closed') + after + "ragged\n"
    rows, refused = parsed(HEAD + content.encode())
    assert rows.num_rows == 3
    assert [(each.line_number, each.reason) for each in refused] == [
        (3, "unparsable_line line: quotes that do not match"),
        (6, "unparsable_line line: 1 fields instead of 5"),
    ]


def test_parse__a_carriage_return_within_a_line_is_refused():
    _, refused = parsed(HEAD + b"Essex,Bro\rok,-74.1,44.2,x\n" + row().encode())
    assert [(r.line_number, r.reason) for r in refused] == [
        (2, "unparsable_line line: a carriage return that ends no line")
    ]


@pytest.mark.parametrize(
    "record", [row("x" * 2_000), row('"' + "x" * 2_000 + '"'), row('"' + "x\n" * 1_000 + '"'), "," * 2_000 + "\n"]
)
def test_parse__a_record_over_the_limit_is_refused_not_swallowed(record: str):
    content = HEAD + row("a").encode() + record.encode() + row("c").encode()
    rows, refused = parsed(content, limit=1_000)
    assert [text for text in rows["comments"].to_pylist() if text in ("a", "c")] == ["a", "c"]
    assert (refused[0].line_number, refused[0].reason) == (3, "unparsable_line line: longer than 1000 bytes")
    assert rows.num_rows + len(refused) == 2 + record.count("\n")


def test_parse__limit_counts_the_end_of_the_line():
    line = row("x" * 100)
    assert comments(HEAD + line.encode(), limit=len(line)) == ["x" * 100]
    _, refused = parsed(HEAD + line.encode(), limit=len(line) - 1)
    assert len(refused) == 1


def test_parse__a_line_of_ten_megabytes_is_refused_in_little_memory():
    content = io.BytesIO(HEAD + row("a").encode() + b"x" * 10_000_000 + b"\n" + row("c").encode())
    tracemalloc.start()
    batches = list(nys_waterways.parse(content, "rivers.csv"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [b.rows["comments"].to_pylist() for b in batches] == [["a", "c"]]
    (refused,) = batches[0].refused
    assert (refused.line_number, refused.text) == (3, "x" * 4_000)
    assert refused.reason == "unparsable_line line: longer than 1048576 bytes"
    assert peak < 8 << 20


@pytest.mark.parametrize("bounds", [{"block_rows": 4}, {"block_bytes": 60}])
def test_parse__batches_are_bounded_and_lose_nothing(bounds: dict[str, int]):
    lines = [row(str(n), n) if n % 5 else "ragged\n" for n in range(23)]
    batches = list(nys_waterways.parse(io.BytesIO(HEAD + "".join(lines).encode()), "rivers.csv", **bounds))
    assert len(batches) >= 6
    assert max(b.rows.num_rows + len(b.refused) for b in batches) <= 4
    told = [text for b in batches for text in b.rows["comments"].to_pylist()]
    assert told == [str(n) for n in range(23) if n % 5]
    assert [r.line_number for b in batches for r in b.refused] == [2, 7, 12, 17, 22]
    assert len({b.rows.schema for b in batches}) == 1


@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)] * 2,
            st.sampled_from(["-74.1", "", "n/a"]),
        ),
        max_size=12,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_parse__what_csv_writes_is_what_is_read(lines: list[tuple[str, str, str]], end: str):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=end)
    writer.writerow(["county", "waterbody name", "longitude", "latitude", "notes"])
    writer.writerows([county, name, number, number, name] for county, name, number in lines)
    batches = list(nys_waterways.parse(io.BytesIO(text.getvalue().encode()), "rivers.csv"))
    assert not any(batch.refused for batch in batches)
    read = [cells for batch in batches for cells in batch.rows.drop_columns(["event_id"]).to_pylist()]
    assert [tuple(cells.values()) for cells in read] == [
        tuple(cell or None for cell in (county, name, number, number, name)) for county, name, number in lines
    ]


@given(st.binary(max_size=300))
def test_parse__any_bytes_are_rows_or_refused_and_none_is_lost(noise: bytes):
    content = HEAD + noise + b"\n" + row("last").encode()
    rows, refused = parsed(content, limit=200)
    assert rows.num_rows + len(refused) <= content.count(b"\n")
    if b'"' not in noise:
        assert rows["comments"].to_pylist()[-1] == "last"
        blank = sum(not line.strip() for line in content.split(b"\n")[1:-1])
        assert rows.num_rows + len(refused) == content.count(b"\n") - 1 - blank
