"""One property's ``visitors.configData`` made into a point.

The first seven keys mean what they mean to KubeEdge's Modbus mapper (reference 7.5); the others are ours.

| key | default | meaning |
|---|---|---|
| register | required | CoilRegister, DiscreteInputRegister, HoldingRegister, InputRegister |
| offset | required | address of the first coil or register, from 0 |
| limit | by type | how many |
| dataType | by property type | int (unsigned), int16..64, uint16..64, float32/64, double, boolean, string, bytes |
| scale | 1 | shown = raw * scale + valueOffset |
| isSwap, isRegisterSwap | false | swap the bytes of each register; reverse the order of the registers |
| signed | false | for int |
| byteOrder | ABCD | ABCD, CDAB, BADC, DCBA; or big, little for the bytes of a register |
| wordOrder | big | big, little: order of the registers |
| bit, bitCount | none, 1 | a field of an integer, bit 0 being the lowest |
| length, encoding | by limit, utf-8 | bytes of a string, and how it is written |
| valueOffset | 0 | added after scaling |
| precision | none | decimals |
| deadband | 0 | smaller changes are not reported |
| report | both | change, cycle, or both: reported on change and once per reportCycle (60 s when that is 0) |
"""

import codecs
from dataclasses import dataclass
from decimal import Decimal

from edgeappliance.devicemodel import Access, DeviceSpec, PropertySpec, PropertyType
from edgeappliance.mappers.codec import Codec, Raw, Shown
from edgeappliance.mappers.fields import Fields
from edgeappliance.mappers.modbus.spaces import Space
from edgeappliance.mappers.planner import Span
from edgeappliance.mappers.points import Point, ReportRule

_REGISTERS = {space.lower(): str(space) for space in Space}
_SHOWN = {
    PropertyType.INT: Shown.INT,
    PropertyType.FLOAT: Shown.FLOAT,
    PropertyType.DOUBLE: Shown.FLOAT,
    PropertyType.BOOLEAN: Shown.BOOLEAN,
    PropertyType.STRING: Shown.STRING,
    PropertyType.BYTES: Shown.STRING,
}
_REPORTS = {"change": "change", "cycle": "cycle", "both": "both"}
_BIG_LITTLE = {"big": "big", "little": "little"}
_ORDERS: dict[str, str] = {
    **dict.fromkeys(("abcd", "ab", "abcdefgh"), "ABCD"),
    **dict.fromkeys(("cdab", "ghefcdab"), "CDAB"),
    **dict.fromkeys(("badc", "ba", "badcfehg"), "BADC"),
    **dict.fromkeys(("dcba", "hgfedcba"), "DCBA"),
    **_BIG_LITTLE,
}
_SILENT_S = 60.0
"""A value that does not change is said again this often when no report cycle is set."""
_LONGEST_INTEGER = 4
_LONGEST_WRITE = 123
"""Registers of one write (Modbus Application Protocol V1.1b3, 6.12)."""


@dataclass(frozen=True, slots=True)
class _DataType:
    """`registers` is the number that the name fixes, 0 when ``limit`` says it; `usual` is the default then."""

    raw: Raw
    registers: int
    usual: int


_DATA_TYPES: dict[str, _DataType] = {
    **dict.fromkeys(("int", "integer", "uint"), _DataType(Raw.UINT, 0, 1)),
    "int16": _DataType(Raw.INT, 1, 1),
    "int32": _DataType(Raw.INT, 2, 2),
    "int64": _DataType(Raw.INT, 4, 4),
    "uint16": _DataType(Raw.UINT, 1, 1),
    "uint32": _DataType(Raw.UINT, 2, 2),
    "uint64": _DataType(Raw.UINT, 4, 4),
    "float": _DataType(Raw.FLOAT, 0, 2),
    "float32": _DataType(Raw.FLOAT, 2, 2),
    "double": _DataType(Raw.FLOAT, 0, 4),
    "float64": _DataType(Raw.FLOAT, 4, 4),
    **dict.fromkeys(("bool", "boolean"), _DataType(Raw.UINT, 0, 1)),
    "string": _DataType(Raw.TEXT, 0, 1),
    "bytes": _DataType(Raw.BYTES, 0, 1),
}
_DEFAULT_TYPES = {
    PropertyType.INT: "int",
    PropertyType.FLOAT: "float",
    PropertyType.DOUBLE: "double",
    PropertyType.BOOLEAN: "boolean",
    PropertyType.STRING: "string",
    PropertyType.BYTES: "bytes",
}


