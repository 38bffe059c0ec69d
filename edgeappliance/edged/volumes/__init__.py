"""The volumes of pods: what is written for them on this machine and what a container sees of it."""
