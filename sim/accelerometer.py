"""The body of a walking quadruped, as the accelerometer on it feels it.

The body moves in simple harmonic motion. The two pairs of legs strike the ground in turn, so the body rises,
pitches and surges twice a stride, and sways and rolls once a stride: T. M. Griffin, R. P. Main, C. T. Farley,
"Biomechanics of quadrupedal walking: how do four-legged animals achieve inverted pendulum-like movements?",
J. Exp. Biol. 207, 2004. The sizes are an engineering choice: 1 to 2 m/s2, which is millimetres of travel at
these frequencies, and a few degrees.

An accelerometer measures specific force: acceleration minus gravity, in its own axes. At rest and level it
reads (0, 0, +9.80665). Axes: x forward, y left, z up; the world frame follows the heading. The attitude is a
pitch about y and then a roll about the new x, so a positive pitch is nose down and a positive roll is left
side up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sim.base import Parameters, Simulator, Unit
from sim.faults import FaultSchema
from sim.randomness import entity_id, generator

NAME = "accelerometer"
STANDARD_GRAVITY = 9.80665  # m/s2, by definition (3rd CGPM, 1901)
HIGHEST_HARMONIC = 4  # of the gait frequency: motion at twice it, turned by a rotation at twice it
AXES = ("x", "y", "z", "magnitude")

_BLOCK = 16_384  # samples that share a noise stream and fit the cache; changing it changes every noise value
_TRUTH_POINTS = 64  # per gait period; harmonics beyond the eighth are below 1e-6 m/s2
_TRUTH_HARMONICS = 8
_HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

Samples = NDArray[np.floating[Any]]


def _parse_duration(value: object) -> object:
    """Turn ``"1h30m"``, ``"90s"`` or ``"2d"`` into a timedelta; leave all else to Pydantic."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if not re.fullmatch(r"(\d+(\.\d+)?[dhms])+", text):
        return value
    parts = re.findall(r"([\d.]+)([dhms])", text)
    return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))


def _to_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Duration = Annotated[timedelta, BeforeValidator(_parse_duration), Field(gt=timedelta(0))]
Instant = Annotated[datetime, AfterValidator(_to_utc)]
Amplitude = Annotated[float, Field(ge=0)]
Tilt = Annotated[float, Field(ge=0, le=45)]


class AccelerometerParameters(Parameters):
    """What to simulate.

    Accelerations are amplitudes at a speed of 1 m/s and grow in proportion to ``speed_m_s``. Each sensor
    draws its own value of everything but the clock: ``variation`` is the largest share by which its
    amplitudes and its speed differ from those given here, and each spread the largest difference of what it
    is named after.

    Attributes:
        start: First instant, inclusive. Without a time zone it is taken as UTC.
        duration: How long, as a timedelta or as "90s", "10m", "1h30m", "2d"; ten minutes when ``end`` is not
            given.
        end: Last instant, exclusive; instead of ``duration``.
        rate_hz: Samples per second, to a thousandth. Sample n since 1970 is taken at n / rate_hz seconds,
            rounded to a microsecond.
        gait_hz: Strides per second.
        gait_spread_hz: Spread of ``gait_hz``.
        speed_m_s: Walking speed.
        bounce_m_s2: Vertical acceleration, at twice the gait frequency.
        sway_m_s2: Lateral acceleration, at the gait frequency.
        surge_m_s2: Forward acceleration, at twice the gait frequency.
        roll_deg: Roll, at the gait frequency.
        pitch_deg: Pitch, at twice the gait frequency.
        bounce_phase_deg: Phase of the bounce, in degrees of its own cycle, as are the next four.
        sway_phase_deg: Phase of the sway.
        surge_phase_deg: Phase of the surge. By default the surge and the pitch add up on x.
        roll_phase_deg: Phase of the roll. By default the sway and the roll add up on y.
        pitch_phase_deg: Phase of the pitch.
        phase_spread_deg: Spread of these five.
        tilt_spread_deg: How far the sensor is mounted off level, in roll and in pitch.
        variation: Share, from 0 to 1.
        noise_m_s2: Standard deviation of the white noise of each axis.
        bias_m_s2: Standard deviation, over sensors and axes, of the constant bias.
    """

    extent: ClassVar[frozenset[str]] = frozenset({"entities", "start", "duration", "end"})

    start: Instant = datetime(2026, 1, 1, tzinfo=UTC)
    duration: Duration | None = None
    end: Instant | None = None
    rate_hz: float = Field(default=100.0, gt=0, le=100_000)
    gait_hz: float = Field(default=1.5, gt=0)
    gait_spread_hz: float = Field(default=0.1, ge=0)
    speed_m_s: float = Field(default=1.0, gt=0)
    bounce_m_s2: Amplitude = 2.0
    sway_m_s2: Amplitude = 1.0
    surge_m_s2: Amplitude = 1.0
    roll_deg: Tilt = 3.0
    pitch_deg: Tilt = 2.0
    bounce_phase_deg: float = 0.0
    sway_phase_deg: float = 0.0
    surge_phase_deg: float = 90.0
    roll_phase_deg: float = 0.0
    pitch_phase_deg: float = 270.0
    phase_spread_deg: float = Field(default=10.0, ge=0, le=180)
    tilt_spread_deg: Tilt = 2.0
    variation: float = Field(default=0.1, ge=0, lt=1)
    noise_m_s2: Amplitude = 0.05
    bias_m_s2: Amplitude = 0.02

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        if self.end is not None and self.duration is not None:
            raise ValueError("duration and end are both given; give one of them")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end {self.end.isoformat()} is not after start {self.start.isoformat()}")
        return self

    @model_validator(mode="after")
    def _check_frequencies(self) -> Self:
        if self.gait_spread_hz >= self.gait_hz:
            raise ValueError(f"gait_spread_hz {self.gait_spread_hz:g} is not below gait_hz {self.gait_hz:g}")
        highest = HIGHEST_HARMONIC * (self.gait_hz + self.gait_spread_hz)
        if highest >= self.rate_hz / 2:
            raise ValueError(
                f"gait_hz {self.gait_hz:g} has harmonics up to {highest:g} Hz, not below the"
                f" Nyquist frequency {self.rate_hz / 2:g} Hz of rate_hz {self.rate_hz:g}"
            )
        return self

    @property
    def stop(self) -> datetime:
        """The instant the run ends before."""
        return self.end or self.start + (self.duration or timedelta(minutes=10))


