"""What one probe has found so far. Pure: thresholds and nothing else (Kubernetes API, core/v1 Probe)."""

from dataclasses import dataclass, replace
from enum import StrEnum

from edgeappliance.edged.pods.spec import Probe


class ProbeKind(StrEnum):
    """Named as in a kubelet's events: `Liveness probe failed: ...`."""

    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


class Verdict(StrEnum):
    """Of one try. UNKNOWN: the try itself went wrong, so nothing follows from it."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """Verdict of one try with what was said; `warning` where a success deserves an event all the same."""

    verdict: Verdict
    output: str = ""
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe says of its container after some tries.

    passed: the value in force; None while none is (a startup probe before its first decision).
    run: how many times `last` has been the verdict in a row.
    condemned: a startup or liveness probe has failed for good, with this output: the container must be stopped.
    """

    passed: bool | None
    last: Verdict | None = None
    run: int = 0
    condemned: bool = False
    output: str = ""


def first(kind: ProbeKind) -> Outcome:
    """Before the first try: alive, not ready, not known to have started."""
    return Outcome({ProbeKind.LIVENESS: True, ProbeKind.READINESS: False, ProbeKind.STARTUP: None}[kind])


def after(outcome: Outcome, answer: Answer, *, kind: ProbeKind, probe: Probe) -> Outcome:
    """The outcome with one more answer. Below its threshold an answer changes nothing that is in force."""
    if answer.verdict is Verdict.UNKNOWN or outcome.condemned:
        return outcome
    run = outcome.run + 1 if answer.verdict is outcome.last else 1
    counted = replace(outcome, last=answer.verdict, run=run, output=answer.output)
    if answer.verdict is Verdict.SUCCESS:
        return replace(counted, passed=True) if run >= probe.success_threshold else counted
    if run < probe.failure_threshold:
        return counted
    return replace(counted, passed=False, condemned=kind is not ProbeKind.READINESS)
