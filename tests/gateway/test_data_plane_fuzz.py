"""Whatever is sent to the data plane: no 5xx, and errors in the dialect's own shape.

Schemathesis makes the requests, valid ones and broken ones, from our own OpenAPI document, as it does for the control
plane; here they go to a running gateway with an upstream behind it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from rig import KEY, door, prompts, settings_for, upstream
from schemathesis.generation import GenerationMode
from schemathesis.openapi import from_dict

from gateway.api import Control, create_api
from gateway.api.data_plane import DATA_PLANE_PATHS
from gateway.api.openapi import describe

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(110)]


def document() -> dict[str, Any]:
    """Our description of what callers use."""
    whole = describe(create_api(cast(Control, SimpleNamespace(version="0"))))
    return {**whole, "paths": {path: ops for path, ops in whole["paths"].items() if path in DATA_PLANE_PATHS}}


schema = from_dict(document())
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway in a thread of its own, for clients that are not asynchronous."""
    found: list[str] = []
    up, end = threading.Event(), threading.Event()

    async def run(home: Path) -> None:
        view = prompts('Be "careful".', name="global", parent=None)
        async with upstream() as openai:
            claude = {"name": "c", "dialect": "anthropic", "base_url": openai.url}
            async with door(settings_for(home, {"name": "o", "base_url": openai.url}, claude), view) as gate:
                found.append(gate.url)
                up.set()
                while not end.is_set():
                    await asyncio.sleep(0.05)
                assert gate.worker.pipeline.in_flight == 0

    thread = threading.Thread(target=lambda: asyncio.run(run(tmp_path_factory.mktemp("fuzz"))))
    thread.start()
    try:
        assert up.wait(20)
        yield found[0]
    finally:
        end.set()
        thread.join()


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_no_5xx_and_every_error_in_the_dialects_shape(case: schemathesis.Case, url: str) -> None:
    case.headers = {n: v for n, v in (case.headers or {}).items() if n.lower() not in ("authorization", "x-api-key")}
    try:
        reply = case.call(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=20)
    except (requests.exceptions.InvalidHeader, UnicodeEncodeError):
        return  # what no HTTP client can send
    said = f"{case.method} {case.formatted_path}: {reply.status_code} {reply.text[:300]}"
    assert reply.status_code < 500, said
    if reply.status_code >= 400 and case.method != "HEAD":
        body = reply.json()
        assert body["error"]["message"], said
        assert body["error"]["type"], said
        if "/messages" in case.path:
            assert body["type"] == "error", said
        else:
            assert {"message", "type", "param", "code"} <= set(body["error"]), said
