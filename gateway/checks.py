"""What ``metaspo doctor`` asks of the gateway: can it listen, and do its upstreams answer?"""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from gateway.errors import UpstreamFailed
from gateway.settings import Upstream, house_of
from gateway.wire import WireLane
from registry import Finding, Settings


async def check(settings: Settings) -> list[Finding]:
    """Findings about address, keys and upstreams. Sends no prompt: upstreams are only asked for their list of
    models."""
    findings = [_address(settings), _keys(settings)]
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
    name = "gateway address"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.settimeout(1.0)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host.strip("[]"), settings.port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            return Finding(
                name=name,
                ok=False,
                message=f"{settings.listen} cannot be used: {reason}",
                mend="this is fine when the gateway is running; else set `listen` to a free address",
            )
    return Finding(name=name, ok=True, message=f"{settings.listen} is free")


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
