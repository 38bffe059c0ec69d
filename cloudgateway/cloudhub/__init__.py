"""The link's cloud end: one mutual-TLS websocket per node, what waits for it, what it may say (reference 2)."""
