"""A gateway without a control plane, on a Redis user that can write neither a version nor a pointer."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from registry import Domain, Lineage, Registry, SamplePolicy, Signer, acl_file
from registry.acl import CONTROL_USER, DATA_PLANE_USER
from tests.e2e.house import ROOT
from tests.registry import servers

ASK = {"model": "m", "messages": [{"role": "user", "content": "Where is my parcel?"}]}


async def _reply(_: web.Request) -> web.Response:
    message = {"role": "assistant", "content": "On its way."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return web.json_response(
        {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    )


async def test_it_serves_follows_and_records_and_has_no_control_plane() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _reply)
    runner = web.AppRunner(app)
    await runner.setup()
    model, gate = servers.free_ports(2)
    await web.TCPSite(runner, "127.0.0.1", model).start()
    with tempfile.TemporaryDirectory(prefix="mlp-") as name:
        folder = Path(name)
        users = acl_file({DATA_PLANE_USER: "gate", CONTROL_USER: "control"})
        with servers.guarded("valkey", folder / "r", users) as place:
            signer = Signer.create()
            control = await Registry.connect(place.format(f"{CONTROL_USER}:control"), signer=signer)
            sampled = Domain(name="support", parent=None, sample=SamplePolicy(share=1.0, per_hour=1000))
            await control.put_domain(sampled, actor="ops")
            for text in ("Be brief.", "Be kind."):
                await control.add_version("support", text, lineage=Lineage(author="ops"))
            await control.promote("support", 1, actor="ops", why="first")
            _, key = await control.create_key("app", "caller", "support")
            config = {
                "home": str(folder / "home"),
                "listen": f"127.0.0.1:{gate}",
                "redis_url_data_plane": place.format(f"{DATA_PLANE_USER}:gate"),
                "verify_key": base64.b64encode(signer.public).decode(),
                "gateway": {"control_plane": False},
                "upstreams": [{"name": "m", "base_url": f"http://127.0.0.1:{model}/v1"}],
            }
            (folder / "metaspo.yaml").write_text(yaml.safe_dump(config))
            command = [sys.executable, str(ROOT / "metaspo.py"), "--config", str(folder / "metaspo.yaml")]
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen([*command, "gateway", "serve"], cwd=ROOT, stdout=log, stderr=log)
            try:
                await _story(control, f"http://127.0.0.1:{gate}", key, folder / "log")
            finally:
                process.terminate()
                await asyncio.to_thread(process.wait, 20)
                await control.close()
                await runner.cleanup()


async def _story(control: Registry, url: str, key: str, log: Path) -> None:
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http:

        async def version() -> str:
            try:
                async with http.post(f"{url}/v1/chat/completions", json=ASK) as reply:
                    return reply.headers.get("x-metaspo-version", "") if reply.status == 200 else str(reply.status)
            except aiohttp.ClientError:
                return ""

        async def until(wanted: str) -> None:
            end = time.monotonic() + 40
            while await version() != wanted:
                assert time.monotonic() < end, log.read_text()
                await asyncio.sleep(0.05)

        await until("1")
        await control.promote("support", 2, actor="ops", why="kinder")
        await until("2")
        async with http.post(f"{url}/v1/chat/completions", json=ASK) as reply:
            exchange = reply.headers["x-metaspo-exchange"]
        async with http.post(f"{url}/v1/feedback", json={"exchange": exchange, "score": 1.0}) as reply:
            assert reply.status == 202, await reply.text()
        end = time.monotonic() + 20
        while not any(sample.feedback == 1.0 for sample in await control.samples("support")):
            assert time.monotonic() < end, log.read_text()
            await asyncio.sleep(0.1)
        async with http.get(f"{url}/api/domains") as reply:
            assert reply.status == 404
    assert "connect as the control user" not in log.read_text()
