"""Fleet: fixes that can be reached from those around them, and what each robot did in each window."""

from __future__ import annotations

from bench.script.base import Run, first_of, listed, within
from jobs.datasets.fleet import DATASET, STATUSES, FleetSettings
from jobs.features.fleet_status import Corners, FleetStatusSettings
from jobs.lake.geodesy import EARTH_RADIUS_M
from jobs.lake.tables import ALL

_AROUND = {
    "before": "lag({0}) OVER track",
    "earlier": "lag({0}, 2) OVER track",
    "after": "lead({0}) OVER track",
    "later": "lead({0}, 2) OVER track",
}
_VOLT = 10_000  # tenths of a millivolt
_WINDOW = 1_000_000  # millionths
_SUMS = (
    *("samples", "step_us", "step_um", "outside_us", "faults", "charges", "volts_n", "volts"),
    *(f"{status}_us" for status in STATUSES),
)


def bring_up(run: Run) -> int:
    """Make silver and gold; return the rows of silver."""
    rows = run.write(run.silver(DATASET.name), silver(run))
    run.write(run.gold("fleet_status"), status(run))
    return rows


def metres(a: str, b: str) -> str:
    """Between two places, whose columns have these prefixes: the haversine."""
    north, east = (f"sin(radians({b}{name} - {a}{name}) / 2)" for name in ("latitude", "longitude"))
    level = f"cos(radians({a}latitude)) * cos(radians({b}latitude))"
    return f"{2 * EARTH_RADIUS_M} * asin(sqrt(least({north} * {north} + {level} * {east} * {east}, 1)))"


def silver(run: Run) -> str:
    """Fixes that pass, once each, but those that are a jump from all that are around them."""
    limits = FleetSettings()

    def agree(a: str, b: str) -> str:
        reach = f"abs({a}us - {b}us) / 1e6 * {limits.speed_limit_m_s} + {limits.position_error_m}"
        return f"coalesce({metres(a, b)} <= {reach}, false)"

    places = [
        f"{listed(('us', 'latitude', 'longitude'), f'{place} AS {around}_{{0}}')}" for around, place in _AROUND.items()
    ]
    return f"""
        WITH clean AS (
            SELECT robot_id, nullif(trim(site_id), '') AS site_id, event_time, latitude, longitude, battery_v,
                lower(nullif(trim(status), '')) AS status, epoch_us(event_time) AS us, last_modified, filename,
                file_row_number
            FROM {run.bronze(DATASET.name)}
        ), valid AS (
            SELECT * FROM clean
            WHERE robot_id IS NOT NULL AND event_time >= '{limits.earliest}' AND event_time < '{limits.latest}'
                AND event_time <= last_modified + to_seconds({limits.future_tolerance_seconds})
                AND {within({"latitude": (-90, 90), "longitude": (-180, 180)})}
                AND NOT (latitude = 0 AND longitude = 0)
                AND {within({"battery_v": (limits.lowest_voltage, limits.highest_voltage)}, optional=True)}
                AND coalesce(status IN {STATUSES}, true)
            {first_of(DATASET.key)}
        ), placed AS (
            SELECT *, {listed(places)} FROM valid WINDOW track AS (PARTITION BY robot_id ORDER BY us)
        )
        SELECT robot_id, site_id, event_time, latitude, longitude, battery_v, status FROM placed
        WHERE {" OR ".join(agree(f"{around}_", "") for around in _AROUND)}
            OR NOT (before_us IS NOT NULL AND after_us IS NOT NULL
                OR {agree("before_", "earlier_")} OR {agree("after_", "later_")})"""


def inside(corners: Corners) -> str:
    """Whether a place is within corners: a ray eastwards crosses the border an odd number of times."""
    crossings = [
        f"((latitude >= {south}) <> (latitude >= {north})"
        f" AND longitude < {west} + (latitude - {south}) * {(east - west) / (north - south)})"
        for (south, west), (north, east) in zip(corners, [*corners[1:], corners[0]], strict=True)
        if south != north
    ]
    return f"({' + '.join(f'{crossing}::INT' for crossing in crossings)}) % 2 = 1"


