"""Counter-based random streams: the same seed gives the same numbers however the work is split.

A stream is named by what it is for (a dataset, an entity, a block), never by the order in which streams are
opened, so forty workers and one process draw the same numbers. The generator is Philox 4x64: J. K. Salmon,
M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11, 2011.
"""

from __future__ import annotations

import uuid
from hashlib import blake2b

import numpy as np

_NAMESPACE = uuid.UUID("5f0d6a3e-9c0f-5b1e-8a52-2f6c1f6d9b70")
_KEY_BYTES = 16  # Philox 4x64 takes a key of 128 bits


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """Open the stream named by a seed and a key.

    Args:
        seed: The seed of the run.
        *key: What the stream is for, such as ``("accelerometer", "noise", 3, 41)``. ``1`` and ``"1"`` name
            different streams.

    Returns:
        A generator at the start of its stream. Equal arguments give equal streams on every machine.
    """
    # repr of a tuple of str and int is unambiguous, and does not change between processes as hash() does.
    name = repr((int(seed), *key)).encode()
    digest = blake2b(name, digest_size=_KEY_BYTES).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def entity_id(seed: int, dataset: str, index: int) -> str:
    """Return the UUID (version 5, RFC 9562) of one entity of a simulated dataset.

    Args:
        seed: The seed of the run.
        dataset: The dataset's name.
        index: The entity's number, from 0.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{seed}/{dataset}/{index}"))
