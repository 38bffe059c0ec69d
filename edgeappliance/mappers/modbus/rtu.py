"""Modbus RTU on a serial port: one transaction at a time, with every reply checked.

Own transactions in place of pymodbus's client, which takes a late answer as the answer to the next request,
repeats silent requests, and closes the port when a unit is dead.
"""

import errno
import os
import termios
import time
from dataclasses import dataclass

import serial

from edgeappliance.mappers.driver import BadAnswer, LineDown, NoAnswer
from edgeappliance.mappers.modbus.exchange import ModbusDriver
from edgeappliance.mappers.modbus.owed import OwedAnswers, Verdict
from edgeappliance.mappers.modbus.pdu import Request, crc16
from edgeappliance.mappers.modbus.rtu_frames import ReplyBuffer
from edgeappliance.mappers.modbus.settings import SerialSettings
from edgeappliance.mappers.modbus.waiting import Waiter

_GAP_S = 0.05
"""A frame that pauses this long is over: USB adapters hand bytes over every 16 ms."""
_DRAIN_AT_MOST_S = 0.5
_WAKE_EARLY_S = 0.003
_PROBES = 3
_PTY_MAJORS = range(136, 144)
_NOBODY = -1


@dataclass(slots=True)
class RtuFigures:
    """What came over the line besides proper answers."""

    late: int = 0
    foreign: int = 0
    probes: int = 0


