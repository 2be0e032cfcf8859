"""The gateway over hours: mixed streams and disconnects at half load; is memory flat, is a single reply wrong?

    python benchmarks/gateway_soak.py [--seconds 3600] [--rate N] [--workers 1] [--json FILE]

Starts a registry, an upstream and the gateway as processes of their own, finds out how many exchanges a second this
load reaches, and then sends half as many (or ``--rate``, where other work shares the machine). Every request carries a
number of its own. The upstream's answer repeats the number and a digest of the system prompt that it got, so that each
reply is checked for whose it is and what was injected. Every quarter of a minute another version is promoted. The
kinds of exchange, drawn at random:

    whole       a reply in one piece                     stream      30 events, 5 ms apart
    long        a body of 100 KB                         leave       a stream whose caller hangs up in the middle
    cut         an upstream that breaks off: the events so far, an error event and no [DONE]
    error       an upstream that answers 500: status and body as they were

Memory of all processes of the gateway is read every ten seconds: resident, and with pages that other programs hold as
well counted by their share (PSS). Resident memory counts as flat when the mean of the last quarter is less than 5 MB or
8 % above that of the second quarter. Exit code 1 when a reply was wrong or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-soak"
KINDS = {"whole": 50, "stream": 25, "long": 10, "leave": 7, "cut": 4, "error": 4}
EVENTS = 30
MEMORY_EVERY = 10.0
PROMOTE_EVERY = 15.0
MOST = 400
"""Exchanges at one time; what is due beyond them waits, and is counted."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- the upstream ----------------------------------------------------------------------------------------------------


async def upstream(port_file: Path) -> None:
    """Answers with the number that it was asked and the digest of its system prompt; the user text says how."""
    gone = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal gone
        streaming = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /gone"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%d" % (len(str(gone)), gone))
                    continue
                length = next(int(f.split(b":")[1]) for f in head.split(b"\r\n") if f.startswith(b"content-length"))
                asked = json.loads(await reader.readexactly(length))
                system = next((m["content"] for m in asked["messages"] if m["role"] == "system"), "")
                kind, number, *_ = asked["messages"][-1]["content"].split(" ", 2)
                said = f"{number} {digest(system)}"
                if kind in ("stream", "leave", "cut"):
                    streaming = True
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                    )
                    for n in range(EVENTS):
                        if kind == "cut" and n == EVENTS // 2:
                            writer.transport.abort()
                            return
                        last = n == EVENTS - 1
                        choice = {"index": 0, "delta": {"content": said}, "finish_reason": "stop" if last else None}
                        event = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
                        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                        await writer.drain()
                        await asyncio.sleep(0.005)
                    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
                    streaming = False
                else:
                    if kind == "error":
                        status, body = b"500 No", json.dumps({"error": {"message": said}}).encode()
                    else:
                        choice = {
                            "index": 0,
                            "message": {"role": "assistant", "content": said},
                            "finish_reason": "stop",
                        }
                        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
                        status, body = b"200 OK", json.dumps({"choices": [choice], "usage": usage}).encode()
                    writer.write(
                        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                        % (status, len(body), body)
                    )
        if streaming:
            gone += 1
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**21)
    port_file.write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


# --- the load --------------------------------------------------------------------------------------------------------


