"""Resource names, twin payloads (F7-F9), tunnel frames (F11), tokens (F15)."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.wire import gojson, resource, token, tunnel, twin
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.resource import ResourceName

segments = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("default/pod/web", ResourceName("default", "pod", "web")),
        ("null/node/edge-1", ResourceName("null", "node", "edge-1")),
        ("default/podstatus", ResourceName("default", "podstatus")),
    ],
)
def test_resource_names(text: str, name: ResourceName) -> None:
    assert ResourceName.parse(text) == name
    assert str(name) == text
    assert name.on_node("n.1") == f"node/n.1/{text}"
    assert resource.strip_node(name.on_node("n.1")) == text
    assert resource.target_node(name.on_node("n.1")) == "n.1"


@pytest.mark.parametrize("text", ["", "x", "a/b/c/d", "a//b", "/a/b", "a/b/"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(WireError) as caught:
        ResourceName.parse(text)
    assert caught.value.field == "route.resource"


@given(st.text(max_size=60))
def test_every_text_is_a_name_or_refused(text: str) -> None:
    try:
        assert str(ResourceName.parse(text)) == text
    except WireError as error:
        assert error.field == "route.resource"


@given(segments, segments, segments, segments)
def test_the_node_prefix_comes_and_goes(node: str, namespace: str, kind: str, name: str) -> None:
    plain = str(ResourceName(namespace, kind, name))
    assert resource.strip_node(resource.add_node(node, plain)) == plain
    assert resource.target_node(resource.add_node(node, plain)) == node


def test_messages_without_a_node_have_no_target() -> None:
    assert resource.target_node("default/pod/web") is None
    assert resource.target_node("node") is None
    assert resource.strip_node("membership") == "membership"


def test_device_ids() -> None:
    assert resource.split_device_id("default/d1") == ("default", "d1")
    for bad in ("d1", "a/b/c", "/d", "d/"):
        with pytest.raises(WireError):
            resource.split_device_id(bad)


def same(value: object, text: str) -> None:
    assert json.loads(gojson.dumps(value)) == json.loads(text)


def test_f7_membership() -> None:
    text = (
        '{"event_id":"e1","timestamp":1700000000123,"added_devices":[{"id":"default/d1","name":"d1"}],'
        '"removed_devices":null}'
    )
    read = gojson.loads(text, twin.MembershipUpdate)
    assert read.added_devices == [twin.MemberDevice(id="default/d1", name="d1")]
    assert read.removed_devices is None
    assert gojson.dumps(read).decode() == text


def test_f8_bodies() -> None:
    value = twin.MsgTwin(
        expected=twin.TwinValue("10", twin.ValueMeta(1700000000123)),
        actual=twin.TwinValue("9", twin.ValueMeta(1700000000100)),
        optional=True,
        metadata=twin.TypeMeta("string"),
    )
    inner = (
        '{"expected":{"value":"10","metadata":{"timestamp":1700000000123}},"actual":{"value":"9","metadata":'
        '{"timestamp":1700000000100}},"optional":true,"metadata":{"type":"string"}}'
    )
    base = '{"event_id":"e1","timestamp":1700000000123,"twin":{"temp":'
    assert gojson.dumps(twin.TwinResult("e1", 1700000000123, {"temp": value})).decode() == base + inner + "}}"
    document = twin.TwinDocument("e1", 1700000000123, {"temp": twin.TwinChange(None, value)})
    assert gojson.dumps(document).decode() == base + '{"last":null,"current":' + inner + "}}}"
    delta = twin.TwinDelta("e1", 1700000000123, {"temp": value}, {"temp": "10"})
    assert gojson.dumps(delta).decode() == base + inner + '},"delta":{"temp":"10"}}'
    value.expected_version = twin.TwinVersion(0, 1)
    value.actual_version = twin.TwinVersion(0, 1)
    assert gojson.dumps(twin.TwinUpdate("e1", 1700000000123, {"temp": value})).decode() == (
        base + inner[:-1] + ',"expected_version":{"cloud":0,"edge":1},"actual_version":{"cloud":0,"edge":1}}}}'
    )
    same(
        twin.TwinError("", 1795335483459, 400, "why"),
        '{"event_id":"","timestamp":1795335483459,"code":400,"reason":"why"}',
    )
    same(twin.TwinResult("e", 1, {"gone": None}), '{"event_id":"e","timestamp":1,"twin":{"gone":null}}')
    same(
        twin.StateMessage("e1", 1700000000123, twin.DeviceState("d1", "online", "2026-08-06T00:00:00Z")),
        '{"event_id":"e1","timestamp":1700000000123,"device":{"name":"d1","state":"online","lastOnlineTime":"2026-08-06T00:00:00Z"}}',
    )
    same(twin.MembershipList("", 1, []), '{"event_id":"","timestamp":1,"devices":[]}')


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"twin":{"t":null}}', {"t": None}),
        ('{"twin":{}}', {}),
        ('{"TWIN":{"t":{"Actual":{"VALUE":"1"}}}}', {"t": twin.MsgTwin(actual=twin.TwinValue("1"))}),
        ('{"twin":{"t":{"actual":{}}}}', {"t": twin.MsgTwin(actual=twin.TwinValue())}),
        (
            '{"twin":{"t":{"actual":{"value":"1","unit":"V"},"x":1}},"y":2}',
            {"t": twin.MsgTwin(actual=twin.TwinValue("1"))},
        ),
        ('{"event_id":"e"}', None),
    ],
)
def test_f9_accepted(text: str, wanted: object) -> None:
    assert gojson.loads(text, twin.TwinUpdate).twin == wanted


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"twin":{"t":{"actual":{"value":1}}}}', "twin"),
        ('{"event_id":5,"twin":{}}', "event_id"),
        ("", ""),
        ("null", ""),
        ('{"twin":{"t":{"actual":{"value":"1","metadata":{"timestamp":"x"}}}}}', "twin"),
    ],
)
def test_f9_refused(text: str, field: str) -> None:
    with pytest.raises(WireError) as caught:
        gojson.loads(text, twin.TwinUpdate)
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize(
    ("frame", "hexed"),
    [
        (tunnel.Frame(1, tunnel.FrameType.DATA, b"hi"), "01036869"),
        (tunnel.Frame(300, tunnel.FrameType.REMOVE_CONNECT, b""), "ac0204"),
    ],
)
def test_f11_frames(frame: tunnel.Frame, hexed: str) -> None:
    assert tunnel.encode_frame(frame).hex() == hexed
    assert tunnel.decode_frame(bytes.fromhex(hexed)) == frame


def test_f11_connect() -> None:
    text = (
        '{"MessID":7,"url":{"Scheme":"http","Opaque":"","User":null,"Host":"127.0.0.1:10350","Path":'
        '"/containerLogs/default/web/c","Fragment":"","RawQuery":"follow=true","RawPath":"","RawFragment":"",'
        '"ForceQuery":false,"OmitHost":false},"header":{"Accept":["*/*"]}}'
    )
    request = tunnel.decode_connect(text.encode())
    assert (request.url.Path, request.url.RawQuery, request.header) == (
        "/containerLogs/default/web/c",
        "follow=true",
        {"Accept": ["*/*"]},
    )
    assert tunnel.encode_connect(request).decode() == text
    assert tunnel.decode_connect(b'{"MessID":1,"url":{"Path":"/x"}}').url.Host == ""


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=50))
def test_frames_round_trip(connection: int, kind: int, data: bytes) -> None:
    frame = tunnel.Frame(connection, kind, data)
    assert tunnel.decode_frame(tunnel.encode_frame(frame)) == frame


@given(st.binary(max_size=30))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    try:
        frame = tunnel.decode_frame(data)
    except WireError as error:
        assert error.field in ("connection", "type", "data")
    else:
        assert frame.data == data[len(data) - len(frame.data) :]


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


HEAD = b64({"alg": "HS256", "typ": "JWT"})


def test_f15_token() -> None:
    text = f"{'a' * 64}.{HEAD}.{b64({'exp': 1700000000})}.{'s' * 43}"
    parsed = token.parse_token(text + "\n")
    assert parsed == token.JoinToken("a" * 64, text[65:], 1700000000)
    assert "s" * 43 not in repr(parsed)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "token"),
        ("a.b.c", "token"),
        (f"{'A' * 64}.{HEAD}.{b64({'exp': 1})}.s", "token.hash"),
        (f"{'a' * 64}.x.{b64({'exp': 1})}.s", "token.header"),
        (f"{'a' * 64}.{HEAD}.{b64({'exp': 'soon'})}.s", "token.claims.exp"),
        (f"{'a' * 64}.{HEAD}.{b64([1])}.s", "token.claims.exp"),
        (f"{'a' * 64}.{HEAD}.!!.s", "token.claims"),
        (f"{'a' * 64}.{HEAD}.{b64({'exp': 1})}.", "token.signature"),
        ("x" * 5000, "token"),
    ],
)
def test_what_is_no_token_says_which_part(text: str, field: str) -> None:
    with pytest.raises(WireError) as caught:
        token.parse_token(text)
    assert caught.value.field == field


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    with pytest.raises(WireError) as caught:
        token.parse_token(text)
    assert caught.value.field.startswith("token")
