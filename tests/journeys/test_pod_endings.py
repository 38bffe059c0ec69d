"""How containers start and end, how they are asked how they are, and what is said of it."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd, Registry
from tests.support.pods import SLEEPS, Object, condition, container, pod, restarts, shell, state
from tests.support.podsite import PodSite, pod_site
from tests.support.stand import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

STUBBORN = "trap '' TERM; while true; do sleep 0.2; done"


@pytest.fixture
async def site(dockerd: Dockerd) -> AsyncIterator[PodSite]:
    async with pod_site(dockerd) as stand:
        yield stand


async def deleted(site: PodSite, name: str, *options: str) -> float:
    """Seconds that a deletion takes."""
    began = time.monotonic()
    await site.kubectl("delete", "pod", name, "--timeout=40s", *options)
    return time.monotonic() - began


async def test_the_end_of_containers(site: PodSite) -> None:
    """Grace, stop signal, preStop, restart policies, last words."""
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo before >>/v/said; sleep 2"]}}}
    says = "trap 'echo term >>/v/said; exit 0' TERM; while true; do sleep 0.1; done"
    seen: Object = {"volumes": [{"name": "v", "hostPath": {"path": str(site.directory / "said")}}]}
    v = [{"name": "v", "mountPath": "/v"}]
    logs = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    words = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; exit 1"
    never: Object = {"restartPolicy": "Never"}
    await site.apply(
        pod("stubborn", shell(STUBBORN), terminationGracePeriodSeconds=4),
        pod("forced", shell(STUBBORN), terminationGracePeriodSeconds=60),
        pod("hooked", shell(says, volumeMounts=v, lifecycle=hook), terminationGracePeriodSeconds=20, **seen),
        pod("signalled", shell("trap 'exit 7' USR1; trap '' TERM; while true; do sleep 0.1; done",
            lifecycle={"stopSignal": "SIGUSR1"}), terminationGracePeriodSeconds=20, os={"name": "linux"}),
        pod("good", shell("exit 0"), **never),
        pod("again", shell("test -e /v/once && exit 0; touch /v/once; exit 5", volumeMounts=v),
            restartPolicy="OnFailure", **seen),
        pod("own-path", shell("echo mine >/var/words; exit 2", terminationMessagePath="/var/words"), **never),
        pod("from-log", shell(words, **logs), **never),
        pod("not-from-log", shell("echo out; echo file >/dev/termination-log; exit 1", **logs), **never),
        pod("well", shell("echo out; exit 0", **logs), **never),
        pod("long", shell("head -c 10000 /dev/zero | tr '\\0' x >/dev/termination-log", ), **never),
        pod("no-program", container("main", "/no/such/program"), **never),
        pod("shortlived", activeDeadlineSeconds=3),
    )  # fmt: skip
    obj = await site.ended("good")
    assert (obj["status"]["phase"], state(obj)[1]["reason"]) == ("Succeeded", "Completed")
    obj = await site.ended("again")
    assert (obj["status"]["phase"], restarts(obj)) == ("Succeeded", 1)
    assert obj["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 5
    for name, code, message in (
        ("own-path", 2, "mine\n"),
        ("not-from-log", 1, "file\n"),
        ("well", 0, None),
        ("long", 0, "x" * 4096),
    ):
        details = state(await site.ended(name))[1]
        assert (details["exitCode"], details.get("message")) == (code, message), name
    message = state(await site.ended("from-log"))[1]["message"]
    assert message.endswith("line 198\nline 199\n")
    assert len(message) <= 2048
    assert len(message.splitlines()) == 80
    obj = await site.ended("no-program")
    assert "no such file or directory" in state(obj)[1]["message"]
    assert state(obj)[1]["reason"] == "ContainerCannotRun"

    obj = await site.ended("shortlived")
    assert (obj["status"]["phase"], obj["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    await site.told("shortlived", "Normal", "DeadlineExceeded",
                    "Pod was active on the node longer than the specified deadline")  # fmt: skip

    await site.ready("stubborn", "hooked", "signalled", "forced")
    grace, forced, hooked, signalled = await asyncio.gather(
        deleted(site, "stubborn"),
        deleted(site, "forced", "--grace-period=1"),
        deleted(site, "hooked"),
        deleted(site, "signalled"),
    )
    assert 4 <= grace < 9, grace
    assert 1 <= forced < 6, forced
    assert 2 <= hooked < 8, hooked
    assert signalled < 5, signalled
    assert (site.directory / "said" / "said").read_text() == "before\nterm\n"
    await site.told("stubborn", "Normal", "Killing", "Stopping container main")


async def test_hooks_come_first(site: PodSite) -> None:
    """A container runs once its postStart hook is done; those after it wait so long; a deletion does not."""
    after = {"postStart": {"exec": {"command": ["sh", "-c", "sleep 3; touch /v/prepared"]}}}
    v = [{"name": "v", "mountPath": "/v"}]
    looks = f"test -e /v/prepared && echo prepared; {SLEEPS}"
    volumes = [{"name": "v", "emptyDir": {}}]
    sidecar = shell(SLEEPS, "mesh", restartPolicy="Always", lifecycle=after, volumeMounts=v)
    slow = {"postStart": {"sleep": {"seconds": 300}}}
    bad = {"postStart": {"httpGet": {"port": 81, "path": "/hello"}}}
    await site.apply(
        pod("first", shell(SLEEPS, lifecycle=after, volumeMounts=v), shell(looks, "second", volumeMounts=v),
            volumes=volumes),
        pod("mesh", shell(looks, volumeMounts=v), initContainers=[sidecar], volumes=volumes),
        pod("slow", shell(SLEEPS, lifecycle=slow)),
        pod("bad", shell(SLEEPS, lifecycle=bad)),
    )  # fmt: skip

    async def up() -> bool:
        return any(reason == "Started" for _, reason, _ in await site.events("first"))

    await eventually(up, what="the first container started")
    obj = await site.get("pod", "first")
    assert state(obj) == ("waiting", {"reason": "ContainerCreating"})
    assert condition(obj, "Ready") == "False"
    await site.ready("first", "mesh")

    async def said() -> bool:
        return await site.log("first", "second") == await site.log("mesh") == "prepared\n"

    await eventually(said, what="that both found what the hook had prepared")
    assert state(await site.get("pod", "slow"))[0] == "waiting"
    assert await deleted(site, "slow") < 8
    obj = await site.until("bad", lambda obj: restarts(obj) == 1, "started again")
    told = [message for _, reason, message in await site.events("bad") if reason == "FailedPostStartHook"]
    assert "connection refused" in told[0]


async def test_probes_of_every_kind(site: PodSite) -> None:
    def probe(**how: Any) -> Object:
        return {"periodSeconds": 1, "failureThreshold": 2, **how}

    http = "mkdir -p /www/a; echo ok >/www/a/health; exec httpd -f -p 8080 -h /www"
    port = [{"name": "web", "containerPort": 8080}]
    by_name = probe(httpGet={"path": "/a/health", "port": "web", "httpHeaders": [{"name": "X-Y", "value": "z"}]})
    await site.apply(
        pod("http", shell(http, ports=port, readinessProbe=by_name, livenessProbe=by_name)),
        pod("http-404", shell(http, readinessProbe=probe(httpGet={"path": "/none", "port": 8080}))),
        pod("tcp", shell(http, readinessProbe=probe(tcpSocket={"port": 8080}))),
        pod("tcp-closed", shell(SLEEPS, readinessProbe=probe(tcpSocket={"port": 8081}))),
        pod("exec", shell(SLEEPS, readinessProbe=probe(exec={"command": ["sh", "-c", "exit 0"]}))),
        pod("exec-slow", shell(SLEEPS, readinessProbe=probe(exec={"command": ["sleep", "30"]}))),
        pod("exec-none", shell(SLEEPS, readinessProbe=probe(exec={"command": ["/none"]}))),
        pod("grpc-closed", shell(SLEEPS, readinessProbe=probe(grpc={"port": 9000}))),
        pod("never-starts", shell(SLEEPS, startupProbe=probe(exec={"command": ["false"]}))),
    )
    objects = await site.ready("http", "tcp", "exec")
    ip = {name: (await site.until(name, lambda obj: obj["status"].get("podIP"), "an address"))["status"]["podIP"]
          for name in ("http-404", "tcp-closed", "grpc-closed")}  # fmt: skip
    assert all(restarts(obj) == 0 for obj in objects)
    failed = "Readiness probe failed: "
    for name, message in (
        ("http-404", f"{failed}HTTP probe failed with statuscode: 404"),
        ("tcp-closed", f"{failed}dial tcp {ip['tcp-closed']}:8081: connect: connection refused"),
        ("exec-slow", f'{failed}command timed out: "sleep 30" timed out after 1s'),
    ):
        await site.told(name, "Warning", "Unhealthy", message)
    for name, words in (("exec-none", "no such file"), ("grpc-closed", f'"{ip["grpc-closed"]}:9000" within 1s')):

        async def says(name: str = name, words: str = words) -> bool:
            return any(reason == "Unhealthy" and words in message for _, reason, message in await site.events(name))

        await eventually(says, what=f"{name}: {words}")
    await site.until("never-starts", lambda obj: restarts(obj) >= 1, "restarted by its startup probe")
    await site.told("never-starts", "Normal", "Killing", "Container main failed startup probe, will be restarted")
    for name in ("http-404", "tcp-closed", "exec-slow"):
        assert condition(await site.get("pod", name), "Ready") == "False"


async def test_images_and_who_may_have_them(site: PodSite, dockerd: Dockerd) -> None:
    """Pull policies and pull secrets, with a registry that asks for a password; and what kubectl says of a pod."""
    async with Registry(dockerd, users={"app": "s3cret"}) as registry:
        image = await registry.push(BUSYBOX, "plant/app:1")

        def secret(name: str, password: str) -> Object:
            auth = base64.b64encode(f"app:{password}".encode()).decode()
            config = json.dumps({"auths": {registry.name: {"auth": auth}}})
            return {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": name},
                "stringData": {".dockerconfigjson": config},
            }

        def wanted(name: str, policy: str, *secrets: str, image: str = image) -> Object:
            main = shell(SLEEPS, image=image, imagePullPolicy=policy)
            return pod(name, main, imagePullSecrets=[{"name": item} for item in secrets])

        await site.apply(
            secret("right", "s3cret"),
            secret("wrong", "guess"),
            wanted("never", "Never"),
            wanted("nobody", "IfNotPresent"),
            wanted("wrong", "IfNotPresent", "wrong"),
            wanted("unnamed", "IfNotPresent", image="Not A Name"),
        )
        obj = await site.until("never", lambda obj: state(obj)[1].get("message"), "a reason to wait")
        assert state(obj)[1] == {
            "reason": "ErrImageNeverPull",
            "message": f'Container image "{image}" is not present with pull policy of Never',
        }
        for name in ("nobody", "wrong"):
            obj = await site.until(name, lambda obj: state(obj)[1].get("reason") == "ImagePullBackOff", "backing off")
            assert state(obj)[1]["message"].startswith(f'Back-off pulling image "{image}": ErrImagePull: ')
            await site.told(name, "Normal", "Pulling", f'Pulling image "{image}"')
            await site.told(name, "Warning", "Failed", "Error: ErrImagePull")
            await site.told(name, "Normal", "BackOff", f'Back-off pulling image "{image}"')
            await site.told(name, "Warning", "Failed", "Error: ImagePullBackOff")
        obj = await site.until("unnamed", lambda obj: state(obj)[1].get("message"), "a reason to wait")
        assert state(obj)[1]["reason"] == "InvalidImageName"

        await site.apply(wanted("two", "IfNotPresent", "absent", "wrong", "right"))
        (obj,) = await site.ready("two")
        assert obj["status"]["containerStatuses"][0]["image"] == image
        told = await site.events("two")
        own = [reason for _, reason, _ in told if reason not in ("FailedToRetrieveImagePullSecret", "Pulled")]
        assert own == ["Pulling", "Created", "Started"]
        pulled = next(message for _, reason, message in told if reason == "Pulled")
        await site.apply(wanted("always", "Always", "right"))
        await site.ready("always")
        await site.told("always", "Normal", "Pulling", f'Pulling image "{image}"')
        pattern = (
            r'(Successfully pulled image ".+" in [\d.]+m?s \([\d.]+m?s including waiting\)\. Image size: \d+ bytes\.)'
        )
        assert re.fullmatch(pattern, pulled), pulled
        text = " ".join((await site.kubectl("describe", "pod", "two")).split())
        for words in (
            f"Node: {site.node}/",
            "Status: Running",
            "State: Running",
            "Ready: True",
            "Restart Count: 0",
            "Image ID: docker",
            "QoS Class: BestEffort",
            "PodReadyToStartContainers True",
            "Normal Started",
        ):
            assert words in text
