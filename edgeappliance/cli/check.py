"""`edgecore config check`: everything wrong with the configuration, at once."""

from pathlib import Path

from edgeappliance.config.joined import place
from edgeappliance.config.settings import DEFAULT_FILE, EdgeSettings
from edgeappliance.mappers.local import LocalFolder


def check(config: EdgeSettings, file: Path | None) -> int:
    """Print what would be used. The file itself was read before: what is wrong with it has been said."""
    where = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    print(f"{where or 'no file, defaults'}: ok")
    folder = LocalFolder(Path(config.mappers.directory))
    models, devices, errors = folder.read()
    for error in errors:
        print(error)
    print(f"{config.mappers.directory}: {len(devices)} devices, {len(models)} models, {len(errors)} errors")
    here = place(config)
    print(f"node {here.node}, cloud {here.hub or 'none (join one with: edgecore join --cloud HOST --token TOKEN)'}")
    return 1 if errors else 0
