"""What the deployment tests share: HTTP, free ports, waiting, and processes that always end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, key: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """One HTTP request: status, headers, JSON (or text) of the answer."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            status, head, raw = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, head, raw = error.code, error.headers, error.read()
    try:
        return status, head, json.loads(raw)
    except ValueError:
        return status, head, raw.decode()


def until(what: str, true: Callable[[], bool], seconds: float = 60) -> float:
    """Wait until it is true; the seconds that it took."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        try:
            if true():
                return time.monotonic() - began
        except (urllib.error.URLError, ConnectionError, OSError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


@contextmanager
def running(commands: Sequence[tuple[Sequence[str], Mapping[str, str]]], log: Path) -> Iterator[None]:
    """`metaspo` commands with their environments, as processes; ended, the last one first, whatever happens."""
    with log.open("wb") as out:
        processes = [
            subprocess.Popen(
                [sys.executable, str(ROOT / "metaspo.py"), *command],
                env={**os.environ, **environment},
                stdout=out,
                stderr=out,
            )
            for command, environment in commands
        ]
        try:
            yield
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(timeout=40)