def status(run: Run) -> str:
    """Sums of each robot's windows, and of the fleet's: of steps, then of what has one status, then of all."""
    settings = FleetStatusSettings()
    length, minutes = settings.window_us, settings.window_seconds / _WINDOW / 60
    sites = " ".join(f"WHEN '{name}' THEN NOT ({inside(corners)})" for name, corners in settings.sites.items())
    before = listed(("us", "latitude", "longitude", "status", "outside"), "lag({0}) OVER track AS before_{0}")
    of_status = listed(STATUSES, "sum(step_us) FILTER (before_status = '{0}') AS {0}_us")
    sums = listed(_SUMS, "sum({0})::BIGINT AS {0}")
    known = " + ".join(f"coalesce({status}_us, 0)" for status in STATUSES)

    def begins(status: str) -> str:
        already = f"step_us IS NOT NULL AND before_status = '{status}'"
        return f"(coalesce(status = '{status}', false) AND NOT coalesce({already}, false))::INT"

    def centred(a: str, b: str) -> str:
        product = f"sum({a} * {b})::DOUBLE - sum({a})::DOUBLE * sum({b})::DOUBLE / nullif(count({a}), 0)::DOUBLE"
        return f"({product})::DECIMAL(38, 6)"

    return f"""
        WITH placed AS (
            SELECT *, epoch_us(event_time) AS us, us // {length} * {length} AS window_us,
                CASE site_id {sites} END AS outside
            FROM '{run.silver(DATASET.name)}'
        ), following AS (
            SELECT *, {before},
                coalesce(lead(window_us) OVER track <> window_us, true) AS is_last,
                CASE WHEN us - before_us <= {settings.max_gap_us} THEN us - before_us END AS step_us
            FROM placed WINDOW track AS (PARTITION BY robot_id ORDER BY us)
        ), steps AS (
            SELECT *, {metres("before_", "")} AS metres,
                CASE WHEN step_us IS NULL THEN NULL
                    WHEN metres >= {settings.min_step_m} THEN round(metres * 1e6)::BIGINT ELSE 0 END AS step_um,
                CASE WHEN outside IS NOT NULL THEN if(before_outside, coalesce(step_us, 0), 0) END AS outside_us,
                {begins("fault")} AS fault_begins, {begins("charging")} AS charge_begins,
                round(battery_v::DOUBLE * {_VOLT})::BIGINT AS volt,
                CASE WHEN coalesce(status <> 'charging', true) THEN volt END AS drained,
                CASE WHEN drained IS NOT NULL
                    THEN round((us - window_us) * ({_WINDOW}e0 / {length}))::BIGINT END AS time
            FROM following
        ), counted AS (
            SELECT *, sum(charge_begins) OVER (PARTITION BY robot_id ORDER BY us ROWS UNBOUNDED PRECEDING) AS discharge
            FROM steps
        ), parts AS (
            SELECT robot_id, window_us, site_id, status, discharge, count(*) AS samples, sum(step_us) AS step_us,
                sum(step_um) AS step_um, sum(outside_us) AS outside_us, sum(fault_begins) AS faults,
                sum(charge_begins) AS charges, count(volt) AS volts_n, sum(volt) AS volts, {of_status},
                max(step_um / step_us) AS top_speed_m_s, min(battery_v) AS battery_min_v, max(us) AS last_us,
                max(latitude) FILTER (is_last) AS latitude, max(longitude) FILTER (is_last) AS longitude,
                {centred("time", "drained")} AS time_volts, {centred("time", "time")} AS time_time,
                max(time) AS drained_last, avg(time) AS drained_time, avg(drained) AS drained_volts
            FROM counted GROUP BY ALL
        ), robots AS (
            SELECT robot_id, window_us, {sums}, max(top_speed_m_s) AS top_speed_m_s,
                min(battery_min_v) AS battery_min_v, max(last_us) AS last_us,
                arg_max({{latitude: latitude, longitude: longitude, status: status, site_id: site_id}}, last_us)
                    AS last,
                arg_max({{latest: drained_last, time: drained_time, volts: drained_volts}}, drained_last) AS drained,
                sum(time_volts)::DOUBLE / nullif(sum(time_time)::DOUBLE, 0) AS slope
            FROM parts GROUP BY ALL
        ), charges AS (
            SELECT *, slope / {_VOLT * minutes / 60} AS battery_slope_v_h,
                drained.volts + slope * (drained.latest - drained.time) - {settings.empty_voltage * _VOLT} AS left_over,
                CASE WHEN coalesce(last.status <> 'charging', true) AND slope < 0
                    THEN greatest(left_over, 0) / -slope * {minutes} END AS minutes_left
            FROM robots
        ), every AS (
            SELECT robot_id, window_us, 1 AS robots, {listed(_SUMS)}, top_speed_m_s, battery_min_v, battery_slope_v_h,
                minutes_left, last_us, last
            FROM charges UNION ALL BY NAME
            SELECT '{ALL}' AS robot_id, window_us, count(*)::INT AS robots, {sums},
                max(top_speed_m_s) AS top_speed_m_s, min(battery_min_v) AS battery_min_v,
                min(minutes_left) AS minutes_left, max(last_us) AS last_us
            FROM charges GROUP BY window_us
        )
        SELECT robot_id, make_timestamptz(window_us) AS window_start,
            make_timestamptz(window_us + {length}) AS window_end, last.site_id AS site_id, robots, samples,
            coalesce(step_us, 0) / 1e6 AS covered_seconds, coalesce(step_um, 0) / 1e6 AS distance_m,
            distance_m / nullif(covered_seconds, 0) AS mean_speed_m_s, top_speed_m_s,
            {listed(STATUSES, f"coalesce({{0}}_us, 0) / nullif({known}, 0) AS {{0}}_share")},
            volts / nullif(volts_n, 0) / {_VOLT} AS battery_mean_v, battery_min_v, battery_slope_v_h, minutes_left,
            outside_us / 1e6 AS outside_seconds, faults, charges, make_timestamptz(last_us) AS last_seen,
            last.latitude AS last_latitude, last.longitude AS last_longitude, last.status AS last_status
        FROM every"""
