"""cloudstream: the tunnels of the edges, and the way to the kubelet API behind each of them (reference 9.4)."""
