"""Devices: messages decoded, and the quality of each device's days."""

from __future__ import annotations

from bench.script.base import Run, first_of, listed, within
from jobs.datasets.devices import DATASET, DeviceSettings
from jobs.features.device_quality import QualitySettings
from jobs.lake.tables import ALL

_MESSAGE = """{
    "device_id": "VARCHAR", "timestamp": "VARCHAR", "temperature": "FLOAT", "humidity": "FLOAT",
    "battery_level": "FLOAT", "firmware_version": "VARCHAR", "pressure": "FLOAT",
    "readings": {"temperature": "FLOAT"}, "location": {"lat": "DOUBLE", "lon": "DOUBLE"}
}"""
_ONLY_V2 = ["readings", "battery_level", "firmware_version", "location", "pressure"]
_BOTH = ("temperature", "humidity")
_SINCE_V2 = ("battery_level", "firmware_version", "latitude", "longitude", "pressure")


def bring_up(run: Run) -> int:
    """Make silver and gold; return the rows of silver."""
    rows = run.write(run.silver(DATASET.name), silver(run))
    run.write(run.gold("device_quality"), quality(run))
    return rows


def silver(run: Run) -> str:
    """Messages that pass, once each, by their version; what a version does not know is in ``extras``."""
    limits = DeviceSettings()
    required = {"temperature": limits.temperature_range, "humidity": limits.humidity_range}
    optional = {
        "battery_level": (0, 100),
        "pressure": limits.pressure_range,
        "latitude": (-90, 90),
        "longitude": (-180, 180),
    }
    # What is not materialized, DuckDB would parse again for every condition on it.
    return f"""
        WITH parsed AS MATERIALIZED (
            SELECT try(json_keys(payload, ['$', '$.readings', '$.location'])) AS names,
                try(json_transform(payload, '{_MESSAGE}')) AS message, payload, arrived_at,
                coalesce(arrived_at, last_modified) AS arrived, filename, file_row_number
            FROM {run.bronze(DATASET.name)}
        ), told AS MATERIALIZED (
            SELECT *, list_contains(names[1], 'temperature') AS has_temperature,
                list_has_any(names[1], {_ONLY_V2}) AS has_v2,
                CASE WHEN (has_temperature OR list_contains(names[1], 'humidity')) AND NOT has_v2 THEN 1
                    WHEN list_contains(names[1], 'readings') OR (has_v2 AND NOT has_temperature) THEN 2
                END AS schema_version,
                try_cast(message.timestamp AS BIGINT) AS number
            FROM parsed WHERE len(list_distinct(names[1])) = len(names[1])
        ), decoded AS (
            SELECT message.device_id AS device_id,
                CASE WHEN number IS NULL THEN try_cast(message.timestamp AS TIMESTAMPTZ)
                    WHEN number < 1e11 THEN make_timestamptz(number * 1000000)
                    WHEN number < 1e14 THEN make_timestamptz(number * 1000)
                    WHEN number < 1e17 THEN make_timestamptz(number)
                    ELSE make_timestamptz(number // 1000) END AS event_time,
                if(schema_version = 1, message.temperature, message.readings.temperature) AS temperature,
                message.humidity AS humidity, message.battery_level AS battery_level,
                message.firmware_version AS firmware_version, message.location.lat AS latitude,
                message.location.lon AS longitude, message.pressure AS pressure, schema_version,
                list_concat(
                    list_filter(names[1], lambda name: NOT list_contains({_ONLY_V2}, name) AND name NOT IN
                        ('device_id', 'timestamp', 'humidity', if(schema_version = 1, 'temperature', 'readings'))),
                    ['readings.' || name FOR name IN names[2] IF name <> 'temperature'],
                    ['location.' || name FOR name IN names[3] IF name NOT IN ('lat', 'lon')]) AS others,
                payload, arrived_at, arrived, filename, file_row_number
            FROM told WHERE schema_version IS NOT NULL
        )
        SELECT * EXCLUDE (others, payload, arrived_at, arrived, filename, file_row_number),
            CASE WHEN len(others) > 0
                THEN map(others, [json_extract_string(payload, '$.' || name) FOR name IN others]) END AS extras,
            arrived_at
        FROM decoded
        WHERE device_id IS NOT NULL AND event_time >= '{limits.earliest}'
            AND event_time <= arrived + to_seconds({limits.future_tolerance_seconds})
            AND {within(required)} AND {within(optional, optional=True)}
        {first_of(DATASET.key)}"""


def quality(run: Run) -> str:
    """One row a device and day, and one a day for all devices; nothing was refused."""
    settings = QualitySettings()
    present = " + ".join(f"({name} IS NOT NULL)::INT" for name in (*_BOTH, *_SINCE_V2))
    marks = ("score", "validity", "completeness", "continuity", "freshness")
    marked = [f"CASE WHEN {name} < {getattr(settings, f'minimum_{name}')} THEN '{name}' END" for name in marks]
    summed = ("rows", "present", "expected", "delays", "delay", "fresh", "gaps", "missing_rows")
    return f"""
        WITH steps AS (
            SELECT *, event_time::DATE AS day, epoch_us(arrived_at) - epoch_us(event_time) AS delay,
                epoch_us(event_time) - epoch_us(lag(event_time) OVER (
                    PARTITION BY device_id, event_time::DATE ORDER BY event_time)) AS step
            FROM '{run.silver(DATASET.name)}'
        ), sums AS (
            SELECT device_id, day, count(*) AS rows, list_sort(list(DISTINCT schema_version)) AS versions,
                min(event_time) AS first_event_time, max(event_time) AS last_event_time, median(step) AS usual,
                list(step) FILTER (step > 0) AS steps, sum({present}) AS present,
                sum(if(schema_version >= 2, {len(_BOTH) + len(_SINCE_V2)}, {len(_BOTH)})) AS expected,
                count(delay) AS delays, sum(delay) AS delay,
                count_if(delay <= {settings.fresh_seconds * 1e6}) AS fresh
            FROM steps GROUP BY ALL
        ), silences AS (
            SELECT * EXCLUDE (steps), [step FOR step IN steps IF step > usual * {settings.gap_intervals}] AS silences
            FROM sums
        ), devices AS (
            SELECT * EXCLUDE (usual, silences), usual / 1e6 AS interval_seconds, coalesce(len(silences), 0) AS gaps,
                coalesce(list_sum([round(step / usual) - 1 FOR step IN silences]), 0)::BIGINT AS missing_rows
            FROM silences
        ), every AS (
            FROM devices UNION ALL BY NAME
            SELECT '{ALL}' AS device_id, day, list_sort(list_distinct(flatten(list(versions)))) AS versions,
                min(first_event_time) AS first_event_time, max(last_event_time) AS last_event_time,
                {listed(summed, "sum({0})::BIGINT AS {0}")}
            FROM devices GROUP BY day
        ), shares AS (
            SELECT *, 0 AS refused, NULL::MAP(VARCHAR, BIGINT) AS refusals, delay / delays / 1e6 AS mean_delay_seconds,
                1e0 AS validity, present / expected AS completeness, rows / (rows + missing_rows) AS continuity,
                fresh / delays AS freshness,
                100 * validity * completeness * continuity * coalesce(freshness, 1) AS score
            FROM every
        )
        SELECT * EXCLUDE (present, expected, delays, delay, fresh),
            [mark FOR mark IN [{listed(marked)}] IF mark IS NOT NULL] AS marks
        FROM shares"""
