"""Device twins: merge rules (pure), requests and answers on MQTT, reports to the cloud (KubeEdge reference 4)."""

from edgeappliance.devicetwin.service import DeviceTwin

__all__ = ["DeviceTwin"]
