"""Runs beside runs, checkpoints that are gone, clocks that are wrong, data that come again, and typing errors."""

from __future__ import annotations

import os
import tarfile
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow.fs import FileType

from chaos import checks
from chaos.driver import WHEN, Death
from chaos.samples import Sample
from chaos.stores import FIRST_ARRIVAL, put
from chaos.trial import ARRIVALS, FIRST, PIPELINE, RUN, SECOND, Kind, ScenarioError, Step, Trial
from jobs.catalog import DATASETS, GOLD
from jobs.lake.layout import Lake
from jobs.lake.tables import Grouped
from sim.writers import encode

_OLDER = Path(__file__).parents[2] / "tests" / "data" / "older_lake" / "lake.tar.gz"
# Tables that count what was refused: a refused row that comes again is refused again.
_COUNTING = {
    *(f"quarantine/{name}" for name in DATASETS),
    *(f"gold/{table.name}" for table in GOLD.values() if isinstance(table.how, Grouped) and table.how.also),
}
_YEAR = 365 * 86_400.0  # s
_JOBS = 8  # that are run in an order by chance
_ARRIVED = (*FIRST, ARRIVALS[1])  # a part has been run, another waits


def at_once(trial: Trial, *, on_s3: bool) -> None:
    """Two drivers run the same jobs on one lake at the same time."""
    sample = trial.sample()
    steps = trial.program(sample, "pipeline", "stages")
    expected = trial.expected(sample, steps)
    lake = trial.lake_on_s3() if on_s3 else trial.lake()
    with trial.stage.crew.victim() as other:
        for step in steps:
            if step[0] == "arrive":
                trial.succeed(lake, sample, (step,))
                continue
            other.begin(step[0], *trial.arguments(lake, sample, step))
            ran, beside = trial.do(lake, sample, step), other.end()
            if {ran.code, beside.code} != {0}:
                raise ScenarioError(f"{' '.join(step)}:\n{ran.err}\n{beside.err}")
    trial.check(lake, expected)


def any_order(trial: Trial) -> None:
    """Jobs by chance in an order by chance, gold table by table: in the end it is as if all had been run in order."""
    sample = trial.sample()
    expected, lake, dataset = trial.undisturbed(sample), trial.lake(), ("--dataset", sample.dataset)
    tables = [("gold", "--table", table.name) for table in GOLD.values() if table.dataset == sample.dataset]
    others: list[Step] = [("silver", *dataset), ("replay", *dataset), ("maintain", "--table", "all")]
    steps = trial.rng.choices([*others, *tables], k=_JOBS)
    steps.insert(trial.rng.randrange(_JOBS), ARRIVALS[1])
    trial.say(", ".join(" ".join(word for word in step if not word.startswith("--")) for step in steps))
    trial.succeed(lake, sample, (ARRIVALS[0], *steps, RUN))
    trial.check(lake, expected)


def checkpoint_gone(trial: Trial) -> None:
    """The checkpoint is deleted: all of bronze is read again, and nothing doubled."""
    sample = trial.sample()
    steps, expected = trial.rng.choice([FIRST, _ARRIVED, PIPELINE]), trial.undisturbed(sample)
    lake = trial.prepared(sample, steps, on_s3=trial.on_s3())
    lake.filesystem().delete_dir(_checkpoint(lake, sample))
    trial.succeed(lake, sample, SECOND)
    trial.check(lake, expected, read_again=True)


