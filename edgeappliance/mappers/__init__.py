"""Field devices: an engine that knows no protocol, and drivers that know nothing of twins.

The road of a value: `line` (thread) -> driver -> `codec` -> `filters` -> `service` -> MQTT ``D/twin/update``.
"""
