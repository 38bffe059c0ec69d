"""What would survive a cut from the cloud, or a cold boot without it: asked before it happens.

`judge` is pure; `report` gathers what it looks at and gives plain values for the control socket.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgeappliance.edged.engine.api import EngineAway, EngineRefused, Image
from edgeappliance.edged.pods.environment import Reference, references
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.kernel.clock import Clock
from edgeappliance.wire.operations import ResourceType

DAY = 86400.0
DAYS_WARNED = 14.0
"""Days of certificate below which a person is told: about as long as it takes to get to a site."""
HOURS_WARNED = 24.0
RTC_DIFFERENCE = DAY
"""Seconds that a hardware clock may be off before it counts as one that does not keep time."""

_CONFIG, _SECRET, _TOKEN = ResourceType.CONFIGMAP, ResourceType.SECRET, ResourceType.SERVICE_ACCOUNT_TOKEN


class Row(Protocol):
    """A stored object, as far as this needs it."""

    @property
    def uid(self) -> str: ...


class Store(Protocol):
    """The node's own copy of what the cloud wants; never asks the cloud."""

    async def get(self, key: str) -> Row | None: ...

    async def list(self, type: str) -> Sequence[Row]: ...


class Images(Protocol):
    """What is needed of the container engine."""

    @property
    def connected(self) -> bool: ...

    @property
    def trouble(self) -> str: ...

    async def image(self, name: str) -> Image | None: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pod that this node should run; `ended`: it has Succeeded or Failed and never starts again."""

    pod: Pod
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Outbox:
    """What is kept for the cloud during a cut. hours: until the oldest is dropped, None = never; text: what it is."""

    hours: float | None = None
    text: str = "of every state and value the newest is kept: a cut of any length loses none"


@dataclass(frozen=True, slots=True)
class ClockSource:
    """What tells this machine the time. daemon: chrony, timesyncd, ntpd or ""; rtc: its device, "" without one.

    rtc_off: seconds between the RTC and the system's clock. synchronised: a daemon says so; None when none tells.
    """

    daemon: str = ""
    rtc: str = ""
    rtc_off: float = 0.0
    synchronised: bool | None = None

    @property
    def keeps_time(self) -> bool:
        """Whether the time is right after a boot without any network."""
        return bool(self.rtc) and abs(self.rtc_off) < RTC_DIFFERENCE


@dataclass(frozen=True, slots=True)
class Have:
    """How many of the things that a pod needs are on this machine, and which are not."""

    have: int
    need: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """survives: would start again on a box that boots alone. todo: what to do where it would not."""

    survives: bool
    todo: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInputs:
    """What a pod needs, by name, with whether it is here."""

    namespace: str
    name: str
    ended: bool = False
    images: Mapping[str, bool] = field(default_factory=dict)
    configs: Mapping[str, bool] = field(default_factory=dict)
    secrets: Mapping[str, bool] = field(default_factory=dict)
    tokens: Mapping[str, bool] = field(default_factory=dict)


def judge(pod: PodInputs) -> Verdict:
    """Whether a pod would start on its own, and what to do where not."""
    if pod.ended:
        return Verdict(True)
    todo = []
    for words, things in (
        ("pull the image {0} while there is a link (docker pull {0})", pod.images),
        ("create the config map {0}, or remove it from the pod", pod.configs),
        ("create the secret {0}, or remove it from the pod", pod.secrets),
        ("let the pod start once while there is a link: it has no token of {0} yet", pod.tokens),
    ):
        todo += [words.format(name) for name, here in things.items() if not here]
    return Verdict(not todo, tuple(todo))


def judge_certificate(days: float | None) -> Verdict:
    """How long the identity towards the cloud lasts; None: this node has no cloud."""
    if days is None:
        return Verdict(True)
    if days <= 0:
        return Verdict(False, ("the certificate has ended: reach the cloud, or join again (edgecore join)",))
    if days < DAYS_WARNED:
        text = f"the certificate ends in {days:.0f} days: a longer cut needs a new join afterwards (edgecore join)"
        return Verdict(True, (text,))
    return Verdict(True)


def judge_outbox(outbox: Outbox) -> Verdict:
    """Whether what waits for the cloud has room for a day."""
    if outbox.hours is None or outbox.hours >= HOURS_WARNED:
        return Verdict(True)
    if outbox.hours <= 0:
        return Verdict(False, ("the outbox is full: the oldest is dropped now; give it more room",))
    return Verdict(True, (f"the outbox lasts {outbox.hours:.0f} hours: give it more room for longer cuts",))


def judge_clock(source: ClockSource) -> Verdict:
    """Whether the time is right after a power cut without network."""
    if source.keeps_time:
        return Verdict(True)
    fit = "fit a real-time clock with a battery"
    if source.rtc:
        hours = abs(source.rtc_off) / 3600
        fit = f"{source.rtc} is {hours:.0f} hours off: set it (hwclock --systohc) and see to its battery"
    if source.daemon:
        return Verdict(
            True,
            (f"the time comes from the network alone ({source.daemon}): {fit}, or have an NTP server on the site",),
        )
    return Verdict(False, (f"nothing keeps the time through a power cut: {fit}, or run chrony or systemd-timesyncd",))


async def report(
    *,
    node: str,
    pods: Iterable[Wanted],
    store: Store,
    engine: Images,
    certificate_ends: float | None,
    clock: Clock,
    outbox: Outbox | None = None,
    root: Path = Path("/"),
) -> dict[str, Any]:
    """Everything as plain values. `certificate_ends`: Unix seconds, None for a node that has no cloud.

    Asks neither the cloud nor a registry. Never raises for an engine that is away: then no image is known.
    """
    wanted = list(pods)
    outbox = outbox or Outbox()
    tokens = {row.uid for row in await store.list(_TOKEN)}
    images: dict[str, bool] = {}
    trouble = "" if engine.connected else engine.trouble or "the Docker Engine does not answer"
    rows = []
    for item in wanted:
        inputs, trouble = await _gather(item, store, engine, images, tokens, trouble)
        rows.append(_pod_row(inputs, trouble))
    now = clock.wall_ms() / 1000
    days = None if certificate_ends is None else (certificate_ends - now) / DAY
    source = await asyncio.to_thread(read_clock_source, root, now=now)
    parts = {
        "certificate": {"days": days, **asdict(judge_certificate(days))},
        "outbox": {**asdict(outbox), **asdict(judge_outbox(outbox))},
        "clock": {**asdict(source), "keeps_time": source.keeps_time, **asdict(judge_clock(source))},
        "engine": {
            "trouble": trouble,
            "survives": not trouble,
            "todo": [f"see to Docker: {trouble}"] if trouble else [],
        },
    }
    verdicts = [*rows, *parts.values()]
    return {
        "node": node,
        "now_ms": clock.wall_ms(),
        "survives": all(bool(item["survives"]) for item in verdicts),
        "pods": rows,
        **parts,
    }


async def _gather(
    item: Wanted, store: Store, engine: Images, images: dict[str, bool], tokens: set[str], trouble: str
) -> tuple[PodInputs, str]:
    """What one pod needs; `images` remembers what the engine has said, the text why it says nothing."""
    pod = item.pod
    names = [] if item.ended else sorted({container.image for container in pod.containers() if container.image})
    for name in names:
        if name in images or trouble:
            continue
        try:
            images[name] = await engine.image(name) is not None
        except EngineRefused:
            images[name] = False  # a name that no image can have
        except EngineAway as error:
            trouble = error.message
    needed = [] if item.ended else sorted(references(pod), key=lambda one: (one.kind, one.name))
    here = {one: await store.get(_key(one)) is not None for one in needed if not one.optional}
    accounts = [] if item.ended or not _wants_token(pod) else [pod.spec.service_account_name or "default"]
    return (
        PodInputs(
            namespace=pod.metadata.namespace,
            name=pod.metadata.name,
            ended=item.ended,
            images={name: images.get(name, False) for name in names},
            configs={one.name: found for one, found in here.items() if one.kind == _CONFIG},
            secrets={one.name: found for one, found in here.items() if one.kind == _SECRET},
            tokens={name: pod.uid in tokens for name in accounts},
        ),
        trouble,
    )


def _key(reference: Reference) -> str:
    return f"{reference.namespace}/{reference.kind}/{reference.name}"


def _wants_token(pod: Pod) -> bool:
    return any(
        part.service_account_token is not None
        for volume in pod.spec.volumes
        if volume.projected is not None
        for part in volume.projected.sources
    )


def _pod_row(pod: PodInputs, trouble: str) -> dict[str, Any]:
    verdict = judge(pod)
    if trouble and not pod.ended:
        # What is missing cannot be told from what is not known: the engine's own line says what to do.
        verdict = Verdict(
            False,
            judge(
                PodInputs(
                    namespace=pod.namespace, name=pod.name, configs=pod.configs, secrets=pod.secrets, tokens=pod.tokens
                )
            ).todo,
        )
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "ended": pod.ended,
        "images_known": not trouble,
        "images": asdict(_have(pod.images)),
        "configs": asdict(_have(pod.configs)),
        "secrets": asdict(_have(pod.secrets)),
        "tokens": asdict(_have(pod.tokens)),
        **asdict(verdict),
    }


def _have(things: Mapping[str, bool]) -> Have:
    missing = tuple(name for name, here in things.items() if not here)
    return Have(len(things) - len(missing), len(things), missing)


# The clock.

_DAEMONS = (
    ("chrony", ("run/chrony/chronyd.pid", "run/chronyd.pid")),
    ("timesyncd", ("run/systemd/timesync",)),
    ("ntpd", ("run/ntpd.pid", "run/openntpd.pid")),
)


def read_clock_source(root: Path, *, now: float) -> ClockSource:
    """What keeps the time here, from /run and /sys below `root`; `now` is Unix seconds."""
    daemon = next((name for name, marks in _DAEMONS if any((root / mark).exists() for mark in marks)), "")
    synchronised = (root / "run/systemd/timesync/synchronized").exists() if daemon == "timesyncd" else None
    rtc, off = "", 0.0
    for device in sorted((root / "sys/class/rtc").glob("rtc*")):
        try:
            told = int((device / "since_epoch").read_text())
        except (OSError, ValueError):
            continue  # a clock without a battery may refuse to tell
        if not rtc or abs(told - now) < abs(off):
            rtc, off = device.name, told - now
    return ClockSource(daemon, rtc, off, synchronised)
