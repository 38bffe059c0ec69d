"""Faults are random, and their seed is printed: FAULT_SEED repeats a run, FAULT_ROUNDS makes it longer."""

import os
import random
from collections.abc import AsyncIterator

import pytest

from tests.support.stand import Stand

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "6"))
"""Kills of each kind in CI; `make faults` does 200."""


@pytest.fixture
def dice() -> random.Random:
    """Randomness with a printed seed."""
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(2**32)))
    print(f"FAULT_SEED={seed} FAULT_ROUNDS={ROUNDS}")
    return random.Random(seed)


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    """A site with nothing started yet."""
    async with Stand() as site:
        yield site
