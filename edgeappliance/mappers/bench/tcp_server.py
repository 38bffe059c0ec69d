"""The same slaves on Modbus TCP (Modbus Messaging on TCP/IP V1.0b): one thread accepts, one serves each client."""

import socket
import struct
import threading
import time
from collections.abc import Iterable

from edgeappliance.mappers.bench.faults import FaultKind, FaultPlan, apply_pdu
from edgeappliance.mappers.bench.slave import Unit

_HEADER = struct.Struct(">HHHB")


class TcpServer:
    """Slaves behind one port. Requests for a unit that does not exist get no answer."""

    def __init__(
        self,
        units: Iterable[Unit],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        delay_s: float = 0.0,
        faults: FaultPlan | None = None,
    ) -> None:
        self.units = {unit.number: unit for unit in units}
        self.delay_s = delay_s
        self.faults = faults
        self.requests = 0
        self._listener = socket.create_server((host, port))
        self.port = int(self._listener.getsockname()[1])
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="bench tcp", daemon=True)

    def start(self) -> None:
        """Accept connections."""
        self._thread.start()

    def stop(self) -> None:
        """Refuse new connections and cut every open one."""
        # A blocked accept() only returns when the listener is shut down, closing it is not enough.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every open connection; new ones are still accepted."""
        with self._lock:
            for client in self._clients:
                client.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "TcpServer":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._clients.add(client)
            threading.Thread(target=self._serve, args=(client,), name="bench tcp client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream:
            try:
                while header := stream.read(_HEADER.size):
                    transaction, _protocol, length, number = _HEADER.unpack(header)
                    reply = self._reply(transaction, number, stream.read(length - 1))
                    if reply is not None:
                        client.sendall(reply)
            except (OSError, struct.error):
                pass  # the client is gone in the middle of a frame
            with self._lock:
                self._clients.discard(client)

    def _reply(self, transaction: int, number: int, pdu: bytes) -> bytes | None:
        self.requests += 1
        unit = self.units.get(number)
        if unit is None:
            return None
        fault = self.faults(number, pdu) if self.faults else None
        response = apply_pdu(fault, pdu, unit.answer(pdu))
        if response is None:
            return None
        late = fault.value if fault and fault.kind is FaultKind.LATE else 0.0
        if self.delay_s or late:
            time.sleep(self.delay_s + late)
        if fault and fault.kind is FaultKind.FOREIGN:
            number += 1
        return _HEADER.pack(transaction, 0, len(response) + 1, number) + response
