"""Devices, their models and their status between the Kubernetes API and the edge nodes."""
