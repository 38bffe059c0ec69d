"""Node selectors and node affinity (Kubernetes documentation, "Assigning Pods to Nodes"). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeappliance.kubeapi.selectors import node_requirement_met

Object = Mapping[str, Any]

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression over a label, or over the field metadata.name."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, value: str | None) -> bool:
        """Whether a label's value (None: it is not there) meets it."""
        return node_requirement_met(self.operator, self.values, value)


@dataclass(frozen=True, slots=True)
class Term:
    """A node selector term: all of its expressions; one without any matches nothing."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str], name: str) -> bool:
        """Whether a node with these labels and this name meets the term."""
        if not self.labels and not self.fields:
            return False
        return all(one.matches(labels.get(one.key)) for one in self.labels) and all(
            one.matches(name if one.key == "metadata.name" else None) for one in self.fields
        )


def required_terms(affinity: Object) -> tuple[Term, ...] | None:
    """The terms of which one must match; None when there is no such demand."""
    node = affinity.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return None
    return tuple(_term(term) for term in required.get("nodeSelectorTerms") or ())


def preferences(affinity: Object) -> tuple[tuple[int, Term], ...]:
    """Preferred terms with their weights."""
    node = affinity.get("nodeAffinity") or {}
    return tuple(
        (int(item.get("weight") or 0), _term(item.get("preference") or {}))
        for item in node.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    )


def selector_terms(
    selector: Mapping[str, str], terms: tuple[Term, ...] | None, labels: Mapping[str, str], name: str
) -> bool:
    """Whether a node meets a pod's nodeSelector and its required node affinity."""
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    return terms is None or any(term.matches(labels, name) for term in terms)


def _term(term: Object) -> Term:
    return Term(
        tuple(_requirement(one) for one in term.get("matchExpressions") or ()),
        tuple(_requirement(one) for one in term.get("matchFields") or ()),
    )


def _requirement(one: Object) -> Requirement:
    return Requirement(
        str(one.get("key", "")), str(one.get("operator", "")), tuple(str(value) for value in one.get("values") or ())
    )
