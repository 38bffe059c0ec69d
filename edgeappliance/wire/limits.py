"""Every length that a peer can choose, capped before anything is allocated for it.

Sizes are bytes of UTF-8 unless the name says otherwise.
"""

MAX_MESSAGE = 16 * 1024 * 1024
"""One message on the link. The largest legal payload is a router body of 12 MiB (reference 9.3) as text."""

MAX_ID = 256
"""msg_id, parent_msg_id: upstream uses UUID texts of 36; room for peers that prefix them."""

MAX_RESOURCE = 4096
"""route.resource: an MQTT topic or a URL travels in it."""

MAX_WORD = 512
"""route.source, group, operation, destination and header.type, resourceversion."""

MAX_TWIN_KEY = 128
"""A property name (reference 4.5)."""

MAX_TWIN_VALUE = 1024
"""A property value, in bytes of UTF-8; upstream stops at 512 characters (twin.strict)."""

MAX_TWIN_VALUE_STRICT = 512
"""A property value under twin.strict, in characters (reference 4.5)."""

MAX_TWIN_PAYLOAD = 1024 * 1024
"""One MQTT payload addressed to the twin."""

MAX_TWIN_KEYS = 2048
"""Properties in one update."""

MAX_CSR = 1024 * 1024
"""Body of GET /edge.crt (reference 3.3)."""

MAX_TUNNEL_DATA = 1024 * 1024
"""Data of one tunnel frame (reference 9.4)."""

MAX_TOKEN = 4096
"""A join token."""

MAX_DEPTH = 128
"""Nesting of JSON that is looked into."""
