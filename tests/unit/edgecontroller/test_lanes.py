"""Requests of nodes in their lanes."""

import asyncio

from cloudgateway.edgecontroller.lanes import Lanes
from edgeappliance.kernel.supervisor import TaskScope


async def test_one_object_in_order_others_side_by_side(scope: TaskScope) -> None:
    lanes = Lanes(scope)
    order: list[str] = []
    gate, done = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        await gate.wait()
        order.append("a1")

    async def quick(name: str) -> None:
        order.append(name)
        if name == "a2":
            done.set()

    await lanes.submit("n", "a", slow)
    await lanes.submit("n", "a", lambda: quick("a2"))
    await lanes.submit("n", "b", lambda: quick("b1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["b1"]
    gate.set()
    await asyncio.wait_for(done.wait(), 5)
    assert order == ["b1", "a1", "a2"]


async def test_a_node_with_too_much_waits_and_no_other(scope: TaskScope) -> None:
    lanes = Lanes(scope, depth=2)
    gate = asyncio.Event()
    finished = 0

    async def work() -> None:
        nonlocal finished
        await gate.wait()
        finished += 1

    await lanes.submit("n", "a", work)
    await lanes.submit("n", "b", work)
    third = scope.spawn(lanes.submit("n", "c", work), name="third")
    await asyncio.wait_for(lanes.submit("other", "a", work), 5)
    assert not third.done()
    assert lanes.load == 3
    gate.set()
    await asyncio.wait_for(third, 5)
    while lanes.load:
        await asyncio.sleep(0)
    assert finished == 4
