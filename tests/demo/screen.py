"""What the demo prints: steps, and a table that is redrawn in place on a terminal and repeated elsewhere."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

_UNITS = {
    "voltage": "V",
    "current": "A",
    "power": "W",
    "energy": "kWh",
    "frequency": "Hz",
    "temperature": "°C",
    "limit": "kW",
}
_REGISTERS = {
    "voltage": "input 0-1 float32",
    "current": "input 2-3 float32",
    "power": "input 4-5 float32",
    "energy": "input 6-7 uint32",
    "frequency": "input 8 int16",
    "temperature": "input 9 int16",
    "limit": "holding 100 uint16",
}


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._drawn = 0
        self._steps = 0

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def _style(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._terminal else text

    def step(self, what: str, command: str) -> None:
        """A numbered step and the command a user would type for it."""
        self._drawn = 0
        self._steps += 1
        self._write(f"{self._style('1', f'{self._steps}. {what}')}\n   {self._style('36', command)}")

    def note(self, text: str) -> None:
        """What a command printed."""
        for line in text.rstrip().splitlines():
            self._write(f"   {line}")

    def say(self, text: str) -> None:
        self._drawn = 0
        self._write(text)

    def fail(self, text: str) -> None:
        self._write(self._style("31", f"the demo failed: {text}"))

    def hints(self, commands: Sequence[str]) -> None:
        """Lines to type in another terminal."""
        self._write(self._style("1", "in another terminal:"))
        for command in commands:
            self._write(f"   {command}")
        self._write("")

    def table(self, lines: Sequence[str]) -> None:
        """Draw, over the last drawing when on a terminal."""
        width = shutil.get_terminal_size().columns
        if self._terminal and self._drawn:
            sys.stdout.write(f"\033[{self._drawn}F\033[J")
        for line in lines:
            self._write(line[:width] if self._terminal else line)
        self._drawn = len(lines)


def live_table(registers: Mapping[str, Any], device_status: Mapping[str, Any], outcome: str) -> list[str]:
    """One line a property: its register, what stands in it, what the API shows, and how old that is."""
    status = device_status.get("status", {})
    twins = {twin["propertyName"]: twin for twin in status.get("twins", [])}
    lines = [
        f"device default/meter   state {status.get('state', '?')}   {time.strftime('%H:%M:%S')}",
        f"{'REGISTER':<20}{'PROPERTY':<13}{'IN REGISTER':>12}{'ON THE API':>12}  {'UNIT':<5}{'AGE':>6}  SET",
    ]
    for name, register in _REGISTERS.items():
        twin = twins.get(name, {})
        reported = twin.get("reported", {})
        stamp = reported.get("metadata", {}).get("timestamp")
        age = f"{max(0.0, time.time() - int(stamp) / 1000):.1f}s" if stamp else "?"
        desired = twin.get("observedDesired", {}).get("value", "")
        lines.append(
            f"{register:<20}{name:<13}{registers[name]:>12}{reported.get('value', '?'):>12}"
            f"  {_UNITS[name]:<5}{age:>6}  {desired}"
        )
    return [*lines, outcome] if outcome else lines
