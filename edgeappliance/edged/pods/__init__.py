"""Pods as values: what is wanted, what is there, what to do next, what to report. No I/O."""
