"""Turbofan engines that wear until they fail, with the columns and the statistics of NASA's C-MAPSS sets.

Wear grows exponentially from an initial level to failure: A. Saxena, K. Goebel, D. Simon, N. Eklund, "Damage
propagation modeling for aircraft engine run-to-failure simulation", PHM 2008. What FD001 says of each sensor
is in `SENSORS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from sim.base import Parameters, Simulator, Unit
from sim.faults import FaultSchema
from sim.randomness import generator

NAME = "turbofan"
SUBSET = "SIM"
ENGINES_PER_UNIT = 50

Floats = NDArray[np.floating[Any]]
AnomalyKind = Literal["spike", "drift", "stuck", "dropout", "bias"]
ANOMALY_KINDS: tuple[AnomalyKind, ...] = ("spike", "drift", "stuck", "dropout", "bias")


class Sensor(NamedTuple):
    """One column of C-MAPSS: how FD001 shows it, and how it follows the air and the throttle.

    The first seven fields are computed from ``train_FD001.txt``, with "new" for an engine's mean over cycles
    1 to 20 and "worn" for its mean over its last five. Two traits tell new engines apart: initial wear, the
    first principal component of the 12 sensors that wear and are not core speeds (94 % of their variance),
    and a core-speed offset, what sensor_9 keeps when initial wear is taken out. A third, the mode of failure,
    tells worn engines apart: in some the core has sped up, in others not. Engines share all three among their
    sensors; noise is independent.

    Attributes:
        decimals: Digits after the point in the file.
        level: Mean of new over engines.
        noise: Standard deviation about each engine's own polynomial of degree 5 over its life.
        start: Regression coefficient of new on initial wear, in standard deviations.
        core: Regression coefficient of new on the core-speed offset, in standard deviations.
        change: Mean over engines of worn minus new.
        mode: Regression coefficient of worn minus new on that of sensor_9, in standard deviations.
        temperature: Exponent of the inlet temperature ratio; it and the next are the usual similarity of gas
            turbines (temperatures go with theta, pressures with delta, speeds with the root of theta).
        pressure: Exponent of the inlet pressure ratio.
        throttle: Exponent of the fan speed the throttle allows. An engineering choice.
    """

    decimals: int
    level: float
    noise: float = 0.0
    start: float = 0.0
    core: float = 0.0
    change: float = 0.0
    mode: float = 0.0
    temperature: float = 0.0
    pressure: float = 0.0
    throttle: float = 0.0


SENSORS: tuple[Sensor, ...] = (
    Sensor(2, 518.67, temperature=1),
    Sensor(2, 642.381, 0.3017, 0.2325, 0.0, 1.2892, 0.0, temperature=1, throttle=0.4),
    Sensor(2, 1586.84, 4.001, 2.318, 0.0, 15.449, 1.225, temperature=1, throttle=0.7),
    Sensor(2, 1402.758, 4.017, 4.388, 0.0, 26.168, 0.0, temperature=1, throttle=1.1),
    Sensor(2, 14.62, pressure=1),
    # 2 % of the readings in FD001 are 21.60 and the rest 21.61: a level and noise that round to that.
    Sensor(2, 21.608, 0.00146, pressure=1, throttle=0.9),
    Sensor(2, 553.951, 0.4061, -0.4725, 0.0, -2.4558, 0.2014, pressure=1, throttle=2.5),
    Sensor(2, 2388.0584, 0.03057, 0.04499, -0.00848, 0.17377, -0.04109, temperature=0.5, throttle=1),
    Sensor(2, 9056.007, 4.148, -4.189, 5.967, 41.985, 53.56, temperature=0.5, throttle=0.4),
    Sensor(2, 1.30),
    Sensor(2, 47.3525, 0.1012, 0.1469, 0.0, 0.78973, -0.02006, throttle=1.6),
    Sensor(2, 521.910, 0.3016, -0.4067, 0.0, -2.1007, 0.2032, pressure=1, throttle=2.5),
    Sensor(2, 2388.0557, 0.03095, 0.0454, -0.00835, 0.17776, -0.04379, throttle=1),
    Sensor(2, 8137.373, 3.157, -5.025, 5.15, 29.494, 48.14, throttle=0.2),
    Sensor(4, 8.4183, 0.02005, 0.01695, 0.0, 0.10211, 0.0, throttle=-1.5),
    Sensor(2, 0.03),
    Sensor(0, 392.26, 0.951, 0.6654, 0.0, 3.9795, 0.3547, temperature=1, throttle=0.8),
    Sensor(0, 2388.0, temperature=0.5, throttle=1),
    Sensor(2, 100.0, throttle=1),
    Sensor(2, 38.9328, 0.1009, -0.08384, 0.0, -0.48681, 0.0, temperature=-0.5, pressure=1, throttle=2),
    Sensor(4, 23.3601, 0.06, -0.05028, 0.0, -0.29009, 0.0, temperature=-0.5, pressure=1, throttle=2),
)
WEARING = tuple(number for number, sensor in enumerate(SENSORS, start=1) if sensor.change)
_TRAIT = {field: np.array([getattr(sensor, field) for sensor in SENSORS]) for field in Sensor._fields}
_DECIMAL_SCALE = 10.0 ** _TRAIT["decimals"]

# Exponents of the growth over life, fitted to FD001 train: the mean of the sensors, and the mode in sensor_9.
WEAR_EXPONENT = 3.9
MODE_EXPONENT = 5.4
# Quantiles of the mode trait over the 100 engines of FD001: it is lopsided, so not drawn as a normal.
_MODE_QUANTILES = (
    (0.00, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 1.00),
    (-1.21, -1.09, -1.02, -0.87, -0.35, 0.83, 1.36, 1.90, 2.17),
)
# Of a beta distribution between the shortest and the longest life, from the variance of lives in FD001.
_LIFE_CONCENTRATION = 4.7
_SETTING_1_NOISE = 0.0022  # standard deviation in FD001
_SETTING_2_NOISE = 0.0005  # uniform between plus and minus this in FD001
_SETTING_DECIMALS = 4
_FIRST_CUT, _LAST_CUT = 0.2, 0.95  # share of life at which a test record ends, roughly as in test_FD001

# Altitude in 1000 ft, Mach number, throttle resolver angle: the published points of FD002 and FD004. FD001
# has the first. How the sensors follow is not taken from those sets: see `Sensor`.
_CONDITIONS = np.array(
    [
        (0.0, 0.0, 100.0),
        (10.0, 0.25, 100.0),
        (20.0, 0.7, 100.0),
        (25.0, 0.62, 60.0),
        (35.0, 0.84, 100.0),
        (42.0, 0.84, 100.0),
    ]
)
_FULL_THROTTLE = 100.0
_PART_THROTTLE_FAN_SPEED = 0.85


def _parse_count(value: object) -> object:
    # A literal number takes no text, and text is what a command line has.
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _parse_list(value: object) -> object:
    return tuple(value.split(",")) if isinstance(value, str) else value


class TurbofanParameters(Parameters):
    """What to simulate; an entity is an engine.

    Attributes:
        life_min_cycles: Shortest life; as the next two, by default that of FD001.
        life_mean_cycles: Mean life, between the two others.
        life_max_cycles: Longest life.
        wear_exponent: How late wear sets in; 0 would be a straight line.
        noise_scale: Multiplies the noise of every sensor.
        operating_conditions: 1 is sea level, as FD001; 6 changes at random from cycle to cycle, as FD002.
        test_share: Share of engines whose record ends before they fail, as split "test".
        anomaly_rate: Expected anomalies per engine; one that would meet another on its sensor is left out.
        anomaly_kinds: Kinds to draw from; text is split at commas.
        anomaly_size: Of spike, drift and bias, in standard deviations of the sensor's noise.
    """

    entities: int = Field(default=100, ge=1, le=np.iinfo(np.int16).max)
    life_min_cycles: int = Field(default=128, ge=10)
    life_mean_cycles: float = Field(default=206.3, gt=0)
    life_max_cycles: int = Field(default=362, le=np.iinfo(np.int16).max)
    wear_exponent: float = Field(default=WEAR_EXPONENT, gt=0, le=50)
    noise_scale: float = Field(default=1.0, ge=0)
    operating_conditions: Annotated[Literal[1, 6], BeforeValidator(_parse_count)] = 1
    test_share: float = Field(default=0.0, ge=0, le=1)
    anomaly_rate: float = Field(default=0.5, ge=0)
    anomaly_kinds: Annotated[tuple[AnomalyKind, ...], BeforeValidator(_parse_list), Field(min_length=1)] = ANOMALY_KINDS
    anomaly_size: float = Field(default=8.0, gt=0)

    @model_validator(mode="after")
    def _check_lives(self) -> Self:
        if not self.life_min_cycles < self.life_mean_cycles < self.life_max_cycles:
            raise ValueError(
                f"life_mean_cycles {self.life_mean_cycles:g} is not between"
                f" life_min_cycles {self.life_min_cycles} and life_max_cycles {self.life_max_cycles}"
            )
        return self


@dataclass(frozen=True)
class Engine:
    """One engine as drawn from the seed; the traits are those of `Sensor`."""

    life: int
    observed: int
    start: float
    core: float
    mode: float

    @property
    def split(self) -> str:
        """Whether its record runs to failure (train) or ends before (test)."""
        return "train" if self.observed == self.life else "test"


@dataclass(frozen=True)
class Anomaly:
    """A fault of one sensor over an interval of cycles, both ends included.

    ``magnitude`` is in the sensor's unit: what a spike or a bias adds, what a drift has added by its last
    cycle, the reading a stuck sensor repeats (that of the cycle before), the zero of a dropout.
    """

    kind: AnomalyKind
    sensor: int
    first_cycle: int
    last_cycle: int
    magnitude: float


def draw_engine(params: TurbofanParameters, index: int) -> Engine:
    """Draw one engine's life and traits, the same whatever else is asked for."""
    stream = generator(params.seed, NAME, "engine", index)
    shortest, longest = params.life_min_cycles, params.life_max_cycles
    mean = (params.life_mean_cycles - shortest) / (longest - shortest)
    share = stream.beta(mean * _LIFE_CONCENTRATION, (1 - mean) * _LIFE_CONCENTRATION)
    life = round(shortest + share * (longest - shortest))
    # Uniform with standard deviation 1, as the trait is spread in FD001: from -1.6 to 1.7, flat.
    start = stream.uniform(-np.sqrt(3), np.sqrt(3))
    core = stream.uniform(-np.sqrt(3), np.sqrt(3))
    mode = np.interp(stream.uniform(), *_MODE_QUANTILES)
    is_cut, cut = stream.uniform() < params.test_share, stream.uniform(_FIRST_CUT, _LAST_CUT)
    return Engine(life, int(cut * life) if is_cut else life, float(start), float(core), float(mode))


