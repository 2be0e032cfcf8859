"""Whole processes: workers, signals, reload, and starting without a registry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rig import AUTH, DONE, HELLO, Request, Wires, chunk, completion, delta, upstream

from gateway.errors import StartFailed
from gateway.server import listen
from registry import EmbeddedRedis, Registry, RegistryError

NOWHERE = "unix:///nonexistent/redis.sock"


class House:
    """A gateway process, and how to talk to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, config: Path, session: aiohttp.ClientSession
    ) -> None:
        self.process = process
        self.port = port
        self.config = config
        self.session = session
        self.url = f"http://127.0.0.1:{port}"

    async def ask(self) -> tuple[int, Any, Any]:
        # a new connection each time: the kernel may give it to any worker
        async with self.session.post(
            self.url + "/v1/chat/completions", json=HELLO, headers={**AUTH, "connection": "close"}
        ) as got:
            return got.status, got.headers, await got.json()

    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    async def end(self, seconds: float = 15) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), seconds)


def write(config: Path, home: Path, port: int, **more: Any) -> None:
    keys = [{"name": "app", "role": "caller", "key": "sk-caller"}]
    config.write_text(json.dumps({"home": str(home), "listen": f"127.0.0.1:{port}", "keys": keys, **more}))


def upstreams(*urls: str) -> list[dict[str, str]]:
    return [{"name": f"up{n}", "base_url": url} for n, url in enumerate(urls)]


@contextlib.asynccontextmanager
async def house(
    folder: Path, port: int, repository: Path, *, workers: int = 1, **settings: Any
) -> AsyncIterator[House]:
    config = folder / "metaspo.yaml"
    write(config, folder / "home", port, **settings)
    command = [
        sys.executable,
        str(repository / "metaspo.py"),
        "--config",
        str(config),
        "gateway",
        "serve",
        "--workers",
        str(workers),
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=repository, stderr=log, start_new_session=True)
    async with aiohttp.ClientSession() as session:
        found = House(process, port, config, session)
        try:
            end = time.monotonic() + 30
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(found.url + "/readyz") as reply:
                        if reply.status == 200:
                            break
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, "not ready in time: " + (folder / "log").read_text()
                await asyncio.sleep(0.02)
            yield found
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                await asyncio.to_thread(process.wait)


async def test_workers_share_the_port_and_are_started_again(tmp_path: Path, free_port: int, repository: Path) -> None:
    async with (
        upstream() as up,
        house(tmp_path, free_port, repository, workers=2, redis_url=NOWHERE, upstreams=upstreams(up.url)) as gate,
    ):
        first = gate.workers()
        assert len(first) == 2
        assert {(await gate.ask())[0] for _ in range(20)} == {200}
        os.kill(first[0], signal.SIGKILL)
        end = time.monotonic() + 15
        while len(gate.workers()) < 2 or first[0] in gate.workers():
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert {(await gate.ask())[0] for _ in range(20)} == {200}
        gate.process.send_signal(signal.SIGTERM)
        assert await gate.end() == 0
        assert "starting it again" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("workers", [1, 2])
async def test_d45_sigterm_finishes_streams_and_takes_no_new_ones(
    tmp_path: Path, free_port: int, repository: Path, workers: int
) -> None:
    async def slow(request: Request, wires: Wires) -> None:
        await wires.stream(*[delta(str(n)) for n in range(15)], delta("", "stop"), DONE, pause=0.05)

    async with (
        upstream(slow) as up,
        house(tmp_path, free_port, repository, workers=workers, redis_url=NOWHERE, upstreams=upstreams(up.url)) as gate,
    ):
        async with gate.session.post(
            gate.url + "/v1/chat/completions", json={**HELLO, "stream": True}, headers=AUTH
        ) as got:
            await got.content.readany()
            gate.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            with pytest.raises(aiohttp.ClientError):
                await gate.ask()
            assert (await got.read()).endswith(DONE)
        assert await gate.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_reads_the_config_again_in_every_worker(
    tmp_path: Path, free_port: int, repository: Path, workers: int
) -> None:
    reloaded = asyncio.Event()

    async def old(request: Request, wires: Wires) -> None:
        if not request.json.get("stream"):
            await wires.reply(completion())
            return
        await wires.stream(delta("old"), end=False)
        await reloaded.wait()
        await wires.send(*map(chunk, (delta("old", "stop"), DONE)), b"0\r\n\r\n")

    async def new(request: Request, wires: Wires) -> None:
        await wires.reply(completion("new"))

    async def answers(gate: House) -> set[str]:
        return {(await gate.ask())[2]["choices"][0]["message"]["content"] for _ in range(12)}

    async with upstream(old) as up, upstream(new) as other:
        settings: dict[str, Any] = {"redis_url": NOWHERE, "upstreams": upstreams(up.url)}
        async with house(tmp_path, free_port, repository, workers=workers, **settings) as gate:
            assert await answers(gate) == {"hello"}
            gate.config.write_text("listen: [")
            gate.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.5)
            assert await answers(gate) == {"hello"}  # a broken file changes nothing
            write(gate.config, tmp_path / "home", free_port, **{**settings, "upstreams": upstreams(other.url)})
            asked = gate.session.post(gate.url + "/v1/chat/completions", json={**HELLO, "stream": True}, headers=AUTH)
            async with asked as got:
                begun = await got.content.readany()
                gate.process.send_signal(signal.SIGHUP)
                end = time.monotonic() + 10
                while await answers(gate) != {"new"}:
                    assert time.monotonic() < end
                reloaded.set()  # what was in flight ends where it began
                assert begun + await got.read() == delta("old") + delta("old", "stop") + DONE
            log = (tmp_path / "log").read_text()
            assert "the old settings stay" in log
            assert "Traceback" not in log


