"""Keeps the machine able to run its pods: images, pressure and eviction, remains of pods that are gone."""