class Soak:
    """Asks, checks what comes back, and counts."""

    def __init__(self, session: aiohttp.ClientSession, url: str, texts: dict[int, str], rng: random.Random) -> None:
        self.session = session
        self.url = url
        self.texts = texts
        """Text of every version that was ever promoted, by number."""
        self.rng = rng
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.first_wrong: list[str] = []
        self.versions: Counter[str] = Counter()
        self.late = 0
        self.number = 0

    async def one(self) -> None:
        """One exchange of a random kind."""
        self.number += 1
        number = f"n{self.number}"
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        try:
            problem = await asyncio.wait_for(self._exchange(kind, number), 60)
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
        self.done[kind] += 1
        if problem:
            self.wrong[kind] += 1
            if len(self.first_wrong) < 20:
                self.first_wrong.append(f"{kind}: {problem}")

    async def _exchange(self, kind: str, number: str) -> str:
        streamed = kind in ("stream", "leave", "cut")
        filler = "x" * 100_000 if kind == "long" else "how are you?"
        body: dict[str, Any] = {
            "model": "soak",
            "messages": [{"role": "user", "content": f"{kind} {number} {filler}"}],
            "user": f"unit-{self.rng.randrange(1000)}",
        }
        if streamed:
            body["stream"] = True
        headers = {"authorization": f"Bearer {KEY}"}
        async with self.session.post(self.url, json=body, headers=headers) as reply:
            version = reply.headers.get("x-metaspo-version", "")
            self.versions[version] += 1
            text = self.texts.get(int(version)) if version else None
            if text is None:
                return f"version {version!r} was never promoted"
            expected = f"{number} {digest(text)}"
            if kind == "leave":
                got = await reply.content.readany()
                return "" if expected.encode() in got else f"the stream begins with {got[:100]!r}"
            got = await reply.read()
        if kind == "error":
            good = reply.status == 500 and json.loads(got) == {"error": {"message": expected}}
        elif not streamed:
            good = reply.status == 200 and json.loads(got)["choices"][0]["message"]["content"] == expected
        else:
            said = got.count(b'"content": "%b"' % expected.encode())
            ended = got.endswith(b"data: [DONE]\n\n")
            if kind == "stream":
                good = said == EVENTS and ended
            else:  # what was whole, an error event, no end
                good = said == EVENTS // 2 and b"[DONE]" not in got and b'"error"' in got
        return "" if good else f"status {reply.status}, expected {expected!r}, got {got[:200]!r} ... {got[-80:]!r}"

    async def flat_out(self, seconds: float, together: int = 64) -> float:
        """Exchanges a second when nobody waits."""
        until = time.monotonic() + seconds
        before = sum(self.done.values())

        async def again() -> None:
            while time.monotonic() < until:
                await self.one()

        began = time.monotonic()
        await asyncio.gather(*(again() for _ in range(together)))
        return (sum(self.done.values()) - before) / (time.monotonic() - began)

    async def paced(self, rate: float, seconds: float) -> None:
        """So many exchanges a second, begun at even times."""
        tasks: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        due = 0
        while (now := time.monotonic() - began) < seconds:
            while due < now * rate:
                due += 1
                if len(tasks) >= MOST:
                    self.late += 1
                    continue
                task = asyncio.create_task(self.one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.005)
        if tasks:
            await asyncio.wait(tasks)


def memory(pid: int) -> tuple[float, float]:
    """MB of a process and its children: resident, and by share."""
    resident = shared = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = fields_of(entry / "status")
                if int(entry.name) == pid or int(status["PPid"]) == pid:
                    resident += kilobytes(status, "VmRSS")
                    shared += kilobytes(fields_of(entry / "smaps_rollup"), "Pss")
    return resident / 1024, shared / 1024


def fields_of(path: Path) -> dict[str, str]:
    return dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)


def kilobytes(fields: dict[str, str], name: str) -> int:
    return int(fields.get(name, "0 kB").split()[0])


async def watch_memory(pid: int, curve: list[tuple[float, float, float]]) -> None:
    began = time.monotonic()
    while True:
        resident, shared = memory(pid)
        curve.append((round(time.monotonic() - began, 1), round(resident, 1), round(shared, 1)))
        await asyncio.sleep(MEMORY_EVERY)


async def move_pointers(redis_url: str, texts: dict[int, str]) -> None:
    """Promote another version four times a minute: replies say which one served them, and are checked for its text."""
    from registry import Lineage, Registry

    registry = await Registry.connect(redis_url)
    try:
        for round_ in range(1_000_000):
            await asyncio.sleep(PROMOTE_EVERY)
            text = f"You are careful, in round {round_ % 5}. " * 8
            version = await registry.add_version("soak", text, lineage=Lineage(author="soak"))
            texts[version.number] = text
            await registry.promote("soak", version.number, actor="soak", why="the next round")
    finally:
        await registry.close()