def checkpoint_torn(trial: Trial) -> None:
    """A file of the checkpoint is torn or gone: refused, with what to do, or no matter; then as if it were gone."""
    sample = trial.sample()
    expected, lake = trial.undisturbed(sample), trial.prepared(sample, _ARRIVED, on_s3=trial.on_s3())
    root, store = _checkpoint(lake, sample), lake.filesystem()
    files = sorted(info.path for info in lake.listed(root, recursive=True) if info.type == FileType.File)
    chosen, how = trial.rng.choice(files), trial.rng.choice(["torn", "empty", "gone"])
    trial.say(f"{chosen.removeprefix(root)} {how}")
    if how == "gone":
        store.delete_file(chosen)
    else:
        with store.open_input_stream(chosen) as stream:
            content = stream.read()
        with store.open_output_stream(chosen) as stream:
            stream.write(content[: len(content) // 2] if how == "torn" else b"")
    ran = trial.do(lake, sample, RUN)
    if ran.code not in (0, 1) or (ran.code and f"ops/checkpoints/silver/{sample.dataset}" not in ran.err):
        raise ScenarioError(f"with a torn checkpoint it ended with {ran.code}:\n{ran.err}")
    if ran.code:
        store.delete_dir(root)
    trial.succeed(lake, sample, (RUN,))
    trial.check(lake, expected, read_again=True)


def _checkpoint(lake: Lake, sample: Sample) -> str:
    """Where silver's checkpoint of a sample is, as the lake's file system has it."""
    return lake.arrow_path(lake.checkpoint("silver", sample.dataset))


def clock_skew(trial: Trial) -> None:
    """Files that arrive by clocks that are years off: each is promoted once, whatever its time says."""
    # Fleet and waterways refuse rows that are later than their file: there its time decides, and rightly so.
    sample = trial.sample("accelerometer", "devices", "turbofan")
    expected, lake = trial.undisturbed(sample), trial.lake()
    for number in (0, 1):
        sample.arrive(trial.stage.home, lake, number)
        for name in sample.part(trial.stage.home, number):
            if trial.rng.random() < 0.3:
                at = FIRST_ARRIVAL + trial.rng.uniform(-40, 40) * _YEAR
                os.utime(Path(lake.uri, name), (at, at))
        trial.succeed(lake, sample, (RUN,))
    # Of two rows with one key the one that arrived first is kept: which, is what the clocks say; that one is, is not.
    trial.check(lake, expected, but_for_rivals=True)


def odd_times(trial: Trial) -> None:
    """Instants around changes of daylight saving, of 1970, of 2262 and of what no calendar has: kept, or refused."""
    lake, unit = trial.lake(), trial.rng.choice(["us", "ns", "ms"])
    instants = [
        *range(1_774_745_995, 1_774_746_005),  # 29 March 2026, 01:00 UTC: clocks go forward in Europe
        *range(1_792_889_995, 1_792_890_005),  # and 25 October, 01:00 UTC: an hour comes twice
        *(-1, 0, 1, -(2**31), 2**31 - 1, 2**31, 4_102_444_799, 4_102_444_800, 9_223_372_036, -9_223_372_036),
    ]
    scale = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    trial.say(f"unit {unit}")
    put(
        lake, "bronze/accelerometer/sensor_id=s/odd.parquet", _still(pa.array([at * scale for at in instants]), unit), 0
    )
    trial.succeed(lake, trial.sample("accelerometer"), (RUN,))
    kept = {int(row["event_time"].timestamp()) for row in checks.rows(lake, "silver/accelerometer")}
    wanted = {at for at in instants if 946_684_800 <= at < 4_102_444_800}  # 2000 to 2100, the dataset's settings
    differ = sorted(kept ^ wanted)
    trial.hold(lake, *([f"{len(kept)} instants kept of {len(wanted)}: {differ}"] if differ else []))


def _still(times: pa.Array, unit: str) -> bytes:
    """A file of an accelerometer that does not move."""
    axes = {axis: pa.array([0.5] * len(times), pa.float32()) for axis in ("ax", "ay", "az")}
    return bytes(encode(pa.table({"event_time": times.cast(pa.timestamp(unit, tz="UTC")), **axes}), "parquet"))


def again(trial: Trial) -> None:
    """All files are delivered again under other names: duplicates, all of them."""
    sample = trial.sample()
    expected, lake = trial.undisturbed(sample), trial.prepared(sample, PIPELINE)
    before = len(checks.rows(lake, f"quarantine/{sample.dataset}"))
    for order, name in enumerate(sample.files(trial.stage.home)):
        folder, _, file = name.rpartition("/")
        put(lake, f"{folder}/again-{file}", (sample.folder(trial.stage.home) / name).read_bytes(), 1_000 + order)
    trial.succeed(lake, sample, (RUN,))
    found = checks.fingerprint(lake)
    changed = [
        name for name in expected.tables if found.tables[name] != expected.tables[name] and name not in _COUNTING
    ]
    trial.hold(lake, *(f"what came again has changed {name}" for name in changed))
    trial.say(f"{len(checks.rows(lake, f'quarantine/{sample.dataset}')) - before} refused again")


def one_sensor(trial: Trial) -> None:
    """One sensor has 95 of a hundred rows."""
    lake, first, total = trial.lake(), 1_767_225_600_000_000, 0
    for number, rows in enumerate([190_000, *[2_000] * 5]):
        times = pa.array(range(first, first + 10_000 * rows, 10_000))
        put(lake, f"bronze/accelerometer/sensor_id=s{number}/f.parquet", _still(times, "us"), number)
        total += rows
    trial.succeed(lake, trial.sample("accelerometer"), (RUN,))
    found = checks.fingerprint(lake).tables["silver/accelerometer"].rows
    trial.hold(lake, *([f"{found:,} of {total:,} rows in silver"] if found != total else []))


def typing_error(trial: Trial) -> None:
    """A setting with a typing error: refused with the right name, and nothing is touched."""
    sample = trial.sample()
    lake = trial.prepared(sample, FIRST)
    before = {path: path.stat().st_mtime_ns for path in Path(lake.uri).rglob("*")}
    name, value = trial.rng.choice([("silver.max_files_per_batch", "10"), ("leases.seconds", "9"), ("lake", "x")])
    place = trial.rng.randrange(len(name))
    wrong = trial.rng.choice([letter for letter in "xyz" if letter != name[place]])
    typed = name[:place] + wrong + name[place + trial.rng.randint(0, 1) :]
    ran = trial.do(lake, sample, RUN, f"{typed}={value}")
    trial.say(typed)
    if ran.code != 2 or "LH202" not in ran.err or f"'{name}'" not in ran.err:
        raise ScenarioError(f"{typed} ended with {ran.code}:\n{ran.err}")
    if before != {path: path.stat().st_mtime_ns for path in Path(lake.uri).rglob("*")}:
        raise ScenarioError("something was written")


def older_lake(trial: Trial) -> None:
    """A lake of an older version of the suite is taken up by this one, which dies on the way; no row changes."""
    lake = trial.lake()
    with tarfile.open(_OLDER) as tar:
        tar.extractall(trial.stage.place, filter="data")
    (trial.stage.place / "older").rename(lake.uri)
    for log in Path(lake.checkpoint("silver", "accelerometer"), "sources", "0").iterdir():  # it was at another place
        log.write_text(log.read_text().replace("file:///older/", f"file://{lake.uri}/"))
    before = checks.fingerprint(lake)
    point = Death(trial.rng.choice(["ledger.record", "delta.append_here", "leases.take"]), trial.rng.choice(WHEN))
    trial.say(str(point))
    sample = trial.sample()
    trial.do(lake, sample, RUN, death=point)
    trial.succeed(lake, sample, (RUN, RUN))
    after = checks.fingerprint(lake)
    if changed := [n for n, found in before.tables.items() if n.startswith("silver") and after.tables[n] != found]:
        raise ScenarioError(f"{changed} of an older lake changed")
    trial.hold(lake)


KINDS = (
    Kind("two-at-once", "two drivers run the same jobs on one lake in a folder", partial(at_once, on_s3=False)),
    Kind("two-at-once-s3", "two drivers run the same jobs on one lake in S3", partial(at_once, on_s3=True)),
    Kind("any-order", "jobs are run in an order by chance, gold table by table", any_order, weight=2),
    Kind("checkpoint-gone", "the checkpoint is deleted", checkpoint_gone),
    Kind("checkpoint-torn", "a file of the checkpoint is torn, empty or gone", checkpoint_torn),
    Kind("clock-skew", "files arrive by clocks that are years off", clock_skew),
    Kind("odd-times", "instants around daylight saving, 1970, 2262 and out of any calendar", odd_times),
    Kind("delivered-again", "a whole batch is delivered again", again),
    Kind("one-sensor", "one sensor has 95 % of the rows", one_sensor),
    Kind("typing-error", "a setting has a typing error", typing_error),
    Kind("older-lake", "a lake of an older version of the suite is taken up by one that dies", older_lake),
)
