"""Construction robots on their sites: where they are, what they do, and what is left in their batteries.

A robot works in shifts of four hours that follow each other without a pause. It leaves its bay with a full battery,
does task after task, returns when the battery is low (or time is short), charges, and waits in the bay, full, until
the shift ends. So every shift starts and ends at a known place and charge, is drawn from a random stream of its own,
and any hour can be simulated without those before it. Robots change shift at different times.

A task is a wait, a drive with a bend in it to a place of work, to the depot, or now and then to a place off the site,
and the work itself; a breakdown may follow the drive or the work. The status is thus semi-Markov: how long it lasts
is drawn from a distribution of its own (gamma for waits, work and breakdowns; distance over speed for drives).

The battery is a 48 V pack of 13 lithium-ion cells in series. Open-circuit voltage of a cell by state of charge:
M. Chen, G. A. Rincon-Mora, "Accurate electrical battery model capable of predicting runtime and I-V performance",
IEEE Transactions on Energy Conversion 21(2), 2006, equation 3. Under load it sags by current times resistance. It
is charged at constant current, then at constant voltage, where the current falls exponentially. Loads, speeds and
lengths of stay are engineering choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.accelerometer import Clock, Duration, Instant
from sim.base import Parameters, Simulator, Unit
from sim.faults import Altered, FaultSchema
from sim.randomness import entity_id, generator

NAME = "fleet"
EARTH_RADIUS_M = 6_371_008.8  # mean radius R1 of the Geodetic Reference System 1980 (Moritz, 2000)

Status = Literal["idle", "moving", "working", "charging", "fault"]
STATUSES: tuple[Status, ...] = get_args(Status)

SITES: Mapping[str, tuple[tuple[float, float], ...]] = {
    "albany": (
        (42.62740, -73.76010),
        (42.62735, -73.75820),
        (42.62830, -73.75790),
        (42.62885, -73.75890),
        (42.62840, -73.76030),
    ),
    "buffalo": (
        (42.85540, -78.84160),
        (42.85530, -78.83960),
        (42.85620, -78.83930),
        (42.85680, -78.84020),
        (42.85650, -78.84150),
    ),
    "syracuse": (
        (43.06240, -76.17050),
        (43.06220, -76.16890),
        (43.06310, -76.16850),
        (43.06360, -76.16940),
        (43.06320, -76.17060),
    ),
}
"""Corners of each site as (latitude, longitude) in degrees, anticlockwise; convex, about 150 m across.

