"""`edgecore config check`: everything wrong with the configuration, at once."""

from pathlib import Path

from edgeappliance.config.joined import place
from edgeappliance.config.settings import DEFAULT_FILE, EdgeSettings


def check(config: EdgeSettings, file: Path | None) -> int:
    """Print what would be used. The file itself was read before: what is wrong with it has been said."""
    where = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    print(f"{where or 'no file, defaults'}: ok")
    here = place(config)
    print(f"node {here.node}, cloud {here.hub or 'none (join one with: edgecore join --cloud HOST --token TOKEN)'}")
    return 0
