"""A simulated energy meter: its register map, its physics, and a control socket to look into it.

| register | type | scale | what |
|---|---|---|---|
| input 0-1 | float32 | | voltage, V |
| input 2-3 | float32 | | current, A |
| input 4-5 | float32 | | power, W |
| input 6-7 | uint32 | 0.01 | energy, kWh |
| input 8 | int16 | 0.01 | frequency, Hz |
| input 9 | int16 | 0.1 | temperature, degrees C |
| input 10 | bits | | 0 running, 1 limited |
| holding 100 | uint16 | 0.1 | power limit, kW (written) |
| holding 110-117 | string | | serial number |
| coil 0 | | | relay (written) |
| discrete 0 | | | door open |
"""

import math
import struct
import time
from collections.abc import Callable

from edgeappliance.mappers.bench.slave import Table, Unit

LIMIT_REGISTER = 100
SERIAL_NUMBER = "EA-METER-0000017"


def words_of(packed: bytes) -> tuple[int, ...]:
    """Big-endian register words of packed bytes."""
    return struct.unpack(f">{len(packed) // 2}H", packed)


class Meter:
    """Voltage and load swing slowly; power is cut at the limit; energy only grows. `clock` gives seconds."""

    def __init__(self, number: int = 1, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = self._last = clock()
        self._energy_kwh = 1234.56
        self.unit = Unit(number, refresh=self._refresh)
        self.unit.fill(Table.HOLDING, LIMIT_REGISTER, [50])
        self.unit.fill(Table.HOLDING, 110, words_of(SERIAL_NUMBER.encode().ljust(16, b"\0")))
        self.unit.fill(Table.COIL, 0, [1])
        self.unit.fill(Table.DISCRETE, 0, [0])
        self._refresh(self.unit)

    @property
    def limit_kw(self) -> float:
        """The power limit as it stands in its register."""
        return self.unit.tables[Table.HOLDING][LIMIT_REGISTER] / 10

    def snapshot(self) -> dict[str, float | int | str]:
        """The register map as engineering values, by name."""
        self._refresh(self.unit)
        inputs = self.unit.tables[Table.INPUT]

        def real(address: int) -> float:
            packed = struct.pack(">HH", inputs[address], inputs[address + 1])
            return round(float(struct.unpack(">f", packed)[0]), 3)

        return {
            "voltage": real(0),
            "current": real(2),
            "power": real(4),
            "energy": round((inputs[6] << 16 | inputs[7]) * 0.01, 2),
            "frequency": round(inputs[8] * 0.01, 2),
            "temperature": round(struct.unpack(">h", struct.pack(">H", inputs[9]))[0] * 0.1, 1),
            "running": inputs[10] & 1,
            "limit": self.limit_kw,
            "serial": SERIAL_NUMBER,
            "relay": self.unit.tables[Table.COIL][0],
        }

    def _refresh(self, unit: Unit) -> None:
        now = self._clock()
        t, passed, self._last = now - self._started, now - self._last, now
        relay = unit.tables[Table.COIL][0]
        volts = 230.0 + 2.5 * math.sin(t / 7) + 0.4 * math.sin(t * 3)
        wanted = relay * (3200.0 + 900.0 * math.sin(t / 11))
        watts = min(wanted, self.limit_kw * 1000)
        self._energy_kwh += watts * passed / 3.6e6
        unit.fill(Table.INPUT, 0, words_of(struct.pack(">fff", volts, watts / volts, watts)))
        unit.fill(Table.INPUT, 6, words_of(struct.pack(">I", round(self._energy_kwh * 100))))
        unit.fill(Table.INPUT, 8, [round(5000 + 3 * math.sin(t / 5))])
        unit.fill(Table.INPUT, 9, words_of(struct.pack(">h", round(10 * (21.5 + 4 * math.sin(t / 60))))))
        unit.fill(Table.INPUT, 10, [relay | (watts < wanted) << 1])