Made up: they lie on industrial land by the Port of Albany, in South Buffalo and at the Inner Harbor of Syracuse in
New York State, and follow no real site.
"""

CELLS = 13
NOMINAL_V = 48.0
CHARGER_V = 4.2 * CELLS
FULL, LOW = 0.99, 0.2
"""State of charge at which charging ends, and that a robot is back in its bay with."""

ROWS_PER_UNIT = 72_000  # a hundred robots for an hour at the default rate; bounds memory at any rate
SHIFT_S = 4 * 3_600

_TASKS = 64  # more than there is time for in a shift
_CAPACITY_AH = 30.0
_CHARGE_A = 27.0
_TAPER_FROM = 0.9  # state of charge from which the voltage is held and the current falls
_RESISTANCE_OHM = 0.08
_LOAD_W = np.array([60.0, 300.0, 450.0, 0.0, 60.0])  # by status; the charger feeds one that charges
_WAIT_CHANCE, _DEPOT_CHANCE, _NO_WORK_CHANCE = 0.6, 0.2, 0.15
_WAIT_S, _WORK_S, _FAULT_S = (2.0, 45.0), (3.0, 100.0), (2.0, 150.0)  # gamma: shape, scale in seconds
_SPEED_M_S = (0.8, 1.8)
_WORK_AREA = 0.35  # its size relative to the site
_BEND = 0.25
_OUTSIDE_M = (10.0, 40.0)  # how far beyond the edge of the site
_BAY_M = 4.0
_POSITION_DECIMALS, _VOLTAGE_DECIMALS = 7, 2  # what receivers and battery monitors report

_IDLE, _MOVING, _WORKING, _CHARGING, _FAULT = range(len(STATUSES))
_OF_TASK = (_IDLE, _MOVING, _MOVING, _FAULT, _WORKING, _FAULT)
_OF_END = (_MOVING, _CHARGING, _CHARGING, _IDLE)  # home, constant current, constant voltage, wait
_TAPER, _WAIT = -2, -1  # places of the last two among the segments of a shift
_SLOTS = np.array([*_OF_TASK * _TASKS, *_OF_END])

_HOUR_US = 3_600_000_000
_SHIFT_US = SHIFT_S * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Floats = NDArray[np.floating[Any]]
Points = NDArray[np.complex128]  # metres east + metres north x i, from the middle of the site
Whole = NDArray[np.int64]


class FleetParameters(Parameters):
    """What to simulate; an entity is a robot. Robots are dealt to the sites in turn.

    Attributes:
        start: First instant, inclusive. Without a time zone it is taken as UTC.
        duration: How long, as a timedelta or as "90s", "10m", "1h30m", "2d"; an hour when ``end`` is not given.
        end: Last instant, exclusive; instead of ``duration``.
        rate_hz: Fixes per second. Fix n since 1970 is taken at n / rate_hz seconds, rounded to a microsecond.
        gps_noise_m: Standard deviation of the position, per axis.
        voltage_noise_v: Standard deviation of the voltage.
        outside_chance: Share of tasks that lead off the site.
        fault_chance: Share of tasks with a breakdown.
    """

    extent: ClassVar[frozenset[str]] = frozenset({"entities", "start", "duration", "end"})

    start: Instant = datetime(2026, 1, 1, tzinfo=UTC)
    duration: Duration | None = None
    end: Instant | None = None
    rate_hz: float = Field(default=0.2, ge=0.01, le=20)
    gps_noise_m: float = Field(default=0.3, ge=0, le=100)
    voltage_noise_v: float = Field(default=0.02, ge=0, le=1)
    outside_chance: float = Field(default=0.03, ge=0, le=1)
    fault_chance: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        if self.end is not None and self.duration is not None:
            raise ValueError("duration and end are both given; give one of them")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end {self.end.isoformat()} is not after start {self.start.isoformat()}")
        return self

    @property
    def stop(self) -> datetime:
        """The instant the run ends before."""
        return self.end or self.start + (self.duration or timedelta(hours=1))

    @property
    def robots_per_unit(self) -> int:
        """Robots in one unit, so that it has about `ROWS_PER_UNIT` rows."""
        return max(1, int(ROWS_PER_UNIT / (3_600 * self.rate_hz)))


# --- Sites --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sites:
    """The sites in metres; arrays by site.

    Attributes:
        names: Their names.
        latitude: Of the middle, degrees.
        longitude: Of the middle, degrees.
        corners: Shape (sites, corners).
        dock: Where the bays are.
        depot: Where material is fetched.
        metres_per_degree: North and east, shape (2, sites).
    """

    names: tuple[str, ...]
    latitude: Floats
    longitude: Floats
    corners: Points
    dock: Points
    depot: Points
    metres_per_degree: Floats


def _survey(sites: Mapping[str, Sequence[tuple[float, float]]]) -> _Sites:
    degrees = np.array(list(sites.values()))
    middle = degrees.mean(axis=1)
    # On a sphere of the mean radius, as the haversine formula has it; over 200 m the plane errs by a millimetre.
    north = np.full(len(degrees), np.radians(EARTH_RADIUS_M))
    east = north * np.cos(np.radians(middle[:, 0]))
    offset = degrees - middle[:, None]
    corners = offset[..., 1] * east[:, None] + 1j * offset[..., 0] * north[:, None]
    # A quarter of the way from a corner to the middle, which is at 0.
    dock, depot = 0.75 * corners[:, 0], 0.75 * corners[:, 2]
    return _Sites(tuple(sites), middle[:, 0], middle[:, 1], corners, dock, depot, np.stack([north, east]))


_PLACES = _survey(SITES)


def _points_inside(corners: Points, chance: Floats) -> Points:
    """Points spread evenly over convex polygons.

    Args:
        corners: Shape (n, corners).
        chance: Uniform numbers, shape (3, n, m).

    Returns:
        Shape (n, m).
    """
    origin, edges = corners[:, :1], corners[:, 1:] - corners[:, :1]
    share = np.cumsum(_cross(edges[:, :-1], edges[:, 1:]), axis=1)  # areas of the fan of triangles
    place = (chance[0][..., None] * share[:, None, -1:] >= share[:, None, :]).sum(axis=-1)
    reach = np.sqrt(chance[1])
    first, second = (np.take_along_axis(edges, place + k, axis=1) for k in (0, 1))
    points: Points = origin + reach * ((1 - chance[2]) * first + chance[2] * second)
    return points


def _points_outside(corners: Points, chance: Floats) -> Points:
    """Points beyond the edges of convex polygons, outwards from the middle; arguments as of `_points_inside`."""
    edge = (chance[0] * corners.shape[1]).astype(np.int64)
    here, there = (np.take_along_axis(corners, (edge + k) % corners.shape[1], axis=1) for k in (0, 1))
    border = here + chance[1] * (there - here)
    low, high = _OUTSIDE_M
    points: Points = border + border / np.abs(border) * (low + (high - low) * chance[2])
    return points


def _cross(a: Points, b: Points) -> Floats:
    product: Floats = (np.conj(a) * b).imag
    return product


def _time_inside(corners: Points, origin: Points, velocity: Points) -> tuple[Floats, Floats]:
    """When points in straight motion are within a convex polygon (Cyrus and Beck, 1978).

    Args:
        corners: Anticlockwise, shape (n, corners).
        origin: Where each point is at time 0, shape (n,).
        velocity: Its velocity, 0 for one at rest.

    Returns:
        Seconds of entry and exit, infinite where there is none; never inside if the exit is before the entry.
    """
    edges = np.roll(corners, -1, axis=1) - corners
    distance, closing = _cross(edges, origin[:, None] - corners), _cross(edges, velocity[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -distance / closing
    beyond = np.where(distance < 0, np.inf, -np.inf)  # along an edge: beyond it forever, or never
    entry = np.where(closing > 0, crossing, np.where(closing < 0, -np.inf, beyond)).max(axis=1)
    leave = np.where(closing < 0, crossing, np.inf).min(axis=1)
    return entry, leave


# --- Robots and their shifts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Robots:
    """What robots are like; arrays by robot.

    Attributes:
        site: Number of the site.
        bay: Where the robot charges.
        change_us: When its shifts change, microseconds after a multiple of the length of a shift since 1970.
        capacity_ah: Of the battery; aged ones have less.
        load: Factor on the power it draws.
        resistance_ohm: Of the battery.
    """

    site: Whole
    bay: Points
    change_us: Whole
    capacity_ah: Floats
    load: Floats
    resistance_ohm: Floats


def draw_robots(params: FleetParameters, entities: range) -> Robots:
    """Draw robots, each the same whatever else is asked for."""
    drawn = np.array([generator(params.seed, NAME, "robot", entity).uniform(size=6) for entity in entities]).T
    site = np.array(entities) % len(SITES)
    bay = _PLACES.dock[site] + _BAY_M * (2 * drawn[0] - 1 + 1j * (2 * drawn[1] - 1))
    return Robots(
        site=site,
        bay=bay,
        change_us=(drawn[2] * SHIFT_S).astype(np.int64) * 1_000_000,
        capacity_ah=_CAPACITY_AH * (0.85 + 0.15 * drawn[3]),
        load=0.9 + 0.2 * drawn[4],
        resistance_ohm=_RESISTANCE_OHM * (0.8 + 0.4 * drawn[5]),
    )


@dataclass(frozen=True)
class Segments:
    """Stretches of time in which a robot does one thing; arrays, by robot and time, without gaps.

    Attributes:
        robot: Place of the robot among those of the unit.
        start_us: Microseconds since 1970, inclusive.
        stop_us: Exclusive.
        status: Place in `STATUSES`.
        origin: Where it starts.
        velocity: Metres per second.
        charge: State of charge at the start, 0 to 1.
        current_a: At the start, positive when discharging.
        is_taper: Whether it charges at constant voltage.
    """

    robot: Whole
    start_us: Whole
    stop_us: Whole
    status: Whole
    origin: Points
    velocity: Points
    charge: Floats
    current_a: Floats
    is_taper: NDArray[np.bool_]


def plan(params: FleetParameters, entities: range, robots: Robots, start_us: int, stop_us: int) -> Segments:
    """Plan what robots do in a span of time; the work is that of the shifts that the span touches.

    Args:
        params: The run's parameters.
        entities: The robots' numbers.
        robots: What they are like.
        start_us: Microseconds since 1970, inclusive.
        stop_us: Exclusive.

    Returns:
        The segments that overlap the span, uncut.
    """
    first = (start_us - robots.change_us) // _SHIFT_US
    last = (stop_us - 1 - robots.change_us) // _SHIFT_US
    who = np.repeat(np.arange(len(entities)), last - first + 1)
    shift = np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)])
    tasks = _tasks(params, _draw(params, entities, who, shift), robots.site[who], robots.bay[who])
    seconds, origin, velocity, charge, current = _with_end(tasks, robots, who)
    begin = (shift * _SHIFT_US + robots.change_us[who])[:, None]
    stop = begin + np.minimum(np.rint(np.cumsum(seconds, axis=1) * 1e6).astype(np.int64), _SHIFT_US)
    stop[:, -1:] = begin + _SHIFT_US
    start = np.hstack([begin, stop[:, :-1]])
    kept = (start < stop) & (start < stop_us) & (stop > start_us)
    row, slot = np.nonzero(kept)
    return Segments(
        robot=who[row],
        start_us=start[kept],
        stop_us=stop[kept],
        status=_SLOTS[slot],
        origin=origin[kept],
        velocity=velocity[kept],
        charge=charge[kept],
        current_a=current[kept],
        is_taper=slot == len(_SLOTS) + _TAPER,
    )


@dataclass(frozen=True)
class _Draws:
    """Random numbers of shifts: uniform by use, and lengths of stay in seconds, each of shape (shifts, tasks)."""

    uniform: Floats
    area: Floats
    wait_s: Floats
    work_s: Floats
    fault_s: Floats


def _draw(params: FleetParameters, entities: range, who: Whole, shift: Whole) -> _Draws:
    uniform, area = np.empty((14, len(who), _TASKS)), np.empty((3, len(who), 1))
    gamma = np.empty((3, len(who), _TASKS))
    for row, (robot, number) in enumerate(zip(who.tolist(), shift.tolist(), strict=True)):
        stream = generator(params.seed, NAME, "shift", entities[robot], number)
        uniform[:, row], area[:, row] = stream.random((14, _TASKS)), stream.random((3, 1))
        for kind, (shape, scale) in enumerate((_WAIT_S, _WORK_S, _FAULT_S)):
            gamma[kind, row] = scale * stream.standard_gamma(shape, _TASKS)
    return _Draws(uniform, area, *gamma)


@dataclass(frozen=True)
class _Tasks:
    """Tasks of shifts, more of them than there is time for; shape (shifts, tasks, parts of a task)."""

    seconds: Floats
    origin: Points
    velocity: Points
    speed: Floats  # of the second leg, shape (shifts, tasks)


def _tasks(params: FleetParameters, draws: _Draws, site: Whole, bay: Points) -> _Tasks:
    chance, corners = draws.uniform, _PLACES.corners[site]
    centre = _points_inside(corners, draws.area)
    kind, goal = chance[0], centre + _WORK_AREA * (_points_inside(corners, chance[1:4]) - centre)
    is_outside = kind < params.outside_chance
    goal = np.where(is_outside, _points_outside(corners, chance[1:4]), goal)
    goal = np.where(~is_outside & (kind > 1 - _DEPOT_CHANCE), _PLACES.depot[site][:, None], goal)
    here = np.hstack([bay[:, None], goal[:, :-1]])
    bend = here + chance[4] * (goal - here)
    bend = bend + _BEND * (_points_inside(corners, chance[5:8]) - bend)

    speed = _SPEED_M_S[0] + (_SPEED_M_S[1] - _SPEED_M_S[0]) * chance[8:10]
    legs = np.stack([bend - here, goal - bend])
    drive_s, velocity = np.abs(legs) / speed, np.sign(legs) * speed
    # One breakdown a task at most: two in a row would look like one.
    breaks_down, after_drive = chance[10] < params.fault_chance, chance[11] < 0.5
    at_rest = np.zeros_like(goal)
    return _Tasks(
        seconds=np.stack(
            [
                np.where(chance[12] < _WAIT_CHANCE, draws.wait_s, 0),
                *drive_s,
                np.where(breaks_down & after_drive, draws.fault_s, 0),
                np.where(chance[13] < _NO_WORK_CHANCE, 0, draws.work_s),
                np.where(breaks_down & ~after_drive, draws.fault_s, 0),
            ],
            axis=2,
        ),
        origin=np.stack([here, here, bend, goal, goal, goal], axis=2),
        velocity=np.stack([at_rest, *velocity, at_rest, at_rest, at_rest], axis=2),
        speed=speed[1],
    )


def _with_end(tasks: _Tasks, robots: Robots, who: Whole) -> tuple[Floats, Points, Points, Floats, Floats]:
    """Do as many tasks as charge and time allow, then return, charge and wait.

    Returns:
        Seconds, origin, velocity, state of charge and current, each of shape (shifts, slots).
    """
    bay, capacity_as = robots.bay[who][:, None], 3_600 * robots.capacity_ah[who][:, None]
    load_a = robots.load[who][:, None] * _LOAD_W / NOMINAL_V
    goal = tasks.origin[..., -1]
    used_as = np.cumsum((tasks.seconds * load_a[:, None, _OF_TASK]).sum(axis=2), axis=1)
    home_s = np.abs(bay - goal) / tasks.speed
    left = FULL - (used_as + home_s * load_a[:, _MOVING, None]) / capacity_as
    end_s = np.stack([home_s, *_charge_seconds(left, capacity_as)], axis=2)
    fits = (left >= LOW) & (np.cumsum(tasks.seconds.sum(axis=2), axis=1) + end_s.sum(axis=2) <= SHIFT_S)
    done = np.logical_and.accumulate(fits, axis=1)
    # A robot whose very first task does not fit stays in its bay.
    last, goes = np.maximum(done.sum(axis=1) - 1, 0)[:, None], done[:, :1]
    end_s = np.take_along_axis(end_s, last[..., None], axis=1)[:, 0] * goes
    away = np.where(goes, np.take_along_axis(goal, last, axis=1), bay)
    done_s = (tasks.seconds * done[..., None]).reshape(len(who), -1)

    seconds = np.hstack([done_s, end_s, SHIFT_S - done_s.sum(axis=1, keepdims=True) - end_s.sum(axis=1, keepdims=True)])
    origin = np.hstack([tasks.origin.reshape(len(who), -1), away, np.repeat(bay, 3, axis=1)])
    homewards = np.sign(bay - away) * np.take_along_axis(tasks.speed, last, axis=1)
    velocity = np.hstack([tasks.velocity.reshape(len(who), -1), homewards, np.zeros((len(who), 3))])
    current = load_a[:, _SLOTS]
    current[:, -3:] = [-_CHARGE_A, 0, 0]  # in the bay the charger feeds the robot
    used = current * seconds
    charge = FULL - (np.cumsum(used, axis=1) - used) / capacity_as
    charge[:, _WAIT] = FULL
    current[:, _TAPER] = -_CHARGE_A * (1 - charge[:, _TAPER]) / (1 - _TAPER_FROM)
    return seconds, origin, velocity, charge, current


def _charge_seconds(charge: Floats, capacity_as: Floats) -> tuple[Floats, Floats]:
    """Seconds to charge at constant current, then at constant voltage, until `FULL`."""
    constant = np.maximum(_TAPER_FROM - charge, 0) * capacity_as / _CHARGE_A
    # The current begins with the constant one, and falls with what is missing.
    time_constant = (1 - _TAPER_FROM) * capacity_as / _CHARGE_A
    return constant, time_constant * np.log((1 - np.maximum(charge, _TAPER_FROM)) / (1 - FULL))


def open_circuit_v(charge: Floats) -> Floats:
    """Voltage of the pack at rest by its state of charge, 0 to 1 (Chen and Rincon-Mora, 2006)."""
    cell = -1.031 * np.exp(-35 * charge) + 3.685 + 0.2156 * charge - 0.1178 * charge**2 + 0.3201 * charge**3
    volts: Floats = CELLS * cell
    return volts


# --- Units --------------------------------------------------------------------------------------------------


def units(params: FleetParameters) -> list[Unit]:
    """A block of robots and a UTC hour each, clipped to the span; a whole hour has the same name in every run."""
    clock, size = Clock.at(params.rate_hz), params.robots_per_unit
    start, stop = _span(params)
    found = []
    for hour in range(start // _HOUR_US, -(-stop // _HOUR_US)):
        whole = (clock.first_at(hour * _HOUR_US), clock.first_at((hour + 1) * _HOUR_US))
        first, last = max(whole[0], clock.first_at(start)), min(whole[1], clock.first_at(stop))
        label = f"{_EPOCH + timedelta(hours=hour):%Y%m%dT%H}"
        if (first, last) != whole:
            label += f"-{first - whole[0]:05d}-{last - whole[0]:05d}"
        for block in range(-(-params.entities // size) if first < last else 0):
            robots = _robots_of(params, block)
            name = f"robots-{robots.start:05d}-{robots.stop - 1:05d}-{label}"
            found.append(Unit(name, block, first, last))
    return found


def _span(params: FleetParameters) -> tuple[int, int]:
    start, stop = ((instant - _EPOCH) // _MICROSECOND for instant in (params.start, params.stop))
    return start, stop


def _robots_of(params: FleetParameters, block: int) -> range:
    size = params.robots_per_unit
    return range(block * size, min((block + 1) * size, params.entities))


def table(params: FleetParameters, unit: Unit) -> pa.Table:
    """Simulate one unit.

    Args:
        params: The run's parameters.
        unit: One of ``units(params)``, or any range of fixes of one block of robots within a UTC hour.

    Returns:
        ``robot_id``, ``site_id`` (dictionary-encoded strings), ``event_time`` (timestamp in microseconds, UTC),
        ``latitude``, ``longitude`` (float64, degrees), ``battery_v`` (float32, V), ``status``
        (dictionary-encoded string), by robot and time.
    """
    entities = _robots_of(params, unit.entity)
    robots = draw_robots(params, entities)
    clock, count = Clock.at(params.rate_hz), unit.stop - unit.start
    times = clock.times(unit.start, count)
    segments = plan(params, entities, robots, int(times[0]), int(times[-1]) + 1)
    fixes = np.searchsorted(times, segments.stop_us) - np.searchsorted(times, segments.start_us)
    at = np.repeat(np.arange(len(fixes)), fixes)
    robot, time = segments.robot[at], np.tile(times, len(entities))
    seconds = (time - segments.start_us[at]) * 1e-6
    noise = _noise(params, entities, clock, unit)

    where = segments.origin[at] + segments.velocity[at] * seconds
    where += params.gps_noise_m * (noise[0] + 1j * noise[1])
    site = robots.site[robot]
    north, east = _PLACES.metres_per_degree
    latitude = _PLACES.latitude[site] + where.imag / north[site]
    longitude = _PLACES.longitude[site] + where.real / east[site]
    volts = _volts(segments, robots, at, seconds) + params.voltage_noise_v * noise[2]
    return pa.table(
        {
            "robot_id": _coded(robot, [entity_id(params.seed, NAME, entity) for entity in entities]),
            "site_id": _coded(site, _PLACES.names),
            "event_time": pa.array(time).cast(pa.timestamp("us", tz="UTC")),
            "latitude": latitude.round(_POSITION_DECIMALS),
            "longitude": longitude.round(_POSITION_DECIMALS),
            "battery_v": volts.round(_VOLTAGE_DECIMALS).astype(np.float32),
            "status": _coded(segments.status[at], STATUSES),
        }
    )


def _noise(params: FleetParameters, entities: range, clock: Clock, unit: Unit) -> Floats:
    """Standard normal numbers, shape (3, fixes). Whole hours are drawn, so a part equals the whole."""
    hour = int(clock.times(unit.start, 1)[0]) // _HOUR_US
    first, last = clock.first_at(hour * _HOUR_US), clock.first_at((hour + 1) * _HOUR_US)
    drawn = [
        generator(params.seed, NAME, "noise", entity, hour).standard_normal((3, last - first))[
            :, unit.start - first : unit.stop - first
        ]
        for entity in entities
    ]
    return np.concatenate(drawn, axis=1)


def _volts(segments: Segments, robots: Robots, at: Whole, seconds: Floats) -> Floats:
    """Voltage at the battery's terminals, ``seconds`` into the segments ``at``."""
    robot, current = segments.robot[at], segments.current_a[at]
    drawn = current * seconds / (3_600 * robots.capacity_ah[robot])
    charge = segments.charge[at] - np.where(segments.is_taper[at], 0, drawn)  # at constant voltage: that of the start
    return np.minimum(open_circuit_v(charge) - current * robots.resistance_ohm[robot], CHARGER_V)


