"""edgestream: logs, exec, attach, port-forward and metrics of this box through the cloud (reference 9.4)."""