async def run(options: argparse.Namespace, folder: Path, redis_url: str) -> dict[str, Any]:
    prompt = "You are careful. " * 8
    port_file = folder / "port"
    asked = subprocess.Popen([sys.executable, __file__, "--upstream", str(port_file)])
    while not port_file.exists() or not port_file.read_text():
        await asyncio.sleep(0.05)
    port = int(port_file.read_text())
    gate = free_port()
    config = {
        "home": str(folder / "home"),
        "redis_url": redis_url,
        "listen": f"127.0.0.1:{gate}",
        "upstreams": [{"name": "mock", "base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-up"}],
        "gateway": {"eject_after": 1_000_000},  # its failures are on purpose
        "keys": [{"name": "soak", "role": "caller", "key": KEY, "domain": "soak", "requests_per_minute": 10_000_000}],
        "domains": {"soak": {"system_prompt": prompt, "sample": {"share": 0.05, "per_hour": 2000}}},
    }
    (folder / "metaspo.yaml").write_text(json.dumps(config))
    command = [sys.executable, str(ROOT / "metaspo.py"), "--config", str(folder / "metaspo.yaml"), "gateway", "serve"]
    gateway = subprocess.Popen([*command, "--workers", str(options.workers)], cwd=ROOT, stderr=subprocess.PIPE)
    texts = {1: prompt}
    curve: list[tuple[float, float, float]] = []
    background: list[asyncio.Task[None]] = []
    began = time.monotonic()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            soak = Soak(session, f"http://127.0.0.1:{gate}/v1/chat/completions", texts, random.Random(options.seed))
            await until_ready(session, gate, gateway)
            most = await soak.flat_out(5.0)
            began = time.monotonic()
            background = [
                asyncio.create_task(watch_memory(gateway.pid, curve)),
                asyncio.create_task(move_pointers(redis_url, texts)),
            ]
            rate = options.rate or most / 2
            while (left := options.seconds - (time.monotonic() - began)) > 0:
                await soak.paced(rate, min(60.0, left))
                print(f"{time.monotonic() - began:6.0f} s  {sum(soak.done.values()):9,} exchanges  "
                      f"{sum(soak.wrong.values())} wrong  {curve[-1][1]:.0f} MB", file=sys.stderr)  # fmt: skip
            async with session.get(f"http://127.0.0.1:{port}/gone") as reply:
                gone = int(await reply.text())
            for task in background:
                if task.done():
                    task.result()
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        asked.terminate()
        gateway.send_signal(signal.SIGTERM)
        _, complaints = gateway.communicate(timeout=60)
        asked.wait(10)
    values = [resident for _, resident, _ in curve]
    quarter = max(1, len(values) // 4)
    before, after = statistics.mean(values[quarter : 2 * quarter] or values), statistics.mean(values[-quarter:])
    errors = [
        line for line in complaints.decode("utf-8", "replace").splitlines() if "ERROR" in line or "CRITICAL" in line
    ]
    return {
        "seconds": round(time.monotonic() - began, 1),
        "seed": options.seed,
        "workers": options.workers,
        "exchanges": sum(soak.done.values()),
        "flat_out_per_second": round(most, 1),
        "asked_per_second": round(rate, 1),
        "not_begun_in_time": soak.late,
        "by_kind": dict(soak.done),
        "wrong": dict(soak.wrong),
        "first_wrong": soak.first_wrong,
        "versions_served": len(soak.versions),
        "streams_the_upstream_saw_cancelled": gone,
        "error_lines_in_the_log": errors[:20],
        "gateway_exit_code": gateway.returncode,
        "memory_mb": {"second_quarter": round(before, 1), "last_quarter": round(after, 1), "most": max(values)},
        "memory_by_share_mb": {"last": curve[-1][2], "most": max(shared for _, _, shared in curve)},
        "memory_flat": after - before < max(5.0, 0.08 * before),
        "memory_curve_mb": curve,
        "load_average": round(os.getloadavg()[0], 1),
    }


async def until_ready(session: aiohttp.ClientSession, port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"The gateway ended with code {process.returncode} instead of serving.")
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{port}/readyz") as reply:
                if reply.status == 200:
                    return
        await asyncio.sleep(0.05)
    raise SystemExit("The gateway is not ready after 30 s.")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long, at half load (default: an hour)")
    parser.add_argument("--rate", type=float, help="exchanges a second (default: half of what this load reaches)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--upstream", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream is not None:
        asyncio.run(upstream(options.upstream))
        return
    sys.path.insert(0, str(ROOT))
    from registry import EmbeddedRedis

    with tempfile.TemporaryDirectory(prefix="metaspo-soak-") as folder:
        redis = EmbeddedRedis.start(Path(folder) / "redis-home")
        try:
            found = asyncio.run(run(options, Path(folder), redis.url))
        finally:
            redis.stop()
    text = json.dumps(found, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "memory_curve_mb"}, indent=1))
    if found["wrong"] or not found["memory_flat"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
