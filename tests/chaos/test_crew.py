"""Processes that run jobs: what is told of one that hangs, has died, or stands still while something goes wrong."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.crew import Driver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with Driver(tmp_path / "driver.log", {}) as found:
        yield found


@pytest.fixture
def job(tmp_path: Path) -> tuple[str, ...]:
    """A job that needs no Spark."""
    return "status", "--lake", str(tmp_path / "lake")


def test_end__a_job_that_hangs_is_no_run_that_died(driver: Driver, job: tuple[str, ...]):
    driver.kill(signal.SIGSTOP)
    driver.begin(*job)
    with pytest.raises(TimeoutError, match=r"hung for 1 s; see .*driver\.log"):
        driver.end(1)
    ran = driver.run(*job)
    assert ran.died
    assert "driver.log" in ran.err


def test_run__what_goes_wrong_meanwhile_is_raised_and_the_job_woken(driver: Driver, job: tuple[str, ...]):
    driver.kill(signal.SIGSTOP)
    with pytest.raises(ZeroDivisionError):
        driver.run(*job, meanwhile=lambda: 1 / 0)
    assert driver.lives
    ran = driver.run(*job)
    assert (ran.code, ran.calls) == (0, {})
