"""What a verb says, on stdout: a reader that has gone is no fault, a full disk is told as such."""

import errno
import os
import sys
from typing import NoReturn

from edgeappliance.kernel.errors import OperatorError

STDOUT = 1


class ReaderGone(Exception):
    """Nobody reads our output any more: `edgecore devices | head`."""


def say(text: str) -> None:
    """Print a text and its line end, and see it gone. Raises ReaderGone, OperatorError."""
    try:
        print(text, flush=True)
    except OSError as error:
        _drop_the_rest()
        _raise(error)


def write_all(fd: int, data: bytes) -> None:
    """All of it, however little a pipe takes at a time. Blocking. Raises ReaderGone, OperatorError."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        _raise(error)


def _raise(error: OSError) -> NoReturn:
    if error.errno == errno.EPIPE:
        raise ReaderGone from None
    raise OperatorError(
        f"the output cannot be written: {error.strerror}", next_step="make room where it goes, or send it elsewhere"
    ) from None


def _drop_the_rest() -> None:
    """What Python still holds for a stdout that takes nothing would fail once more, with a traceback, at the exit."""
    if sys.stdout is sys.__stdout__:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, STDOUT)
        os.close(nowhere)
