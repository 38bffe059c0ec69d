"""How a line is reached: serial parameters or a TCP address. Plain values, equal when they mean the same line."""

from dataclasses import dataclass

BITS_PER_CHARACTER = 11
"""Modbus over Serial Line V1.02, 2.5.1: start, 8 data, parity (or a second stop bit), stop."""


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """A serial port. `parity` is one of N, E, O; `stop_bits` 1 or 2."""

    port: str
    baud: int = 9600
    data_bits: int = 8
    stop_bits: int = 1
    parity: str = "N"

    @property
    def character_time(self) -> float:
        """Seconds of one character on the wire."""
        return (1 + self.data_bits + (self.parity != "N") + self.stop_bits) / self.baud

    @property
    def silence(self) -> float:
        """t3.5, the silence between frames, in seconds: fixed above 19 200 baud (V1.02, 2.5.1.1)."""
        return 0.00175 if self.baud > 19200 else 3.5 * BITS_PER_CHARACTER / self.baud

    @property
    def key(self) -> str:
        """Names the line among all lines."""
        return f"modbus {self.port}"


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """A Modbus TCP server."""

    host: str
    port: int = 502

    @property
    def key(self) -> str:
        """Names the line among all lines."""
        return f"modbus tcp {self.host}:{self.port}"