async def test_the_snapshot_file_serves_while_the_registry_is_down(
    tmp_path: Path, free_port: int, repository: Path
) -> None:
    try:
        redis = EmbeddedRedis.start(tmp_path / "redis")
    except RegistryError as error:
        pytest.skip(str(error))
    domains = {"global": {"system_prompt": "Remember."}}
    async with upstream() as up:
        settings: dict[str, Any] = {"redis_url": redis.url, "upstreams": upstreams(up.url), "domains": domains}
        try:
            async with house(tmp_path, free_port, repository, **settings) as gate:
                status, headers, _ = await gate.ask()
                assert (status, headers["x-metaspo-version"]) == (200, "1")
                redis.kill()
                status, headers, _ = await gate.ask()
                assert (status, headers["x-metaspo-version"]) == (200, "1")
                gate.process.send_signal(signal.SIGTERM)
                assert await gate.end() == 0
        finally:
            redis.stop()
        async with house(tmp_path, free_port, repository, **settings) as gate:
            status, headers, _ = await gate.ask()
            assert (status, headers["x-metaspo-version"], headers["x-metaspo-arm"]) == (200, "1", "stable")
            assert up.last.json["messages"][0] == {"role": "system", "content": "Remember."}


async def test_limits_hold_for_all_workers_and_sigterm_writes_what_is_queued(
    tmp_path: Path, free_port: int, repository: Path
) -> None:
    try:
        redis = EmbeddedRedis.start(tmp_path / "redis")
    except RegistryError as error:
        pytest.skip(str(error))
    limit = 10
    more: dict[str, Any] = {
        "redis_url": redis.url,
        "keys": [{"name": "app", "role": "caller", "key": "sk-caller", "requests_per_minute": limit}],
        "domains": {"global": {"system_prompt": "Remember.", "sample": {"share": 1.0, "per_hour": 100}}},
    }
    try:
        async with upstream() as up:
            more["upstreams"] = upstreams(up.url)
            async with house(tmp_path, free_port, repository, workers=2, **more) as gate:
                answers = [await gate.ask() for _ in range(limit)]
                assert {status for status, _, _ in answers} == {200}
                end = time.monotonic() + 10
                refused: set[int] = set()
                while refused != {429}:  # soon no worker has room for one more
                    assert time.monotonic() < end
                    await asyncio.sleep(0.1)
                    more_answers = [await gate.ask() for _ in range(12)]
                    refused = {status for status, _, _ in more_answers}
                    answers += more_answers
                served = len(up.requests)
                assert limit <= served <= 2 * limit  # each worker alone, for at most two seconds
                gate.process.send_signal(signal.SIGTERM)
                assert await gate.end() == 0
        registry = await Registry.connect(redis.url)
        try:
            versioned = [headers for status, headers, _ in answers if status == 200 and "x-metaspo-version" in headers]
            assert len(await registry.outcomes("global", limit=100)) == len(versioned)
            kept = await registry.samples("global")
            assert len(kept) == served
            assert kept[0].answer == "hello"
        finally:
            await registry.close()
    finally:
        redis.stop()


async def test_without_registry_and_file_requests_pass_unchanged(
    tmp_path: Path, free_port: int, repository: Path
) -> None:
    domains = {"global": {"system_prompt": "Not known to be live."}}
    async with (
        upstream() as up,
        house(tmp_path, free_port, repository, redis_url=NOWHERE, upstreams=upstreams(up.url), domains=domains) as gate,
    ):
        status, headers, _ = await gate.ask()
        assert (status, headers["x-metaspo-arm"]) == (200, "none")
        assert up.last.json == HELLO
        async with gate.session.get(gate.url + "/readyz") as reply:
            assert (await reply.json())["registry"] == "down"


def test_a_taken_port_is_one_clear_sentence(tmp_path: Path, free_port: int, repository: Path) -> None:
    taken = listen("127.0.0.1", free_port, 1)
    try:
        with pytest.raises(StartFailed, match="Cannot listen on 127"):
            listen("127.0.0.1", free_port, 2)
        write(tmp_path / "c.yaml", tmp_path / "home", free_port, redis_url=NOWHERE)
        command = [
            sys.executable,
            str(repository / "metaspo.py"),
            "--config",
            str(tmp_path / "c.yaml"),
            "gateway",
            "serve",
        ]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert "Cannot listen on" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        for listener in taken:
            listener.close()


def test_nothing_heavy_is_loaded_to_serve(repository: Path) -> None:
    code = (
        "import sys, gateway.server, gateway.control_plane\n"
        "print(sorted({'litellm', 'numpy', 'scipy', 'pandas', 'openai', 'anthropic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
