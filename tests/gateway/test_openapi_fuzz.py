"""Whatever is sent to the control plane: no 5xx, and no error that is not of our own shape.

Schemathesis makes the requests from our own OpenAPI document, valid ones and broken ones. Only errors that the document
announces for a route may come back from it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
import schemathesis
from control_house import Clock, opened
from hypothesis import HealthCheck, settings
from schemathesis.generation import GenerationMode
from schemathesis.openapi import from_dict

from gateway.api import Control, create_api
from gateway.api.data_plane import DATA_PLANE_PATHS
from gateway.api.openapi import describe
from registry import EmbeddedRedis, Registry, Signer

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(110)]


@dataclass
class Live:
    """A house in a thread of its own, for clients that are not asynchronous."""

    url: str
    operator: str
    caller: str


@pytest.fixture(scope="module")
def live(embedded: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    opened_up: list[Live] = []
    up, end = threading.Event(), threading.Event()

    async def run(folder: Path) -> None:
        registry = await Registry.connect(embedded.url, signer=Signer.create(b"s" * 32), prefix="fuzz")
        try:
            async with opened(registry, Clock(), folder) as house:
                opened_up.append(Live(house.url, house.keys["operator"], house.keys["caller"]))
                up.set()
                while not end.is_set():
                    await asyncio.sleep(0.05)
                    await house.refresh()
        finally:
            await registry.close()
            up.set()

    thread = threading.Thread(target=lambda: asyncio.run(run(tmp_path_factory.mktemp("fuzz"))))
    thread.start()
    try:
        up.wait(20)
        yield opened_up[0]
    finally:
        end.set()
        thread.join()


def own_document() -> dict[str, Any]:
    """Our description, without the routes that are served ahead of this application."""
    document = describe(create_api(cast(Control, SimpleNamespace(version="0"))))
    return {**document, "paths": {path: ops for path, ops in document["paths"].items() if path not in DATA_PLANE_PATHS}}


schema = from_dict(own_document())
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@schema.parametrize()
@settings(max_examples=5, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_no_5xx_and_no_foreign_error(case: schemathesis.Case, live: Live) -> None:
    key = live.caller if case.path == "/v1/feedback" else live.operator
    headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
    case.headers = headers
    try:
        reply = case.call(base_url=live.url, headers={"authorization": f"Bearer {key}"}, timeout=20)
    except (requests.exceptions.InvalidHeader, UnicodeEncodeError):
        return  # what no HTTP client can send
    said = f"{case.method} {case.formatted_path}: {reply.status_code} {reply.text[:300]}"
    assert reply.status_code < 500, said
    if reply.status_code >= 400:
        assert reply.headers["content-type"] == ["application/json"], said
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, said
        assert isinstance(error["message"], str), said
        assert error["message"], said
    known = case.operation.definition.raw["responses"]
    assert str(reply.status_code) in known or reply.status_code in {404, 405, 413}, said


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/", "/api/domains/", "/api/domains/%00", "/api/domains/..%2f..", "/v1/nothing", "/api/runs/%ff"],
)
def test_any_method_on_any_path(live: Live, method: str, path: str) -> None:
    reply = requests.request(method, live.url + path, headers={"authorization": f"Bearer {live.operator}"}, timeout=10)
    assert 400 <= reply.status_code < 500
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