def draw_anomalies(params: TurbofanParameters, index: int, observed: int) -> list[Anomaly]:
    """Draw one engine's anomalies; those of one sensor neither overlap nor touch.

    The reading that a stuck sensor repeats is not known here: `inject` fills it in.
    """
    stream = generator(params.seed, NAME, "anomaly", index)
    found: list[Anomaly] = []
    for _ in range(stream.poisson(params.anomaly_rate)):
        kind = params.anomaly_kinds[stream.integers(len(params.anomaly_kinds))]
        sensor = int(WEARING[stream.integers(len(WEARING))])
        first = int(stream.integers(2, observed + 1))  # a stuck sensor repeats an earlier cycle
        length = {"spike": 1, "dropout": int(stream.integers(1, 6))}.get(kind, int(stream.integers(10, 31)))
        last = min(first + length - 1, observed)
        size = params.anomaly_size * SENSORS[sensor - 1].noise * stream.choice([-1.0, 1.0])
        # Touching ones are left out too: a stuck sensor would repeat another anomaly's reading.
        if all(a.sensor != sensor or a.last_cycle + 1 < first or last + 1 < a.first_cycle for a in found):
            magnitude = 0.0 if kind in ("stuck", "dropout") else float(size)
            found.append(Anomaly(kind, sensor, first, last, magnitude))
    return found