def point_of(
    spec: DeviceSpec, item: PropertySpec, fields: Fields, *, unit: int, max_registers: int, max_coils: int
) -> Point | None:
    """The point of a property; None when something is wrong, which `fields` has recorded."""
    if item.type not in _SHOWN:
        fields.fail("dataType", f"a property of type {item.type} cannot come over Modbus")
        return None
    if "register" not in fields:
        fields.fail("register", f"is missing: one of {', '.join(Space)}")
    space = Space(fields.choice("register", _REGISTERS, Space.HOLDING, shown=Space))
    if "offset" not in fields:
        fields.fail("offset", "is missing: the address of the first register")
    start = fields.integer("offset", 0, 0, 65535)
    kind = _kind(fields, item, space)
    count = _count(fields, kind, max_coils if space.is_bits else max_registers)
    if start + count > 65536:
        fields.fail("limit", f"{count} addresses from {start} end behind 65535")
    writable = item.access is Access.READ_WRITE and space.writable
    if writable and space is Space.HOLDING and count > _LONGEST_WRITE:
        fields.fail("limit", f"at most {_LONGEST_WRITE} registers can be written at once; make the property ReadOnly")
    codec = _codec(fields, item, space, kind, count)
    report = _report(fields, item)
    fields.unknown()
    return Point(
        device=spec.id,
        name=item.name,
        unit=unit,
        space=space,
        span=Span(start, count),
        codec=codec,
        cycle=item.collect_cycle_ms / 1000,
        report=report,
        writable=writable,
        minimum=_bound(item.minimum),
        maximum=_bound(item.maximum),
    )


