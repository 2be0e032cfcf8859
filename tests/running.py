"""Running commands of the house in tests: real processes, what they said, and who is still alive."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent


def soon(holds: Callable[[], Any], within: float = 60.0) -> Any:
    """What `holds` gives once that is true; the last value when it does not become true within so many seconds."""
    until = time.monotonic() + within
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


class Command:
    """A running ``metaspo`` command: a process of its own in a session of its own, with what it said so far."""

    def __init__(self, arguments: list[str], folder: Path, env: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("METASPO_")}
        self.said = folder / f"said-{time.monotonic_ns()}.txt"
        self.log = self.said.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "metaspo.py"), *arguments],
            cwd=folder,
            env={**clean, **env},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        """Everything that it printed so far."""
        return self.said.read_text("utf-8", "replace")

    def family(self) -> list[psutil.Process]:
        """Its process and all below it, as they are now."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def says(self, words: str, within: float = 90.0) -> bool:
        """Whether it prints `words` before it ends or the time is up."""
        soon(lambda: words in self.text or self.process.poll() is not None, within)
        return words in self.text

    def end(self, how: signal.Signals = signal.SIGINT, within: float = 60.0) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(how)
        return self.process.wait(within)

    def close(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in reversed(self.family()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()
        self.log.close()


def none_alive(processes: list[psutil.Process], within: float = 30.0) -> bool:
    """Whether all of `processes` are gone before the time is up."""
    return bool(soon(lambda: not any(one.is_running() and one.status() != "zombie" for one in processes), within))


class Upstream(ThreadingHTTPServer):
    """A provider that echoes: it answers every chat with the system prompt that it was sent, slowly when asked so."""

    daemon_threads = True

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if asked["messages"][-1]["content"] == "slowly, please":
                time.sleep(2)
            system = next((m["content"] for m in asked["messages"] if m["role"] == "system"), "")
            message = {"role": "assistant", "content": system}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            body = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass
