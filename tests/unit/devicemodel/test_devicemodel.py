"""Merging Device and DeviceModel objects, and the catalogue of a node."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.devicemodel import (
    Access,
    Catalogue,
    DeviceInvalid,
    DeviceSpec,
    FieldError,
    PropertySpec,
    PropertyType,
    merge,
)


def model(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {
            "name": "meter",
            "namespace": "plant",
            "uid": "m",
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "protocol": "modbus",
            "protocolConfigData": {"baudRate": 9600, "parity": "none"},
            "properties": [
                {
                    "name": "voltage",
                    "type": "DOUBLE",
                    "accessMode": "ReadOnly",
                    "minimum": "0",
                    "maximum": "400.5",
                    "unit": "V",
                    "visitors": {
                        "protocolName": "modbus",
                        "configData": {"register": "InputRegister", "offset": 1, "scale": 0.1},
                    },
                },
                {"name": "limit", "type": "INT", "accessMode": "ReadWrite"},
            ],
            **spec,
        },
    }


def device(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": "m1", "namespace": "plant", "resourceVersion": "12", "creationTimestamp": "x"},
        "spec": {
            "nodeName": "edge-1",
            "deviceModelRef": {"name": "meter"},
            "protocol": {"protocolName": "modbus", "configData": {"slaveID": 3, "parity": "even"}},
            "properties": [
                {
                    "name": "voltage",
                    "collectCycle": 500,
                    "reportCycle": 2000,
                    "reportToCloud": True,
                    "visitors": {"protocolName": "modbus", "configData": {"offset": 7}},
                    "pushMethod": None,
                },
                {"name": "limit", "desired": {"value": "20", "metadata": {"type": "int"}}},
            ],
            "stateReport": {"reportToCloud": True, "reportCycle": 3000},
            **spec,
        },
        "status": {},
    }


def errors_of(device_object: dict[str, Any], model_object: dict[str, Any] | None) -> tuple[FieldError, ...]:
    with pytest.raises(DeviceInvalid) as caught:
        merge(device_object, model_object)
    return caught.value.errors


def test_model_values_are_the_base_and_device_keys_override_one_by_one():
    spec = merge(device(), model())

    assert spec == DeviceSpec(
        namespace="plant",
        name="m1",
        model="meter",
        protocol="modbus",
        protocol_config={"baudRate": 9600, "parity": "even", "slaveID": 3},
        properties=(
            PropertySpec(
                name="voltage",
                type=PropertyType.DOUBLE,
                access=Access.READ_ONLY,
                minimum=0.0,
                maximum=400.5,
                unit="V",
                visitor={"register": "InputRegister", "offset": 7, "scale": 0.1},
                report_cycle_ms=2000,
                collect_cycle_ms=500,
                report_to_cloud=True,
            ),
            PropertySpec(name="limit", type=PropertyType.INT, desired="20"),
        ),
        state_report_cycle_ms=3000,
    )
    assert spec.id == "plant/m1"
    assert spec.property("limit") is spec.properties[1]
    assert spec.property("nothing") is None


@pytest.mark.parametrize(
    ("kind", "twin"),
    [("INT", "int"), ("FLOAT", "float"), ("DOUBLE", "float"), ("BOOLEAN", "boolean"), ("BYTES", "string")],
)
def test_twin_types(kind: str, twin: str):
    assert PropertyType(kind).twin_type == twin


def test_an_unknown_model_is_named():
    assert errors_of(device(), None) == (
        FieldError("spec.deviceModelRef.name", 'device model "meter" is not known in namespace "plant"'),
    )


def test_all_errors_are_told_at_once_with_their_paths():
    wrong_model = model()
    wrong_model["spec"]["properties"][0].update(type="VOLT", minimum="low", accessMode="Write")
    wrong = device(
        protocol={"configData": []},
        properties=[
            {"name": "voltage", "collectCycle": -1, "reportCycle": 10_000_000_000, "reportToCloud": "yes"},
            {"name": "voltage"},
            {"name": "ghost"},
            {"name": "with space"},
            {"name": "limit", "desired": {"value": []}, "visitors": {"configData": 4}},
        ],
        stateReport={"reportToCloud": True, "reportCycle": 1.5},
    )
    del wrong_model["spec"]["protocol"]

    paths = {error.path for error in errors_of(wrong, wrong_model)}

    assert paths == {
        "spec.protocol.protocolName",
        "spec.protocol.configData",
        "devicemodel(meter).spec.properties[0].type",
        "devicemodel(meter).spec.properties[0].minimum",
        "devicemodel(meter).spec.properties[0].accessMode",
        "spec.properties[0].collectCycle",
        "spec.properties[0].reportCycle",
        "spec.properties[0].reportToCloud",
        "spec.properties[1].name",
        "spec.properties[2].name",
        "spec.properties[3].name",
        "spec.properties[4].desired.value",
        "spec.properties[4].visitors.configData",
        "spec.stateReport.reportCycle",
    }


def test_a_cycle_in_nanoseconds_is_explained():
    item = {"name": "limit", "collectCycle": 10_000_000_000}
    (error,) = errors_of(device(properties=[item]), model())
    assert "115 days" in error.message
    assert "milliseconds" in error.message
    item = {"name": "limit", "collectCycle": 1_000_000_000}  # a second of the old mappers, 11 days of ours
    (error,) = errors_of(device(properties=[item]), model())
    assert "11 days" in error.message


def test_missing_namespace_is_default_and_protocol_falls_back_to_the_model():
    plain = device(protocol=None, properties=None, stateReport=None)
    del plain["metadata"]["namespace"]
    spec = merge(plain, model(), local=True)
    assert (spec.id, spec.protocol, spec.state_report_cycle_ms, spec.local) == (
        "default/m1",
        "modbus",
        0,
        True,
    )


def test_toml_numbers_as_desired_values():
    items = [{"name": "limit", "desired": {"value": 5}}, {"name": "voltage", "desired": {"value": True}}]
    assert [item.desired for item in merge(device(properties=items), model()).properties] == ["5", "true"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    path=st.lists(st.sampled_from(["spec", "metadata", "properties", "protocol", "stateReport", 0, 1]), max_size=4),
    key=st.sampled_from(["name", "type", "visitors", "collectCycle", "desired", "minimum", "configData", "spec"]),
    value=json_values,
    in_model=st.booleans(),
)
def test_any_mutation_gives_a_specification_or_named_errors(path, key, value, in_model):
    objects = (device(), model())
    target: Any = objects[in_model]
    for step in path:
        try:
            target = target[step]
        except (KeyError, IndexError, TypeError):
            break
    if isinstance(target, dict):
        target[key] = value
    try:
        spec = merge(*objects)
    except DeviceInvalid as invalid:
        errors = invalid.errors
    else:
        errors = (FieldError("none", "wrong"),)
        assert all(item.collect_cycle_ms > 0 for item in spec.properties)
    assert errors
    assert all(error.path and error.message for error in errors)


def test_catalogue_recomputes_what_depends_on_a_model():
    catalogue = Catalogue()
    (first,) = catalogue.upsert_device(device())
    assert first.spec is None
    assert not first.removed
    assert catalogue.device("plant/m1") is None

    (second,) = catalogue.upsert_model(model())
    assert second.spec == merge(device(), model())
    assert catalogue.device("plant/m1") == second.spec
    assert catalogue.upsert_model(model()) == []

    (third,) = catalogue.upsert_model(model(protocolConfigData={"baudRate": 19200}))
    assert third.spec.protocol_config["baudRate"] == 19200

    (fourth,) = catalogue.remove_model("plant", "meter")
    assert fourth.errors[0].path == "spec.deviceModelRef.name"
    assert [result.device_id for result in catalogue.results()] == ["plant/m1"]
    (fifth,) = catalogue.remove_device("plant", "m1")
    assert fifth.removed
    assert catalogue.remove_device("plant", "m1") == []
    assert catalogue.results() == []


def test_an_object_of_the_cloud_hides_a_local_one():
    catalogue = Catalogue()
    catalogue.upsert_model(model(), local=True)
    (change,) = catalogue.upsert_device(device(), local=True)
    assert change.spec.local
    (change,) = catalogue.upsert_device(device(stateReport=None))
    assert not change.spec.local
    assert change.spec.state_report_cycle_ms == 0
    (change,) = catalogue.remove_device("plant", "m1")
    assert change.spec.local
