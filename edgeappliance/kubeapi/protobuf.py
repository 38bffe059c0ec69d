"""Bodies in Kubernetes' protobuf, read into the values that JSON would have given.

kubectl's typed commands send nothing else. Layout: `definitions/protobuf.json`, made by build/kubeapi/protobuf.py.
Envelope (Kubernetes API concepts, "Protobuf encoding"): the four bytes `k8s\\0`, then runtime.Unknown with the
type (1: apiVersion 1, kind 2) and the message (2).
"""

import base64
import importlib.resources
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from edgeappliance.kubeapi.builtin_types import component
from edgeappliance.kubeapi.errors import bad_request
from edgeappliance.kubeapi.times import rfc3339, rfc3339_micro

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_TIME, _MICRO_TIME = _META + "Time", _META + "MicroTime"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_RAW = (
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    _META + "FieldsV1",
)
DEPTH_LIMIT = 48

Layout = dict[str, dict[str, list[str]]]


class ProtobufReader:
    """Reads bodies; holds the layout of the built-in kinds."""

    def __init__(self) -> None:
        text = (importlib.resources.files("edgeappliance.kubeapi") / "definitions" / "protobuf.json").read_bytes()
        self._layout: Layout = msgspec.json.decode(text)

    def read(self, body: bytes) -> dict[str, Any]:
        """The object of a body with its apiVersion and kind; StatusFailure 400 when it cannot be read."""
        if not body.startswith(_MAGIC):
            raise bad_request("the body of the request is not Kubernetes protobuf: it does not begin with k8s\\0")
        api_version, kind, raw = "", "", b""
        for number, value in _fields(body[4:]):
            if number == 1 and isinstance(value, bytes):
                for inner, text in _fields(value):
                    if inner == 1 and isinstance(text, bytes):
                        api_version = _text(text)
                    elif inner == 2 and isinstance(text, bytes):
                        kind = _text(text)
            elif number == 2 and isinstance(value, bytes):
                raw = value
        name = self._definition(api_version, kind)
        result: dict[str, Any] = self._message(name, raw, 0)
        return {"apiVersion": api_version, "kind": kind, **result}

    def _definition(self, api_version: str, kind: str) -> str:
        group, _, version = api_version.rpartition("/")
        name = _META + kind if kind in ("DeleteOptions",) else component(group, version, kind)
        if name not in self._layout:
            raise bad_request(f"{api_version} {kind} is not read in protobuf here: send it as application/json")
        return name

    def _message(self, name: str, data: bytes, depth: int) -> Any:
        if depth > DEPTH_LIMIT:
            raise bad_request("the body of the request is nested too deeply")
        if name in (_TIME, _MICRO_TIME):
            return _time(data, micro=name == _MICRO_TIME)
        if name in _RAW:
            return _raw(data)
        layout = self._layout[name]
        result: dict[str, Any] = {}
        for number, value in _fields(data):
            field = layout.get(str(number))
            if field is None:
                raise bad_request(
                    f"{name.rpartition('.')[2]} has the protobuf field {number}, which is newer than what is read "
                    "here: send it as application/json"
                )
            self._put(result, field, value, depth)
        if name == _QUANTITY:
            return result.get("string", "0")
        if name == _INT_OR_STRING:
            return result.get("strVal", "") if result.get("type") else result.get("intVal", 0)
        return result

    def _put(self, result: dict[str, Any], field: list[str], value: int | bytes, depth: int) -> None:
        name, kind, form = field
        if form == "map":
            if not isinstance(value, bytes):
                raise bad_request(f"{name}: not a map")
            key, item = self._pair(kind, value, depth)
            result.setdefault(name, {})[key] = item
            return
        if form == "list" and isinstance(value, bytes) and kind in ("int32", "int64", "bool"):
            result.setdefault(name, []).extend(_scalar(kind, number) for number in _varints(value))  # packed
            return
        item = self._value(kind, value, depth)
        if form == "list":
            result.setdefault(name, []).append(item)
        elif form == "inline":
            result.update(item)
        elif item is not None and item != "":  # Go writes the empty text of a field that is not set
            result[name] = item

    def _pair(self, kind: str, data: bytes, depth: int) -> tuple[str, Any]:
        key, item = "", self._value(kind, b"" if kind not in ("int32", "int64", "bool") else 0, depth)
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                key = _text(value)
            elif number == 2:
                item = self._value(kind, value, depth)
        return key, item

    def _value(self, kind: str, value: int | bytes, depth: int) -> Any:
        if isinstance(value, int):
            return _scalar(kind, value)
        if kind == "string":
            return _text(value)
        if kind == "bytes":
            return base64.b64encode(value).decode()
        if kind == "double":
            return struct.unpack("<d", value)[0]
        if kind not in self._layout:
            raise bad_request(f"a field of type {kind} cannot be read")
        return self._message(kind, value, depth + 1)


def _scalar(kind: str, value: int) -> int | bool:
    if kind == "bool":
        return bool(value)
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise bad_request("the body of the request holds a text that is not UTF-8") from None


def _time(data: bytes, *, micro: bool) -> str | None:
    seconds = nanos = 0
    for number, value in _fields(data):
        if isinstance(value, int) and number == 1:
            seconds = value - (1 << 64) if value >= 1 << 63 else value
        elif isinstance(value, int) and number == 2:
            nanos = value
    if not data or not 0 < seconds < 253_402_300_800:
        return None
    milliseconds = seconds * 1000 + nanos // 1_000_000
    return rfc3339_micro(milliseconds) if micro else rfc3339(milliseconds)


def _raw(data: bytes) -> Any:
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes) and value:
            try:
                return msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise bad_request(f"a raw field of the body is no JSON: {error}") from None
    return None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise bad_request("the body of the request is cut short")


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and raw value of every field of a message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise bad_request(f"the body of the request has a field of wire type {wire}")
        if position + size > len(data):
            raise bad_request("the body of the request is cut short")
        yield number, data[position : position + size]
        position += size
