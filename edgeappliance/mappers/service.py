"""The mappers as a component: devices onto lines, lines' values onto the bus, set-points back."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeappliance.devicemodel import CatalogueChange, DeviceInvalid, DeviceSpec, FieldError
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.mappers.binding import Binding, FieldProtocol, LineSettings, Protocols
from edgeappliance.mappers.line import Line
from edgeappliance.mappers.linecore import LineCore
from edgeappliance.mappers.points import Event, Point, PointKey, Sample, Written
from edgeappliance.mappers.twinroad import Bus, TwinRoad

_TICK_S = 1.0

_log = get_logger("mappers")


@dataclass(slots=True)
class _Device:
    spec: DeviceSpec
    binding: Binding


@dataclass(slots=True)
class _LineEntry:
    """`line` is None while the component is stopped."""

    settings: LineSettings
    protocol: FieldProtocol
    devices: set[str] = field(default_factory=set)
    line: Line | None = None


class Mappers:
    """Implements `kernel.component.Component`. `apply` takes changes at any time, started or not."""

    def __init__(self, *, scope: TaskScope, bus: Bus, clock: Clock, protocols: Protocols | None = None) -> None:
        self._scope = scope
        self._clock = clock
        self._protocols = protocols or Protocols.built_in()
        self._road = TwinRoad(bus, clock=clock, write=self._write)
        self._attached = False
        self._running = False
        self._changing = asyncio.Lock()
        self._devices: dict[str, _Device] = {}
        self._invalid: dict[str, tuple[FieldError, ...]] = {}
        self._not_ours: dict[str, str] = {}
        self._waiting: dict[str, DeviceSpec] = {}
        self._lines: dict[str, _LineEntry] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._incoming: list[Event] = []
        self._incoming_lock = threading.Lock()

    # -- component ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin polling what is known; needs no network and no port."""
        async with self._changing:
            self._loop = asyncio.get_running_loop()
            if not self._attached:
                self._road.attach()
                self._attached = True
            self._running = True
            for entry in self._lines.values():
                await self._start_line(entry)
            self._scope.spawn(self._tick(), name="ticks")
            self._scope.spawn(self._take(), name="values")

    async def stop(self) -> None:
        """Close every line; devices and last values stay known."""
        async with self._changing:
            self._running = False
            with self._incoming_lock:
                self._loop = None
                self._incoming.clear()
            entries = list(self._lines.values())
            await asyncio.gather(*(self._stop_line(entry) for entry in entries))

    def health(self) -> Health:
        """Degraded while a line is down or a device is misconfigured; details hold all lines and devices."""
        lines = {key: self._line_report(entry) for key, entry in self._lines.items()}
        details = {
            "lines": lines,
            "devices": len(self._devices),
            "invalid": {device: [str(error) for error in errors] for device, errors in self._invalid.items()},
            "messages_published_total": self._road.published,
        }
        if not self._running:
            return Health(State.STOPPED, details=details)
        problems = list(self._problems(lines))
        if not problems:
            return Health(State.RUNNING, details=details)
        reason, step = problems[0]
        if len(problems) > 1:
            reason += f" (and {len(problems) - 1} more: see edgecore devices)"
        return Health(State.DEGRADED, reason, step, details=details)

    def _problems(self, lines: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
        """(what is wrong, what to do), the widest first."""
        for key, report in lines.items():
            if report["down"]:
                step = "check the port or address, its permissions and the cable; polling resumes by itself"
                where = key.rpartition(" ")[2]
                yield report["down"] if report["down"].startswith(where) else f"{key}: {report['down']}", step
        for device, known in self._devices.items():
            state = self._road.state(device)
            if state["state"] == "offline" and not lines[known.binding.line.key]["down"]:
                step = "check its power and wiring, slaveID, and the line's baudRate, parity and stopBits"
                yield f"device {device} does not answer: {state['reason']}", step
        for device, errors in self._invalid.items():
            yield f"device {device}: {errors[0]}", "correct the Device or its model"

    def devices(self) -> list[dict[str, Any]]:
        """Every device with its state and the last value of each property, for ``edgecore devices``."""
        rows = [self._device_report(device) for device in self._devices.values()]
        rows += [
            {"id": device, "state": "invalid", "errors": [str(error) for error in errors]}
            for device, errors in self._invalid.items()
        ]
        rows += [{"id": device, "state": "unknown", "reason": reason} for device, reason in self._not_ours.items()]
        return sorted(rows, key=lambda row: str(row["id"]))

    # -- configuration --------------------------------------------------------------------------------------

    async def apply(self, change: CatalogueChange) -> None:
        """Take one change of the catalogue; only what differs is touched."""
        async with self._changing:
            if change.spec is not None:
                await self._set(change.spec)
            else:
                await self._remove(change.device_id)
                if change.errors:
                    self._refuse(change.device_id, change.errors)
            await self._retry_waiting()

    async def _set(self, spec: DeviceSpec) -> None:
        self._invalid.pop(spec.id, None)
        self._waiting.pop(spec.id, None)
        self._not_ours.pop(spec.id, None)
        if not self._protocols.serves(spec.protocol):
            await self._remove(spec.id)
            self._not_ours[spec.id] = self._protocols.unserved(spec.protocol)
            return
        try:
            # The first device of a protocol imports it: 30 ms here, ten times that on a small board.
            protocol = await asyncio.to_thread(self._protocols.of, spec)
            binding = protocol.bind(spec)
            entry = self._lines.get(binding.line.key)
            others = entry.devices - {spec.id} if entry is not None else set()
            if entry is not None and others and entry.settings != binding.line:
                self._waiting[spec.id] = spec
                message = f"{binding.line.key} is used by {min(others)} with {_differing(entry.settings, binding.line)}"
                raise DeviceInvalid(spec.id, (FieldError("spec.protocol.configData", message),))
        except DeviceInvalid as invalid:
            await self._remove(spec.id, waiting=spec.id in self._waiting)
            self._refuse(spec.id, invalid.errors)
            return
        known = self._devices.get(spec.id)
        if known is not None and known.binding.line != binding.line:
            await self._leave(spec.id, known.binding.line.key)
        if binding.warnings and (known is None or known.binding.warnings != binding.warnings):
            _log.warning("keys that do nothing", device=spec.id, keys="; ".join(str(item) for item in binding.warnings))
        self._devices[spec.id] = _Device(spec, binding)
        self._road.set_device(spec.id, binding.points, state_cycle=spec.state_report_cycle_ms / 1000)
        await self._join(spec.id, binding, protocol)
        if known is None:
            self._road.ask(spec.id)

    async def _join(self, device: str, binding: Binding, protocol: FieldProtocol) -> None:
        key = binding.line.key
        entry = self._lines.get(key)
        if entry is None:
            entry = self._lines[key] = _LineEntry(binding.line, protocol)
            _log.info("line added", line=key)
        entry.devices.add(device)
        if entry.line is None:
            if self._running:
                await self._start_line(entry)
            return
        self._tell_device(entry.line, device, binding)

    def _refuse(self, device: str, errors: tuple[FieldError, ...]) -> None:
        if self._invalid.get(device) != errors:
            _log.error("device is not polled", device=device, errors="; ".join(str(error) for error in errors))
        self._invalid[device] = errors

    async def _remove(self, device: str, *, waiting: bool = False) -> None:
        self._invalid.pop(device, None)
        self._not_ours.pop(device, None)
        if not waiting:
            self._waiting.pop(device, None)
        known = self._devices.pop(device, None)
        if known is not None:
            self._road.remove_device(device)
            await self._leave(device, known.binding.line.key)

    async def _leave(self, device: str, key: str) -> None:
        entry = self._lines[key]
        entry.devices.discard(device)
        if not entry.devices:
            del self._lines[key]
            await self._stop_line(entry)
            _log.info("line removed", line=key)
        elif entry.line is not None:
            entry.line.tell(lambda core, now: _removed(core, device, now))

    async def _retry_waiting(self) -> None:
        """Devices that were refused because of others on their line, which may have changed."""
        for spec in list(self._waiting.values()):
            entry = self._lines.get(self._protocols.of(spec).bind(spec).line.key)
            if entry is None or entry.settings == self._protocols.of(spec).bind(spec).line:
                await self._set(spec)

    # -- lines ----------------------------------------------------------------------------------------------

    async def _start_line(self, entry: _LineEntry) -> None:
        driver = await asyncio.to_thread(entry.protocol.driver, entry.settings)
        entry.line = Line(entry.settings.key, driver, clock=self._clock, emit=self._emit)
        for device in entry.devices:
            self._tell_device(entry.line, device, self._devices[device].binding)
        entry.line.start()

    async def _stop_line(self, entry: _LineEntry) -> None:
        line, entry.line = entry.line, None
        if line is not None:
            await asyncio.to_thread(line.stop)
            for device in entry.devices:
                self._road.lost(device)

    def _tell_device(self, line: Line, device: str, binding: Binding) -> None:
        line.tell(
            lambda core, now: core.set_device(device, binding.points, binding.profile, unit=binding.unit, now=now)
        )

    def _write(self, key: PointKey, text: str) -> None:
        device = self._devices.get(key[0])
        entry = self._lines.get(device.binding.line.key) if device is not None else None
        if entry is not None and entry.line is not None:
            entry.line.tell(lambda core, _now: core.set_point(key, text))
        else:
            self._road.take([Written(key, text, "the line is not open yet")])

    # -- values ---------------------------------------------------------------------------------------------

    def _emit(self, events: list[Event]) -> None:
        """From a line's thread: collect, and wake the loop once for all that has gathered."""
        with self._incoming_lock:
            waking = not self._incoming
            self._incoming += events
            if waking and self._loop is not None:
                self._loop.call_soon_threadsafe(self._woken.set)

    async def _take(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            with self._incoming_lock:
                events, self._incoming = self._incoming, []
            self._road.take(events)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for key, entry in self._lines.items():
                if entry.line is not None and entry.line.dead:
                    raise RuntimeError(f"the thread of {key} is gone: {entry.line.failure or 'reason unknown'}")
            self._road.tick(self._clock.monotonic())

    # -- reports --------------------------------------------------------------------------------------------

    def _line_report(self, entry: _LineEntry) -> dict[str, Any]:
        report = dict(entry.line.report()) if entry.line is not None else {}
        failure = entry.line.failure if entry.line is not None else ""
        return {**report, "down": failure or report.get("down") or "", "devices": sorted(entry.devices)}

    def _device_report(self, device: _Device) -> dict[str, Any]:
        binding, spec = device.binding, device.spec
        entry = self._lines.get(binding.line.key)
        latest: Mapping[PointKey, Sample] = entry.line.latest() if entry is not None and entry.line is not None else {}
        return {
            "id": spec.id,
            "protocol": spec.protocol,
            "model": spec.model,
            "local": spec.local,
            "line": binding.line.key,
            "unit": binding.unit,
            "warnings": [str(warning) for warning in binding.warnings],
            **self._road.state(spec.id),
            "properties": [_property_report(spec, point, latest.get(point.key)) for point in binding.points],
        }


def _differing(theirs: LineSettings, ours: LineSettings) -> str:
    """Which settings of a line differ, in words."""
    other = asdict(ours)  # type: ignore[call-overload]
    parts = [
        f"{key} {value} (here {other.get(key)})"
        for key, value in asdict(theirs).items()  # type: ignore[call-overload]
        if value != other.get(key)
    ]
    return "other line settings: " + ", ".join(parts)


def _removed(core: LineCore, device: str, now: float) -> list[Event]:
    core.remove_device(device, now=now)
    return []


def _property_report(spec: DeviceSpec, point: Point, sample: Sample | None) -> dict[str, Any]:
    item = spec.property(point.name)
    return {
        "name": point.name,
        "type": str(point.codec.shown),
        "unit": item.unit if item is not None else "",
        "writable": point.writable,
        "cycle_ms": round(point.cycle * 1000),
        "value": sample.value if sample is not None else None,
        "quality": str(sample.quality) if sample is not None else "",
        "reason": sample.reason if sample is not None else "not read yet",
        "time_ms": sample.time_ms if sample is not None else 0,
    }
