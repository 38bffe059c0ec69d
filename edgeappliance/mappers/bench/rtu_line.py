"""A serial line as a pty with slaves on it, paced in software to the times of a real wire.

A pty hands a whole frame over at once. The line therefore computes when each byte would have passed: a request
ends its length in character times after it was written; the slave sees its end 3.5 characters later; the bytes
of the answer come one character time after the other. Units that are not on the line are answered by silence.
"""

import os
import random
import select
import threading
import time
import tty
from collections.abc import Iterable
from dataclasses import dataclass

from edgeappliance.mappers.bench.faults import Fault, FaultKind, FaultPlan, apply_pdu
from edgeappliance.mappers.bench.slave import Unit, crc16, request_size

BITS_PER_CHARACTER = 11
_STEP_S = 0.004
_SPIN_S = 0.0004


def character_time(baud: int) -> float:
    """Seconds of one character of 11 bits."""
    return BITS_PER_CHARACTER / baud


def silence_time(baud: int) -> float:
    """t3.5 in seconds: 3.5 characters, 1.75 ms above 19 200 baud (Modbus over Serial Line V1.02, 2.5.1.1)."""
    return 0.00175 if baud > 19200 else 3.5 * character_time(baud)


@dataclass(slots=True)
class LineFigures:
    """Counters of a line. `early` counts requests that began before the silence after an answer was over."""

    requests: int = 0
    answers: int = 0
    foreign: int = 0
    broken: int = 0
    early: int = 0


class RtuLine:
    """Slaves on a pty that is linked at `link`. `baud` 0 answers as fast as it can.

    `spin` burns the last fraction of a millisecond of each answer, for measurements.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        *,
        link: str,
        baud: int = 9600,
        delay_s: float = 0.0,
        faults: FaultPlan | None = None,
        spin: bool = False,
    ) -> None:
        self.units = {unit.number: unit for unit in units}
        self.link = link
        self.baud = baud
        self.delay_s = delay_s
        self.faults = faults
        self.figures = LineFigures()
        self._spin = spin
        self._character = character_time(baud) if baud else 0.0
        self._silence = silence_time(baud) if baud else 0.0
        self._random = random.Random(0)  # noqa: S311 - noise that is the same in every run
        self._thread: threading.Thread | None = None
        self._master = self._slave = self._stop_r = self._stop_w = -1
        self._busy_until = 0.0

    def plug(self) -> None:
        """Make the pty and answer on it from a thread of its own."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._master)
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        temporary = f"{self.link}.new"
        os.symlink(os.ttyname(self._slave), temporary)
        os.replace(temporary, self.link)
        self._stop_r, self._stop_w = os.pipe()
        self._thread = threading.Thread(target=self._serve, name=f"bench {self.link}", daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Take the pty away as a pulled USB adapter would; `plug` makes a new one."""
        if self._thread is None:
            return
        os.write(self._stop_w, b"x")
        self._thread.join()
        self._thread = None
        for descriptor in (self._master, self._slave, self._stop_r, self._stop_w):
            os.close(descriptor)
        if os.path.islink(self.link):
            os.unlink(self.link)

    def __enter__(self) -> "RtuLine":
        self.plug()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.unplug()

    def _serve(self) -> None:
        buffer = b""
        patience: float | None = None
        while True:
            ready, _, _ = select.select([self._master, self._stop_r], [], [], patience)
            now = time.monotonic()
            if self._stop_r in ready:
                return
            if not ready:
                # A frame that does not go on is noise, as on a real line.
                self.figures.broken += 1
                buffer, patience = b"", None
                continue
            if not buffer and now < self._busy_until + self._silence:
                self.figures.early += 1
            buffer += os.read(self._master, 1024)
            size = request_size(buffer)
            if size is None:
                self.figures.broken += 1
                buffer = b""
            elif size and len(buffer) >= size:
                frame, buffer = buffer[:size], buffer[size:]
                self._request(frame, now)
            patience = max(0.02, 4 * self._character) if buffer else None

    def _request(self, frame: bytes, arrived: float) -> None:
        self.figures.requests += 1
        if crc16(frame[:-2]) != frame[-2:]:
            self.figures.broken += 1
            return
        number, pdu = frame[0], frame[1:-2]
        ended = arrived + len(frame) * self._character
        self._busy_until = ended
        if number == 0:
            for unit in self.units.values():
                unit.answer(pdu)
            return
        asked = self.units.get(number)
        if asked is None:
            self.figures.foreign += 1
            return
        fault = self.faults(number, pdu) if self.faults else None
        response = apply_pdu(fault, pdu, asked.answer(pdu))
        if response is None:
            return
        late = fault.value if fault and fault.kind is FaultKind.LATE else 0.0
        if self._wait(ended + self._silence + self.delay_s + late):
            self._send(self._frame(number, response, fault))
            self.figures.answers += 1

    def _frame(self, number: int, response: bytes, fault: Fault | None) -> bytes:
        if fault and fault.kind is FaultKind.FOREIGN:
            number += 1
        frame = bytes([number]) + response
        frame += crc16(frame)
        if fault and fault.kind is FaultKind.CRC:
            frame = frame[:-1] + bytes([frame[-1] ^ 0x5A])
        if fault and fault.kind is FaultKind.GARBAGE:
            frame = self._random.randbytes(int(fault.value) or 3) + frame
        return frame

    def _send(self, frame: bytes) -> None:
        """Write each byte when its character time is over, several at once where the clock is coarser."""
        start, sent = time.monotonic(), 0
        while sent < len(frame):
            if self._character:
                passed = int((time.monotonic() - start) / self._character)
                if passed <= sent:
                    ahead = max(1, int(_STEP_S / self._character))
                    if not self._wait(start + min(len(frame), sent + ahead) * self._character):
                        return
                    continue
            else:
                passed = len(frame)
            # Before the write: being descheduled after it must not make the master look hasty.
            self._busy_until = time.monotonic()
            try:
                sent += os.write(self._master, frame[sent:passed])
            except BlockingIOError:
                if not self._wait(time.monotonic() + 0.001):
                    return

    def _wait(self, until: float) -> bool:
        """Sleep to `until`; False when the line was unplugged meanwhile."""
        while (left := until - time.monotonic()) > 0:
            if self._spin and left < _SPIN_S:
                continue
            if left > 0.02:
                if select.select([self._stop_r], [], [], left - 0.01)[0]:
                    return False
            else:
                time.sleep(left - _SPIN_S / 2 if self._spin else left)
        return True
