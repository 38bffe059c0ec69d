"""rtu-cycle: how close the poll cycle of an RTU device comes to what the wire allows.

The whole mapper runs (planner, scheduler, decoding, filters, publishing to a bus in memory); the slave runs in a
process of its own and measures the cycles it is asked for. Wire time counts 11 bits a character and t3.5 before
and after every answer; the slave answers at once. A cycle shorter than wire time means that the line cheats.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from edgeappliance.mappers.bench.rtu_line import character_time, silence_time
from tests.bench.figure import figure
from tests.support.fieldbus import running_mappers, spec_of

TARGETS = {9600: 1.03, 19200: 1.05, 115200: 1.10}
REGISTERS = (100, 240)
SECONDS = 12.0
LONGEST_REQUEST = 125
_QUERY, _ANSWER = 8, 5


def wire_time(registers: int, baud: int) -> float:
    """Seconds that reading `registers` takes on the wire with the fewest requests there can be."""
    requests = -(-registers // LONGEST_REQUEST)
    characters = requests * (_QUERY + _ANSWER) + 2 * registers
    return characters * character_time(baud) + requests * 2 * silence_time(baud)


@asynccontextmanager
async def slave(link: Path, baud: int, registers: int) -> AsyncIterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.rtu_slave", str(link), str(baud), str(registers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


async def cycles(baud: int, registers: int, seconds: float) -> dict[str, Any]:
    """What the slave saw while the mapper polled `registers` properties as fast as it could."""
    with tempfile.TemporaryDirectory() as directory:
        link = Path(directory) / "tty"
        config = {"slaveID": 1, "serialPort": str(link), "baudRate": baud, "parity": "even"}
        properties = {
            f"r{address}": {"register": "HoldingRegister", "offset": address, "type": "INT", "cycle": 1}
            for address in range(registers)
        }
        async with slave(link, baud, registers) as process:
            async with running_mappers(spec_of("meter", config, properties)) as (_, bus):
                await bus.until(lambda: bus.value("default/meter", f"r{registers - 1}"))
                await asyncio.sleep(seconds)
                published = sum(len(body["twin"]) for topic, body in bus.messages if topic.endswith("/twin/update"))
            output, _ = await asyncio.to_thread(process.communicate, "")
            return {**json.loads(output), "published": published}


async def measure(baud: int, registers: int, seconds: float = SECONDS) -> tuple[float, bool, str]:
    """(cycle over wire time, whether the line was kept to, how it was measured)."""
    seen = await cycles(baud, registers, seconds)
    first = seen["arrivals"][0][1]
    begins = [moment for moment, start in seen["arrivals"] if start == first][1:]
    lengths = [after - before for before, after in pairwise(begins)]
    wire = wire_time(registers, baud)
    how = (
        f"{registers} registers, {baud} baud: {len(lengths)} cycles of {1000 * mean(lengths):.2f} ms mean, "
        f"{1000 * median(lengths):.2f} ms median, "
        f"{1000 * max(lengths):.2f} ms longest, wire time {1000 * wire:.2f} ms; {seen['published']} values published, "
        f"{seen['early']} frames too early, {seen['broken']} broken"
    )
    ratio = mean(lengths) / wire
    return ratio, ratio >= 1.0 and not seen["early"] and not seen["broken"], how


async def main() -> int:
    """Exit code 1 when cycles were shorter than wire time or frames too early: nothing was measured then."""
    sound = True
    for baud, target in TARGETS.items():
        for registers in REGISTERS:
            ratio, kept, how = await measure(baud, registers)
            sound = sound and kept
            figure("rtu-cycle", ratio, "x wire time", target=target if kept else 0.0, how=how)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
