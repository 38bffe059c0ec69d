"""What the cloud wants of this node: stored first, acknowledged then, handed on last."""
