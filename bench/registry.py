"""The stages, in the order that data flows: modules of ``bench.stages``, loaded when they are asked for."""

from __future__ import annotations

from importlib import import_module

from bench.stage import Stage

NAMES = ("simulate", "silver", "spectra", "kernel", "activity", "whole", "incremental")


def stage(name: str) -> Stage:
    """The ``STAGE`` of a module; it imports the peers that the stage has."""
    found: Stage = import_module(f"bench.stages.{name}").STAGE
    return found
