"""`edgecore config check`: everything wrong with the configuration, at once."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeappliance.cli.output import say
from edgeappliance.config.joined import place
from edgeappliance.config.settings import DEFAULT_FILE, EdgeSettings
from edgeappliance.devicemodel import Catalogue, DeviceInvalid
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.mappers.binding import Protocols
from edgeappliance.mappers.local import LocalFolder


def check(config: EdgeSettings, file: Path | None) -> int:
    """Print what would be used and what is wrong with it; exit code 1 when something is.

    The file itself was read before: what is wrong with its keys has been said.
    """
    where = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else "no file, defaults")
    wrong = list(missing_files(config))
    say(f"{where}: {'ok' if not wrong else 'names what is not there'}")
    _list(wrong)
    models, devices, errors = LocalFolder(Path(config.mappers.directory)).read()
    errors += unusable_devices(models, devices)
    say(f"{config.mappers.directory}: {len(devices)} devices, {len(models)} models, {len(errors)} errors")
    _list(errors)
    try:
        here = place(config)
        say(f"node {here.node}, cloud {here.hub or 'none (join one with: edgecore join --cloud HOST --token TOKEN)'}")
    except ApplianceError as error:
        wrong.append(str(error))
        say(str(error))
    return 1 if wrong or errors else 0


def missing_files(config: EdgeSettings) -> Iterator[str]:
    """`key: what` for every file that the settings name and this user cannot read, and for a missing broker."""
    mqtt = config.mqtt
    named: dict[str, str] = {}  # not cloud.token_file: it is removed once it was used
    if mqtt.mode == "external":
        named["mqtt.password_file"] = mqtt.password_file
        named |= {f"mqtt.tls.{key}": getattr(mqtt.tls, key) for key in ("ca_file", "cert_file", "key_file")}
    else:
        if shutil.which(mqtt.mosquitto) is None:
            yield f"mqtt.mosquitto: {mqtt.mosquitto} is not installed: apt-get install mosquitto, or set mqtt.mode"
        if mqtt.pods.address:
            named |= {f"mqtt.pods.{key}": getattr(mqtt.pods, key) for key in ("password_file", "acl_file")}
    for key, name in named.items():
        if name:
            try:
                Path(name).open("rb").close()
            except OSError as error:
                yield f"{key}: {name}: {error.strerror}"


def unusable_devices(models: Iterable[Mapping[str, Any]], devices: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the running edgecore would refuse of these objects: each error with its device and field."""
    catalogue, protocols = Catalogue(), Protocols.built_in()
    for model in models:
        catalogue.upsert_model(model, local=True)
    for device in devices:
        catalogue.upsert_device(device, local=True)
    for result in catalogue.results():
        problems = result.errors
        if result.spec is not None and protocols.serves(result.spec.protocol):
            try:
                protocols.of(result.spec).bind(result.spec)
            except DeviceInvalid as invalid:
                problems = invalid.errors
        for problem in problems:
            yield f"device {result.device_id}: {problem}"


def _list(lines: list[str] | tuple[str, ...]) -> None:
    for line in lines:
        say(f"  {line}")
