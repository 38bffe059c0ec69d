"""What stands in edgehub's place on a box that has no cloud: there is never a link."""

from collections.abc import Awaitable, Callable

from edgeappliance.edgehub.hub import LinkDown
from edgeappliance.kernel.component import Health, State
from edgeappliance.wire.message import Message


class NoCloud:
    """The same callers, nobody at the other end. A component."""

    connected = False
    ours = False
    local_address = ""

    def send(self, message: Message) -> bool:
        """Never sent."""
        return False

    async def request(self, message: Message, timeout: float, *, acknowledge: bool = True) -> Message:
        """Always raises LinkDown."""
        raise LinkDown("this box has not joined a cloud")

    def route(self, group: str, receiver: Callable[[Message], Awaitable[None]]) -> None:
        """Nothing will come."""

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """There will be none."""

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def health(self) -> Health:
        return Health(
            State.RUNNING,
            "no cloud: this box works alone",
            "to manage it with kubectl: edgecore join --cloud HOST --token TOKEN",
        )
