"""Modbus devices as KubeEdge users write them (reference 7.5), with our additions, made into bindings."""

from edgeappliance.devicemodel import DeviceInvalid, DeviceSpec, FieldError
from edgeappliance.mappers.binding import Binding
from edgeappliance.mappers.driver import Driver, SpaceCost, UnitProfile
from edgeappliance.mappers.fields import Fields
from edgeappliance.mappers.modbus.settings import SerialSettings, TcpSettings
from edgeappliance.mappers.modbus.spaces import Space
from edgeappliance.mappers.modbus.visitor import point_of

_PARITIES = {"none": "N", "n": "N", "even": "E", "e": "E", "odd": "O", "o": "O"}
_CONFIG = "spec.protocol.configData"
_FRAME_CHARACTERS = 13
"""A read request of 8 characters and the 5 of its reply that are not data."""
_TURNAROUND_S = 0.005
"""What a slave typically takes before it answers; only weighs gaps against requests."""
_TCP_ROUND_TRIP_S = 0.005
_TCP_PER_ADDRESS_S = 2e-6


class Modbus:
    """Implements `mappers.binding.FieldProtocol`.

    Keys of ``spec.protocol.configData``: slaveID; serialPort, baudRate, dataBits, stopBits, parity, or ip, port;
    timeout (ms for an answer to begin), retries (of broken answers), probeInterval (ms, longest time between two
    questions to a silent unit), maxRegisters, maxCoils (per request), maxGap (unwanted addresses that may be read
    to save a request).
    """

    def bind(self, spec: DeviceSpec) -> Binding:
        """Raises DeviceInvalid with all errors of the protocol's and the visitors' configuration."""
        errors: list[FieldError] = []
        warnings: list[FieldError] = []
        fields = Fields(spec.protocol_config, _CONFIG, errors, warnings)
        line = _line(fields)
        serial = isinstance(line, SerialSettings)
        if serial and "slaveID" not in fields:
            fields.fail("slaveID", "is missing")
        unit = fields.integer("slaveID", 1, 1 if serial else 0, 247 if serial else 255)
        max_registers = fields.integer("maxRegisters", 125, 1, 125)
        max_coils = fields.integer("maxCoils", 2000, 1, 2000)
        max_gap = fields.integer("maxGap", 2000, 0, 2000)
        # Cycles of old KubeEdge mappers, and this key, were nanoseconds (reference 7.5).
        timeout = fields.integer("timeout", 500 if serial else 1000, 1, 600_000)
        retries = fields.integer("retries", 1, 0, 10)
        probe = fields.integer("probeInterval", 10_000, 100, 3_600_000)
        fields.unknown()
        points = []
        for index, item in enumerate(spec.properties):
            visitor = Fields(item.visitor, f"spec.properties[{index}].visitors.configData", errors, warnings)
            point = point_of(spec, item, visitor, unit=unit, max_registers=max_registers, max_coils=max_coils)
            if point is not None:
                points.append(point)
        if errors:
            raise DeviceInvalid(spec.id, (*errors, *warnings))
        profile = UnitProfile(
            timeout=timeout / 1000,
            retries=retries,
            probe_interval=probe / 1000,
            spaces={
                space: _cost(line, space, max_coils if space.is_bits else max_registers, max_gap) for space in Space
            },
        )
        return Binding(line, unit, profile, tuple(points), tuple(warnings))

    def driver(self, line: SerialSettings | TcpSettings) -> Driver:
        """pyserial is imported when the first serial line exists."""
        if isinstance(line, SerialSettings):
            from edgeappliance.mappers.modbus.rtu import RtuDriver

            return RtuDriver(line)
        from edgeappliance.mappers.modbus.tcp import TcpDriver

        return TcpDriver(line)


def protocol() -> Modbus:
    """The entry that `mappers.binding.Protocols` looks for."""
    return Modbus()


def _line(fields: Fields) -> SerialSettings | TcpSettings:
    port = fields.text("serialPort")
    host = fields.text("ip")
    if port and host:
        fields.fail("ip", "is given together with serialPort; a device is on one line")
    if not port and not host:
        inside = fields.nested("com", "tcp", "common")
        hint = f": what stands below {inside} belongs into configData itself" if inside else ""
        fields.fail("serialPort", f"is missing (or ip, for Modbus TCP){hint}")
    serial = SerialSettings(
        port=port,
        baud=fields.integer("baudRate", 9600, 50, 4_000_000),
        data_bits=fields.integer("dataBits", 8, 8, 8),
        stop_bits=fields.integer("stopBits", 1, 1, 2),
        parity=fields.choice("parity", _PARITIES, "N", shown=("none", "even", "odd")),
    )
    tcp = TcpSettings(host=host, port=fields.integer("port", 502, 1, 65535))
    return tcp if host and not port else serial


def _cost(line: SerialSettings | TcpSettings, space: Space, max_count: int, max_gap: int) -> SpaceCost:
    width = 1 if space.is_bits else 2
    if isinstance(line, TcpSettings):
        return SpaceCost(_TCP_ROUND_TRIP_S, _TCP_PER_ADDRESS_S, max_count, max_gap, width)
    character = line.character_time
    return SpaceCost(
        per_request=_FRAME_CHARACTERS * character + 2 * line.silence + _TURNAROUND_S,
        per_address=character / 8 if space.is_bits else 2 * character,
        max_count=max_count,
        max_gap=max_gap,
        width=width,
    )
