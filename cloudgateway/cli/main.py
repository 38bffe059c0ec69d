"""`cloudgateway`: the command line. Parses, finds the verb, turns errors into text with a next step."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cloudgateway.config import DEFAULT_FILE, GatewaySettings
from edgeappliance.kernel import settings
from edgeappliance.kernel.errors import ApplianceError

DESCRIPTION = """\
cloudgateway is the cloud end of edge nodes: they join it, hold one connection to it, and it talks to Kubernetes.

  cloudgateway run --embedded /var/lib/cloudgateway    a site without a cluster: brings its own Kubernetes API
  cloudgateway run                                     with a cluster (service account or kubeconfig)
  cloudgateway crds install                            once per cluster: Device, DeviceModel and their like
  cloudgateway token create                            prints what a new edge needs to join
"""

Verb = Callable[[argparse.Namespace, GatewaySettings], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0 when it did what was asked, 1 when it failed, 2 for wrong usage."""
    options = parser().parse_args(arguments)
    try:
        verb: Verb = options.verb
        return verb(options, load_config(options))
    except ApplianceError as error:
        print(f"cloudgateway: {error.message}", file=sys.stderr)
        if error.next_step:
            print(f"  what to do: {error.next_step}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `cloudgateway crds print | head`
        return 0


def load_config(options: argparse.Namespace) -> GatewaySettings:
    """The named file, else the default one when it exists, else defaults; then what the command line says."""
    path: Path | None = options.config
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    config = GatewaySettings() if path is None else settings.load(GatewaySettings, path)
    embedded: Path | None = getattr(options, "embedded", None)
    kubeconfig: Path | None = getattr(options, "kubeconfig", None)
    if embedded is not None:
        directory = str(embedded.absolute())
        config = msgspec.structs.replace(config, embedded=msgspec.structs.replace(config.embedded, directory=directory))
    if kubeconfig is not None:
        config = msgspec.structs.replace(
            config,
            kubernetes=msgspec.structs.replace(config.kubernetes, kubeconfig=str(kubeconfig)),
            embedded=msgspec.structs.replace(config.embedded, directory=""),
        )
    return config


def parser() -> argparse.ArgumentParser:
    """The whole command line; verbs import what they need only when they are called."""
    top = argparse.ArgumentParser(
        prog="cloudgateway", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration in TOML (default: {DEFAULT_FILE} if it exists)"
    )
    api = argparse.ArgumentParser(add_help=False)
    where = api.add_mutually_exclusive_group()
    where.add_argument("--embedded", type=Path, metavar="DIR", help="the embedded Kubernetes API in this directory")
    where.add_argument("--kubeconfig", type=Path, metavar="FILE", help="the cluster of this kubeconfig")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    run = verbs.add_parser(
        "run",
        parents=[common, api],
        help="the daemon: runs until SIGTERM",
        description="With --embedded DIR nothing else is needed: it makes DIR, serves a Kubernetes API from it with "
        f"KubeEdge's custom resources installed, writes DIR/{'admin.kubeconfig'} for kubectl, and says where it "
        "listens.",
    )
    run.set_defaults(verb=_run)

    token = verbs.add_parser("token", help="join tokens: create, list, revoke")
    actions = token.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        parents=[common, api],
        help="print a new token",
        description="Prints the token alone on stdout. Works while the gateway runs and while it does not. "
        "A token lets any number of nodes join until it expires or is revoked.",
    )
    create.add_argument("--hours", type=float, metavar="H", help="life in hours (default: enrolment.token_hours, 24)")
    create.add_argument("--note", default="", metavar="TEXT", help="what it is for; `token list` shows it")
    create.set_defaults(verb=_token_create)
    listing = actions.add_parser("list", parents=[common, api], help="tokens with their expiry")
    listing.set_defaults(verb=_token_list)
    revoke = actions.add_parser("revoke", parents=[common, api], help="take a token back; joined nodes stay")
    revoke.add_argument("id", help="the id that `token list` shows")
    revoke.set_defaults(verb=_token_revoke)

    crds = verbs.add_parser("crds", help="KubeEdge's custom resources: print, install")
    actions = crds.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("print", parents=[common], help="as YAML, for kubectl apply or a GitOps repository")
    show.set_defaults(verb=_crds_print)
    install = actions.add_parser("install", parents=[common, api], help="create or update them in the cluster")
    install.set_defaults(verb=_crds_install)

    config = verbs.add_parser("config", help="look at the configuration")
    actions = config.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", parents=[common, api], help="report everything wrong with the file at once")
    check.set_defaults(verb=_config_check)
    describe = actions.add_parser("show", parents=[common], help="print every key with its documentation and default")
    describe.set_defaults(verb=_config_show)

    version = verbs.add_parser("version", parents=[common], help="print the version")
    version.set_defaults(verb=_version)
    return top


def _run(options: argparse.Namespace, config: GatewaySettings) -> int:
    from cloudgateway.cli.run import run_forever

    return run_forever(config)


def _token_create(options: argparse.Namespace, config: GatewaySettings) -> int:
    from cloudgateway.cli.visits import create

    return create(config, hours=options.hours, note=options.note)


def _token_list(options: argparse.Namespace, config: GatewaySettings) -> int:
    from cloudgateway.cli.visits import listing

    return listing(config)


def _token_revoke(options: argparse.Namespace, config: GatewaySettings) -> int:
    from cloudgateway.cli.visits import revoke

    return revoke(config, options.id)


def _crds_print(options: argparse.Namespace, config: GatewaySettings) -> int:
    from cloudgateway.kube.crd_install import crd_manifest

    print(crd_manifest(), end="")
    return 0


def _crds_install(options: argparse.Namespace, config: GatewaySettings) -> int:
    from cloudgateway.cli.visits import install

    return install(config)


def _config_check(options: argparse.Namespace, config: GatewaySettings) -> int:
    from cloudgateway.config import server_names

    where = options.config or (DEFAULT_FILE if DEFAULT_FILE.exists() else "no file, defaults")
    print(f"{where}: ok")
    directory = config.embedded.directory
    print(
        f"Kubernetes: {f'embedded in {directory}' if directory else config.kubernetes.kubeconfig or 'by environment'}"
    )
    print(f"edges know this gateway as: {', '.join(server_names(config.enrolment))}")
    return 0


def _config_show(options: argparse.Namespace, config: GatewaySettings) -> int:
    print(settings.describe(GatewaySettings), end="")
    return 0


def _version(options: argparse.Namespace, config: GatewaySettings) -> int:
    import importlib.metadata

    print(f"cloudgateway {importlib.metadata.version('edgeappliance')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
