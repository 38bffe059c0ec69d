"""The MQTT broker (supervised or external), the client on it, and topic routing (KubeEdge reference 4.1).

`paho` is imported with `EventBus`, so import this package only where MQTT is wanted.
"""

from edgeappliance.eventbus.broker import Broker
from edgeappliance.eventbus.service import EventBus

__all__ = ["Broker", "EventBus"]
