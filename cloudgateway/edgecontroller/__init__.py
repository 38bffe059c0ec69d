"""Nodes, pods, config maps and secrets between the Kubernetes API and the edge nodes."""
