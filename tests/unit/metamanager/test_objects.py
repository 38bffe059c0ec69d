"""Reading downstream messages: recorded ones, and what mutation makes of them."""

import json

from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.metamanager.objects import Action, Instruction, understand
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message, decode
from tests.vectors import messages

PUSHES = [
    item.text
    for item in messages()
    if item.direction == "down" and json.loads(item.text)["route"].get("operation") in ("insert", "update", "delete")
]


def test_recorded_pushes_name_their_object() -> None:
    assert PUSHES
    for text in PUSHES:
        message = decode(text)
        found = understand(message)
        assert found is not None
        assert found.action is Action.PUT
        assert found.key == message.resource
        assert found.uid == message.content_value()["metadata"]["uid"]
        assert found.resource_version == message.header.resourceversion


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    operation=st.sampled_from(["insert", "update", "patch", "delete", "query", "response", "", "dance"]),
    resource=st.text(max_size=30) | st.sampled_from(["a/b", "a/b/c", "a/b/c/d", "/", "//", "a//c", "membership"]),
    content=json_values
    | st.fixed_dictionaries({"metadata": json_values})
    | st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"uid": json_values, "resourceVersion": json_values})}),
)
def test_any_message_is_an_instruction_nothing_or_a_named_error(operation: str, resource: str, content: object) -> None:
    message = Message.new(group="resource", operation=operation, resource=resource, content=content)
    try:
        found = understand(message)
    except WireError as error:
        assert error.field
        return
    if operation not in ("insert", "update", "patch", "delete"):
        assert found is None
        return
    assert isinstance(found, Instruction)
    assert isinstance(found.uid, str)
    assert json.loads(found.text) == content
