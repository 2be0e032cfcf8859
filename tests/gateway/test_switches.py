"""What is off unless the config turns it on: cross-origin requests, a line per request, cache breakpoints."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from rig import AUTH, HELLO, door, prompts, settings_for, upstream

from gateway.server import JsonLines

PAGE = {"origin": "https://app.example"}
ASKS_FIRST = {
    **PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, x-stainless-lang",
}
LONG = "Care. " * 400
CARE = prompts(LONG, name="global", parent=None)


async def test_d21_without_the_switch_no_page_may_call(tmp_path: Path) -> None:
    async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
        async with gate.session.options(gate.url + "/v1/chat/completions", headers=ASKS_FIRST) as got:
            assert got.status == 405
            assert got.headers["allow"] == "POST"
            assert not [name for name in got.headers if name.lower().startswith("access-control")]
        _, headers, _ = await gate.ask(HELLO, **PAGE)
        assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("asgi", [False, True])
async def test_d21_pages_of_named_origins_may_call(tmp_path: Path, asgi: bool) -> None:
    async with upstream() as up:
        settings = settings_for(tmp_path, up, gateway={"cors": [PAGE["origin"]]})
        async with door(settings, asgi=asgi) as gate:
            async with gate.session.options(gate.url + "/v1/chat/completions", headers=ASKS_FIRST) as got:
                assert got.status == 204
                assert got.headers["access-control-allow-origin"] == PAGE["origin"]
                assert "POST" in got.headers["access-control-allow-methods"]
                assert got.headers["access-control-allow-headers"] == "authorization, x-stainless-lang"
            status, headers, _ = await gate.ask(HELLO, **PAGE)
            assert (status, headers["access-control-allow-origin"]) == (200, PAGE["origin"])
            assert "x-metaspo-exchange" in headers["access-control-expose-headers"]
            status, headers, _ = await gate.ask({"model": "m"}, **PAGE)  # refusals can be read, too
            assert (status, headers["access-control-allow-origin"]) == (400, PAGE["origin"])
            async with gate.session.get(gate.url + "/v1/models", headers={**AUTH, **PAGE}) as got:
                assert got.headers["access-control-allow-origin"] == PAGE["origin"]
            _, headers, _ = await gate.ask(HELLO, origin="https://other.example")
            assert "access-control-allow-origin" not in headers
            other = {**ASKS_FIRST, "origin": "https://other.example"}
            async with gate.session.options(gate.url + "/v1/chat/completions", headers=other) as got:
                assert got.status == 405


async def test_one_line_per_request_when_it_is_wanted_and_never_its_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.requests")
    said = {"model": "m", "user": "ann@example.com", "messages": [{"role": "user", "content": "my secret"}]}
    async with upstream() as up:
        async with door(settings_for(tmp_path / "off", up), CARE) as gate:
            await gate.ask(said)
        assert not [record for record in caplog.records if record.name == "gateway.requests"]
        async with door(settings_for(tmp_path / "on", up, gateway={"log_requests": True}), CARE) as gate:
            await gate.ask(said)
            await gate.ask({"model": "my secret model"})
    lines = [record for record in caplog.records if record.name == "gateway.requests"]
    assert len(lines) == 2
    first, second = (json.loads(JsonLines().format(line)) for line in lines)
    assert (first["status"], first["domain"], first["arm"], first["version"]) == (200, "global", "stable", 1)
    assert (first["upstream"], first["prompt_tokens"], first["answer_tokens"], first["ending"]) == (
        "up0",
        3,
        2,
        "whole",
    )
    assert (second["status"], second["ending"]) == (400, "refused")
    for line in lines:
        for text in (line.getMessage(), JsonLines().format(line)):
            assert "secret" not in text
            assert "ann" not in text
            assert "hello" not in text


@pytest.mark.parametrize(("above", "expected"), [(None, False), (1000, True), (100_000, False)])
async def test_long_prompts_get_a_cache_breakpoint_when_it_is_wanted(
    tmp_path: Path, above: int | None, expected: bool
) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    async with upstream() as up:
        claude = {"name": "c", "dialect": "anthropic", "base_url": up.url}
        settings = settings_for(tmp_path, claude, gateway={"cache_breakpoint": above})
        async with door(settings, CARE) as gate:
            await gate.ask(body, "/v1/messages")
            block = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}
            assert up.last.json["system"] == ([block] if expected else LONG)
            marked = {"role": "user", "content": [{**block, "text": "hi"}]}
            await gate.ask({**body, "messages": [marked]}, "/v1/messages")  # the caller's own breakpoints stay alone
            assert up.last.json["system"] == LONG


def test_a_worker_that_carries_and_is_scraped_does_not_hold_the_control_plane(repository: Path) -> None:
    code = (
        "import sys, gateway.server, gateway.worker, gateway.exposition\n"
        "from registry import Registry, Settings, watch\n"
        "print(sorted({'fastapi', 'starlette', 'jinja2', 'litellm', 'numpy', 'detect_secrets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
