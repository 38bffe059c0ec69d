"""The kubelet API of this node: looking into pods, on loopback and on a Unix socket."""
