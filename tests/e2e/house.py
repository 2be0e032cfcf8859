"""The product's processes on one machine, as a test needs them: started, killed, counted, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Self

import aiohttp
import yaml

from registry import EmbeddedRedis, Registry, Signer, load_settings

ROOT = Path(__file__).resolve().parents[2]


class House:
    """Embedded Redis, gateway, workers and schedulers, each a real process with its log under ``folder``."""

    def __init__(self, folder: Path, config: dict[str, Any], port: int) -> None:
        self.folder = folder
        self.port = port
        self.config = folder / "metaspo.yaml"
        self.config.write_text(yaml.safe_dump({**config, "home": str(folder / "home"), "listen": f"127.0.0.1:{port}"}))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self.redis: EmbeddedRedis | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self.redis = await asyncio.to_thread(EmbeddedRedis.start, self.folder / "home")
        self.settings = load_settings(self.config, {"METASPO_REDIS_URL": self.redis.url})
        signer = Signer.load_or_create(self.settings.signing_key_path)
        self.registry = await Registry.from_settings(self.settings, signer=signer)
        await self.registry.sync_settings(self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.registry.close()
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                await asyncio.to_thread(process.wait, 15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs:
            log.close()
        if self.redis is not None:
            await asyncio.to_thread(self.redis.stop)

    def start(self, name: str, *command: str) -> None:
        """One of our commands as a process of its own."""
        assert self.redis is not None
        log = (self.folder / f"{name}.log").open("ab")
        self._logs.append(log)
        env = {**os.environ, "METASPO_REDIS_URL": self.redis.url, "PYTHONUNBUFFERED": "1"}
        self.processes[name] = subprocess.Popen(
            [sys.executable, str(ROOT / "metaspo.py"), "--config", str(self.config), *command],
            cwd=ROOT, env=env, stdout=log, stderr=log,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """As the kernel kills: without a word."""
        self.processes[name].kill()
        self.processes[name].wait()

    def kill_pid(self, pid: int) -> str:
        """Kill the process of ours that has this pid; returns its name."""
        name = next(n for n, p in self.processes.items() if p.pid == pid)
        self.kill(name)
        return name

    async def kill_redis(self) -> None:
        """Kill the server and start it again on the same files."""
        assert self.redis is not None
        os.kill(self.redis.pid, signal.SIGKILL)
        await asyncio.to_thread(self.redis.stop)
        self.redis = await asyncio.to_thread(EmbeddedRedis.start, self.folder / "home")

    async def ready(self, http: aiohttp.ClientSession, seconds: float = 40) -> None:
        """Wait until the gateway serves."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with http.get(f"{self.url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                assert self.processes["gateway"].poll() is None, self.log("gateway")
                await asyncio.sleep(0.2)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()
