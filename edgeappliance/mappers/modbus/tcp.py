"""Modbus TCP: transactions carry a number, so a late answer can be told from the one that is waited for."""

import errno
import os
import socket
import struct
import time
from typing import Any

from edgeappliance.mappers.driver import BadAnswer, LineDown, NoAnswer
from edgeappliance.mappers.modbus.exchange import ModbusDriver
from edgeappliance.mappers.modbus.pdu import Request, exception_of
from edgeappliance.mappers.modbus.settings import TcpSettings
from edgeappliance.mappers.modbus.waiting import Waiter

_HEADER = struct.Struct(">HHHB")
_LONGEST_PDU = 253
_CONNECT_TIMEOUT_S = 3.0
_SILENCES_TO_RECONNECT = 3
"""A half-open connection looks like silent units; a new one costs little."""


class _Closed(Exception):
    """The connection is over."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TcpDriver(ModbusDriver):
    """Implements `mappers.driver.Driver`; the connection is the line."""

    punctual = False

    def __init__(self, settings: TcpSettings) -> None:
        super().__init__()
        self.settings = settings
        self.late = 0
        self._waiter = Waiter()
        self._socket: socket.socket | None = None
        self._transaction = 0
        self._silences = 0
        self._buffer = b""

    def open(self) -> None:
        """Connect. Raises LineDown."""
        try:
            self._socket = self._connected()
        except (OSError, UnicodeError) as error:  # a name that is none is a UnicodeError
            raise LineDown(f"{self._where}: {_why(error)}") from None
        self._waiter.watch(self._socket.fileno())
        self._silences = 0
        self._buffer = b""

    def close(self) -> None:
        """Close the connection."""
        self._waiter.watch(-1)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def cancel(self) -> None:
        """End a wait in another thread."""
        self._waiter.stop()

    def dispose(self) -> None:
        """Release the waiter's descriptors."""
        self._waiter.close()

    @property
    def _where(self) -> str:
        return f"{self.settings.host}:{self.settings.port}"

    def _connected(self) -> socket.socket:
        """A connection to the first address of the host that takes one."""
        addresses = socket.getaddrinfo(self.settings.host, self.settings.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses[:-1]:
            try:
                return self._connected_to(socket.socket(family, kind, protocol), address)
            except OSError:
                continue  # the last one's error is told
        family, kind, protocol, _, address = addresses[-1]
        return self._connected_to(socket.socket(family, kind, protocol), address)

    def _connected_to(self, connection: socket.socket, address: Any) -> socket.socket:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = connection.connect_ex(address)
            if code == errno.EINPROGRESS:
                if not self._waiter.writable(connection.fileno(), _CONNECT_TIMEOUT_S):
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except OSError:
            connection.close()
            raise
        return connection

    def _exchange(self, unit: int, request: Request, timeout: float) -> bytes:
        """A connection that the device has closed is opened again: some allow one request on each, some close it when
        nobody asked for a while, and gateways do it in place of an answer of a unit that is not there."""
        for _ in range(2):
            if self._socket is None:
                self.open()
            try:
                return self._transact(unit, request, timeout)
            except _Closed as closed:
                self.close()
                reason = closed.reason
        raise NoAnswer(f"{self._where}: {reason} when unit {unit} was asked")

    def _transact(self, unit: int, request: Request, timeout: float) -> bytes:
        self._take_leftover()
        self._transaction = self._transaction % 0xFFFF + 1
        self._send(_HEADER.pack(self._transaction, 0, len(request.pdu) + 1, unit) + request.pdu, timeout)
        deadline = time.monotonic() + timeout
        strangers = 0
        while True:
            reply = self._frame(deadline)
            if reply is None:
                self._silences += 1
                if self._silences >= _SILENCES_TO_RECONNECT:
                    self.close()
                odd = f" ({strangers} answers to other transactions came)" if strangers else ""
                raise NoAnswer(f"no answer from unit {unit} within {round(timeout * 1000)} ms{odd}")
            transaction, sender, pdu = reply
            if transaction != self._transaction:
                self.late += 1
                strangers += 1
                continue
            self._silences = 0
            if sender != unit:
                raise BadAnswer(f"unit {sender} answered in place of unit {unit}")
            if request.answered_by(pdu) or (exception_of(pdu) is not None and pdu[0] & 0x7F == request.function):
                return pdu
            raise BadAnswer(f"unit {unit} answered {len(pdu)} bytes in place of {request.size}")

    def _take_leftover(self) -> None:
        """Late answers, or the news that the device has closed the connection meanwhile."""
        while self._waiter.readable(0):
            if self._frame(0.0) is None:
                return
            self.late += 1

    def _frame(self, deadline: float) -> tuple[int, int, bytes] | None:
        """(transaction, unit, PDU) of the next frame; None when the time is over. Raises LineDown or _Closed."""
        received = False
        while True:
            if len(self._buffer) >= _HEADER.size:
                transaction, protocol, length, unit = _HEADER.unpack_from(self._buffer)
                if protocol or not 2 <= length <= _LONGEST_PDU + 1:
                    # There is no way back into step on this connection.
                    raise LineDown(f"{self._where}: does not speak Modbus TCP")
                end = 6 + length
                if len(self._buffer) >= end:
                    pdu, self._buffer = self._buffer[_HEADER.size : end], self._buffer[end:]
                    return transaction, unit, pdu
            left = deadline - time.monotonic()
            if (received and left <= 0) or not self._waiter.readable(left):
                if self._waiter.stopped:
                    raise LineDown("the mapper stops")
                return None
            self._buffer += self._receive()
            received = True

    def _receive(self) -> bytes:
        try:
            data = self._connection.recv(4096)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise _Closed(_why(error)) from None
        if not data:
            raise _Closed("the device closed the connection")
        return data

    def _send(self, data: bytes, timeout: float) -> None:
        while data:
            try:
                data = data[self._connection.send(data) :]
            except BlockingIOError:
                if not self._waiter.writable(self._connection.fileno(), timeout):
                    raise LineDown(f"{self._where}: does not take data") from None
            except OSError as error:
                raise _Closed(_why(error)) from None

    @property
    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise LineDown(f"{self._where}: not connected")
        return self._socket


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
