"""`edgecore`: the command line. Parses, finds the verb, turns errors into text with a next step."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeappliance.cli.output import ReaderGone, say
from edgeappliance.config.settings import DEFAULT_FILE, EdgeSettings
from edgeappliance.kernel import settings
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.version import version

DESCRIPTION = """\
edgecore turns this box into a Kubernetes edge node that speaks to machines.

  edgecore join --cloud gateway.example.org --token TOKEN    once, to get an identity
  edgecore run                                               the daemon
  edgecore status                                            how every part is doing, and what to do next
  edgecore devices                                           every device with its properties and values
  edgecore pods | logs | exec                                the pods of this box, also while it is offline
  edgecore autonomy                                          what would survive a cut from the cloud
"""

STATUS_HELP = """\
Asks the running edgecore over its control socket. For each component: its state, since when, its figures; below,
for everything that is not well, why and what to do.

exit code: 0 all is well, 1 a component has failed or no edgecore answers
"""

DEVICES_HELP = """\
What the running edgecore knows of its devices: reported and desired values, how old they are, how good, and why not.

exit code: 0, or 1 when the device asked for is not there or no edgecore answers
"""

PODS_HELP = """\
The pods of this box, as kubectl would show them, with and without a cloud. Below, for every pod that is not well, why.

exit code: 0, or 1 when no edgecore answers
"""

LOGS_HELP = """\
What a container of this box wrote. --since takes a number of seconds, or 90s, 15m, 2h.

exit code: 0, or 1 when there is no such pod or container, it has not started yet, or no edgecore answers
"""

EXEC_HELP = """\
Runs a command in a container of this box: edgecore exec -it POD -- sh

exit code: that of the command; 1 when it could not run
"""

AUTONOMY_HELP = """\
Says before a cut what would survive it: for each pod whether its images, config maps, secrets and tokens are on this
box, days of certificate, what waits for the cloud, and what keeps the time. Below, what to do about the rest.

exit code: 0 everything would survive, 1 something would not, or no edgecore answers
"""

RUN_HELP = """\
Runs in the foreground until SIGTERM or SIGINT; logs to stderr (with priorities under journald, or as JSON).
Polls its devices and serves its twins with and without a cloud; what the cloud missed it gets at the next link.
"""

Verb = Callable[[argparse.Namespace, EdgeSettings], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0 when it did what was asked, 1 when it failed, 2 for wrong usage."""
    options = _parse(arguments)
    try:
        return run(options)
    except ApplianceError as error:
        print(f"edgecore: {error.message}", file=sys.stderr)
        if error.next_step:
            print(f"  what to do: {error.next_step}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except ReaderGone:
        return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    top = parser()
    options, unknown = top.parse_known_args(arguments)
    if unknown and options.verb is _exec:
        top.error(f"exec: {unknown[0]} is no option of ours; a command comes after --: edgecore exec POD -- COMMAND")
    if unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def run(options: argparse.Namespace) -> int:
    """Load the configuration, if the verb needs one, and call the verb."""
    verb: Verb = options.verb
    return verb(options, load_config(options.config) if options.needs_config else EdgeSettings())


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
    top.set_defaults(needs_config=True)
    top.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    run_verb = _add(verbs, "run", common, help="the daemon: works with and without a cloud", description=RUN_HELP)
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
    join.add_argument("--enroll-port", type=port, default=10002, metavar="PORT", help="enrolment port (default 10002)")
    join.set_defaults(verb=_join)

    status = _add(
        verbs, "status", common, help="state of every component of the running edgecore", description=STATUS_HELP
    )
    status.add_argument("--json", action="store_true", help="as JSON, with all figures")
    status.set_defaults(verb=_status)

    devices = _add(
        verbs, "devices", common, help="devices with their properties, values and ages", description=DEVICES_HELP
    )
    devices.add_argument("device", nargs="?", default="", metavar="NAMESPACE/NAME", help="only this device")
    devices.add_argument("--json", action="store_true", help="as JSON")
    devices.set_defaults(verb=_devices)

    autonomy = _add(
        verbs, "autonomy", common, help="what would survive a cut from the cloud", description=AUTONOMY_HELP
    )
    autonomy.add_argument("--json", action="store_true", help="as JSON")
    autonomy.set_defaults(verb=_autonomy)

    _add_pod_verbs(verbs, common)

    config = verbs.add_parser("config", help="look at the configuration")
    actions = config.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", parents=[common], help="report everything wrong with the configuration and the device files"
    )
    check.set_defaults(verb=_config_check)
    show = actions.add_parser("show", parents=[common], help="print every key with its documentation and default")
    show.set_defaults(verb=_config_show, needs_config=False)

    version_verb = verbs.add_parser("version", parents=[common], help="print the version")
    version_verb.set_defaults(verb=_version, needs_config=False)
    return top


