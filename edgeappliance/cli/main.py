"""`edgecore`: the command line. Parses, finds the verb, turns errors into text with a next step."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeappliance.config.settings import DEFAULT_FILE, EdgeSettings
from edgeappliance.kernel import settings
from edgeappliance.kernel.errors import ApplianceError, OperatorError

DESCRIPTION = """\
edgecore turns this box into a Kubernetes edge node that speaks to machines.

  edgecore join --cloud gateway.example.org --token TOKEN    once, to get an identity
  edgecore run                                               the daemon
  edgecore status                                            how every part is doing, and what to do next
  edgecore devices                                           every device with its properties and values
"""

Verb = Callable[[argparse.Namespace, EdgeSettings], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0 when it did what was asked, 1 when it failed, 2 for wrong usage."""
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except ApplianceError as error:
        print(f"edgecore: {error.message}", file=sys.stderr)
        if error.next_step:
            print(f"  what to do: {error.next_step}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `edgecore devices | head`
        return 0


def run(options: argparse.Namespace) -> int:
    """Load the configuration and call the verb."""
    verb: Verb = options.verb
    return verb(options, load_config(options.config))


def load_config(path: Path | None) -> EdgeSettings:
    """The named file, else the default one when it exists, else defaults."""
    if path is None:
        if not DEFAULT_FILE.exists():
            return EdgeSettings()
        path = DEFAULT_FILE
    return settings.load(EdgeSettings, path)


def parser() -> argparse.ArgumentParser:
    """The whole command line; verbs import what they need only when they are called."""
    top = argparse.ArgumentParser(
        prog="edgecore", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration in TOML (default: {DEFAULT_FILE} if it exists)"
    )
    common = argparse.ArgumentParser(add_help=False)  # --config may stand before or after the verb
    common.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="configuration in TOML")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    run_verb = verbs.add_parser(
        "run", parents=[common], help="the daemon: runs until SIGTERM; works with and without a cloud"
    )
    run_verb.set_defaults(verb=_run)

    join = verbs.add_parser(
        "join",
        parents=[common],
        help="get an identity from a cloud with a token",
        description="Checks the token, fetches and checks the cloud's CA, and gets a certificate for this node. "
        "Get the token with `cloudgateway token create` (KubeEdge: `keadm gettoken`).",
    )
    join.add_argument("--cloud", required=True, metavar="HOST[:PORT]", help="the gateway's websocket (port 10000)")
    join.add_argument("--token", required=True, help="the join token, or @FILE to read it from a file, or - for stdin")
    join.add_argument("--name", default="", help="name of this node (default: node.name, else the host name)")
    join.add_argument("--enroll-port", type=int, default=10002, metavar="PORT", help="enrolment port (default 10002)")
    join.set_defaults(verb=_join)

    status = verbs.add_parser("status", parents=[common], help="state of every component of the running edgecore")
    status.add_argument("--json", action="store_true", help="as JSON, with all figures")
    status.set_defaults(verb=_status)

    devices = verbs.add_parser("devices", parents=[common], help="devices with their properties, values and ages")
    devices.add_argument("device", nargs="?", default="", metavar="NAMESPACE/NAME", help="only this device")
    devices.add_argument("--json", action="store_true", help="as JSON")
    devices.set_defaults(verb=_devices)

    config = verbs.add_parser("config", help="look at the configuration")
    actions = config.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", parents=[common], help="report everything wrong with the configuration and the device files"
    )
    check.set_defaults(verb=_config_check)
    show = actions.add_parser("show", parents=[common], help="print every key with its documentation and default")
    show.set_defaults(verb=_config_show)

    version = verbs.add_parser("version", parents=[common], help="print the version")
    version.set_defaults(verb=_version)
    return top


def _run(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.run import run_forever

    return run_forever(config)


def _join(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.join import join

    return join(config, cloud=options.cloud, token=options.token, name=options.name, enroll_port=options.enroll_port)


def _status(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.status import status

    return status(config.control_socket, as_json=options.json)


def _devices(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.status import devices

    return devices(config.control_socket, only=options.device, as_json=options.json)


def _config_check(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.check import check

    return check(config, options.config)


def _config_show(options: argparse.Namespace, config: EdgeSettings) -> int:
    print(settings.describe(EdgeSettings), end="")
    return 0


def _version(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.version import version

    print(f"edgecore {version()}")
    return 0


def read_token(argument: str) -> str:
    """The token itself, from `@FILE`, or from stdin for `-`. Raises OperatorError."""
    if argument == "-":
        return sys.stdin.read().strip()
    if not argument.startswith("@"):
        return argument.strip()
    try:
        return Path(argument[1:]).read_text("utf-8").strip()
    except OSError as error:
        raise OperatorError(
            f"token file {argument[1:]}: {error.strerror}", next_step="check its path and mode"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
