"""What /metrics says, by Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.metrics import Metrics


def families(metrics: Metrics) -> dict[str, object]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def test_details_are_typed_by_their_names() -> None:
    report = {
        "edgehub": Health(
            State.RUNNING,
            details={
                "sent_bytes_total": 7,
                "ours": True,
                "certificate_expiry_timestamp_seconds": 1.8e9,
                "cloud": "gateway:10000",
                "restarts_total": 2,
            },
        ),
        "broker": Health(State.FAILED, "gone", details={"pid": "17", "restarts_total": 0}),
    }
    metrics = Metrics()
    metrics.add_components("edgecore", lambda: report)
    found = families(metrics)
    assert {name: family.type for name, family in found.items()} == {
        "edgecore_component_up": "gauge",
        "edgecore_component_restarts": "counter",
        "edgecore_edgehub_sent_bytes": "counter",
        "edgecore_edgehub_ours": "gauge",
        "edgecore_edgehub_certificate_expiry_timestamp_seconds": "gauge",
    }
    up = {sample.labels["component"]: sample.value for sample in found["edgecore_component_up"].samples}
    assert up == {"edgehub": 1, "broker": 0}
    restarts = {sample.labels["component"]: sample.value for sample in found["edgecore_component_restarts"].samples}
    assert restarts == {"edgehub": 2, "broker": 0}
    assert found["edgecore_edgehub_sent_bytes"].samples[0].name == "edgecore_edgehub_sent_bytes_total"


def test_a_table_of_tables_is_labelled() -> None:
    lines = {"modbus /dev/a": {"requests_total": 3, "down": "", "units": {}}, "modbus /dev/b": {"requests_total": 4}}
    metrics = Metrics()
    metrics.add_components(
        "edgecore", lambda: {"mappers": Health(State.RUNNING, details={"lines": lines, "invalid": {"d": "why"}})}
    )
    family = families(metrics)["edgecore_mappers_line_requests"]
    assert family.type == "counter"
    assert {sample.labels["line"]: sample.value for sample in family.samples} == {
        "modbus /dev/a": 3,
        "modbus /dev/b": 4,
    }


def test_the_process_and_the_build_are_there() -> None:
    metrics = Metrics()
    metrics.add_process("edgecore", version="1.2.3", node="edge-1")
    found = families(metrics)
    assert found["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert found["edgecore_build_info"].samples[0].labels == {"version": "1.2.3", "node": "edge-1"}
