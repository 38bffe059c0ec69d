"""``python -m edgeappliance.mappers.bench meter --link PATH``: a simulated meter as a process of its own.

Prints one JSON line when it is ready and one for every accepted write; ends on SIGTERM or SIGINT.
"""

import argparse
import json
import signal
import sys
import threading

from edgeappliance.mappers.bench.control import ControlSocket
from edgeappliance.mappers.bench.faults import FaultPlan, parse_fault
from edgeappliance.mappers.bench.meter import Meter
from edgeappliance.mappers.bench.rtu_line import RtuLine
from edgeappliance.mappers.bench.slave import Written
from edgeappliance.mappers.bench.tcp_server import TcpServer


def _fault(text: str) -> FaultPlan:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND[:VALUE][/PERIOD][@UNIT]: {error}") from None


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edgeappliance.mappers.bench", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    meter = what.add_parser("meter", help="an energy meter on a serial line and, when asked, on Modbus TCP")
    meter.add_argument("--link", help="where to put the link to the simulated serial port")
    meter.add_argument("--tcp", type=int, help="port on 127.0.0.1 (0: any free one)")
    meter.add_argument("--baud", type=int, default=9600, help="pace of the serial line; 0: no pacing")
    meter.add_argument("--unit", type=int, default=1, help="unit id (slave address)")
    meter.add_argument("--delay", type=float, default=0.0, help="response delay in seconds")
    meter.add_argument("--fault", type=_fault, help="KIND[:VALUE][/PERIOD][@UNIT], such as late:0.4/10")
    meter.add_argument("--control", help="Unix socket to look at and change the registers")
    return parser.parse_args(argv)


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Run until a signal; exit code 2 when there is nothing to serve."""
    options = _arguments(argv)
    if options.link is None and options.tcp is None:
        sys.stderr.write("give --link PATH, --tcp PORT, or both\n")
        return 2
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    meter = Meter(options.unit)
    meter.unit.on_write = _say_written
    line = tcp = control = None
    if options.link is not None:
        line = RtuLine([meter.unit], link=options.link, baud=options.baud, delay_s=options.delay, faults=options.fault)
        line.plug()
    if options.tcp is not None:
        tcp = TcpServer([meter.unit], port=options.tcp, delay_s=options.delay, faults=options.fault)
        tcp.start()
    if options.control:
        control = ControlSocket(meter, options.control)
        control.start()
    _say(event="ready", link=options.link, tcp=tcp.port if tcp else None, unit=options.unit, baud=options.baud)
    done.wait()
    for part in (control, tcp):
        if part is not None:
            part.stop()
    if line is not None:
        line.unplug()
    return 0


def _say_written(written: Written) -> None:
    _say(
        event="write",
        unit=written.unit,
        register=str(written.table),
        address=written.address,
        values=list(written.values),
    )


if __name__ == "__main__":
    sys.exit(main())