def growth(cycle: Floats, life: int, exponent: float) -> Floats:
    """Wear since new, exponential in the share of life used: from 0 to 1.

    ``(e^(b x) - 1) / (e^b - 1)``, with x the cycle divided by the middle one of the last five, where
    `Sensor` takes an engine as worn.
    """
    grown: Floats = np.expm1(exponent * cycle / (life - 2)) / np.expm1(exponent)
    return grown


def inlet_ratios(altitude_kft: Floats, mach: Floats) -> tuple[Floats, Floats]:
    """Total temperature and pressure at the inlet, relative to sea level at rest.

    International Standard Atmosphere (ISO 2533) below 47,000 ft, and isentropic flow at a heat ratio of 1.4.
    """
    kelvin = np.maximum(288.15 - 1.9812 * altitude_kft, 216.65)
    tropopause_kft = 36.089
    pressure = (kelvin / 288.15) ** 5.2559 * np.exp(-np.maximum(altitude_kft - tropopause_kft, 0) / 20.806)
    ram = 1 + 0.2 * mach**2
    return kelvin / 288.15 * ram, pressure * ram**3.5


def readings(params: TurbofanParameters, index: int, engine: Engine) -> tuple[Floats, Floats]:
    """Simulate what one engine reports while all its sensors work.

    Returns:
        Settings of shape (cycles, 3) and sensors of shape (cycles, 21), rounded as C-MAPSS rounds them.
    """
    stream = generator(params.seed, NAME, "readings", index)
    count = engine.observed
    noise = stream.standard_normal((count, len(SENSORS))) * (params.noise_scale * _TRAIT["noise"])
    condition = stream.integers(params.operating_conditions, size=count)
    settings = _CONDITIONS[condition]
    largest = 4 * _SETTING_1_NOISE
    settings[:, 0] += np.clip(stream.normal(0, _SETTING_1_NOISE, count), -largest, largest)
    settings[:, 1] += stream.uniform(-_SETTING_2_NOISE, _SETTING_2_NOISE, count)

    cycle = np.arange(1.0, count + 1)[:, None]
    wear = growth(cycle, engine.life, params.wear_exponent)
    values = (
        _TRAIT["level"]
        + _TRAIT["core"] * engine.core
        # An engine fails at the same wear whatever it starts with: a head start is used up on the way.
        + _TRAIT["start"] * engine.start * (1 - wear)
        + _TRAIT["change"] * wear
        + _TRAIT["mode"] * engine.mode * growth(cycle, engine.life, MODE_EXPONENT)
        + noise
    )
    values *= _SCALES[condition]
    return settings.round(_SETTING_DECIMALS), np.rint(values * _DECIMAL_SCALE) / _DECIMAL_SCALE


