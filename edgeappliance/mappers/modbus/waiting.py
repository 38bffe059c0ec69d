"""Wait for a descriptor or for being told to stop, whichever is first."""

import math
import os
import select
import time


class Waiter:
    """Blocking waits of one thread that another thread can end for good."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._read_end, select.POLLIN)
        self._watched = -1
        self.stopped = False

    def watch(self, descriptor: int) -> None:
        """Wait on this descriptor from now on; -1 for none."""
        if self._watched >= 0:
            self._poll.unregister(self._watched)
        self._watched = descriptor
        if descriptor >= 0:
            self._poll.register(descriptor, select.POLLIN)

    def readable(self, seconds: float) -> bool:
        """True when there is something to read (or the other side has hung up), False after `seconds`."""
        ready = self._poll.poll(max(0, math.ceil(seconds * 1000)))
        return any(descriptor == self._watched for descriptor, _ in ready)

    def writable(self, descriptor: int, seconds: float) -> bool:
        """True when `descriptor` can be written or has failed."""
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        poll.register(self._read_end, select.POLLIN)
        return any(ready == descriptor for ready, _ in poll.poll(max(0, math.ceil(seconds * 1000))))

    def sleep_until(self, moment: float) -> None:
        """Sleep to a monotonic time, finer than poll can."""
        left = moment - time.monotonic()
        if left > 0:
            time.sleep(left)

    def stop(self) -> None:
        """From any thread: every wait returns at once from now on."""
        self.stopped = True
        os.write(self._write_end, b"x")

    def close(self) -> None:
        """Release the pipe; the waiter is not used after it."""
        os.close(self._read_end)
        os.close(self._write_end)