def _coded(codes: Whole, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names, pa.string()))


def truth(params: FleetParameters) -> pa.Table:
    """Sum up what each robot did, without noise.

    Returns:
        One row per robot and UTC hour: ``robot_id``, ``site_id``, ``hour`` (its start), ``seconds`` (of it that
        are in the span), ``distance_m``, ``idle_seconds`` to ``fault_seconds``, ``outside_seconds`` (off the
        site), ``faults`` (begun), ``charges`` (begun), ``capacity_ah``.
    """
    return pa.concat_tables([_no_truth(), *(_truth_of(params, unit) for unit in units(params))])


def _no_truth() -> pa.Table:
    seconds = [(f"{status}_seconds", pa.float64()) for status in STATUSES]
    return pa.schema(
        [
            ("robot_id", pa.string()),
            ("site_id", pa.string()),
            ("hour", pa.timestamp("us", tz="UTC")),
            ("seconds", pa.float64()),
            ("distance_m", pa.float64()),
            *seconds,
            ("outside_seconds", pa.float64()),
            ("faults", pa.int64()),
            ("charges", pa.int64()),
            ("capacity_ah", pa.float64()),
        ]
    ).empty_table()


def _truth_of(params: FleetParameters, unit: Unit) -> pa.Table:
    entities = _robots_of(params, unit.entity)
    robots = draw_robots(params, entities)
    hour = int(Clock.at(params.rate_hz).times(unit.start, 1)[0]) // _HOUR_US * _HOUR_US
    low, high = _span(params)
    low, high = max(low, hour), min(high, hour + _HOUR_US)
    segments = plan(params, entities, robots, low, high)
    begin = (np.maximum(segments.start_us, low) - segments.start_us) * 1e-6
    end = (np.minimum(segments.stop_us, high) - segments.start_us) * 1e-6
    corners = _PLACES.corners[robots.site[segments.robot]]
    entry, leave = _time_inside(corners, segments.origin, segments.velocity)
    inside = np.maximum(np.minimum(leave, end) - np.maximum(entry, begin), 0)

    def total(values: Any) -> Any:
        return np.bincount(segments.robot, values, minlength=len(entities))

    begun = segments.start_us >= low
    starts_charge = (segments.status == _CHARGING) & ~segments.is_taper
    lengths = {
        f"{name}_seconds": total((end - begin) * (segments.status == code)) for code, name in enumerate(STATUSES)
    }
    return pa.table(
        {
            "robot_id": [entity_id(params.seed, NAME, entity) for entity in entities],
            "site_id": [_PLACES.names[site] for site in robots.site],
            "hour": pa.array([hour] * len(entities)).cast(pa.timestamp("us", tz="UTC")),
            "seconds": np.full(len(entities), (high - low) * 1e-6),
            "distance_m": total((end - begin) * np.abs(segments.velocity)),
            **lengths,
            "outside_seconds": total(end - begin - inside),
            "faults": total(begun & (segments.status == _FAULT)).astype(np.int64),
            "charges": total(begun & starts_charge).astype(np.int64),
            "capacity_ah": robots.capacity_ah,
        },
        schema=_no_truth().schema,
    )