def _condition_scales() -> Floats:
    """What each operating condition multiplies each sensor by, shape (conditions, 21); 1 at sea level."""
    altitude, mach, throttle = _CONDITIONS.T
    fan_speed = np.where(throttle < _FULL_THROTTLE, _PART_THROTTLE_FAN_SPEED, 1.0)
    bases = np.column_stack([*inlet_ratios(altitude, mach), fan_speed])
    exponents = np.column_stack([_TRAIT["temperature"], _TRAIT["pressure"], _TRAIT["throttle"]])
    scales: Floats = np.prod(bases[:, None, :] ** exponents, axis=2)
    return scales


_SCALES = _condition_scales()


def inject(values: Floats, anomalies: Sequence[Anomaly]) -> list[Anomaly]:
    """Write anomalies into an engine's readings, in place.

    Args:
        values: Shape (cycles, 21), rounded.
        anomalies: What to inject.

    Returns:
        The anomalies, with the reading that each stuck sensor holds.
    """
    injected = []
    for anomaly in anomalies:
        column = values[:, anomaly.sensor - 1]
        span = slice(anomaly.first_cycle - 1, anomaly.last_cycle)
        decimals = SENSORS[anomaly.sensor - 1].decimals
        length = anomaly.last_cycle - anomaly.first_cycle + 1
        magnitude = anomaly.magnitude
        if anomaly.kind == "stuck":
            column[span] = magnitude = float(column[anomaly.first_cycle - 2])
        elif anomaly.kind == "dropout":
            column[span] = 0.0
        else:
            ramp = np.arange(1, length + 1) / length if anomaly.kind == "drift" else 1.0
            column[span] = (column[span] + magnitude * ramp).round(decimals)
        injected.append(replace(anomaly, magnitude=magnitude))
    return injected


