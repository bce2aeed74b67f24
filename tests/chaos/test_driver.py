"""The points where a run can be made to die: each is there and counted, and is died at when its nth call is made."""

from __future__ import annotations

import pytest

from chaos import driver
from chaos.crew import Ran
from chaos.driver import POINTS, Death, place, watched


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened: the points do nothing but say that they were called, and who dies goes on."""
    found: list[str] = []
    monkeypatch.setattr(driver, "die", lambda how: found.append(how) or 0)
    for point in POINTS:
        monkeypatch.setattr(*place(point), lambda point=point: found.append(point))
    return found


def come_by(point: str) -> None:
    owner, name = place(point)
    getattr(owner, name)()


@pytest.mark.parametrize("point", POINTS)
def test_points__are_there(point: str):
    owner, name = place(point)
    assert callable(getattr(owner, name))


def test_watched__counts_the_calls_of_each_point_and_leaves_it_as_it_was(told: list[str]):
    before = [getattr(*place(point)) for point in POINTS]
    with watched(None) as calls:
        for number, point in enumerate(POINTS):
            for _ in range(number):
                come_by(point)
    assert calls == {point: number for number, point in enumerate(POINTS) if number}
    assert [getattr(*place(point)) for point in POINTS] == before


@pytest.mark.parametrize(
    ("when", "happened"),
    [
        ("before", ["ledger.record", "kill", "ledger.record", "ledger.record"]),
        ("after", ["ledger.record", "ledger.record", "kill", "ledger.record"]),
    ],
)
def test_watched__dies_at_one_call(told: list[str], when: str, happened: list[str]):
    with watched(Death("ledger.record", when, 2, "kill")):
        for _ in range(3):
            come_by("ledger.record")
    assert told == happened


def test_came_by__tells_who_ended_before_the_point():
    death = Death("ledger.record", "before", 2)
    assert Ran(None).came_by(death)
    assert Ran(143, calls={"ledger.record": 2}).came_by(death)
    assert not Ran(0, calls={"ledger.record": 1}).came_by(death)
    assert not Ran(0).came_by(death)
