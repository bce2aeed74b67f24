"""Engine health: the kernels against pandas and hand-made figures, the table on real and broken engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from scipy.stats import spearmanr

from jobs.features import degradation, engine_health
from jobs.features.degradation import HealthSettings
from jobs.features.engine_health import ENGINE, KEY, SCHEMA

SETTINGS = HealthSettings()
SENSORS = [f"sensor_{n}" for n in range(1, 22)]
COLUMNS = ["unit_number", "cycle", "setting_1", "setting_2", "setting_3", *SENSORS]
DATA = Path(__file__).parents[2] / "sim" / "data" / "turbofan"
POINTS = [(0, 0, 100), (10, 0.25, 100), (20, 0.7, 100), (25, 0.62, 60), (35, 0.84, 100), (42, 0.84, 100)]


def typed(rows: pd.DataFrame) -> pd.DataFrame:
    """Silver's columns in silver's types."""
    shorts = dict.fromkeys(("unit_number", "cycle", "remaining_useful_life"), "int16")
    floats = dict.fromkeys(COLUMNS[2:], "float32")
    return rows[["subset", "split", *COLUMNS, "remaining_useful_life"]].astype(shorts | floats)


def fd001(split: str) -> pd.DataFrame:
    rows = pd.read_csv(DATA / f"{split}_FD001.txt.gz", sep=r"\s+", header=None, names=COLUMNS)
    left = rows.groupby("unit_number").cycle.transform("max") - rows.cycle
    if split == "test":
        left += np.loadtxt(DATA / "RUL_FD001.txt", dtype=int)[rows.unit_number - 1]
    return typed(rows.assign(subset="FD001", split=split, remaining_useful_life=left))


def fleet(engines: int = 8, life: int = 90, subset: str = "SIM", conditions: int = 1, seed: int = 3) -> pd.DataFrame:
    """Run-to-failure engines: sensors 1 to 6 wear, 7 goes either way, 8 is noise, others constant."""
    random = np.random.default_rng(seed)
    frames = []
    for unit in range(1, engines + 1):
        cycle = np.arange(1, life + 1)
        worn = np.expm1(3 * cycle / life) / np.expm1(3)
        point = np.array(POINTS[:conditions])[random.integers(conditions, size=life)]
        values = {f"sensor_{n}": np.full(life, 10.0 * n) for n in range(1, 22)}
        for n in range(1, 7):
            values[f"sensor_{n}"] = 100 * n + 3 * n * point[:, 0] + (-1) ** n * 8 * worn + random.normal(size=life)
        values["sensor_7"] = 700 + (-1) ** unit * 30 * worn + random.normal(size=life)
        values["sensor_8"] = 800 + random.normal(size=life)
        settings = {f"setting_{n + 1}": point[:, n] + random.uniform(-0.002, 0.002, life) for n in range(3)}
        frames.append(pd.DataFrame({"unit_number": unit, "cycle": cycle} | settings | values))
    rows = pd.concat(frames)
    return typed(rows.assign(subset=subset, split="train", remaining_useful_life=life - rows.cycle))


def computed(spark: SparkSession, rows: pd.DataFrame) -> pd.DataFrame:
    silver = spark.createDataFrame(rows)
    gold = engine_health.compute(silver, silver.select(*ENGINE).distinct(), SETTINGS)
    return gold.toPandas().sort_values(list(KEY)).reset_index(drop=True)


@pytest.fixture(scope="module")
def real(spark: SparkSession) -> pd.DataFrame:
    """Health of the real FD001."""
    return computed(spark, pd.concat([fd001("train"), fd001("test")]))


# Kernels


gappy = arrays(
    np.float64,
    st.tuples(st.integers(1, 40), st.just(2)),
    elements=st.one_of(st.just(np.nan), st.floats(-50, 50, allow_subnormal=False).map(lambda x: round(x, 3))),
)


@given(gappy, st.integers(2, 9))
def test_rolling_statistics__equals_pandas(z: npt.NDArray[np.float64], cycles: int) -> None:
    mean, std, slope = degradation.rolling_statistics(z, cycles)
    rolled = pd.DataFrame(z).rolling(cycles, min_periods=1)
    np.testing.assert_allclose(mean, rolled.mean(), atol=1e-9)
    np.testing.assert_allclose(std, pd.DataFrame(z).rolling(cycles, min_periods=2).std(), atol=1e-5)
    for row in range(len(z)):
        frame = z[max(0, row - cycles + 1) : row + 1, 0]
        known = np.flatnonzero(np.isfinite(frame))
        expected = np.polyfit(known, frame[known], 1)[0] if len(known) > 1 else np.nan
        np.testing.assert_allclose(slope[row, 0], expected, atol=1e-7)


@given(gappy, st.integers(0, 5), st.integers(0, 6), st.integers(1, 4))
def test_rolling_mean__of_an_earlier_frame(values: npt.NDArray[np.float64], last: int, more: int, minimum: int) -> None:
    told = degradation.rolling_mean(values, last + more, last, minimum)
    for row in range(len(values)):
        frame = values[max(0, row - last - more) : max(0, row - last + 1), 1]
        known = frame[np.isfinite(frame)]
        expected = known.mean() if len(known) >= minimum else np.nan
        np.testing.assert_allclose(told[row, 1], expected, atol=1e-9)


@given(gappy)
def test_rolling_median__equals_pandas(values: npt.NDArray[np.float64]) -> None:
    told = degradation.rolling_median(values, 5)
    np.testing.assert_array_equal(told, pd.DataFrame(values).rolling(5, min_periods=5).median())


def test_repeats__by_hand() -> None:
    nan = np.nan
    values = np.array([[1, 1, 2, 2, nan, 2, 3, 3.0], [nan, 5, 5, 5, 5, 4, 5, nan]]).T
    expected = np.array([[0, 1, 0, 1, nan, 2, 0, 1], [nan, 0, 1, 2, 3, 0, 0, nan]]).T
    np.testing.assert_array_equal(degradation.repeats(values), expected)


def test_wear__by_hand() -> None:
    learned = degradation.Learned(
        level=np.array([[10.0, 0, 5, 1]]),
        noise=np.ones((1, 4)),
        change=np.array([[4.0, -2, 1, 0]]),
        separation=np.array([[3.0, 1, 9, np.nan]]),
        low=np.zeros((1, 4)),
        high=np.zeros((1, 4)),
        informative=np.array([True, True, False, False]),
    )
    worn, others = degradation.wear(np.array([[12.0, -6, 99, 1]]), learned, (-0.5, 1.5))
    # Sensor 1 says 2/4 = 0.5 with weight 3, sensor 2 says 3 clipped to 1.5 with weight 1: (1.5 + 1.5) / 4.
    assert worn == pytest.approx([0.75])
    np.testing.assert_allclose(others, [[1.5, 0.5, 0.75, 0.75]])
    assert np.isnan(degradation.wear(np.full((1, 4), np.nan), learned, (-0.5, 1.5))[0]).all()


def test_health__clipped_mean_of_the_last_cycles() -> None:
    told = degradation.health(np.array([-0.4, 0.0, np.nan, 0.6, 2.0]), 2)
    np.testing.assert_allclose(told, [1.0, 1.0, 1.0, 0.4, 0.0])


def test_anomaly_score__by_hand() -> None:
    none = np.full((3, 2), np.nan)
    found = degradation.Departures(
        spike=np.array([[6.0, np.nan], [np.nan, np.nan], [np.nan, np.nan]]),
        step=none,
        drift=none,
        repeats=np.array([[0.0, 9], [3, 9], [np.nan, np.nan]]),
        beyond=none,
    )
    score = degradation.anomaly_score(found, np.full((3, 2), 2.0), np.array([0.01, 0.9]), 0.5)
    # 6 at a scale of 2; three repeats of chance 0.01: exp(-s**2 / 2) = 1e-6; a sensor that always repeats.
    np.testing.assert_allclose(score, [3.0, np.sqrt(6 * np.log(100)), np.nan])


@pytest.mark.parametrize(
    "wrong",
    [{"step_cycles": 4}, {"minimum_past": 21}, {"new_cycles": 0}, {"anomaly_threshold": 0}, {"window": 3}],
)
def test_settings__nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        HealthSettings(**wrong)


# Conditions and reference


def test_operating_condition__six_with_jitter(spark: SparkSession) -> None:
    rows = [
        (n, float(a + j), float(m + k), float(t))
        for n, (a, m, t) in enumerate(POINTS)
        for j in (-0.009, 0.009)
        for k in (-0.002, 0.002)
    ]
    table = spark.createDataFrame(rows, "n int, setting_1 float, setting_2 float, setting_3 float")
    told = table.select("n", engine_health.operating_condition(SETTINGS).alias("label")).distinct().collect()
    assert {row.n: row.label for row in told} == {
        0: "0/0.00/100",
        1: "10/0.24/100",
        2: "20/0.72/100",
        3: "25/0.60/60",
        4: "35/0.84/100",
        5: "42/0.84/100",
    }
    assert len(told) == 6


def test_reference__equals_pandas(spark: SparkSession) -> None:
    rows = fleet(conditions=2)
    told = engine_health.reference(spark.createDataFrame(rows), SETTINGS).to_pandas()
    for altitude, label in ((0, "0/0.00/100"), (10, "10/0.24/100")):
        here = rows[rows.setting_1.round() == altitude].astype(dict.fromkeys(SENSORS, "float64"))
        new, failed = here[here.cycle <= 20], here[here.remaining_useful_life < 5]
        found = told[told.operating_condition == label].set_index("sensor")
        for n in range(1, 9):
            x, y = new[f"sensor_{n}"], failed[f"sensor_{n}"]
            by_engine = x.groupby(new.unit_number)
            pooled = (by_engine.var() * (by_engine.count() - 1)).sum() / (len(x) - by_engine.ngroups)
            assert found.level[n] == pytest.approx(x.mean(), rel=1e-9)
            assert found.noise[n] == pytest.approx(np.sqrt(pooled), rel=1e-7)
            assert found.change[n] == pytest.approx(y.mean() - x.mean(), rel=1e-6)
            separation = (y.mean() - x.mean()) ** 2 / (x.var() + y.var())
            assert found.separation[n] == pytest.approx(separation, rel=1e-6)
            extremes = here.groupby("unit_number")[f"sensor_{n}"].agg(["min", "max"])
            assert found.low[n] == pytest.approx(extremes["min"].quantile(0.1))
            assert found.high[n] == pytest.approx(extremes["max"].quantile(0.9))


def test_reference__informative_sensors_are_found(spark: SparkSession) -> None:
    told = engine_health.reference(spark.createDataFrame(fleet()), SETTINGS).to_pandas().set_index("sensor")
    assert told.index[told.informative].tolist() == [1, 2, 3, 4, 5, 6]
    assert (told.noise[9:] == 0).all()
    assert (told.repeated[9:] > 0.9).all()


def test_learn__same_bits_in_any_order_of_engines() -> None:
    random = np.random.default_rng(4)
    names = ["new_n", "new_mean", "new_spread", "failed_n", "failed_mean", "failed_spread", "low", "high"]
    lists = {name: [*random.uniform(1, 9, size=(30, 21))] for name in names}
    summaries = pa.table(
        {"subset": ["SIM"] * 30, "unit_number": [*range(30)], "operating_condition": ["a", "b"] * 15} | lists
    )
    told = engine_health.learn(summaries, SETTINGS)
    assert engine_health.learn(summaries.take(random.permutation(30)), SETTINGS).equals(told)


# The table


def test_schema__columns_in_order_with_units_and_comments() -> None:
    assert SCHEMA.names[:9] == [
        *KEY,
        "operating_condition",
        "health_index",
        "is_anomaly",
        "anomaly_score",
        "remaining_useful_life",
    ]
    assert SCHEMA.names[9:] == [f"{s}_{name}" for s in SENSORS for name in ("mean", "std", "slope")]
    assert all(field.metadata.keys() == {"unit", "comment"} and field.metadata["comment"] for field in SCHEMA)


def test_compute__health_of_every_fd001_engine_falls(real: pd.DataFrame) -> None:
    train = real[real.split == "train"]
    last = train[train.remaining_useful_life == 0].set_index("unit_number").health_index
    first = train[train.cycle <= 20].groupby("unit_number").health_index.min()
    assert len(last) == 100
    assert (last < first).all()
    assert train.health_index.between(0, 1).all()
    assert spearmanr(train.health_index, train.remaining_useful_life).statistic > 0.7


def test_compute__few_flags_on_fd001(real: pd.DataFrame) -> None:
    train = real[real.split == "train"]
    assert 0 < train.is_anomaly.mean() < 0.001


def test_compute__null_statistics_of_sensors_that_do_not_inform(real: pd.DataFrame) -> None:
    silent = {1, 5, 6, 9, 10, 14, 16, 18, 19}
    for n in range(1, 22):
        assert real[f"sensor_{n}_mean"].isna().all() == (n in silent)


def test_compute__statistics_are_in_sigma_of_new_engines(real: pd.DataFrame) -> None:
    train = fd001("train")
    new = train[train.cycle <= 20].astype({"sensor_4": "float64"})
    within = new.sensor_4 - new.groupby("unit_number").sensor_4.transform("mean")
    sigma = np.sqrt((within**2).sum() / (len(new) - 100))
    one = train[train.unit_number == 7].sort_values("cycle").sensor_4.astype("float64")
    z = ((one - new.sensor_4.mean()) / sigma).rolling(20, min_periods=1)
    told = real[(real.split == "train") & (real.unit_number == 7)]
    np.testing.assert_allclose(told.sensor_4_mean, z.mean(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(told.sensor_4_std, z.std(), rtol=1e-6, atol=1e-9)


def test_compute__conditions_are_binned_out(spark: SparkSession) -> None:
    told = computed(spark, fleet(engines=10, life=150, conditions=6))
    assert told.operating_condition.nunique() == 6
    # Altitude moves sensor_6 by 756 of its sigmas; within its condition a new engine stays near 0.
    assert told[told.cycle.between(10, 20)].sensor_6_mean.abs().to_numpy().max() < 2
    last = told[told.remaining_useful_life == 0].health_index
    assert last.max() < told[told.cycle <= 20].health_index.min()


CASES = [
    ("spike", 11, 4, 1, 1.0),
    ("spike", 15, 21, 1, 1.0),
    ("bias", 22, 11, 20, 0.6),
    ("drift", 33, 15, 30, 0.25),
    ("stuck", 44, 3, 15, 0.6),
    ("dropout", 55, 12, 6, 1.0),
    ("dropout", 60, 18, 6, 1.0),
]


@pytest.fixture(scope="module")
def broken(spark: SparkSession) -> pd.DataFrame:
    """Health of FD001 train with one sensor broken from cycle 80 in the engine of each case."""
    rows = fd001("train")
    for kind, unit, sensor, length, _ in CASES:
        column = rows[f"sensor_{sensor}"].to_numpy(copy=True)
        noise = column[(rows.unit_number == unit) & (rows.cycle <= 20)].std()
        span = np.flatnonzero((rows.unit_number == unit) & rows.cycle.between(80, 79 + length))
        column[span] = {
            "spike": column[span] + 18 * noise,
            "bias": column[span] - 8 * noise,
            "drift": column[span] + 10 * noise * np.linspace(0, 1, length, dtype=np.float32),
            "stuck": column[span[0]],
            "dropout": 0.0,
        }[kind]
        rows[f"sensor_{sensor}"] = column
    return computed(spark, rows)


@pytest.mark.parametrize(("kind", "unit", "sensor", "length", "caught"), CASES)
def test_compute__injected_anomalies_are_flagged(
    broken: pd.DataFrame, real: pd.DataFrame, kind: str, unit: int, sensor: int, length: int, caught: float
) -> None:
    told = broken[broken.unit_number == unit].set_index("cycle")
    clean = real[(real.split == "train") & (real.unit_number == unit)].set_index("cycle")
    flagged = told.is_anomaly.astype(bool)
    assert flagged[(told.index >= 80) & (told.index < 80 + length)].mean() >= caught
    assert not flagged[told.index < 80].any()
    assert not clean.is_anomaly.any()
    # Health is decided by all sensors: one that breaks hardly moves it.
    assert (told.health_index - clean.health_index).abs().to_numpy().max() < 0.2


def test_compute__a_spike_is_one_flag(broken: pd.DataFrame) -> None:
    told = broken[broken.unit_number == 11]
    assert told[told.is_anomaly].cycle.tolist() == [80]


def test_compute__a_dropout_ends_when_it_ends(broken: pd.DataFrame) -> None:
    told = broken[broken.unit_number == 55]
    assert told[told.is_anomaly].cycle.tolist() == [80, 81, 82, 83, 84, 85]


def test_compute__missing_cycles_are_no_anomaly_and_keep_the_window_in_cycles(spark: SparkSession) -> None:
    rows = fleet()
    gap = (rows.unit_number == 2) & rows.cycle.between(30, 60)
    told = computed(spark, rows[~gap])
    engine = told[told.unit_number == 2].set_index("cycle")
    assert len(engine) == 59
    assert not engine.is_anomaly.any()
    # The last 20 cycles hold one reading after the gap: its own mean, and no spread.
    assert np.isnan(engine.sensor_1_std[61])
    assert not np.isnan(engine.sensor_1_std[62])


def test_compute__without_run_to_failure_nothing_is_invented(spark: SparkSession) -> None:
    orphans = fleet(engines=2, subset="FD003").assign(split="test")
    told = computed(spark, pd.concat([fleet(), orphans]))
    alone = told[told.subset == "FD003"]
    assert len(alone) == 180
    empty = ["health_index", "is_anomaly", "anomaly_score", *SCHEMA.names[9:]]
    assert alone[empty].isna().all(axis=None)
    assert alone.remaining_useful_life.notna().all()
    assert told[told.subset == "SIM"].health_index.notna().all()


def test_compute__unknown_condition_is_null_not_wrong(spark: SparkSession) -> None:
    rows = fleet()
    stray = fleet(engines=1).assign(split="test", setting_1=np.float32(42))
    told = computed(spark, pd.concat([rows, stray]))
    away = told[told.split == "test"]
    assert set(away.operating_condition) == {"42/0.00/100"}
    assert away.health_index.isna().all()
    assert away.sensor_1_mean.isna().all()


def test_compute__nothing_touched(spark: SparkSession) -> None:
    silver = spark.createDataFrame(fleet(engines=2))
    assert engine_health.compute(silver, silver.select(*ENGINE).limit(0), SETTINGS).count() == 0


# Incremental


def engines(table: DataFrame) -> set[tuple[str, str, int]]:
    return {(row.subset, row.split, row.unit_number) for row in table.collect()}


def test_touched__test_rows_touch_their_engines(spark: SparkSession) -> None:
    train, test = fleet(engines=3), fleet(engines=3).assign(split="test")
    silver = spark.createDataFrame(pd.concat([train, test]))
    new = spark.createDataFrame(test[test.unit_number == 2])
    assert engines(engine_health.touched(new, silver)) == {("SIM", "test", 2)}


def test_touched__train_rows_touch_their_whole_subset(spark: SparkSession) -> None:
    train, test = fleet(engines=2), fleet(engines=2).assign(split="test")
    other = fleet(engines=1, subset="FD002")
    silver = spark.createDataFrame(pd.concat([train, test, other]))
    new = spark.createDataFrame(train[(train.unit_number == 2) & (train.cycle == 90)])
    expected = {("SIM", split, unit) for split in ("train", "test") for unit in (1, 2)}
    assert engines(engine_health.touched(new, silver)) == expected


def bits(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of the key, floats by their bits."""
    ordered = table.sort_values(list(KEY)).reset_index(drop=True)
    doubles = ordered.select_dtypes("float64").columns
    return ordered.assign(**{name: ordered[name].to_numpy().view(np.int64) for name in doubles})


