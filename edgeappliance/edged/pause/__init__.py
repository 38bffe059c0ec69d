"""The program that holds a pod's sandbox, in assembly for each architecture (build/pause), and its image."""
