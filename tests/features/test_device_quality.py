"""Gold of devices follows silver and quarantine: refused rows count until they are let pass; values are by hand."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime
from typing import Any

import pytest

from jobs import gold
from jobs.catalog import GOLD
from jobs.datasets import devices
from jobs.datasets.devices import DeviceSettings
from jobs.lake import cli, quarantine
from jobs.lake.cli import Context
from jobs.lake.replaying import Replay, Selection
from tests.datasets.test_devices import V1, messages
from tests.lake.conftest import Floor, killed_at

FIRST, SECOND, THIRD = (date(2026, 1, day) for day in (1, 2, 3))
Counts = dict[tuple[str, date], tuple[int, int]]


@pytest.fixture
def feed(lake: Context) -> Floor:
    return Floor(lake, devices.DATASET, DeviceSettings())


def arrive(feed: Floor, number: int, *sent: dict[str, Any], on: date = FIRST) -> None:
    """Messages that are sent at noon of some day, and arrive then."""
    noon = datetime(on.year, on.month, on.day, 12, tzinfo=UTC)
    payloads = [{**V1, "timestamp": noon.isoformat(), **fields} for fields in sent]
    feed.promote(feed.put(f"{number}.parquet", messages(*payloads, arrived=noon)), number=number)


def bring_up(feed: Floor, *settings: str) -> Counts:
    """Bring the table up; by device and day the rows accepted and refused, which a rebuild has as well."""
    context = cli.context(feed.context.lake.uri, "testing", settings)
    gold.bring_up(context, GOLD["device_quality"])
    found = counts(feed)
    gold.bring_up(context, GOLD["device_quality"], rebuild=True)
    assert counts(feed) == found
    return {key: value for key, value in found.items() if key[0] != "(all)"}


def counts(feed: Floor) -> Counts:
    rows = feed.rows("gold/device_quality")
    return {(row["device_id"], row["day"]): (row["rows"], row["refused"]) for row in rows}


def again(feed: Floor, settings: DeviceSettings) -> None:
    context = feed.context
    bounds = context.settings.silver
    replay = Replay(context.spark, context.lake, devices.DATASET, settings, bounds, context.run_id, Selection())
    assert len([*replay.replay()]) == 1


WET = {"humidity": 100.5}  # refused


def test_follow__days_that_have_only_refusals(feed: Floor):
    arrive(feed, 0, {}, {"device_id": "d-2", **WET})
    arrive(feed, 1, WET, on=SECOND)
    expected = {("d-1", FIRST): (1, 0), ("d-2", FIRST): (0, 1), ("d-1", SECOND): (0, 1)}
    assert bring_up(feed) == expected
    assert bring_up(feed, "tables.device_quality.fresh_seconds=60") == expected


def test_follow__refusals_that_come_before_all_rows(feed: Floor):
    arrive(feed, 0, WET)
    assert bring_up(feed) == {("d-1", FIRST): (0, 1)}
    arrive(feed, 1, {}, on=SECOND)
    assert bring_up(feed) == {("d-1", FIRST): (0, 1), ("d-1", SECOND): (1, 0)}


AHEAD = {"timestamp": "2026-01-03T12:00:00Z"}  # refused for its time, and so counted for the day of its arrival


@pytest.mark.parametrize("stopped", [False, True])
def test_follow__refusals_that_are_let_pass(feed: Floor, stopped: bool):
    arrive(feed, 0, {})
    arrive(feed, 1, AHEAD, on=SECOND)
    assert bring_up(feed) == {("d-1", FIRST): (1, 0), ("d-1", SECOND): (0, 1)}
    patient = DeviceSettings(future_tolerance_seconds=86_400)
    if stopped:
        with killed_at(quarantine, "settle"):
            again(feed, patient)
        bring_up(feed)
    again(feed, patient)
    assert bring_up(feed) == {("d-1", FIRST): (1, 0), ("d-1", THIRD): (1, 0)}


def test_follow__quarantine_that_is_removed(feed: Floor):
    arrive(feed, 0, {}, {"device_id": "d-2", **WET})
    bring_up(feed)
    shutil.rmtree(feed.context.lake.quarantine("devices"))
    assert bring_up(feed) == {("d-1", FIRST): (1, 0)}