def _bound(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(f"{value:.15g}")


def _kind(fields: Fields, item: PropertySpec, space: Space) -> _DataType:
    name = fields.choice("dataType", {key: key for key in _DATA_TYPES}, _DEFAULT_TYPES[item.type])
    kind = _DATA_TYPES[name]
    textual = kind.raw in (Raw.TEXT, Raw.BYTES)
    if space.is_bits:
        if textual or name.startswith(("float3", "float6")):
            fields.fail("dataType", f"{name} cannot stand in a {space}")
        return _DataType(Raw.UINT, 0, 1)
    if textual and _SHOWN[item.type] is not Shown.STRING:
        fields.fail("dataType", f"{name} does not fit a property of type {item.type}")
    return kind


def _count(fields: Fields, kind: _DataType, most: int) -> int:
    length = fields.integer("length", 0, 1, 2 * most)
    limit = fields.integer("limit", 0, 0, most)
    if length and kind.raw not in (Raw.TEXT, Raw.BYTES):
        fields.fail("length", "is for strings and bytes; numbers have a limit")
    if kind.registers and limit not in (0, kind.registers):
        fields.fail("limit", f"{limit} does not fit dataType, which takes {kind.registers}")
    return kind.registers or limit or (length + 1) // 2 or kind.usual


def _codec(fields: Fields, item: PropertySpec, space: Space, kind: _DataType, count: int) -> Codec:
    shown = _SHOWN[item.type]
    raw = kind.raw
    if raw is Raw.FLOAT and count == 1:
        raw = Raw.UINT  # a scaled register that is shown as a decimal number
    if fields.boolean("signed") and raw is Raw.UINT:
        raw = Raw.INT
    if raw is Raw.FLOAT and count not in (2, 4):
        fields.fail("limit", f"{count} registers are no float; 2 or 4 are")
        count = 2
    numeric = raw not in (Raw.TEXT, Raw.BYTES)
    if raw in (Raw.INT, Raw.UINT) and count > (64 if space.is_bits else _LONGEST_INTEGER):
        fields.fail("limit", f"{count} is too long for a number")
    size = count if space.is_bits else 2 * count
    swap_words, swap_bytes = _swaps(fields)
    if space.is_bits:
        swap_words = swap_bytes = False  # KubeEdge's samples say isSwap for coils too; coils have no bytes to swap
    bit, bits = _bits(fields, raw, space, size)
    if shown is Shown.BOOLEAN and bits > 1:
        fields.fail("bitCount", "a boolean has one bit")
    scale = fields.decimal("scale", Decimal(1))
    offset = fields.decimal("valueOffset", Decimal(0))
    if scale == 0 and numeric and shown is not Shown.BOOLEAN:
        fields.fail("scale", "0 would make every value 0; leave it out for 1")
    if shown is Shown.BOOLEAN or not numeric or scale == 0:
        scale, offset = Decimal(1), Decimal(0)
    return Codec(
        raw=raw,
        shown=shown,
        size=size,
        swap_words=swap_words,
        swap_bytes=swap_bytes,
        bit=bit,
        bit_count=bits,
        scale=scale,
        offset=offset,
        precision=fields.optional_integer("precision", 0, 15),
        encoding=_encoding(fields),
        packed=space.is_bits,
    )


def _swaps(fields: Fields) -> tuple[bool, bool]:
    """(swap words, swap bytes)."""
    swap_bytes, swap_words = fields.boolean("isSwap"), fields.boolean("isRegisterSwap")
    order = fields.choice("byteOrder", _ORDERS, "")
    words = fields.choice("wordOrder", _BIG_LITTLE, "")
    if (swap_bytes or swap_words) and (order or words):
        fields.fail("byteOrder", "say either isSwap and isRegisterSwap, or byteOrder and wordOrder")
    if order.isupper():
        if words:
            fields.fail("wordOrder", f"byteOrder {order} says it already")
        return order in ("CDAB", "DCBA"), order in ("BADC", "DCBA")
    return swap_words or words == "little", swap_bytes or order == "little"


def _bits(fields: Fields, raw: Raw, space: Space, size: int) -> tuple[int | None, int]:
    bit = fields.integer("bit", 0, 0, 63)
    bits = fields.integer("bitCount", 1, 1, 63)
    if "bit" not in fields:
        if "bitCount" in fields:
            fields.fail("bitCount", "needs a bit to begin at")
        return None, 1
    if raw not in (Raw.INT, Raw.UINT) or space.is_bits:
        fields.fail("bit", "is for whole numbers in registers")
    elif bit + bits > 8 * size:
        fields.fail("bit", f"bits {bit} to {bit + bits - 1} are outside of {8 * size}")
    return bit, bits


def _encoding(fields: Fields) -> str:
    name = fields.text("encoding", "utf-8")
    try:
        "".encode(name)
    except (LookupError, ValueError):
        fields.fail("encoding", f"{name!r} is not known")
        return "utf-8"
    return codecs.lookup(name).name


def _report(fields: Fields, item: PropertySpec) -> ReportRule:
    mode = fields.choice("report", _REPORTS, "both")
    deadband = fields.decimal("deadband", Decimal(0))
    if deadband < 0:
        fields.fail("deadband", "must not be negative")
    every = item.report_cycle_ms / 1000
    if mode == "cycle":
        return ReportRule(on_change=False, every=every or item.collect_cycle_ms / 1000)
    return ReportRule(on_change=True, every=0.0 if mode == "change" else every or _SILENT_S, deadband=deadband)
