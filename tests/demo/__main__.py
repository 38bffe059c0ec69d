"""A Modbus register becomes a Device twin that kubectl shows, and a value set with kubectl reaches the register.

Starts the real programs on loopback, applies a DeviceModel and a Device with the real kubectl, shows a live table,
sets a desired value with kubectl, and shows it arrive. Exit code 0 only when every step worked. Leaves nothing running.
"""

import argparse
import asyncio
import signal
import sys
import time
from typing import Any

from tests.demo.screen import Screen, live_table
from tests.support.programs import KUBECTL, ProgramFailed
from tests.support.stand import Stand, eventually

SETPOINT_AFTER = 8.0
"""Seconds of live table before the set-point is written."""

SETPOINT = "3.5"
LIMIT_INDEX = 6
"""Place of `limit` among the Device's properties."""


def main() -> int:
    options = argparse.ArgumentParser(prog="make demo", description=__doc__)
    options.add_argument("--seconds", type=float, default=0, help="end by itself after this long (0: on Ctrl-C)")
    try:
        return asyncio.run(demo(options.parse_args().seconds))
    except KeyboardInterrupt:
        return 0


async def demo(seconds: float) -> int:
    """Run every step; 1 when one failed."""
    screen = Screen()
    asked_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_end.set)
    began = time.monotonic()
    try:
        async with Stand() as stand:
            await prepare(screen, stand)
            await watch(screen, stand, began, seconds, asked_to_end)
        screen.say("everything stopped, nothing left running")
    except (ProgramFailed, AssertionError, OSError) as error:
        screen.fail(str(error))
        return 1
    return 0


async def prepare(screen: Screen, stand: Stand) -> None:
    """From nothing to a Device on the API."""
    screen.step("simulated energy meter on a Modbus RTU line at 19200 baud", str(stand.serial))
    await stand.start_meter()
    screen.step("cloudgateway with its embedded Kubernetes API", f"cloudgateway run --embedded {stand.api_directory}")
    await stand.start_gateway()
    screen.step("edgecore joins with a token", "cloudgateway token create; edgecore join --cloud ... --token ...")
    screen.note(await stand.join())
    screen.step("edgecore with its own MQTT broker", "edgecore run")
    await stand.start_edge()

    async def node_ready() -> bool:
        conditions = (await stand.get("node", stand.node)).get("status", {}).get("conditions", [])
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    await eventually(node_ready, what="node Ready")
    screen.step("the appliance is a node", "kubectl get nodes")
    screen.note(await stand.kubectl("get", "nodes"))
    screen.step("a DeviceModel and a Device", "kubectl apply -f tests/demo/meter.yaml")
    screen.note(await stand.kubectl("apply", "-f", "-", stdin=stand.manifest()))

    async def all_reported() -> bool:
        twins = await stand.twins()
        return len(twins) >= 7 and all(twin["reported"]["value"] for twin in twins.values())

    await eventually(all_reported, what="every property reported")


async def watch(screen: Screen, stand: Stand, began: float, seconds: float, asked_to_end: asyncio.Event) -> None:
    """The live table, with the set-point in the middle."""
    screen.hints(
        [
            f"export KUBECONFIG={stand.kubeconfig}   PATH={KUBECTL.rsplit('/', 1)[0]}:$PATH",
            "kubectl get nodes,devices,devicemodels,devicestatuses",
            "kubectl get devicestatus meter -o yaml",
            f"kubectl patch device meter --type json -p '{setpoint_patch('4.2')}'",
        ]
    )
    set_at = time.monotonic() + min(SETPOINT_AFTER, seconds / 3 if seconds else SETPOINT_AFTER)
    outcome = ""
    while not asked_to_end.is_set() and (not seconds or time.monotonic() - began < seconds or not outcome):
        if not outcome and time.monotonic() >= set_at:
            outcome = await set_point(screen, stand)
        screen.table(live_table(await stand.meter_registers(), await stand.get("devicestatus", "meter"), outcome))
        try:
            async with asyncio.timeout(1.0):
                await asked_to_end.wait()
        except TimeoutError:
            continue
    if not outcome and not asked_to_end.is_set():
        raise AssertionError("the set-point was never written")


def setpoint_patch(value: str) -> str:
    return f'[{{"op":"replace","path":"/spec/properties/{LIMIT_INDEX}/desired/value","value":"{value}"}}]'


async def set_point(screen: Screen, stand: Stand) -> str:
    """Set the power limit with kubectl and wait until it is in the register and back as reported; what happened."""
    screen.step(f"set the power limit to {SETPOINT} kW", "kubectl patch device meter --type json -p ...")
    began = time.monotonic()
    await stand.kubectl("patch", "device", "meter", "--type", "json", "-p", setpoint_patch(SETPOINT))

    async def in_register() -> bool:
        return (await stand.meter_registers())["limit"] == float(SETPOINT)

    await eventually(in_register, what="the set-point in the register", every=0.02)
    arrived = time.monotonic() - began

    async def reported() -> bool:
        twin: dict[str, Any] = (await stand.twins()).get("limit", {})
        return twin.get("reported", {}).get("value") == SETPOINT

    await eventually(reported, what="the set-point reported back")
    back = time.monotonic() - began
    return (
        f"limit set to {SETPOINT} kW with kubectl: in the register after {arrived:.2f} s, reported after {back:.2f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
