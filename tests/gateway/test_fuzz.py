"""Whatever a caller sends: an answer in the dialect's shape, never a 500, and the next request is served."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import HELLO, Door, door, prompts, settings_for, upstream

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
turns = st.lists(
    st.fixed_dictionaries(
        {},
        optional={"role": st.sampled_from(["system", "developer", "user", "assistant", 5, None]), "content": anything},
    )
    | anything,
    max_size=4,
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m", "", 1, None]),
        "messages": turns | anything,
        "input": turns | anything,
        "system": anything,
        "instructions": anything,
        "stream": anything,
        "stream_options": anything,
        "user": anything,
        "metadata": anything,
        "prompt": anything,
    },
)
PATHS = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages/count_tokens",
]
KEYS = [{"name": "app", "role": "caller", "key": "sk-caller", "tokens_per_minute": 10**9}]


async def check(gate: Door, raw: bytes, path: str) -> None:
    async with gate.post(raw, path) as got:
        body = await got.read()
    assert got.status in (200, 400), (got.status, raw, body)
    if got.status == 400:
        error = json.loads(body)["error"]
        assert error["message"]
        assert ("type" in json.loads(body)) == ("messages" in path)


@pytest.mark.parametrize("mode", ["prepend", "append", "replace", "fill"])
def test_no_json_causes_anything_but_an_answer_in_shape(tmp_path: Path, mode: str) -> None:
    """One gateway serves all examples; what reaches the upstream must be JSON again."""
    view = prompts('Be "careful".\n', name="global", parent=None, inject=mode, locked="L")
    samples: list[tuple[dict[str, Any], str, tuple[str, str]]] = []

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bodies, st.sampled_from(PATHS), st.sampled_from([(",", ":"), (", ", ": ")]))
    def collect(body: dict[str, Any], path: str, separators: tuple[str, str]) -> None:
        samples.append((body, path, separators))

    collect()

    async def run() -> None:
        async with upstream() as up:
            claude = {"name": "c", "dialect": "anthropic", "base_url": up.url}
            openai = {"name": "o", "base_url": up.url}
            async with door(settings_for(tmp_path, openai, claude, keys=KEYS), view) as gate:
                for body, path, separators in samples:
                    seen = len(up.requests)
                    await check(gate, json.dumps(body, separators=separators).encode(), path)
                    for request in up.requests[seen:]:
                        assert request.json["model"] == body["model"]
                assert (await gate.ask())[0] == 200
                assert gate.worker.pipeline.in_flight == 0
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_no_bytes_on_a_connection_harm_the_next(tmp_path: Path) -> None:
    """One gateway serves all examples; between any two an honest request is answered."""
    samples: list[tuple[bytes, list[bytes]]] = []

    @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(STARTS), st.lists(st.binary(min_size=1, max_size=60), max_size=4))
    def collect(start: bytes, pieces: list[bytes]) -> None:
        samples.append((start, pieces))

    collect()

    async def run() -> None:
        async with upstream() as up, door(settings_for(tmp_path, up)) as gate:
            for start, pieces in samples:
                _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
                writer.write(start)
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                await asyncio.sleep(0.005)
                writer.transport.abort()
                assert (await gate.ask(HELLO))[0] == 200
            await asyncio.sleep(0.05)
            assert gate.worker.pipeline.in_flight == 0
        await asyncio.sleep(0.01)

    asyncio.run(run())


STARTS = [
    b"",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-caller\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nx-api-key: sk-caller\r\n\r\n",
]
