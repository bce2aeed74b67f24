"""The registry: a simulated dataset is a line."""

from __future__ import annotations

from typing import Any

from sim.accelerometer import ACCELEROMETER
from sim.base import Simulator
from sim.turbofan import TURBOFAN

SIMULATORS: dict[str, Simulator[Any]] = {simulator.name: simulator for simulator in (ACCELEROMETER, TURBOFAN)}
