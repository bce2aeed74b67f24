"""Simulated engines against the real FD001, and anomalies where the truth says and nowhere else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from sim import turbofan
from sim.base import write
from sim.turbofan import (
    ANOMALY_KINDS,
    SENSORS,
    SIMULATOR,
    WEARING,
    TurbofanParameters,
    draw_anomalies,
    inlet_ratios,
    table,
    truth,
    units,
)
from sim.writers import LocalWriter

REAL = Path(turbofan.__file__).parent / "data" / "turbofan" / "train_FD001.txt.gz"
KEY = ["unit_number", "cycle"]
NAMES = [f"sensor_{number}" for number in range(1, 22)]
WEARING_NAMES = [f"sensor_{number}" for number in WEARING]


def params(**values: object) -> TurbofanParameters:
    return TurbofanParameters.model_validate({"seed": 7, "anomaly_rate": 0, **values})


def frame(run: TurbofanParameters) -> pd.DataFrame:
    return pa.concat_tables([table(run, unit) for unit in units(run)]).to_pandas()


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    settings = [f"setting_{number}" for number in range(1, 4)]
    return pd.read_csv(REAL, sep=r"\s+", header=None, names=[*KEY, *settings, *NAMES])


@pytest.fixture(scope="module")
def simulated() -> pd.DataFrame:
    """As many engines as FD001 has, four times over."""
    return frame(params(entities=400))


def new(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.cycle <= 20].groupby("unit_number")[WEARING_NAMES].mean()


def worn(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby("unit_number")[WEARING_NAMES].apply(lambda engine: engine.tail(5).mean())


def noise(rows: pd.DataFrame) -> pd.Series:
    """Standard deviation about the smooth trend of each engine: second differences, which cancel a trend."""
    bends = rows.groupby("unit_number")[WEARING_NAMES].diff().groupby(rows.unit_number).diff()
    return bends.std() / np.sqrt(6)


# Against the real set


def test_table__lives_are_those_of_fd001(real: pd.DataFrame, simulated: pd.DataFrame):
    lives, published = (rows.groupby("unit_number").cycle.max() for rows in (simulated, real))
    assert lives.between(published.min(), published.max()).all()
    assert lives.mean() == pytest.approx(published.mean(), abs=4 * published.std() / 20)
    assert lives.std() == pytest.approx(published.std(), rel=0.15)


def test_table__new_engines_are_those_of_fd001(real: pd.DataFrame, simulated: pd.DataFrame):
    expected, found = new(real), new(simulated)
    error = expected.std() / np.sqrt(400)
    assert ((found.mean() - expected.mean()).abs() < 4 * error).all()
    np.testing.assert_allclose(found.std(), expected.std(), rtol=0.15)
    np.testing.assert_allclose(found.corr(), expected.corr(), atol=0.2)


def test_table__noise_is_that_of_fd001(real: pd.DataFrame, simulated: pd.DataFrame):
    np.testing.assert_allclose(noise(simulated), noise(real), rtol=0.05)


def test_table__wear_changes_every_sensor_as_in_fd001(real: pd.DataFrame, simulated: pd.DataFrame):
    expected, found = worn(real) - new(real), worn(simulated) - new(simulated)
    error = expected.std() / np.sqrt(400)
    assert ((found.mean() - expected.mean()).abs() < 4 * error).all()
    np.testing.assert_allclose(found.std(), expected.std(), rtol=0.3)
    np.testing.assert_allclose(worn(simulated).std(), worn(real).std(), rtol=0.35)


def test_table__wear_grows_as_late_as_in_fd001(real: pd.DataFrame, simulated: pd.DataFrame):
    def course(rows: pd.DataFrame) -> np.ndarray:
        """Mean of the sensors' change by tenths of life, as a share of the change at its end."""
        tenth = np.ceil(10 * rows.cycle / rows.groupby("unit_number").cycle.transform("max"))
        means = rows.groupby(tenth)[[name for name in WEARING_NAMES if name not in ("sensor_9", "sensor_14")]].mean()
        return ((means - means.iloc[0]) / (means.iloc[-1] - means.iloc[0])).mean(axis=1).to_numpy()

    np.testing.assert_allclose(course(simulated), course(real), atol=0.03)


def test_table__constant_sensors_and_decimals_are_those_of_fd001(real: pd.DataFrame, simulated: pd.DataFrame):
    written = pd.read_csv(REAL, sep=r"\s+", header=None, names=[*KEY, "a", "b", "c", *NAMES], dtype=str)
    for number, name in enumerate(NAMES, start=1):
        decimals = written[name].str.partition(".")[2].str.len().max()
        assert SENSORS[number - 1].decimals == decimals
        values = simulated[name].astype(float)
        np.testing.assert_allclose(values, values.round(decimals), rtol=1e-7)
        if number not in WEARING:
            assert set(values.round(decimals)) == set(real[name].round(decimals))


