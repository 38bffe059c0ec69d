"""Debian's libmodbus5 through ctypes as a slave that we did not write: RTU and TCP, in a process of its own.

``python -m tests.support.libmodbus rtu PORT BAUD UNIT`` or ``tcp PORT UNIT``; registers hold their own address,
inputs their address + 1000, coils and discrete inputs are set at odd addresses. Prints ``ready``.
"""

import ctypes
import ctypes.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SIZE = 200


class _Mapping(ctypes.Structure):
    _fields_ = (
        ("nb_bits", ctypes.c_int), ("start_bits", ctypes.c_int),
        ("nb_input_bits", ctypes.c_int), ("start_input_bits", ctypes.c_int),
        ("nb_input_registers", ctypes.c_int), ("start_input_registers", ctypes.c_int),
        ("nb_registers", ctypes.c_int), ("start_registers", ctypes.c_int),
        ("tab_bits", ctypes.POINTER(ctypes.c_uint8)), ("tab_input_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("tab_input_registers", ctypes.POINTER(ctypes.c_uint16)), ("tab_registers", ctypes.POINTER(ctypes.c_uint16)),
    )  # fmt: skip


def library() -> ctypes.CDLL | None:
    """libmodbus, None when it is not installed."""
    name = ctypes.util.find_library("modbus")
    if name is None:
        return None
    modbus = ctypes.CDLL(name, use_errno=True)
    modbus.modbus_new_rtu.restype = ctypes.c_void_p
    modbus.modbus_new_rtu.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_char, ctypes.c_int, ctypes.c_int)
    modbus.modbus_new_tcp.restype = ctypes.c_void_p
    modbus.modbus_new_tcp.argtypes = (ctypes.c_char_p, ctypes.c_int)
    modbus.modbus_mapping_new.restype = ctypes.POINTER(_Mapping)
    for name in ("modbus_connect", "modbus_close", "modbus_free"):
        getattr(modbus, name).argtypes = (ctypes.c_void_p,)
    modbus.modbus_set_slave.argtypes = (ctypes.c_void_p, ctypes.c_int)
    modbus.modbus_tcp_listen.argtypes = (ctypes.c_void_p, ctypes.c_int)
    modbus.modbus_tcp_accept.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    modbus.modbus_receive.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    modbus.modbus_reply.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(_Mapping))
    modbus.modbus_strerror.restype = ctypes.c_char_p
    return modbus


def _serve(modbus: ctypes.CDLL, context: int, mapping: object) -> None:
    request = ctypes.create_string_buffer(260)
    while (length := modbus.modbus_receive(context, request)) != -1:
        if length > 0:
            modbus.modbus_reply(context, request, length, mapping)


def main(argv: list[str]) -> int:
    modbus = library()
    if modbus is None:
        return 2
    mapping = modbus.modbus_mapping_new(SIZE, SIZE, SIZE, SIZE)
    for address in range(SIZE):
        mapping.contents.tab_registers[address] = address
        mapping.contents.tab_input_registers[address] = address + 1000
        mapping.contents.tab_bits[address] = mapping.contents.tab_input_bits[address] = address % 2
    if argv[0] == "rtu":
        context = modbus.modbus_new_rtu(argv[1].encode(), int(argv[2]), b"N", 8, 1)
        modbus.modbus_set_slave(context, int(argv[3]))
        if modbus.modbus_connect(context) == -1:
            raise OSError(modbus.modbus_strerror(ctypes.get_errno()).decode())
        print("ready", flush=True)
        while True:
            _serve(modbus, context, mapping)
    context = modbus.modbus_new_tcp(b"127.0.0.1", int(argv[1]))
    modbus.modbus_set_slave(context, int(argv[2]))
    listener = ctypes.c_int(modbus.modbus_tcp_listen(context, 4))
    print("ready", flush=True)
    while True:
        modbus.modbus_tcp_accept(context, ctypes.byref(listener))
        _serve(modbus, context, mapping)


@contextmanager
def slave(*arguments: str) -> Iterator[None]:
    """The slave as a process while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.libmodbus", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def line(first: str, second: str) -> Iterator[subprocess.Popen[bytes]]:
    """Two serial ports that are wired to each other, by socat; the process may be killed to unplug them."""
    process = subprocess.Popen(["socat", "-d", "-d", f"pty,raw,echo=0,link={first}", f"pty,raw,echo=0,link={second}"],
                               stderr=subprocess.PIPE)  # fmt: skip
    try:
        assert process.stderr is not None
        for text in process.stderr:
            if b"starting data transfer loop" in text:
                break
        else:
            raise AssertionError("socat did not start")
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
