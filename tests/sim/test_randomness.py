"""Streams are named by what they are for, and by nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from hashlib import blake2b

import numpy as np
import pytest

from sim.randomness import entity_id, generator


def test_generator__is_philox_keyed_by_a_hash_of_its_name():
    key = int.from_bytes(blake2b(b"(7, 'engine', 3)", digest_size=16).digest(), "little")
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal(100)
    np.testing.assert_array_equal(generator(7, "engine", 3).standard_normal(100), expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((7, "a"), (8, "a")),
        ((7, "a", 1), (7, "a", "1")),
        ((7, "a", 11), (7, "a1", 1)),
        ((7, "a"), (7, "a", 0)),
    ],
)
def test_generator__different_names_are_different_streams(one: tuple, other: tuple):
    assert generator(*one).integers(2**63) != generator(*other).integers(2**63)


def test_generator__streams_are_uncorrelated():
    streams = np.array([generator(0, "noise", block).standard_normal(4000) for block in range(50)])
    correlations = np.corrcoef(streams)[np.triu_indices(50, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)


def test_generator__is_the_same_in_another_process():
    code = "from sim.randomness import generator; print(generator(7, 'a', 1).integers(2**63))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(printed.stdout) == generator(7, "a", 1).integers(2**63)


def test_entity_id__is_a_uuid_of_its_own_for_every_entity():
    names = [(seed, name, i) for seed in (0, 1) for name in ("fleet", "devices") for i in range(500)]
    identities = [entity_id(*name) for name in names]
    assert len(set(identities)) == len(names)
    assert all(uuid.UUID(identity).version == 5 for identity in identities)
    assert identities == [entity_id(*name) for name in names]