def _add_pod_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("-n", "--namespace", default="default", metavar="NAMESPACE", help="namespace (default: default)")
    container = argparse.ArgumentParser(add_help=False)
    container.add_argument("pod", metavar="POD")
    container.add_argument("-c", "--container", default="", metavar="CONTAINER", help="default: the pod's first one")

    pods = _add(verbs, "pods", common, where, help="the pods of this box", description=PODS_HELP)
    pods.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    pods.add_argument("-o", "--output", choices=("wide", "json"), default="", help="more columns, or everything")
    pods.set_defaults(verb=_pods)

    logs = _add(verbs, "logs", common, where, container, help="what a container wrote", description=LOGS_HELP)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what it writes from now on")
    logs.add_argument("-p", "--previous", action="store_true", help="of the run before the present one")
    logs.add_argument("--tail", type=count, metavar="LINES", help="only the last ones")
    logs.add_argument("--since", type=seconds, metavar="TIME", help="only what is not older")
    logs.add_argument("--timestamps", action="store_true", help="put the time before each line")
    logs.set_defaults(verb=_logs)

    run = _add(verbs, "exec", common, where, container, help="run a command in a container", description=EXEC_HELP)
    run.add_argument("-i", "--stdin", action="store_true", help="pass our stdin to it")
    run.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    run.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    run.set_defaults(verb=_exec)


class _ShowVersion(argparse.Action):
    """`--version`, which looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(f"edgecore {version()}")
        parser.exit()


def _add(verbs: Any, name: str, *parents: argparse.ArgumentParser, **texts: str) -> argparse.ArgumentParser:
    """A verb whose description keeps its line breaks."""
    made: argparse.ArgumentParser = verbs.add_parser(
        name, parents=parents, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    return made


def port(text: str) -> int:
    """A TCP port. Raises ArgumentTypeError, which argparse turns into a message."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1-65535")
    return int(text)


def count(text: str) -> int:
    """A number of lines. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def seconds(text: str) -> int:
    """A span of time: 90, 90s, 15m, 2h. Raises ArgumentTypeError."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    number = text[:-1] if unit else text
    if not number.isascii() or not number.isdigit() or len(number) > 9 or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 90s, 15m or 2h")
    return int(number) * (unit or 1)


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


def _autonomy(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.autonomy import autonomy

    return autonomy(config.control_socket, as_json=options.json)


def _pods(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.pods import pods

    return pods(
        config.kubelet_socket,
        control_socket=config.control_socket,
        namespace=options.namespace,
        everywhere=options.all_namespaces,
        output=options.output,
    )


def _logs(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.pods import logs

    asked = {
        "follow": options.follow,
        "previous": options.previous,
        "timestamps": options.timestamps,
        "tailLines": options.tail,
        "sinceSeconds": options.since,
    }
    query = {key: str(value).lower() for key, value in asked.items() if value is not None and value is not False}
    return logs(
        config.kubelet_socket,
        namespace=options.namespace,
        pod=options.pod,
        container=options.container,
        options=query,
    )


def _exec(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.exec import run_in

    return run_in(
        config.kubelet_socket,
        namespace=options.namespace,
        pod=options.pod,
        container=options.container,
        command=options.command,
        stdin=options.stdin,
        terminal=options.tty,
    )


def _config_check(options: argparse.Namespace, config: EdgeSettings) -> int:
    from edgeappliance.cli.check import check

    return check(config, options.config)


def _config_show(options: argparse.Namespace, config: EdgeSettings) -> int:
    say(settings.describe(EdgeSettings).removesuffix("\n"))
    return 0


def _version(options: argparse.Namespace, config: EdgeSettings) -> int:
    say(f"edgecore {version()}")
    return 0


def read_token(argument: str) -> str:
    """The token itself, from `@FILE`, or from stdin for `-`. Raises OperatorError."""
    if argument == "-":
        return sys.stdin.read().strip()
    if not argument.startswith("@"):
        return argument.strip()
    try:
        return Path(argument[1:]).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "holds no text"
        raise OperatorError(f"token file {argument[1:]}: {reason}", next_step="check its path and mode") from None


if __name__ == "__main__":
    sys.exit(main())