class RtuDriver(ModbusDriver):
    """Implements `mappers.driver.Driver`."""

    punctual = True

    def __init__(self, settings: SerialSettings) -> None:
        super().__init__()
        self.settings = settings
        self.figures = RtuFigures()
        self._waiter = Waiter()
        self._port: serial.Serial | None = None
        self._fd = -1
        self._free_at = 0.0
        self._noisy = True
        self._owed: dict[int, OwedAnswers] = {}
        self._gap = max(_GAP_S, 20 * settings.character_time)

    def open(self) -> None:
        """Open the port for this process alone. Raises LineDown."""
        settings = self.settings
        try:
            self._port = serial.Serial(
                settings.port,
                settings.baud,
                bytesize=settings.data_bits,
                parity="N" if _is_pty(settings.port) else settings.parity,
                stopbits=settings.stop_bits,
                timeout=0,
                exclusive=True,
            )
        except termios.error as error:
            raise LineDown(f"{settings.port}: does not take these line settings ({error.args[-1]})") from None
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise LineDown(f"{settings.port}: {_why(error)}") from None
        self._fd = self._port.fileno()
        self._waiter.watch(self._fd)
        self._noisy = True
        self._owed.clear()

    def close(self) -> None:
        """Close the port."""
        self._waiter.watch(-1)
        self._fd = -1
        if self._port is not None:
            port, self._port = self._port, None
            try:
                port.close()
            except OSError:
                pass  # the device is gone already

    def cancel(self) -> None:
        """End a wait in another thread."""
        self._waiter.stop()

    def dispose(self) -> None:
        """Release the waiter's descriptors."""
        self._waiter.close()

    def _exchange(self, unit: int, request: Request, timeout: float) -> bytes:
        owed = self._owed.setdefault(unit, OwedAnswers())
        for _ in range(_PROBES):
            if not owed.ambiguous(request, time.monotonic()):
                break
            self.figures.probes += 1
            self._transact(unit, owed.probe(request), owed, timeout)
        else:
            raise BadAnswer(f"unit {unit} still owes answers to earlier requests")
        return self._transact(unit, request, owed, timeout)

    def _transact(self, unit: int, request: Request, owed: OwedAnswers, timeout: float) -> bytes:
        self._make_quiet()
        frame = bytes([unit]) + request.pdu
        frame += crc16(frame)
        sent = time.monotonic()
        self._send(frame)
        ended = sent + len(frame) * self.settings.character_time
        self._free_at = ended + self.settings.silence
        try:
            return self._reply(unit, request, owed, deadline=ended + timeout, timeout=timeout)
        except (NoAnswer, BadAnswer):
            owed.owe(request, time.monotonic())
            self._noisy = True
            raise

    def _reply(self, unit: int, request: Request, owed: OwedAnswers, *, deadline: float, timeout: float) -> bytes:
        buffer = ReplyBuffer(unit, request.function)
        longest = deadline + 2 * 256 * self.settings.character_time + self._gap
        while True:
            now = time.monotonic()
            patience = self._gap if len(buffer) else deadline - now
            if now > longest or not self._receive(buffer, patience):
                if self._waiter.stopped:
                    raise LineDown("the mapper stops")
                # The front may be noise that looks like a long frame, with the answer behind it.
                frame = buffer.take(final=True)
                if frame is None:
                    raise self._failure(unit, len(buffer), timeout)
            else:
                frame = buffer.take()
            while frame is not None:
                if self._is_answer(frame, unit, request, owed):
                    return frame[1]
                frame = buffer.take()

    def _is_answer(self, frame: tuple[int, bytes], unit: int, request: Request, owed: OwedAnswers) -> bool:
        """Judge a valid frame; False when it is not for us. Raises BadAnswer."""
        sender, reply = frame
        if sender != unit:
            self._stray(sender, reply)
            return False
        verdict = owed.judge(request, reply, time.monotonic())
        if verdict is Verdict.ANSWER:
            return True
        if verdict is Verdict.AMBIGUOUS:
            raise BadAnswer(f"an exception from unit {unit} that may belong to an earlier request")
        if verdict is Verdict.WRONG:
            raise BadAnswer(f"unit {unit} answered {len(reply)} bytes in place of {request.size}")
        if verdict is Verdict.LATE:
            self.figures.late += 1
        else:
            self.figures.foreign += 1
        return False

    def _stray(self, sender: int, reply: bytes) -> None:
        owed = self._owed.get(sender)
        if owed is not None and owed.came(reply):
            self.figures.late += 1
        else:
            self.figures.foreign += 1

    def _failure(self, unit: int, received: int, timeout: float) -> NoAnswer | BadAnswer:
        if received:
            return BadAnswer(f"unit {unit}: {received} bytes that are no valid frame (noise, or wrong line settings)")
        return NoAnswer(f"no answer from unit {unit} within {round(timeout * 1000)} ms")

    def _receive(self, buffer: ReplyBuffer, seconds: float) -> bool:
        """Take what has come, waiting up to `seconds` for it; False when nothing came."""
        if len(buffer):
            # One wake-up near the end of the frame in place of one for every few bytes.
            nap = buffer.missing() * self.settings.character_time - _WAKE_EARLY_S
            if nap > _WAKE_EARLY_S:
                time.sleep(nap)
        if not self._waiter.readable(seconds):
            return False
        data = self._read()
        self._free_at = time.monotonic() + self.settings.silence
        buffer.feed(data)
        return True

    def _read(self) -> bytes:
        try:
            data = os.read(self._fd, 512)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LineDown(f"{self.settings.port}: {_why(error)}") from None
        if not data:
            raise LineDown(f"{self.settings.port}: unplugged")
        return data

    def _send(self, frame: bytes) -> None:
        while frame:
            try:
                frame = frame[os.write(self._fd, frame) :]
            except BlockingIOError:
                if not self._waiter.writable(self._fd, 1.0):
                    raise LineDown(f"{self.settings.port}: does not take data") from None
            except OSError as error:
                raise LineDown(f"{self.settings.port}: {_why(error)}") from None

    def _make_quiet(self) -> None:
        """Wait for the silence before a frame; throw away what still comes in after a failure."""
        if not self._noisy:
            self._waiter.sleep_until(self._free_at)
            if not self._waiter.readable(0):
                return
        leftover = ReplyBuffer(_NOBODY, 0)
        until = time.monotonic() + _DRAIN_AT_MOST_S
        while self._waiter.readable(self.settings.silence) and time.monotonic() < until:
            if self._waiter.stopped:
                raise LineDown("the mapper stops")
            leftover.feed(self._read())
            self._free_at = time.monotonic() + self.settings.silence
            while (frame := leftover.take()) is not None:
                self._stray(*frame)
        self._noisy = False
        self._waiter.sleep_until(self._free_at)


def _is_pty(port: str) -> bool:
    """A pty has no wire and no parity: asked for it, it says so with an error or not, as it pleases."""
    return os.major(os.stat(port).st_rdev) in _PTY_MAJORS


def _why(error: Exception) -> str:
    """The operating system's words without pyserial's wrapping."""
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EBUSY):
        return "in use by another program, or by us under another name of the port"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
