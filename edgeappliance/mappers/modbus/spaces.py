"""The four tables of Modbus."""

from enum import StrEnum


class Space(StrEnum):
    """Names as in a visitor's ``register`` key (KubeEdge reference 7.5)."""

    COIL = "CoilRegister"
    DISCRETE = "DiscreteInputRegister"
    HOLDING = "HoldingRegister"
    INPUT = "InputRegister"

    @property
    def is_bits(self) -> bool:
        """Addresses are single bits, not words."""
        return self in (Space.COIL, Space.DISCRETE)

    @property
    def writable(self) -> bool:
        """Inputs are not."""
        return self in (Space.COIL, Space.HOLDING)
