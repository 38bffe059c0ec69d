"""This machine as a Kubernetes node: its registration, its status, its lease."""
