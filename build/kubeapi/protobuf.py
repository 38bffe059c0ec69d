"""Write edgeappliance/kubeapi/definitions/protobuf.json: how the built-in kinds are laid out in protobuf.

kubectl's typed commands (create configmap, delete, auth can-i ...) send their bodies in protobuf only. Input is the
`staging/src` folder of Kubernetes' source (Debian: `apt-get source kubernetes`), whose generated.proto files give
the field numbers; numbers never change their meaning, so an older release only lacks newer fields. Needs
definitions/core.json: a field that has no property of its own in JSON is an inlined struct there.

    python build/kubeapi/protobuf.py .../kubernetes/staging/src
"""

import json
import re
import sys
from pathlib import Path

FILES = (
    "k8s.io/api/core/v1",
    "k8s.io/api/rbac/v1",
    "k8s.io/api/coordination/v1",
    "k8s.io/api/certificates/v1",
    "k8s.io/api/authentication/v1",
    "k8s.io/api/authorization/v1",
    "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
    "k8s.io/apimachinery/pkg/api/resource",
    "k8s.io/apimachinery/pkg/apis/meta/v1",
    "k8s.io/apimachinery/pkg/runtime",
    "k8s.io/apimachinery/pkg/util/intstr",
)
TARGET = Path(__file__).parents[2] / "edgeappliance" / "kubeapi" / "definitions" / "protobuf.json"
SCALARS = frozenset(("string", "bytes", "bool", "int32", "int64", "uint32", "uint64", "double", "float"))
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
# What kubectl sends and the folders above or core.json lack: kinds that came later, bodies of subresources.
NEWER = {
    "io.k8s.api.authentication.v1.SelfSubjectReview": {
        "1": ["metadata", "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", ""],
        "2": ["status", "io.k8s.api.authentication.v1.SelfSubjectReviewStatus", ""],
    },
    "io.k8s.api.authentication.v1.SelfSubjectReviewStatus": {
        "1": ["userInfo", "io.k8s.api.authentication.v1.UserInfo", ""],
    },
    "io.k8s.api.core.v1.Binding": {
        "1": ["metadata", f"{_META}ObjectMeta", ""],
        "2": ["target", "io.k8s.api.core.v1.ObjectReference", ""],
    },
    "io.k8s.api.policy.v1.Eviction": {
        "1": ["metadata", f"{_META}ObjectMeta", ""],
        "2": ["deleteOptions", f"{_META}DeleteOptions", ""],
    },
    "io.k8s.api.authentication.v1.TokenRequest": {
        "1": ["metadata", f"{_META}ObjectMeta", ""],
        "2": ["spec", "io.k8s.api.authentication.v1.TokenRequestSpec", ""],
        "3": ["status", "io.k8s.api.authentication.v1.TokenRequestStatus", ""],
    },
    "io.k8s.api.authentication.v1.TokenRequestSpec": {
        "1": ["audiences", "string", "list"],
        "3": ["boundObjectRef", "io.k8s.api.authentication.v1.BoundObjectReference", ""],
        "4": ["expirationSeconds", "int64", ""],
    },
    "io.k8s.api.authentication.v1.TokenRequestStatus": {
        "1": ["token", "string", ""],
        "2": ["expirationTimestamp", f"{_META}Time", ""],
    },
    "io.k8s.api.authentication.v1.BoundObjectReference": {
        "1": ["kind", "string", ""],
        "2": ["apiVersion", "string", ""],
        "3": ["name", "string", ""],
        "4": ["uid", "string", ""],
    },
}
_MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.M | re.S)
_FIELD = re.compile(r"^  (optional|repeated|map<string, ([\w.]+)>) ?([\w.]*) (\w+) = (\d+);", re.M)


def definition_name(package: str, message: str) -> str:
    """`k8s.io.api.core.v1` + `Pod` as OpenAPI calls it."""
    return f"io.k8s.{package.removeprefix('k8s.io.')}.{message}"


def resolve(package: str, word: str) -> str:
    """A field's type: a scalar's name or a message's definition name."""
    if word in SCALARS:
        return word
    full = word.lstrip(".") if "." in word else f"{package}.{word}"
    package, _, message = full.rpartition(".")
    return definition_name(package, message)


def main(source: Path) -> None:
    """Write TARGET."""
    core = json.loads((TARGET.parent / "core.json").read_text())
    layout: dict[str, dict[str, list[str]]] = {}
    for folder in FILES:
        text = (source / folder / "generated.proto").read_text()
        package = re.search(r"^package ([\w.]+);", text, re.M).group(1)
        for message, body in _MESSAGE.findall(text):
            name = definition_name(package, message)
            known = core.get(name, {}).get("properties")
            fields = {}
            for label, map_type, word, field, number in _FIELD.findall(body):
                kind = resolve(package, map_type or word)
                form = "map" if map_type else "list" if label == "repeated" else ""
                if known is not None and field not in known and not form and kind not in SCALARS:
                    form = "inline"
                fields[number] = [field, kind, form]
            layout[name] = fields
    layout.update(NEWER)
    wanted = [name for name in layout if name in core] + list(NEWER)
    kept: dict[str, dict[str, list[str]]] = {}
    while wanted:
        name = wanted.pop()
        if name in kept or name in SCALARS:
            continue
        kept[name] = layout[name]
        wanted.extend(kind for _, kind, _ in layout[name].values() if kind in layout)
    lines = [f"{json.dumps(name)}:{json.dumps(kept[name], separators=(',', ':'))}" for name in sorted(kept)]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sys.stdout.write(f"{TARGET}: {len(kept)} messages, {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
