"""Journeys use the whole site."""

from collections.abc import AsyncIterator

import pytest

from tests.support.gateway_site import place, site
from tests.support.stand import Stand

__all__ = ["place", "site", "stand"]


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    """A site with nothing started yet."""
    async with Stand() as site:
        yield site
