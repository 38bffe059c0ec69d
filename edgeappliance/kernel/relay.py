"""Carrying bytes between two pipes, and doing two things until the first of them ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from edgeappliance.kernel.duplex import Duplex


async def first_of(*works: Coroutine[Any, Any, None], name: str) -> None:
    """Run all until the first ends, then cancel the others and wait for them. Raises what the first raised."""
    tasks = [asyncio.create_task(work, name=f"{name}-{index}") for index, work in enumerate(works)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if task in done:
            task.result()


async def relay(one: Duplex, other: Duplex) -> None:
    """Carry bytes both ways until either side ends or breaks, then close both. Never raises."""
    try:
        await first_of(_carry(one, other), _carry(other, one), name="relay")
    finally:
        try:
            await one.close()
        finally:  # also when we are cancelled once more while the first one closes
            await other.close()


async def _carry(source: Duplex, target: Duplex) -> None:
    try:
        while data := await source.read():
            await target.write(data)
    except OSError:
        return  # broken: the same as ended, for who waits on the other side
