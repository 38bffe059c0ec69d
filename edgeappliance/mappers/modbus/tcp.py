"""Modbus TCP: transactions carry a number, so a late answer can be told from the one that is waited for."""

import errno
import os
import socket
import struct
import time

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


class TcpDriver(ModbusDriver):
    """Implements `mappers.driver.Driver`; the connection is the line."""

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
        except OSError as error:
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
        family, kind, protocol, _, address = socket.getaddrinfo(
            self.settings.host, self.settings.port, type=socket.SOCK_STREAM
        )[0]
        connection = socket.socket(family, kind, protocol)
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
        self._transaction = self._transaction % 0xFFFF + 1
        header = _HEADER.pack(self._transaction, 0, len(request.pdu) + 1, unit)
        deadline = time.monotonic() + timeout
        self._send(header + request.pdu, timeout)
        while True:
            reply = self._frame(deadline)
            if reply is None:
                self._silences += 1
                if self._silences >= _SILENCES_TO_RECONNECT:
                    raise LineDown(f"{self._where}: no answer to {self._silences} requests")
                raise NoAnswer(f"no answer from unit {unit} within {round(timeout * 1000)} ms")
            self._silences = 0
            transaction, sender, pdu = reply
            if transaction != self._transaction:
                self.late += 1
                continue
            if sender != unit:
                raise BadAnswer(f"unit {sender} answered in place of unit {unit}")
            if request.answered_by(pdu) or (exception_of(pdu) is not None and pdu[0] & 0x7F == request.function):
                return pdu
            raise BadAnswer(f"unit {unit} answered {len(pdu)} bytes in place of {request.size}")

    def _frame(self, deadline: float) -> tuple[int, int, bytes] | None:
        """(transaction, unit, PDU) of the next frame; None when the time is over. Raises LineDown."""
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
            if not self._waiter.readable(deadline - time.monotonic()):
                if self._waiter.stopped:
                    raise LineDown("the mapper stops")
                return None
            self._buffer += self._receive()

    def _receive(self) -> bytes:
        try:
            data = self._connection.recv(4096)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LineDown(f"{self._where}: {_why(error)}") from None
        if not data:
            raise LineDown(f"{self._where}: the device closed the connection")
        return data

    def _send(self, data: bytes, timeout: float) -> None:
        while data:
            try:
                data = data[self._connection.send(data) :]
            except BlockingIOError:
                if not self._waiter.writable(self._connection.fileno(), timeout):
                    raise LineDown(f"{self._where}: does not take data") from None
            except OSError as error:
                raise LineDown(f"{self._where}: {_why(error)}") from None

    @property
    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise LineDown(f"{self._where}: not connected")
        return self._socket


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
