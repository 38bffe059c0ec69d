"""A Unix socket that shows the simulated meter from outside, one JSON line per request.

``{"get": true}`` answers the engineering values; ``{"registers": "HoldingRegister", "address": 100, "count": 1}``
answers raw words; ``{"set": ..., same keys, "values": [..]}`` changes them as a hand on the panel would.
"""

import json
import os
import socket
import threading
from typing import Any

from edgeappliance.mappers.bench.meter import Meter
from edgeappliance.mappers.bench.slave import Table


class ControlSocket:
    """Serves one client after the other until stopped."""

    def __init__(self, meter: Meter, path: str) -> None:
        self._meter = meter
        self._path = path
        if os.path.exists(path):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        os.chmod(path, 0o660)
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve, name="bench control", daemon=True)

    def start(self) -> None:
        """Answer requests."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and remove it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.unlink(self._path)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rwb") as stream:
                client.settimeout(5)
                try:
                    for line in stream:
                        stream.write(json.dumps(self._answer(line)).encode() + b"\n")
                        stream.flush()
                except OSError:
                    continue  # the client is gone

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if "get" in request:
                return {"values": self._meter.snapshot()}
            unit, table, start = self._meter.unit, Table(request["registers"]), int(request["address"])
            if "values" in request:
                unit.fill(table, start, [int(value) for value in request["values"]])
            count = int(request.get("count", len(request.get("values", ())) or 1))
            return {"values": unit.words(table, start, count)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
