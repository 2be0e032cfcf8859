"""What ``metaspo doctor`` asks of the gateway: can it listen, and do its upstreams answer?"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from gateway.errors import UpstreamFailed
from gateway.settings import Upstream, house_of
from gateway.wire import WireLane
from registry import Finding, Settings


async def check(settings: Settings) -> list[Finding]:
    """Findings about address, keys and upstreams. Sends no prompt: upstreams are only asked for their list of
    models."""
    findings = [await asyncio.to_thread(_address, settings), _keys(settings)]
    house = house_of(settings)
    if not house.upstreams:
        findings.append(
            Finding(
                name="upstreams",
                ok=False,
                message="no upstream is configured",
                mend="add one under `upstreams` in the config file",
            )
        )
    lane = WireLane(asyncio.get_running_loop())
    try:
        findings += await asyncio.gather(*(_upstream(lane, upstream) for upstream in house.upstreams))
    finally:
        lane.close()
    return findings


def _address(settings: Settings) -> Finding:
    name, host = "gateway address", settings.host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_ours(host, settings.port):
                return Finding(name=name, ok=True, message=f"a gateway serves at {settings.listen}")
            reason = (error.strerror or str(error)).lower()
            return Finding(
                name=name,
                ok=False,
                message=f"{settings.listen} cannot be used: {reason}",
                mend="stop what uses it, or choose another with `listen` or METASPO_LISTEN",
            )
    return Finding(name=name, ok=True, message=f"{settings.listen} is free")


def _is_ours(host: str, port: int) -> bool:
    """Whether what listens there answers as a gateway of this house, ready or not."""
    asked = HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, timeout=2)  # noqa: S104
    try:
        asked.request("GET", "/readyz")
        told = json.loads(asked.getresponse().read(65_536))
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        asked.close()
    return isinstance(told, dict) and "registry" in told


def _keys(settings: Settings) -> Finding:
    callers = [key.name for key in settings.keys if key.role == "caller"]
    if callers:
        return Finding(name="caller keys", ok=True, message=f"{len(callers)} in the config file")
    return Finding(
        name="caller keys",
        ok=True,
        message="none in the config file",
        mend="make one: metaspo keys create --role caller --name my-app",
    )


async def _upstream(lane: WireLane, upstream: Upstream) -> Finding:
    name = f"upstream {upstream.name}"
    if upstream.wire == "litellm":
        return Finding(name=name, ok=True, message="reached through LiteLLM when it is asked")
    host = urlsplit(upstream.base_url).netloc.rpartition("@")[2]
    try:
        reply = await lane.get(upstream, "/models")
    except UpstreamFailed as error:
        return Finding(
            name=name, ok=False, message=f"{host}: {error}", mend="check `base_url`, the network and whether it runs"
        )
    status = reply.status
    reply.release()
    if status in (401, 403):
        return Finding(
            name=name,
            ok=False,
            message=f"{host} refuses the key (status {status})",
            mend="check `api_key` of this upstream",
        )
    return Finding(
        name=name,
        ok=status < 500,
        message=f"{host} answers (status {status})",
        mend="" if status < 500 else "ask its operator",
    )
