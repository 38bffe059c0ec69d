"""What `edgecore pods` says below its table: one line for each container that is not well."""

from pathlib import Path
from typing import Any

import pytest

from edgeappliance.cli.main import main
from edgeappliance.cli.pods import render_troubles
from edgeappliance.cli.troubles import FIELDS


def pod(name: str = "web", namespace: str = "default", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "status": status}


def waiting(reason: str, message: str = "", **more: Any) -> list[dict[str, Any]]:
    return [{"name": "c", "state": {"waiting": {"reason": reason, "message": message}}, **more}]


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}, "lastState": ended(1)}]},
        {"phase": "Succeeded", "containerStatuses": [{"name": "c", "state": ended(0, "Completed")}]},
        {"phase": "Pending", "containerStatuses": waiting("ContainerCreating")},
        {"phase": "Pending", "initContainerStatuses": waiting("PodInitializing"), "conditions": [{"type": "Ready"}]},
    ],
)
def test_a_pod_that_is_well_needs_no_words(status: dict[str, Any]) -> None:
    assert render_troubles([pod(**status)]) == []


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (
            {"containerStatuses": waiting("ImagePullBackOff", 'Back-off pulling image "a:1": ErrImagePull: refused')},
            'default/web c: ImagePullBackOff: Back-off pulling image "a:1": ErrImagePull: refused',
        ),
        (
            {"initContainerStatuses": waiting("CreateContainerConfigError", 'configmap "x" not found')},
            'default/web c: CreateContainerConfigError: configmap "x" not found',
        ),
        (
            {"containerStatuses": waiting("ContainerCreating", 'MountVolume.SetUp failed for volume "v"')},
            'default/web c: ContainerCreating: MountVolume.SetUp failed for volume "v"',
        ),
        (
            {
                "containerStatuses": waiting(
                    "CrashLoopBackOff",
                    "back-off 40s restarting failed container=c pod=web_default(1)",
                    lastState=ended(3),
                )
            },
            "default/web c: CrashLoopBackOff: back-off 40s; it ended with exit code 3; see: edgecore logs -p web -c c",
        ),
        (
            {
                "containerStatuses": waiting(
                    "CrashLoopBackOff",
                    "back-off 10s restarting failed container=c pod=web_default(1)",
                    lastState=ended(127, "ContainerCannotRun", "no\nsuch file"),
                )
            },
            "default/web c: CrashLoopBackOff: back-off 10s; it ended with exit code 127"
            " (ContainerCannotRun: no such file)",
        ),
        (
            {"phase": "Failed", "containerStatuses": [{"name": "c", "state": ended(137, "OOMKilled")}]},
            "default/web c: ended with exit code 137 (OOMKilled); see: edgecore logs web -c c",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. "},
            "default/web: Evicted: The node was low on resource: memory.",
        ),
        (
            {
                "conditions": [{"type": FIELDS, "status": "False", "reason": "Strange", "message": "volumes[0].nfs"}],
                "containerStatuses": waiting("CreateContainerConfigError", "volumes[0].nfs"),
            },
            "default/web: Strange: volumes[0].nfs",
        ),
    ],
)
def test_one_line_says_why(status: dict[str, Any], line: str) -> None:
    assert render_troubles([pod(**status)]) == ["", line]


def test_a_command_to_type_names_another_namespace() -> None:
    failed = pod("job", "lab", containerStatuses=[{"name": "c", "state": ended(2)}])
    assert render_troubles([failed])[-1].endswith("see: edgecore logs -n lab job -c c")


def test_words_of_a_pod_do_not_steer_the_terminal() -> None:
    shown = render_troubles([pod(reason="Failed", message="\x1b[2Jgone" + "x" * 5000)])[-1]
    assert "\x1b" not in shown
    assert len(shown) <= 600


@pytest.mark.parametrize("verb", [["pods"], ["logs", "web"], ["exec", "web", "--", "true"]])
def test_nobody_answers(tmp_path: Path, verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "edgecore.toml"
    config.write_text(f'runtime_dir = "{tmp_path}/run"\n')
    assert main([*verb[:1], "--config", str(config), *verb[1:]]) == 1
    assert capsys.readouterr().err == (
        f"edgecore: nothing answers on {tmp_path}/run/kubelet.sock\n"
        "  what to do: is edgecore running with edged.enable = true? start it with: edgecore run\n"
    )


def test_a_command_without_its_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["exec", "web", "ls", "-l"])
    assert exit.value.code == 2
    assert "a command comes after --: edgecore exec POD -- COMMAND" in capsys.readouterr().err
