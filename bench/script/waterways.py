"""Waterways: events per county over sliding windows, and what there is to fish in each county."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa

from bench.script.base import Run, first_of, listed, within
from jobs.datasets.waterways import DATASET, NAMES, OPTIONAL, WaterwaysSettings
from jobs.features.county_activity import ActivitySettings
from jobs.lake.tables import ALL

# DuckDB's regular expressions look neither ahead nor back; Python's do, and there are few texts.
_BETWEEN = {
    "species": re.compile(r"\s*(?:\*|\.(?=\s)|(?<=\s)-(?=[\s*]|$))\s*"),
    "access_types": re.compile(r"\s+-\s+"),
}


def bring_up(run: Run) -> int:
    """Make silver and gold; return the rows of silver."""
    rows = run.write(run.silver(DATASET.name), silver(run))
    run.write(run.gold("county_activity"), activity(run))
    run.write(run.gold("county_profile"), profile(run))
    return rows


def silver(run: Run) -> str:
    """Rows that pass, once each; a text is tidied up once, however many rows say it."""
    limits = WaterwaysSettings()
    texts = (*NAMES, *OPTIONAL)
    tidy = r"trim(regexp_replace({0}, '[\s\p{{Z}}]+', ' ', 'g')) AS {0}"
    return rf"""
        WITH said AS (
            SELECT DISTINCT {listed(texts)}, {listed(texts, "{0} AS raw_{0}")} FROM {run.bronze(DATASET.name)}
        ), tidy AS (
            SELECT * REPLACE ({listed(texts, tidy)}) FROM said
        ), clean AS (
            SELECT * REPLACE (
                array_to_string([upper(word[1]) || word[2:] FOR word IN string_split(lower(county), ' ')], ' ')
                    AS county,
                {listed(OPTIONAL, "CASE WHEN lower({0}) NOT IN ('', 'none') THEN {0} END AS {0}")})
            FROM tidy
        ), valid AS (
            SELECT * FROM clean
            WHERE regexp_matches(county, '^\p{{L}}') AND regexp_matches(waterbody_name, '\S')
        )
        SELECT event_id, event_time, {listed(texts, "valid.{0}")}, longitude, latitude, location
        FROM {run.bronze(DATASET.name)} AS bronze
        JOIN valid ON {" AND ".join(f"bronze.{name} IS NOT DISTINCT FROM raw_{name}" for name in texts)}
        WHERE regexp_full_match(event_id, '(?i)[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}')
            AND coalesce(event_time >= '{limits.earliest}' AND event_time < '{limits.latest}'
                AND event_time <= last_modified + to_seconds({limits.future_tolerance_seconds}), true)
            AND {within({"longitude": (limits.west, limits.east), "latitude": (limits.south, limits.north)})}
        {first_of(DATASET.key)}"""


def activity(run: Run) -> str:
    """Events per county and window, by panes."""
    settings = ActivitySettings()
    pane, length, slide = settings.pane_us, settings.window_us, settings.slide_us
    return f"""
        WITH panes AS (
            SELECT county, epoch_us(event_time) // {pane} * {pane} AS pane, waterbody_name, count(*) AS events
            FROM '{run.silver(DATASET.name)}' WHERE event_time IS NOT NULL GROUP BY ALL
        ), spread AS (
            SELECT county, waterbody_name, events,
                unnest(range((pane - {length}) // {slide} * {slide} + {slide}, pane + 1, {slide})) AS start
            FROM panes
        ), names AS (
            SELECT county, start, waterbody_name, sum(events) AS events FROM spread GROUP BY ALL
        ), every AS (
            SELECT * FROM names
            UNION ALL SELECT '{ALL}', start, waterbody_name, sum(events) FROM names GROUP BY ALL
        )
        SELECT county, make_timestamptz(start) AS window_start, make_timestamptz(start + {length}) AS window_end,
            sum(events)::BIGINT AS events, count(*) AS waterbodies,
            sum(events) * 60e0 / {settings.window_seconds} AS events_per_minute
        FROM every GROUP BY county, start"""


def profile(run: Run) -> str:
    """What is said of the places of each county, and of all counties."""
    run.db.execute(
        f"""CREATE OR REPLACE TEMP TABLE said AS
        WITH said AS (
            SELECT county, waterbody_name, longitude, latitude, fish_species AS species, access_types,
                special_regulations IS NOT NULL AS regulated, count(event_time) AS events, count(*) AS rows
            FROM '{run.silver(DATASET.name)}' GROUP BY ALL
        )
        FROM said UNION ALL SELECT * REPLACE ('{ALL}' AS county) FROM said"""
    )
    for kind, between in _BETWEEN.items():
        texts = run.db.execute(f"SELECT DISTINCT {kind} FROM said WHERE {kind} IS NOT NULL").fetchall()
        run.db.register(f"listed_{kind}", named((text for (text,) in texts), between))
    maps = listed(
        _BETWEEN,
        """{0} AS (
            SELECT county, map_from_entries(list({{name: name, waterbodies: waterbodies}} ORDER BY name)) AS {0} FROM (
                SELECT county, name, count(DISTINCT waterbody_name) AS waterbodies
                FROM said JOIN listed_{0} ON {0} = text GROUP BY ALL
            ) GROUP BY county
        )""",
    )
    centre = "sum(round_even({0} * 10000000, 0)::BIGINT) / count(*) / 10000000 AS {0}"
    return f"""
        WITH places AS (
            SELECT county, waterbody_name, longitude, latitude, bool_or(regulated) AS regulated,
                sum(events)::BIGINT AS events, sum(rows)::BIGINT AS rows
            FROM said GROUP BY ALL
        ), totals AS (
            SELECT county, sum(rows - events)::BIGINT AS listings, sum(events)::BIGINT AS events, count(*) AS places,
                count(DISTINCT waterbody_name) AS waterbodies,
                count_if(regulated) / count(*) AS special_regulations_share,
                {listed(("longitude", "latitude"), centre)}
            FROM places GROUP BY county
        ), {maps}
        SELECT * REPLACE (coalesce(species, map()) AS species, coalesce(access_types, map()) AS access_types)
        FROM totals LEFT JOIN species USING (county) LEFT JOIN access_types USING (county)"""


def named(texts: Iterable[str], between: re.Pattern[str]) -> pa.Table:
    """Text -> each name in it, in title case, in parentheses too."""
    pairs = []
    for text in texts:
        for name in between.split(text):
            words = name.strip(" ").replace("(", "( ").split(" ")
            pairs.append((text, " ".join(word[:1].upper() + word[1:].lower() for word in words).replace("( ", "(")))
    pairs = [(text, name) for text, name in pairs if name]
    return pa.table({"text": [text for text, _ in pairs], "name": [name for _, name in pairs]})
