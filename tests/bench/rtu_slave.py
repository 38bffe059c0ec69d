"""The slave's side of rtu-cycle: a paced line in a process of its own that measures the cycles it is asked for.

``python -m tests.bench.rtu_slave LINK BAUD REGISTERS``; ends when stdin does, and prints what it saw as JSON.
"""

import json
import os
import sys
import time
from contextlib import suppress

from edgeappliance.mappers.bench.faults import Fault
from edgeappliance.mappers.bench.rtu_line import RtuLine
from edgeappliance.mappers.bench.slave import Table, Unit

CHANGING = 10
"""Registers that differ each time they are read, so that the mapper has something to publish."""


def main(link: str, baud: int, registers: int) -> None:
    arrivals: list[tuple[float, int]] = []
    reads = 0

    def refresh(unit: Unit) -> None:
        nonlocal reads
        reads += 1
        unit.fill(Table.HOLDING, 0, [reads] * CHANGING)

    def note(_unit: int, pdu: bytes) -> Fault | None:
        arrivals.append((time.monotonic(), int.from_bytes(pdu[1:3], "big")))
        return None

    unit = Unit(1, refresh=refresh)
    unit.fill(Table.HOLDING, 0, range(registers))
    # A real slave is not slowed down by what else the machine does.
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    line = RtuLine([unit], link=link, baud=baud, faults=note, spin=True)
    with line:
        print("ready", flush=True)
        sys.stdin.read()
    print(json.dumps({"arrivals": arrivals, "early": line.figures.early, "broken": line.figures.broken}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
