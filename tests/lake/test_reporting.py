"""The quality report: facts of tables made by hand, and the page; no Spark."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import types as T

from jobs import package, report
from jobs.lake import cli, rendering, reporting
from jobs.lake.cli import Context
from jobs.lake.errors import UsageError
from jobs.lake.layout import Lake
from jobs.lake.reporting import Books, Facts, Freshness, Series
from jobs.lake.tables import Dataset, GoldTable, Grouped, column

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
STAMP = pa.timestamp("us", "UTC")
TOY = Dataset(
    name="toy",
    schema=T.StructType(
        [
            column("id", T.StringType(), "The thing", nullable=False),
            column("at", T.TimestampType(), "When", nullable=False),
            column("arrived_at", T.TimestampType(), "When it came"),
        ]
    ),
    key=("id", "at"),
    entity="id",
    rules=lambda settings: [],
)
COUNTED = Dataset(
    name="counted",
    schema=T.StructType(
        [
            column("fleet", T.StringType(), "Its fleet", nullable=False),
            column("unit", T.ShortType(), "Its number in the fleet", nullable=False),
            column("cycle", T.ShortType(), "Flight", nullable=False),
        ]
    ),
    key=("fleet", "unit", "cycle"),
    entity="unit",
    rules=lambda settings: [],
)
GRADES = GoldTable(
    name="grades",
    dataset="toy",
    schema=T.StructType(
        [
            column("id", T.StringType(), "The thing"),
            column("score", T.DoubleType(), "Score"),
            column("marks", T.ArrayType(T.StringType()), "Marks"),
        ]
    ),
    key=("id",),
    how=Grouped(("silver/toy",), lambda *_: None, lambda *_: None),  # type: ignore[arg-type,return-value]
)
QUARANTINE = pa.schema(
    {
        "row": pa.string(),
        "reasons": pa.list_(pa.string()),
        "source_file": pa.string(),
        "source_row": pa.int64(),
        "arrived_at": STAMP,
        "entity": pa.string(),
        "event_time": STAMP,
    }
)
NASTY = [
    "\"><script>alert('x')</script>",
    "O'Brien & Söhne <b>",
    "🚜 👩\u200d🔧",
    "x" * 10_000,
    "a\u202eb\nc",
    "{{ 7 * 7 }}",
]


def write(lake: Lake, path: str, rows: pa.Table) -> None:
    write_deltalake(
        lake.delta_uri(f"{lake.uri}/{path}"), rows, mode="append", storage_options=lake.delta_options() or None
    )


def silver(lake: Lake, rows: Sequence[tuple[str, datetime]], delay: float = 0) -> None:
    names, times = zip(*rows, strict=True)
    came = [t + timedelta(seconds=delay) for t in times]
    write(
        lake, "silver/toy", pa.table({"id": names, "at": pa.array(times, STAMP), "arrived_at": pa.array(came, STAMP)})
    )


def quarantine(lake: Lake, *rows: Mapping[str, Any]) -> None:
    """Refused rows; one without ``source_row`` stands for a file."""
    base = {"source_file": "bronze/toy/a.parquet", "source_row": None, "arrived_at": NOON, "entity": "a"}
    full = [{**base, "event_time": None, "row": None if "source_row" not in r else "{}", **r} for r in rows]
    write(lake, "quarantine/toy", pa.Table.from_pylist(full, QUARANTINE))


def booked(lake: Lake, stage: str, at: datetime = NOON, **counts: int) -> None:
    """A row of the ledger, for ``toy`` unless another ``dataset`` is given."""
    names = ("files", "files_quarantined", "rows_read", "rows_written", "rows_duplicate", "rows_quarantined")
    row = {"stage": [stage], "dataset": ["toy"], "outcome": ["done"], "started_at": pa.array([at], STAMP)}
    write(lake, "ops/ledger", pa.table(row | {name: pa.array([counts.get(name, 0)], pa.int64()) for name in names}))


def drift(lake: Lake, name: str, kind: str, after: str) -> None:
    said = {"dataset": "toy", "column": name, "kind": kind, "before": "", "after": after, "source_file": "bronze/toy/b"}
    write(lake, "ops/drift", pa.table({k: [v] for k, v in said.items()} | {"seen_at": pa.array([NOON], STAMP)}))


@pytest.fixture
def here(tmp_path: Path) -> Lake:
    return Lake.parse(str(tmp_path / "lake"))


# --- facts ---


def test_facts__of_an_empty_lake(here: Lake) -> None:
    found = reporting.facts(here, TOY, [GRADES])
    assert found.is_empty
    assert (found.rows, found.entities, found.score, found.top, found.reasons, found.drift, found.marks) == (
        *(0, 0, None, (), (), (), ()),
    )


def test_facts__entities_and_times(here: Lake) -> None:
    # a has 5 rows, b 3, c to g one each: 13 rows of 7 entities.
    rows = [("a", NOON + n * MINUTE) for n in range(5)] + [("b", NOON + n * MINUTE) for n in range(3)]
    silver(here, rows + [(name, NOON - 90 * MINUTE) for name in "cdefg"], delay=4)
    found = reporting.facts(here, TOY)
    assert (found.rows, found.entities, found.median_rows) == (13, 7, 1)
    assert [(e.name, e.rows) for e in found.top] == [("a", 5), ("b", 3), ("c", 1), ("d", 1), ("e", 1)]
    assert [(e.name, e.rows) for e in found.bottom] == [("g", 1), ("f", 1)]
    assert (found.first_event, found.fresh.newest_event) == (NOON - 90 * MINUTE, NOON + 4 * MINUTE)
    # 94 minutes in steps of 2: the first bin has 5 rows; the last three, from 12:00, 2 + 2, 2 + 1 and 1.
    assert found.activity is not None
    assert (found.activity.step, len(found.activity.counts)) == (120_000_000, 48)
    assert (found.activity.counts[0], found.activity.counts[-3:]) == (5, (4, 3, 1))
    assert found.sizes == Series("rows", False, 1, 1, (5, 0, 1, 0, 1))
    assert (found.fresh.delay_median, found.fresh.delay_max) == (4.0, 4.0)


def test_facts__entity_of_several_columns_and_an_order_that_is_no_time(here: Lake) -> None:
    units, cycles = [1] * 30 + [2] * 7, [*range(1, 31), *range(1, 8)]
    kinds = {"fleet": pa.string(), "unit": pa.int16(), "cycle": pa.int16()}
    values = {"fleet": ["x"] * 30 + ["y"] * 7, "unit": units, "cycle": cycles}
    write(here, "silver/counted", pa.table(values, pa.schema(kinds)))
    found = reporting.facts(here, COUNTED)
    assert found.entity == ("fleet", "unit")
    assert [(e.name, e.rows) for e in found.top] == [("x / 1", 30), ("y / 2", 7)]
    assert found.activity == Series("cycle", False, 1, 1, (2,) * 7 + (1,) * 23)
    assert (found.first_event, found.fresh.newest_event, found.fresh.delay_median) == (None, None, None)


def test_facts__refusals_by_reason_and_time(here: Lake) -> None:
    silver(here, [("a", NOON), ("a", NOON + 59 * MINUTE)])
    quarantine(
        here,
        {"source_row": 7, "reasons": ["out_of_range v: 9", "out_of_range w: 9"], "event_time": NOON + 10 * MINUTE},
        {"source_row": 3, "reasons": ["out_of_range v: 8", "missing w: null"], "event_time": NOON + 10 * MINUTE},
        # Its own time is refused, so it stands where it arrived.
        {"source_row": 1, "reasons": ["in_future at: no"], "event_time": NOON + timedelta(days=9999)},
        {"reasons": ["unreadable_file file: torn"], "arrived_at": NOON + 2 * MINUTE},
    )
    found = reporting.facts(here, TOY)
    assert (found.books.quarantined, found.files_refused) == (3, 1)
    assert [(r.code, r.rows, r.files) for r in found.reasons] == [
        *(("out_of_range", 2, 0), ("in_future", 1, 0), ("missing", 1, 0), ("unreadable_file", 0, 1)),
    ]
    assert found.activity is not None
    assert (found.activity.start, found.activity.step) == (1767268800_000_000, 60_000_000)
    where = {r.code: {n: c for n, c in enumerate(r.over_time.counts) if c} for r in found.reasons}
    assert where == {"out_of_range": {10: 2}, "in_future": {0: 1}, "missing": {10: 1}, "unreadable_file": {2: 1}}
    assert {(r.over_time.start, r.over_time.step, len(r.over_time.counts)) for r in found.reasons} == {
        (found.activity.start, found.activity.step, 60)
    }
    first = found.reasons[0]
    assert (first.example, first.source_file, first.source_row) == ("out_of_range v: 8", "bronze/toy/a.parquet", 3)


def test_facts__refusals_outside_silvers_time_have_bins_of_their_own(here: Lake) -> None:
    silver(here, [("a", NOON), ("a", NOON + MINUTE)])
    quarantine(here, {"source_row": 1, "reasons": ["odd v: 1"], "event_time": NOON - timedelta(days=30)})
    over_time = reporting.facts(here, TOY).reasons[0].over_time
    assert over_time.counts == (1,)
    assert over_time.start == 1767268800_000_000 - 30 * 86400_000_000


def test_facts__books_and_score(here: Lake) -> None:
    # 20 rows read: 14 written, 2 twice, 4 refused; then 1 line refused by ingest; replay brings 1 back, 1 was there.
    silver(here, [("a", NOON + n * MINUTE) for n in range(15)])
    quarantine(
        here, *({"source_row": n, "reasons": ["odd v: 1"]} for n in range(3)), {"reasons": ["unreadable_file x"]}
    )
    booked(
        here,
        "silver",
        files=4,
        files_quarantined=1,
        rows_read=20,
        rows_written=14,
        rows_duplicate=2,
        rows_quarantined=4,
    )
    booked(here, "ingest", NOON + MINUTE, files=1, rows_read=9, rows_written=8, rows_quarantined=1)
    booked(here, "replay", NOON + MINUTE, files=1, rows_read=3, rows_written=1, rows_duplicate=1, rows_quarantined=1)
    found = reporting.facts(here, TOY)
    assert found.books == Books(read=21, silver=15, duplicates=3, quarantined=3, mended=0)
    assert found.books.missing == 0
    assert found.shares == {"validity": 1 - 3 / 21, "uniqueness": 1 - 3 / 21, "readability": 0.75}
    assert found.score == pytest.approx(100 * 18 / 21 * 18 / 21 * 0.75)
    assert found.fresh.last_batch == NOON


def test_facts__books_that_do_not_balance(here: Lake) -> None:
    silver(here, [("a", NOON)])
    booked(here, "silver", files=1, rows_read=3, rows_written=3)
    assert reporting.facts(here, TOY).books.missing == 2


def test_facts__rows_of_a_mended_file_are_read_by_replay(here: Lake) -> None:
    # One of two files was refused whole; mended, it has 5 rows: 3 good, 1 there already, 1 refused.
    silver(here, [("a", NOON + n * MINUTE) for n in range(5)])
    quarantine(here, {"source_row": 4, "reasons": ["odd v: 1"]})
    booked(here, "silver", files=2, files_quarantined=1, rows_read=2, rows_written=2)
    booked(here, "replay", files=1, rows_read=5, rows_written=3, rows_duplicate=1, rows_quarantined=1)
    found = reporting.facts(here, TOY)
    assert found.books == Books(read=7, silver=5, duplicates=1, quarantined=1, mended=5)
    assert found.books.missing == 0


def test_facts__a_row_lost_is_seen_though_a_file_was_mended(here: Lake) -> None:
    silver(here, [("a", NOON + n * MINUTE) for n in range(4)])
    booked(here, "silver", files=2, files_quarantined=1, rows_read=2, rows_written=2)
    booked(here, "replay", files=1, rows_read=3, rows_written=3)
    quarantine(here, {"source_row": 4, "reasons": ["odd v: 1"]})
    # 2 + 4 read (3 passed and 1 is in quarantine), 4 + 1 there.
    assert reporting.facts(here, TOY).books.missing == 1


def test_facts__drift_and_marks(here: Lake) -> None:
    drift(here, "wind", "added", "double")
    table = {"id": list("abc"), "score": [99.0, 40.0, 70.5], "marks": pa.array([[], ["score", "x"], ["x"]])}
    write(here, "gold/grades", pa.table(table))
    found = reporting.facts(here, TOY, [GRADES])
    assert [(d["column"], d["kind"], d["after"], d["seen_at"]) for d in found.drift] == [
        ("wind", "added", "double", NOON)
    ]
    assert (found.marks[0].total, found.marks[0].graded) == (2, 3)
    assert [(w["id"], w["score"]) for w in found.marks[0].worst] == [("b", 40.0), ("c", 70.5)]


def test_facts__files_in_bronze_wait(here: Lake) -> None:
    bronze = Path(here.bronze("toy"))
    bronze.mkdir(parents=True)
    (bronze / "a.parquet").write_bytes(b"PAR1")
    found = reporting.facts(here, TOY)
    assert (found.fresh.waiting, found.is_empty) == (1, False)
    assert found.fresh.newest_arrival is not None


@pytest.mark.parametrize(
    ("low", "high", "step", "size"),
    [
        (0, 0, 1, 1),
        (0, 59, 1, 60),
        (0, 60, 2, 31),
        (7, 4321, 100, 44),
        (-5, 5, 1, 11),
    ],
)
def test_bins__round_and_few(low: int, high: int, step: int, size: int) -> None:
    start, width, count = reporting._bins(False, low, high, 60)
    assert (width, count, start % step) == (step, size, 0)
    assert start <= low
    assert high < start + width * count


def test_bins__of_a_span_of_ten_thousand_years() -> None:
    _, step, size = reporting._bins(True, -62_135_596_800_000_000, 253_402_300_799_000_000, 60)
    assert size <= 62
    assert step == 1000 * 365 * 86400 * 1_000_000


# --- the page ---


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what they say."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("href", "src", "xlink:href", "action", "data", "srcset")]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


MADE = rendering.Made("/some/lake", "run-1", "suite 1", NOON)


def facts_of(name: str = "toy", **changes: Any) -> Facts:
    books = Books(read=10, silver=10, duplicates=0, quarantined=0, mended=0)
    given = {"rows": 10, "entities": 1, "files_read": 1, "files_refused": 0, "first_event": NOON, "books": books}
    fresh = Freshness(NOON, NOON, NOON, 0)
    return Facts(**{"dataset": name, "entity": ("id",), "fresh": fresh, **given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def nasty(here: Lake) -> Lake:
    """A lake whose data have names that no page should trust."""
    silver(here, [(name, NOON + n * MINUTE) for n, name in enumerate(NASTY)])
    quarantine(
        here,
        *(
            {"source_row": n, "reasons": [f"{name} {name}: {name}"], "source_file": name}
            for n, name in enumerate(NASTY)
        ),
        *({"source_row": n, "reasons": [f"reason_{n} v: bad"]} for n in range(9)),
    )
    booked(here, "silver", files=3, rows_read=20, rows_written=6, rows_quarantined=14)
    for name in NASTY:
        drift(here, name, "added", name)
    marks = pa.array([[name] for name in NASTY])
    write(here, "gold/grades", pa.table({"id": NASTY, "score": [1.0] * len(NASTY), "marks": marks}))
    return here


def test_page__strange_names_are_text_and_short(nasty: Lake) -> None:
    html = rendering.page([reporting.facts(nasty, TOY, [GRADES])], MADE)
    page = Page(html)
    assert "<script" not in html
    assert "</script>" in page.text
    assert "<b>" in page.text
    assert "👩\u200d🔧" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "x" * 300 not in html
    assert "\u202e" not in html
    assert len(html) < 100_000


def test_page__needs_nothing_from_elsewhere(nasty: Lake) -> None:
    html = rendering.page([reporting.facts(nasty, TOY, [GRADES])], MADE)
    page = Page(html)
    assert page.addresses
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"https?:|url\(|@import|src=", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)


def test_page__of_an_empty_lake_says_what_to_type(here: Lake) -> None:
    page = Page(rendering.page([reporting.facts(here, TOY)], MADE))
    assert "Nothing here yet" in page.text
    assert "./spark-submit.sh demo" in page.text


def test_page__names_datasets_without_data() -> None:
    empty = facts_of("bare", rows=0, files_read=0, books=Books(0, 0, 0, 0, 0), fresh=Freshness(None, None, None, 0))
    page = Page(rendering.page([facts_of(entities=0), empty], MADE))
    assert "No data yet: bare" in page.text


def test_page__says_by_how_much_books_are_off() -> None:
    off = facts_of(entities=0, books=Books(read=1010, silver=10, duplicates=0, quarantined=0, mended=0))
    assert "1,000 missing" in Page(rendering.page([off], MADE)).text
    over = facts_of(entities=0, books=Books(read=9, silver=10, duplicates=0, quarantined=0, mended=0))
    assert "1 too many" in Page(rendering.page([over], MADE)).text
    assert "balanced" in Page(rendering.page([facts_of(entities=0)], MADE)).text


def test_page__a_reason_has_one_colour_in_all_datasets() -> None:
    def reason(code: str, rows: int) -> reporting.Reason:
        return reporting.Reason(code, rows, 0, f"{code} v: 1", "f", 1, Series("time", True, 0, 1_000_000, (rows,)))

    first = facts_of("first", entities=0, reasons=(reason("rare", 1), reason("usual", 1)))
    second = facts_of("second", entities=0, reasons=(reason("usual", 5),))
    html = rendering.page([first, second], MADE)
    found = re.findall(r'<rect class="(\w+)"[^>]*><title>[^<]*? (usual|rare)<', html)
    assert found == [("c1", "rare"), ("c0", "usual"), ("c0", "usual")]


def test_stack__bars_are_sums() -> None:
    low, high = (Series("time", True, 0, 1_000_000, counts) for counts in ((3, 0, 1), (1, 0, 0)))
    peak, blocks = rendering.stack([(low, "low", "c0"), (high, "high", "c1")])
    assert peak == 4
    assert [(b.x, b.y, b.height, b.count) for b in blocks] == [(0, 25, 75, 3), (0, 0, 25, 1), (2, 75, 25, 1)]
    assert blocks[0].label == "1970-01-01 00:00:00: 3 low"


@pytest.mark.parametrize(
    ("value", "text"), [(100.0, "100"), (99.99, "99.9"), (100 * 0.29, "29"), (0.0, "0"), (None, "-")]
)
def test_score__is_cut_not_rounded(value: float | None, text: str) -> None:
    assert rendering.score(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.29, "29 %"), (0.00001, "< 0.01 %"), (0.0, "0 %")]
)
def test_percent(value: float, text: str) -> None:
    assert rendering.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (9_999, "9,999"), (538_512, "538 k"), (12_345, "12.3 k"), (99_999_999, "99.9 M")]
)
def test_compact(value: int, text: str) -> None:
    assert rendering.compact(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.94, "1.9 s"), (119, "119 s"), (120, "2 min"), (-7200, "2 h"), (timedelta(days=325), "325 d")]
)
def test_duration(value: float | timedelta, text: str) -> None:
    assert rendering.duration(value) == text


def test_lateness__of_a_clock_that_is_fast_is_before() -> None:
    assert [rendering.lateness(seconds) for seconds in (240.0, 0.0, -240.0)] == [
        "4 min after",
        "0.0 s after",
        "4 min before",
    ]


@pytest.mark.parametrize(
    ("step", "text"), [(30_000_000, "30 seconds"), (3_600_000_000, "hour"), (604_800_000_000, "7 days")]
)
def test_step(step: int, text: str) -> None:
    assert rendering.step(Series("at", True, 0, step, (1,))) == text


def test_page__its_template_is_found_in_the_zip(tmp_path: Path) -> None:
    archive = package.build(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from datetime import UTC, datetime;"
        "from jobs.lake import rendering; assert sys.argv[1] in rendering.__file__;"
        "print(rendering.page([], rendering.Made('/lake', 'r', 'v', datetime.now(UTC))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(archive)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert "Nothing here yet" in Page(done.stdout).text


# --- the job ---


def run(context: Context, **options: str) -> None:
    report.run(context, Namespace(**{"dataset": "all", "output": "", **options}))


def test_run__a_lake_with_one_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = cli.context(str(tmp_path / "lake"), "testing")
    sensors = {"sensor_id": ["s"] * 3, "event_time": pa.array([NOON + n * MINUTE for n in range(3)], STAMP)}
    write(context.lake, "silver/accelerometer", pa.table(sensors))
    run(context)
    out = capsys.readouterr().out
    assert "accelerometer" in out
    assert f"report: {tmp_path / 'lake' / 'report.html'}" in out
    page = Page((tmp_path / "lake" / "report.html").read_text("utf-8"))
    assert "3 valid rows of 1 entity" in " ".join(page.text.split())
    assert sorted(f.name for f in (tmp_path / "lake").iterdir()) == ["report.html", "silver"]


def test_run__json_has_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = cli.context(str(tmp_path / "lake"), "testing", as_json=True)
    run(context, dataset="fleet", output=str(tmp_path / "elsewhere" / "r.html"))
    printed = json.loads(capsys.readouterr().out)
    assert printed["file"] == str(tmp_path / "elsewhere" / "r.html")
    assert [(d["dataset"], d["rows"], d["score"]) for d in printed["datasets"]] == [("fleet", 0, None)]
    assert Path(printed["file"]).exists()


def test_run__plan_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(cli.context(str(tmp_path / "lake"), "testing", plan=True), dataset="devices")
    assert "report.html" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_run__unknown_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        run(cli.context(str(tmp_path / "lake"), "testing"), dataset="nonsense")


def test_run__lake_on_s3(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="reported")
    context = cli.context("s3a://reported/lake", "testing", [f"s3.endpoint={s3_endpoint}"])
    sensors = {"sensor_id": ["s"] * 3, "event_time": pa.array([NOON + n * MINUTE for n in range(3)], STAMP)}
    write(context.lake, "silver/accelerometer", pa.table(sensors))
    monkeypatch.chdir(tmp_path)
    run(context)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "3 valid rows of 1 entity" in " ".join(page.text.split())