def test_table__settings_are_those_of_fd001(real: pd.DataFrame, simulated: pd.DataFrame):
    for name in ("setting_1", "setting_2"):
        assert simulated[name].std() == pytest.approx(real[name].std(), rel=0.03)
        assert simulated[name].abs().max() <= real[name].abs().max() * 1.02
    assert set(simulated.setting_3) == {100.0}


# Life


def test_table__remaining_useful_life_counts_down_to_failure(simulated: pd.DataFrame):
    for _, engine in simulated.groupby("unit_number"):
        life = len(engine)
        assert engine.cycle.tolist() == list(range(1, life + 1))
        assert engine.remaining_useful_life.tolist() == list(range(life - 1, -1, -1))
    assert set(simulated.split) == {"train"}


def test_table__a_test_engine_is_the_beginning_of_a_life():
    whole, cut = frame(params(entities=60)), frame(params(entities=60, test_share=0.5))
    tests = cut[cut.split == "test"]
    assert 15 < tests.unit_number.nunique() < 45
    assert (tests.groupby("unit_number").remaining_useful_life.min() > 0).all()
    assert (cut[cut.split == "train"].groupby("unit_number").remaining_useful_life.min() == 0).all()
    kept = cut[KEY].merge(whole, on=KEY, validate="one_to_one")
    pd.testing.assert_frame_equal(kept[KEY + NAMES], cut[KEY + NAMES])
    assert (kept.remaining_useful_life == cut.remaining_useful_life).all()


def test_table__lives_follow_the_parameters():
    lives = frame(params(entities=200, life_min_cycles=20, life_mean_cycles=30, life_max_cycles=60))
    lives = lives.groupby("unit_number").cycle.max()
    assert lives.between(20, 60).all()
    assert lives.mean() == pytest.approx(30, abs=2)


# Operating conditions


@pytest.mark.parametrize(
    ("altitude_kft", "theta", "delta"),
    [(0, 1, 1), (10, 0.9312, 0.6877), (25, 0.8281, 0.3711), (36.089, 0.7519, 0.2234), (42, 0.7519, 0.1681)],
)
def test_inlet_ratios__at_rest_are_the_standard_atmosphere(altitude_kft: float, theta: float, delta: float):
    found = inlet_ratios(np.array([altitude_kft]), np.array([0.0]))
    np.testing.assert_allclose(found, [[theta], [delta]], atol=1e-4)


def test_inlet_ratios__at_speed_are_those_of_isentropic_flow():
    # Tables of compressible flow at Mach 0.84: T/T0 = 0.8763, p/p0 = 0.6300.
    theta, delta = inlet_ratios(np.array([0.0]), np.array([0.84]))
    np.testing.assert_allclose([1 / theta[0], 1 / delta[0]], [0.8763, 0.6300], atol=1e-4)


def test_table__six_conditions_are_visited_and_seen_by_the_sensors():
    rows = frame(params(entities=30, operating_conditions=6))
    points = rows[["setting_1", "setting_2", "setting_3"]].astype(float).round({"setting_1": 0, "setting_2": 2})
    groups = rows.groupby([points.setting_1, points.setting_2, points.setting_3])
    published = {
        (0, 0, 100),
        (10, 0.25, 100),
        (20, 0.7, 100),
        (25, 0.62, 60),
        (35, 0.84, 100),
        (42, 0.84, 100),
    }
    assert set(groups.groups) == published
    assert groups.size().min() > len(rows) / 7
    assert (groups.sensor_1.nunique() == 1).all()
    means = groups.mean(numeric_only=True)
    assert means.sensor_1.is_unique
    assert means.sensor_3[42, 0.84, 100] < means.sensor_3[0, 0, 100]
    assert means.sensor_8[25, 0.62, 60] < means.sensor_8[42, 0.84, 100]


# Anomalies


def test_truth__anomalies_are_where_it_says_and_only_there():
    healthy, ill = frame(params(entities=80)), frame(params(entities=80, anomaly_rate=4))
    recorded = truth(params(entities=80, anomaly_rate=4)).to_pandas()
    assert set(recorded.kind) == set(ANOMALY_KINDS)
    difference = (ill[NAMES] - healthy[NAMES]).set_index([ill.unit_number, ill.cycle])
    for unit, sensor, kind, first, last, magnitude in recorded[
        ["unit_number", "sensor", "kind", "first_cycle", "last_cycle", "magnitude"]
    ].itertuples(index=False):
        span = (unit, slice(first, last))
        added = difference.loc[span, sensor]
        values = ill.set_index(KEY).loc[span, sensor]
        sigma = SENSORS[int(sensor.removeprefix("sensor_")) - 1].noise
        tolerance = 1.01 * 10.0 ** -SENSORS[int(sensor.removeprefix("sensor_")) - 1].decimals
        assert len(added) == last - first + 1
        match kind:
            case "spike" | "bias":
                np.testing.assert_allclose(added, magnitude, atol=tolerance)
                assert abs(magnitude) == pytest.approx(8 * sigma)
                assert kind == "bias" or first == last
            case "drift":
                np.testing.assert_allclose(
                    added, np.linspace(magnitude / len(added), magnitude, len(added)), atol=tolerance
                )
            case "stuck":
                before = healthy.set_index(KEY).loc[(unit, first - 1), sensor]
                assert set(values) == {before}
                assert magnitude == pytest.approx(before)
            case "dropout":
                assert (values == 0).all()
        difference.loc[span, sensor] = 0
    assert (difference == 0).all(axis=None)


