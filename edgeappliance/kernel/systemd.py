"""Telling systemd how the daemon is, when it asked to be told (sd_notify(3))."""

import os
import socket

from edgeappliance.kernel.log import get_logger


def notify(state: str) -> None:
    """Send `READY=1`, `STOPPING=1`, ... Nothing happens without NOTIFY_SOCKET; a systemd that is gone is no fault."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.sendall(state.encode())
    except OSError as error:  # whoever started us is gone; that is no reason to run or stop otherwise
        get_logger("systemd").warning("systemd not told", state=state, reason=error)
