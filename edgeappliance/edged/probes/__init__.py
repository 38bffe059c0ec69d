"""Liveness, readiness and startup probes: when to ask, how to ask, what the answers mean."""