@dataclass(frozen=True)
class Clock:
    """The absolute time grid: sample n since 1970 is taken at ``n * numerator / denominator`` microseconds.

    Whole numbers, because n * 1e6 is beyond what a double counts exactly.
    """

    numerator: int
    denominator: int

    @classmethod
    def at(cls, rate_hz: float) -> Clock:
        """The clock of a sample rate, taken to the nearest thousandth."""
        period = 1_000_000 / Fraction(rate_hz).limit_denominator(1000)
        return cls(period.numerator, period.denominator)

    def first_at(self, time_us: int) -> int:
        """Number of the first sample at or after a time in microseconds since 1970."""
        return -((self.denominator // 2 - time_us * self.denominator) // self.numerator)

    def times(self, first: int, count: int) -> NDArray[np.int64]:
        """Times of ``count`` samples in microseconds since 1970, int64 of shape (count,)."""
        base, rest = divmod(first * self.numerator + self.denominator // 2, self.denominator)
        steps = np.arange(count, dtype=np.int64) * self.numerator
        if self.denominator != 1:
            steps = (steps + rest) // self.denominator
        return steps + base

    def cycles(self, frequency_hz: float, sample: int) -> float:
        """Cycles since 1970 at a sample, less the whole ones; exact before the last rounding."""
        seconds = Fraction(sample * self.numerator, 1_000_000 * self.denominator)
        return float(Fraction(frequency_hz) * seconds % 1)


@dataclass(frozen=True)
class Body:
    """One sensor's body as drawn from the seed. Amplitudes in m/s2 and radians, phases in radians."""

    gait_hz: float
    gait_phase: float
    speed_m_s: float
    bounce_m_s2: float
    sway_m_s2: float
    surge_m_s2: float
    roll: float
    pitch: float
    bounce_phase: float
    sway_phase: float
    surge_phase: float
    roll_phase: float
    pitch_phase: float
    roll_offset: float
    pitch_offset: float
    bias_x: float
    bias_y: float
    bias_z: float


def draw_body(params: AccelerometerParameters, entity: int) -> Body:
    """Draw one sensor's body; the same for the same seed and entity whatever else is asked for."""
    stream = generator(params.seed, NAME, "body", entity)
    share = 1 + params.variation * stream.uniform(-1, 1, 6)
    phase = np.radians(params.phase_spread_deg * stream.uniform(-1, 1, 5))
    offset = np.radians(params.tilt_spread_deg * stream.uniform(-1, 1, 2))
    bias = params.bias_m_s2 * stream.standard_normal(3)
    speed = params.speed_m_s * share[0]
    drawn = (
        params.gait_hz + params.gait_spread_hz * stream.uniform(-1, 1),
        2 * np.pi * stream.uniform(),
        speed,
        params.bounce_m_s2 * share[1] * speed,
        params.sway_m_s2 * share[2] * speed,
        params.surge_m_s2 * share[3] * speed,
        np.radians(params.roll_deg) * share[4],
        np.radians(params.pitch_deg) * share[5],
        np.radians(params.bounce_phase_deg) + phase[0],
        np.radians(params.sway_phase_deg) + phase[1],
        np.radians(params.surge_phase_deg) + phase[2],
        np.radians(params.roll_phase_deg) + phase[3],
        np.radians(params.pitch_phase_deg) + phase[4],
        *offset,
        *bias,
    )
    return Body(*map(float, drawn))


def rotate_to_body(
    roll: Samples, pitch: Samples, x: Samples, y: Samples, z: Samples
) -> tuple[Samples, Samples, Samples]:
    """Express world-frame vectors in the body's axes, over whole arrays.

    The inverse of R = Ry(pitch) Rx(roll), multiplied out; it equals
    ``scipy.spatial.transform.Rotation.from_euler("YX", [pitch, roll]).inv().apply(v)``.

    Args:
        roll: Radians about the x axis, any shape.
        pitch: Radians about the y axis, same shape.
        x: Forward component in the world frame, same shape.
        y: Left component, same shape.
        z: Upward component, same shape.
    """
    sin_roll, cos_roll = np.sin(roll), np.cos(roll)
    sin_pitch, cos_pitch = np.sin(pitch), np.cos(pitch)
    level_z = sin_pitch * x + cos_pitch * z
    return (
        cos_pitch * x - sin_pitch * z,
        cos_roll * y + sin_roll * level_z,
        cos_roll * level_z - sin_roll * y,
    )


def specific_force(body: Body, phase: Samples) -> tuple[Samples, Samples, Samples]:
    """What a sensor without noise or bias measures at given phases of the gait.

    Args:
        body: The sensor's body.
        phase: Gait phase in radians, any shape, float32 or float64.

    Returns:
        The body-frame axes x, y and z in m/s2, of the phase's shape and type.
    """
    sin1, cos1 = np.sin(phase), np.cos(phase)
    sin2, cos2 = 2 * sin1 * cos1, 1 - 2 * sin1 * sin1

    def once(amplitude: float, angle: float) -> Samples:
        return float(amplitude * np.cos(angle)) * sin1 + float(amplitude * np.sin(angle)) * cos1

    def twice(amplitude: float, angle: float) -> Samples:
        return float(amplitude * np.cos(angle)) * sin2 + float(amplitude * np.sin(angle)) * cos2

    return rotate_to_body(
        body.roll_offset + once(body.roll, body.roll_phase),
        body.pitch_offset + twice(body.pitch, body.pitch_phase),
        twice(body.surge_m_s2, body.surge_phase),
        once(body.sway_m_s2, body.sway_phase),
        STANDARD_GRAVITY + twice(body.bounce_m_s2, body.bounce_phase),
    )


def units(params: AccelerometerParameters) -> list[Unit]:
    """One unit per sensor and UTC hour, clipped to the span; a whole hour has the same name in every run."""
    clock = Clock.at(params.rate_hz)
    start, stop = ((instant - _EPOCH) // _MICROSECOND for instant in (params.start, params.stop))
    found = []
    for hour in range(start // _HOUR_US, -(-stop // _HOUR_US)):
        whole = (clock.first_at(hour * _HOUR_US), clock.first_at((hour + 1) * _HOUR_US))
        first, last = max(whole[0], clock.first_at(start)), min(whole[1], clock.first_at(stop))
        label = f"{_EPOCH + timedelta(hours=hour):%Y%m%dT%H}"
        if (first, last) != whole:
            label += f"-{first - whole[0]:08d}-{last - whole[0]:08d}"
        if first < last:
            found += [Unit(f"sensor-{e:05d}-{label}", e, first, last) for e in range(params.entities)]
    return found


def table(params: AccelerometerParameters, unit: Unit) -> pa.Table:
    """Simulate one unit.

    Args:
        params: The run's parameters.
        unit: One of ``units(params)``, or any range of samples of one sensor.

    Returns:
        ``sensor_id`` (dictionary-encoded string), ``event_time`` (timestamp in microseconds, UTC), ``ax``,
        ``ay``, ``az`` (float32, m/s2), in time order.
    """
    clock = Clock.at(params.rate_hz)
    body = draw_body(params, unit.entity)
    force = np.empty((3, unit.stop - unit.start), np.float32)
    step = np.arange(_BLOCK, dtype=np.float64) * (body.gait_hz * clock.numerator / (1_000_000 * clock.denominator))
    for block in range(unit.start // _BLOCK, -(-unit.stop // _BLOCK)):
        origin = block * _BLOCK
        first, last = max(unit.start, origin), min(unit.stop, origin + _BLOCK)
        # Whole blocks are computed even where a part is kept, so a part equals the whole to the last bit.
        samples = _block(params, body, unit.entity, block, step + clock.cycles(body.gait_hz, origin))
        force[:, first - unit.start : last - unit.start] = samples[:, first - origin : last - origin]
    identity = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(force.shape[1], np.int8)), [entity_id(params.seed, NAME, unit.entity)]
    )
    times = pa.array(clock.times(unit.start, force.shape[1]))
    columns = [identity, times.cast(pa.timestamp("us", tz="UTC")), *map(pa.array, force)]
    return pa.Table.from_arrays(columns, names=["sensor_id", "event_time", "ax", "ay", "az"])


def _block(
    params: AccelerometerParameters, body: Body, entity: int, block: int, cycles: Samples
) -> NDArray[np.float32]:
    """Simulate one block of samples, shape (3, _BLOCK): noise, bias and motion."""
    stream = generator(params.seed, NAME, "noise", entity, block)
    samples = stream.standard_normal((3, _BLOCK), dtype=np.float32)
    samples *= params.noise_m_s2
    samples += np.array([[body.bias_x], [body.bias_y], [body.bias_z]], np.float32)
    # Whole cycles go before the narrowing to float32, which would not hold them and the fraction.
    phase = (cycles - np.floor(cycles)).astype(np.float32)
    phase *= 2 * np.pi
    phase += body.gait_phase
    for axis, motion in enumerate(specific_force(body, phase)):
        samples[axis] += motion
    return samples


def generate(params: AccelerometerParameters) -> pd.DataFrame:
    """Simulate a whole run in memory.

    Returns:
        Columns ``sensor_id`` (string), ``event_time`` (UTC), ``ax``, ``ay``, ``az`` (float32, m/s2), by
        sensor and time.
    """
    ordered = sorted(units(params), key=lambda unit: (unit.entity, unit.start))
    rows = pa.concat_tables([table(params, unit) for unit in ordered]).unify_dictionaries()
    frame: pd.DataFrame = rows.set_column(0, "sensor_id", rows["sensor_id"].cast(pa.string())).to_pandas()
    return frame


def truth(params: AccelerometerParameters) -> pa.Table:
    """Describe each sensor and axis by the Fourier series of its signal without noise, bias included.

    Returns:
        One row per sensor and axis in x, y, z and magnitude: ``sensor_id``, ``axis``, ``true_hz`` and
        ``true_amplitude`` (m/s2) of the strongest line, ``harmonics`` (list of struct hz, amplitude) of the
        gait frequency, and what was drawn for the sensor, as named in `Body`.
    """
    rows = []
    for entity in range(params.entities):
        body = draw_body(params, entity)
        for axis, amplitudes in zip(AXES, _harmonic_amplitudes(body), strict=True):
            lines = [
                {"hz": (k + 1) * body.gait_hz, "amplitude": float(amplitude)}
                for k, amplitude in enumerate(amplitudes)
                if (k + 1) * body.gait_hz < params.rate_hz / 2
            ]
            strongest = max(lines, key=lambda line: line["amplitude"])
            rows.append(
                {
                    "sensor_id": entity_id(params.seed, NAME, entity),
                    "axis": axis,
                    "true_hz": strongest["hz"],
                    "true_amplitude": strongest["amplitude"],
                    "harmonics": lines,
                    **vars(body),
                }
            )
    return pa.Table.from_pylist(rows)


def _harmonic_amplitudes(body: Body) -> NDArray[np.float64]:
    """Amplitudes of the gait's harmonics, shape (axes, harmonics), by projection over exactly one period."""
    phase = np.arange(_TRUTH_POINTS) * (2 * np.pi / _TRUTH_POINTS)
    xyz = np.stack(specific_force(body, phase)) + np.array([[body.bias_x], [body.bias_y], [body.bias_z]])
    signals = np.vstack([xyz, np.linalg.norm(xyz, axis=0)])
    spectrum = np.abs(np.fft.rfft(signals)) * (2 / _TRUTH_POINTS)
    return spectrum[:, 1 : _TRUTH_HARMONICS + 1]


FAULTS = FaultSchema(
    key=("sensor_id", "event_time"),
    measured=dict.fromkeys(("ax", "ay", "az"), (-156.9064, 156.9064)),  # m/s2: 16 g
)

SIMULATOR = Simulator(
    name=NAME,
    parameters=AccelerometerParameters,
    partition_by=("year", "month", "day", "hour", "sensor_id"),
    units=units,
    table=table,
    truth=truth,
    faults=FAULTS,
)
