"""HTTP/1.1 with streams and upgrades, both ends, on h11: what `kernel.http` is too small for."""
