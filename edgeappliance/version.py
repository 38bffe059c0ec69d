"""Version of the program, in one place."""

import importlib.metadata


def version() -> str:
    """The installed version, such as `0.1.0`."""
    return importlib.metadata.version("edgeappliance")