# --- Faults -------------------------------------------------------------------------------------------------

_YEARS_AHEAD = 40
_JUMP_KM = (20.0, 200.0)
_NO_STATUS = ("asleep", "E-17", "??", "42")


def _future(rows: pa.Table, _schema: FaultSchema, rng: np.random.Generator) -> Altered:
    """Move the clock of all of them ahead alike: in one hour's partition, each still at a time of its own."""
    ahead = int(rng.integers(365 * _YEARS_AHEAD, 366 * _YEARS_AHEAD)) * 24 * _HOUR_US
    times = pc.add(rows["event_time"].cast(pa.int64()), ahead).cast(rows.schema.field("event_time").type)
    return _replaced(rows, "event_time", times), ["event_time"] * rows.num_rows


def _jump(rows: pa.Table, _schema: FaultSchema, rng: np.random.Generator) -> Altered:
    """Displace each by its own way, so far that two fixes that jump do not vouch for each other."""
    low, high = _JUMP_KM
    angle = rng.uniform(0, 2 * np.pi, rows.num_rows)
    degrees = np.degrees(rng.uniform(low, high, rows.num_rows) * 1_000 / EARTH_RADIUS_M)
    rows = _replaced(rows, "latitude", pc.add(rows["latitude"], pa.array(degrees * np.sin(angle))))
    # Degrees of longitude are shorter, so this is at most the displacement meant, and more than two thirds of it.
    rows = _replaced(rows, "longitude", pc.add(rows["longitude"], pa.array(degrees * np.cos(angle))))
    return rows, ["latitude"] * rows.num_rows


def _unknown_status(rows: pa.Table, _schema: FaultSchema, rng: np.random.Generator) -> Altered:
    names = pa.array(rng.choice(_NO_STATUS, rows.num_rows).tolist(), pa.string())
    return _replaced(rows, "status", names.dictionary_encode()), ["status"] * rows.num_rows


def _replaced(rows: pa.Table, name: str, values: Any) -> pa.Table:
    index = rows.column_names.index(name)
    return rows.set_column(index, rows.schema.field(index), values)


FAULTS = FaultSchema(
    key=("robot_id", "event_time"),
    measured={"latitude": (-90.0, 90.0), "longitude": (-180.0, 180.0), "battery_v": (30.0, 60.0)},
    optional=frozenset({"battery_v"}),
    own={"future": _future, "jump": _jump, "unknown_value": _unknown_status},
)

SIMULATOR = Simulator(
    name=NAME,
    parameters=FleetParameters,
    partition_by=("year", "month", "day", "hour"),
    units=units,
    table=table,
    truth=truth,
    faults=FAULTS,
)
