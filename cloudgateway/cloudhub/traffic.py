"""What the hub counts: plain numbers while messages flow, published to the metrics once a tick."""

from prometheus_client import Counter

from cloudgateway.cloudhub.queue import QueueCounters
from edgeappliance.kernel.metrics import Metrics


class Traffic:
    """Counters of all links together. Bytes are websocket bytes inside TLS."""

    def __init__(self, metrics: Metrics) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.messages_in = 0
        self.denied = 0
        self.drops: dict[str, int] = {}
        self.queue = QueueCounters()
        self._published: dict[tuple[str, str], int] = {}
        self._bytes = metrics.counter("cloudhub_bytes", "Bytes on the links, inside TLS", ["direction"])
        self._messages = metrics.counter("cloudhub_messages", "Messages from and to nodes", ["kind"])
        self._dropped = metrics.counter("cloudhub_dropped", "Messages not delivered or not taken", ["cause"])
        # KubeEdge's own name, for dashboards that exist (reference 10.3)
        self._connected = metrics.gauge("KubeEdge_CloudHub_connected_nodes", "Nodes with a session")

    def dropped(self, cause: str) -> None:
        """One message was not delivered, or not taken."""
        self.drops[cause] = self.drops.get(cause, 0) + 1

    def publish(self, connected: int) -> None:
        """Bring the metrics up to date."""
        self._connected.set(connected)
        self._raise(self._bytes, "in", self.bytes_in)
        self._raise(self._bytes, "out", self.bytes_out)
        queue = self.queue
        for kind, value in (
            ("received", self.messages_in),
            ("denied", self.denied),
            ("sent", queue.sent),
            ("resent", queue.resent),
            ("acknowledged", queue.acknowledged),
            ("refused", queue.refused_by_peer),
            ("given_up", queue.given_up),
        ):
            self._raise(self._messages, kind, value)
        for cause, value in self.drops.items():
            self._raise(self._dropped, cause, value)

    def _raise(self, counter: Counter, label: str, value: int) -> None:
        key = (str(id(counter)), label)
        counter.labels(label).inc(value - self._published.get(key, 0))
        self._published[key] = value
