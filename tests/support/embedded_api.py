"""The embedded API as a fixture, and requests to its core without HTTP."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudgateway.apiserver.core import GATEWAY
from cloudgateway.apiserver.embedded import EmbeddedApi
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


async def whole_body(response: ApiResponse) -> bytes:
    """The body of an answer, a stream read to its end."""
    if isinstance(response.body, bytes):
        return response.body
    return b"".join([chunk async for chunk in response.body])


class Api:
    """Sends requests to an embedded API as its administrator."""

    def __init__(self, embedded: EmbeddedApi) -> None:
        self.embedded = embedded

    async def send(
        self, method: str, target: str, body: Any = None, *, type: str = "", accept: str = ""
    ) -> ApiResponse:
        """One request; `body` is encoded as JSON."""
        data = b"" if body is None else json.dumps(body).encode()
        return await self.embedded.handle(
            ApiRequest.of(method, target, body=data, content_type=type, accept=accept, user=GATEWAY)
        )

    async def ok(self, method: str, target: str, body: Any = None, *, type: str = "", accept: str = "") -> Any:
        """A request that must succeed; the decoded answer."""
        response = await self.send(method, target, body, type=type, accept=accept)
        assert response.status < 300, response.body
        return json.loads(await whole_body(response))

    async def fails(self, code: int, method: str, target: str, body: Any = None, *, type: str = "") -> dict[str, Any]:
        """A request that must be refused with a code; the Status."""
        response = await self.send(method, target, body, type=type)
        assert response.status == code, (response.status, response.body)
        status = json.loads(await whole_body(response))
        assert status["kind"] == "Status"
        assert status["code"] == code
        return status

    async def events(self, target: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a watch, one by one."""
        response = await self.send("GET", target)
        assert response.status == 200, response.body
        assert not isinstance(response.body, bytes)
        try:
            async for chunk in response.body:
                for line in chunk.splitlines():
                    yield json.loads(line)
        finally:
            await response.body.aclose()  # type: ignore[attr-defined]


@pytest.fixture
def api_clock() -> ManualClock:
    """The clock of `embedded_api`."""
    return ManualClock()


@pytest.fixture
async def embedded_api(tmp_path: Path, api_clock: ManualClock) -> AsyncIterator[Api]:
    """An embedded API of its own on a manual clock."""
    embedded = await EmbeddedApi.open(tmp_path / "api", clock=api_clock)
    try:
        yield Api(embedded)
    finally:
        await embedded.close()


def widget_definition() -> dict[str, Any]:
    """A small CustomResourceDefinition that uses what structural schemas offer."""
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1, "maximum": 100, "description": "How large it is."},
                    "color": {"type": "string", "enum": ["red", "green"], "default": "red"},
                    "port": {"x-kubernetes-int-or-string": True},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "parts": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"type": "string", "pattern": "^[a-z]+$"},
                                "count": {"type": "integer", "default": 1},
                            },
                        },
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                    },
                },
            },
            "status": {"type": "object", "properties": {"phase": {"type": "string"}, "seen": {"type": "integer"}}},
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.example.com"},
        "spec": {
            "group": "test.example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                        {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
                        {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
                        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                    ],
                }
            ],
        },
    }


def widget(name: str, **spec: Any) -> dict[str, Any]:
    """A Widget with some spec fields."""
    return {
        "apiVersion": "test.example.com/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": 1, **spec},
    }
