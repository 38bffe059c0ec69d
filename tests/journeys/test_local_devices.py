"""A gateway without any cloud: devices from files, values on MQTT, a bad file named and the others polled."""

import json
import re

import paho.mqtt.client as paho
import pytest

from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

METER = """
[[model]]
name = "meter"
[[model.properties]]
name = "voltage"
type = "FLOAT"
accessMode = "ReadOnly"
unit = "V"
visitors.configData = { register = "InputRegister", offset = 0, limit = 2, precision = 1 }
[[model.properties]]
name = "limit"
type = "FLOAT"
minimum = "0"
maximum = "10"
visitors.configData = { register = "HoldingRegister", offset = 100, limit = 1, scale = 0.1 }

[[device]]
name = "meter"
deviceModelRef.name = "meter"
protocol.protocolName = "modbus"
protocol.configData = { serialPort = "PORT", slaveID = 1, baudRate = 19200 }
properties = [
    { name = "voltage", collectCycle = 200 },
    { name = "limit", collectCycle = 200, desired.value = "6.5" },
]
"""


async def test_a_device_from_a_file_is_polled_set_and_changed(stand: Stand) -> None:
    folder = stand.directory / "mappers.d"
    folder.mkdir()
    (folder / "meter.toml").write_text(METER.replace("PORT", str(stand.serial)))
    (folder / "wrong.toml").write_text('[[device]]\nname = "x"\nprotocoll = 1\n')
    await stand.start_meter()
    await stand.start_edge(connected=False)

    async def shown() -> bool:
        _, out, _ = await stand.edgecore("devices", "default/meter")
        return bool(re.search(r"voltage +FLOAT +2\d\d(\.\d)? +V", out))

    await eventually(shown, what="the voltage in `edgecore devices`", timeout=20)

    async def in_register(value: float) -> bool:
        return bool((await stand.meter_registers())["limit"] == value)

    await eventually(lambda: in_register(6.5), what="the desired value of the file in the register")
    _, out, _ = await stand.edgecore("status")
    assert 'wrong.toml: device[0].protocoll: is not a known key; did you mean "protocol"?' in out

    # An app on MQTT sets the expected value; the register follows.
    app = paho.Client(paho.CallbackAPIVersion.VERSION2)
    app.connect("127.0.0.1", stand.mqtt_port)
    app.loop_start()
    update = {"twin": {"limit": {"expected": {"value": "2.5"}}}}
    app.publish("$hw/events/device/default/meter/twin/update", json.dumps(update)).wait_for_publish(5)
    await eventually(lambda: in_register(2.5), what="the app's set-point in the register")
    app.disconnect()
    app.loop_stop()

    # A removed file takes its device away.
    (folder / "meter.toml").unlink()

    async def gone() -> bool:
        return (await stand.edgecore("devices", "default/meter"))[0] == 1

    await eventually(gone, what="the device gone", timeout=15)