def units(params: TurbofanParameters) -> list[Unit]:
    """Blocks of 50 engines."""
    blocks = [
        (start, min(start + ENGINES_PER_UNIT, params.entities)) for start in range(0, params.entities, ENGINES_PER_UNIT)
    ]
    return [
        Unit(f"engines-{start + 1:05d}-{stop:05d}", block, start, stop) for block, (start, stop) in enumerate(blocks)
    ]


def table(params: TurbofanParameters, unit: Unit) -> pa.Table:
    """Simulate one block of engines.

    Returns:
        ``subset``, ``split`` (string), ``unit_number``, ``cycle`` (int16), ``setting_1`` to ``setting_3``,
        ``sensor_1`` to ``sensor_21`` (float32), ``remaining_useful_life`` (int16, cycles), by engine and
        cycle.
    """
    engines, settings, values = [], [], []
    for index in range(unit.start, unit.stop):
        engine = draw_engine(params, index)
        its_settings, its_values = readings(params, index, engine)
        inject(its_values, draw_anomalies(params, index, engine.observed))
        engines.append(engine)
        settings.append(its_settings)
        values.append(its_values)
    lengths = np.array([engine.observed for engine in engines])
    cycle = np.concatenate([np.arange(1, length + 1) for length in lengths])
    life = np.repeat([engine.life for engine in engines], lengths)
    number = np.repeat(np.arange(unit.start + 1, unit.stop + 1), lengths)
    columns = {
        "subset": pa.array(np.repeat([SUBSET], len(cycle))),
        "split": pa.array(np.repeat([engine.split for engine in engines], lengths)),
        "unit_number": pa.array(number.astype(np.int16)),
        "cycle": pa.array(cycle.astype(np.int16)),
        **_columns("setting", np.concatenate(settings)),
        **_columns("sensor", np.concatenate(values)),
        "remaining_useful_life": pa.array((life - cycle).astype(np.int16)),
    }
    return pa.table(columns)


def _columns(name: str, values: Floats) -> dict[str, pa.Array]:
    """The columns of a matrix as float32, numbered from 1."""
    return {f"{name}_{i}": pa.array(column) for i, column in enumerate(values.T.astype(np.float32), start=1)}


def truth(params: TurbofanParameters) -> pa.Table:
    """List every anomaly of a run.

    Returns:
        ``subset``, ``split``, ``unit_number`` (int16), ``kind``, ``sensor`` (such as "sensor_9"),
        ``first_cycle``, ``last_cycle`` (int16, both included), ``magnitude`` (float64, see `Anomaly`).
    """
    rows = []
    for index in range(params.entities):
        engine = draw_engine(params, index)
        anomalies = draw_anomalies(params, index, engine.observed)
        if any(anomaly.kind == "stuck" for anomaly in anomalies):
            anomalies = inject(readings(params, index, engine)[1], anomalies)
        rows += [
            {
                **vars(anomaly),
                "subset": SUBSET,
                "split": engine.split,
                "unit_number": index + 1,
                "sensor": f"sensor_{anomaly.sensor}",
            }
            for anomaly in anomalies
        ]
    text, short = pa.string(), pa.int16()
    schema = pa.schema(
        {
            "subset": text,
            "split": text,
            "unit_number": short,
            "kind": text,
            "sensor": text,
            "first_cycle": short,
            "last_cycle": short,
            "magnitude": pa.float64(),
        }
    )
    return pa.Table.from_pylist(rows, schema=schema)


FAULTS = FaultSchema(
    key=("subset", "split", "unit_number", "cycle"),
    measured={f"sensor_{number}": (-20_000.0, 20_000.0) for number in range(1, 22)},
)

SIMULATOR = Simulator(
    name=NAME,
    parameters=TurbofanParameters,
    partition_by=("subset", "split"),
    units=units,
    table=table,
    truth=truth,
    faults=FAULTS,
)
