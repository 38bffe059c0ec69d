"""Messages: recorded traffic, worked examples F1-F6, and whatever else arrives."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.wire import gojson, kube, message
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_MESSAGE
from edgeappliance.wire.message import Message
from tests import vectors

RECORDED = [recorded.text for recorded in vectors.messages()]

F1 = (
    '{"header":{"msg_id":"11111111-2222-4333-8444-555555555555","timestamp":1700000000123},"route":{"source":'
    '"websocket","group":"resource","operation":"keepalive","resource":"node"},"content":"ping"}\n'
)
F2_PUSH = (
    '{"header":{"msg_id":"A","timestamp":1700000000123,"resourceversion":"4711"},"route":{"source":"edgecontroller",'
    '"group":"resource","operation":"insert","resource":"default/pod/web"},"content":{"kind":"Pod","apiVersion":"v1",'
    '"metadata":{"name":"web","namespace":"default","uid":"U","resourceVersion":"4711"},"spec":{"nodeName":"edge-1"},'
    '"status":{}}}\n'
)
F2_ACK = (
    '{"header":{"msg_id":"B","parent_msg_id":"A","timestamp":1700000000140},"route":{"source":"metamanager","group":'
    '"resource","operation":"response","resource":"default/pod/web"},"content":"OK"}\n'
)
F3 = (
    '{"header":{"msg_id":"C","timestamp":1700000001000},"route":{"source":"edged","group":"meta","operation":"patch",'
    '"resource":"default/podpatch/web"},"content":"{\\"metadata\\":{\\"uid\\":\\"U\\"},\\"status\\":{\\"phase\\":'
    '\\"Running\\"}}"}\n'
)
F4 = (
    '{"header":{"msg_id":"F","parent_msg_id":"E","timestamp":1700000002010},"route":{"source":"edgecontroller",'
    '"group":"resource","operation":"response","resource":"default/configmap/cm1"},"content":{"ErrStatus":{"metadata":'
    '{},"status":"Failure","message":"configmaps \\"cm1\\" not found","reason":"NotFound","details":{"name":"cm1",'
    '"kind":"configmaps"},"code":404}}}\n'
)


def test_the_recording_is_whole() -> None:
    assert len(RECORDED) == 181


@pytest.mark.parametrize("text", [F1, F2_PUSH, F2_ACK, F3, F4, *RECORDED])
def test_a_peers_message_is_read_and_written_byte_for_byte(text: str) -> None:
    assert message.encode(message.decode(text)) == text.encode()
    assert message.encode(message.decode(text.encode())) == text.encode()


def test_f2_ack_is_a_reply() -> None:
    push = message.decode(F2_PUSH)
    ack = push.reply("OK", source="metamanager")
    assert (ack.parent_id, ack.operation, ack.group, ack.resource) == ("A", "response", "resource", "default/pod/web")
    assert ack.is_ok
    assert ack.resource_version == ""
    assert push.resource_version == "4711"
    assert ack.id not in ("", push.id)


def test_f4_error_content() -> None:
    status = kube.status_error(404, "NotFound", 'configmaps "cm1" not found', name="cm1", kind="configmaps")
    assert json.loads(F4)["content"] == status
    parsed = kube.parse_status_error(message.decode(F4).content_value())
    assert parsed is not None
    assert (parsed.code, parsed.reason, parsed.details and parsed.details.name) == (404, "NotFound", "cm1")
    assert kube.parse_status_error({"kind": "ConfigMap"}) is None


def test_f4_object_responses() -> None:
    empty = Message.new(content={"Object": None, "Err": None}).content_as(kube.ObjectResp)
    assert (bytes(empty.Object), empty.Err) == (b"null", None)
    failed = Message.new(content=kube.error_resp(kube.status_error(409, "Conflict", "x")))
    response = failed.content_as(kube.ObjectResp)
    assert response.Err is not None
    assert response.Err.ErrStatus.code == 409


def test_f5_escapes_and_bytes() -> None:
    sent = message.encode(Message.new(content={"a": "<b>&\u2028é"}))
    assert b'"a":"\\u003cb\\u003e\\u0026\\u2028\xc3\xa9"' in sent
    assert message.decode(sent).content_value() == {"a": "<b>&\u2028é"}
    assert gojson.dumps(b'{"a":"<b>"}') == b'"eyJhIjoiPGI+In0="'


def test_f6_error_reply() -> None:
    request = Message.new(msg_id="id2", resource="default/pod/web", source="x", group="y")
    sent = json.loads(message.encode(request.error("boom")))
    assert sent["header"]["parent_msg_id"] == "id2"
    assert sent["route"] == {"operation": "error", "resource": "default/pod/web"}
    assert sent["content"] == "boom"


def test_content_bytes_follow_upstream() -> None:
    assert Message.new(content='{"a":1}').content_bytes() == b'{"a":1}'
    assert Message.new(content={"a": 1}).content_bytes() == b'{"a":1}'


@pytest.mark.parametrize(
    "text",
    [
        '{"Header":{"MSG_ID":"a","timestamp":3},"ROUTE":{"Group":"x"},"Content":1}',
        '{"header":{"msg_id":"a","timestamp":3,"extra":{}},"route":{"group":"x"},"content":1,"more":[1]}',
        '  {"header":{"msg_id":"a","timestamp":3},"route":{"group":"x","source":null},"content":1} {"next":1}',
        '{"header":{"msg_id":"a","timestamp":3},"route":{"group":"x"},"content":1}\ntrailing',
    ],
)
def test_go_spellings_are_read(text: str) -> None:
    read = message.decode(text)
    assert (read.id, read.header.timestamp, read.group, read.content_value()) == ("a", 3, "x", 1)


def test_absent_and_null_parts_are_zero_values() -> None:
    read = message.decode('{"header":null}')
    assert (read.id, read.resource, read.content_value()) == ("", "", None)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", ""),
        ("[]", ""),
        ("{", ""),
        ('{"header":{"msg_id":1}}', "header.msg_id"),
        ('{"header":{"timestamp":"x"}}', "header.timestamp"),
        ('{"header":{"timestamp":1e400}}', "header.timestamp"),
        ('{"header":{"timestamp":99999999999999999999}}', "header.timestamp"),
        ('{"route":{"resource":7}}', "route.resource"),
        ('{"route":{"resource":"%s"}}' % ("x" * 5000), "route.resource"),
        ('{"header":{"msg_id":"%s"}}' % ("x" * 300), "header.msg_id"),
        ('{"content":NaN}', ""),
        ('{"content":' + "[" * 100_000, ""),
        (b'{"content":"\xff"}', ""),
    ],
)
def test_what_is_no_message_names_its_field(text: str | bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        message.decode(text).content_value()
    assert caught.value.field in (field, "content")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r'{"HEADER":{"msg_id":"a"},"content":"\ud800"}', "\ufffd"),
        (r'{"HEADER":{"msg_id":"a"},"content":{"\udfff":["\ud83d\ude00"]}}', {"\ufffd": ["\U0001f600"]}),
        (r'{"HEADER":{"msg_id":"a\ud800"},"content":"\\ud800"}', "\\ud800"),
    ],
)
def test_half_a_surrogate_pair_is_read_as_go_reads_it(text: str, content: object) -> None:
    read = message.decode(text)
    assert read.content_value() == content
    assert message.decode(message.encode(read)) == read


def test_a_number_that_no_peer_can_hold_is_refused() -> None:
    with pytest.raises(WireError, match="out of range"):
        message.decode('{"HEADER":{"msg_id":"a"},"content":1e999}')


def test_length_is_capped() -> None:
    with pytest.raises(WireError, match="longer"):
        message.decode(b'"' + b"x" * MAX_MESSAGE + b'"')


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
words = st.text(max_size=40)


@given(content=json_values, source=words, group=words, operation=words, resource=words, version=words)
def test_any_message_survives_the_wire(content, source, group, operation, resource, version) -> None:
    sent = Message.new(
        source=source, group=group, operation=operation, resource=resource, content=content, resource_version=version
    )
    data = message.encode(sent)
    assert data.endswith(b"}\n")
    assert not any(char in data for char in b"<>&")
    read = message.decode(data)
    assert (read.header, read.route) == (sent.header, sent.route)
    assert read.content_value() == content
    assert json.loads(data)["content"] == content


@given(index=st.integers(0, len(RECORDED) - 1), data=st.data())
def test_mutated_traffic_gives_a_message_or_a_named_error(index: int, data: st.DataObject) -> None:
    mutated = bytearray(RECORDED[index].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "double"]))
        if action == "flip":
            mutated[position] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del mutated[position : position + data.draw(st.integers(1, 40))]
        else:
            mutated[position:position] = mutated[position : position + 20]
        if not mutated:
            break
    try:
        read = message.decode(bytes(mutated))
        read.content_value()
    except WireError as error:
        assert str(error)
    else:
        assert isinstance(read, Message)