def test_compute__steps_equal_a_rebuild_to_the_last_bit(spark: SparkSession) -> None:
    train, test = fleet(conditions=2), fleet(engines=4, conditions=2, seed=9).assign(split="test")
    other = fleet(engines=3, subset="FD002", seed=5)
    steps = [
        pd.concat([train[train.unit_number <= 5], test[test.cycle <= 40]]),
        test[test.cycle.between(41, 70)],
        pd.concat([train[train.unit_number > 5], other]),
        test[(test.cycle > 70) & (test.unit_number == 3)],
    ]
    gold = pd.DataFrame()
    for count, step in enumerate(steps, start=1):
        silver = spark.createDataFrame(pd.concat(steps[:count]))
        touched = engine_health.touched(spark.createDataFrame(step), silver)
        rows = engine_health.compute(silver, touched, SETTINGS).toPandas()
        gold = pd.concat([gold, rows]).drop_duplicates(list(KEY), keep="last")
    pd.testing.assert_frame_equal(bits(gold), bits(computed(spark, pd.concat(steps))))


def test_compute__same_bits_however_rows_are_spread(spark: SparkSession, real: pd.DataFrame) -> None:
    rows = pd.concat([fd001("train"), fd001("test")]).sample(frac=1, random_state=1)
    silver = spark.createDataFrame(rows).repartition(7)
    again = engine_health.compute(silver, silver.select(*ENGINE).distinct(), SETTINGS).toPandas()
    pd.testing.assert_frame_equal(bits(again), bits(real))