def test_truth__rate_kinds_and_size_are_those_asked_for():
    recorded = truth(params(entities=300, anomaly_rate=2, anomaly_kinds="spike,bias", anomaly_size=5)).to_pandas()
    assert len(recorded) == pytest.approx(600, rel=0.15)
    assert set(recorded.kind) == {"spike", "bias"}
    sigma = recorded.sensor.map(lambda name: SENSORS[int(name.removeprefix("sensor_")) - 1].noise)
    np.testing.assert_allclose(recorded.magnitude.abs() / sigma, 5)


def test_truth__without_anomalies_has_columns_and_no_rows():
    assert truth(params()).num_rows == 0
    assert truth(params()).schema == truth(params(anomaly_rate=1)).schema


def test_draw_anomalies__those_of_one_sensor_leave_a_good_reading_between_them():
    drawn = [draw_anomalies(params(anomaly_rate=60), index, 200) for index in range(20)]
    for anomalies in drawn:
        ordered = sorted(anomalies, key=lambda anomaly: (anomaly.sensor, anomaly.first_cycle))
        assert all(b.sensor != a.sensor or b.first_cycle > a.last_cycle + 1 for a, b in pairwise(ordered))
    assert sum(map(len, drawn)) > 400


def test_truth__intervals_end_with_the_record():
    run = params(entities=100, anomaly_rate=5, test_share=1)
    lengths = frame(run).groupby("unit_number").cycle.max()
    recorded = truth(run).to_pandas()
    assert (recorded.last_cycle <= recorded.unit_number.map(lengths)).all()
    assert (recorded.first_cycle >= 2).all()
    assert set(recorded.split) == {"test"}


# The same bytes, the right shape, the refusals


def test_table__columns_have_the_types_of_the_contract():
    run = params(entities=3)
    types = {field.name: str(field.type) for field in table(run, units(run)[0]).schema}
    settings = {f"setting_{number}": "float" for number in range(1, 4)}
    assert types == {
        "subset": "string",
        "split": "string",
        "unit_number": "int16",
        "cycle": "int16",
        **settings,
        **dict.fromkeys(NAMES, "float"),
        "remaining_useful_life": "int16",
    }


def test_write__same_bytes_in_any_order_and_any_part(tmp_path: Path):
    run = params(entities=120, anomaly_rate=2)
    for name, asked in (("whole", None), ("reverse", units(run)[::-1]), ("part", units(run)[1:2])):
        list(write(SIMULATOR, run, LocalWriter(tmp_path / name), asked))
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")}
        for name in ("whole", "reverse", "part")
    }
    assert len(files["whole"]) == 3
    assert files["reverse"] == files["whole"]
    assert len(files["part"]) == 1
    assert files["part"].items() <= files["whole"].items()


def test_table__an_engine_is_the_same_among_few_or_many_and_another_by_seed():
    few, many, other = (
        frame(params(entities=3)),
        frame(params(entities=70)),
        frame(params(entities=3, seed=8)),
    )
    pd.testing.assert_frame_equal(few, many[many.unit_number <= 3])
    assert not np.array_equal(few.head(100)[NAMES], other.head(100)[NAMES])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("entities", {"entities": 0}),
        ("entities", {"entities": 40_000}),
        ("life_min_cycles", {"life_min_cycles": 1}),
        ("life_mean_cycles", {"life_mean_cycles": 400}),
        ("life_mean_cycles", {"life_min_cycles": 300}),
        ("noise_scale", {"noise_scale": -1}),
        ("wear_exponent", {"wear_exponent": 0}),
        ("operating_conditions", {"operating_conditions": 3}),
        ("test_share", {"test_share": 1.5}),
        ("anomaly_rate", {"anomaly_rate": -1}),
        ("anomaly_kinds", {"anomaly_kinds": "spike,flood"}),
        ("anomaly_kinds", {"anomaly_kinds": ()}),
        ("rate_hz", {"rate_hz": 100}),
    ],
)
def test_parameters__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        TurbofanParameters.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or detail["msg"].removeprefix("Value error, ").split())[0] == field
