"""A model that answers better under one prompt than under another, and a repository whose CI asks the gate about it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

OLD, BETTER, WORSE = "You are a helpful assistant.", "Read the whole question, then answer.", "Answer at once."
TEAMS = ("billing", "shipping")
TASKS = ("letters", "calls", "chats")


class Provider(ThreadingHTTPServer):
    """Right answers depend on the system prompt: 9 of 10 under BETTER, 6 under OLD, 3 under WORSE."""

    daemon_threads = True
    calls = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.calls += 1  # type: ignore[attr-defined]
        said = json.dumps(
            {
                "choices": [{"index": 0, "message": {"content": answer(body)}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 30, "completion_tokens": 1},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Nothing: the test's output is the command's."""


def answer(body: dict[str, Any]) -> str:
    messages = {message["role"]: message["content"] for message in body["messages"]}
    words = messages["user"].split()
    if "parcel" not in words:
        return "I cannot help with that."  # an item of the safety suites, the same under every prompt
    number = int(words[words.index("parcel") + 1])
    right = {BETTER: 9, WORSE: 3}.get(messages.get("system", ""), 6)
    return TEAMS[number % 2] if number // 2 % 10 < right else TEAMS[1 - number % 2]


@contextmanager
def deciding() -> Iterator[Provider]:
    """The model on a loopback port, as long as the block lasts."""
    server = Provider(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_repository(folder: Path, provider: Provider) -> None:
    """Three tasks with labelled rows and ``gate.yaml``, the search file that names them and the model."""
    for task in TASKS:
        (folder / task).mkdir(parents=True)
        told = {"task": task, "labels": list(TEAMS), "initial_prompt": "Which team?\n{question}"}
        (folder / task / "task.json").write_text(json.dumps(told))
        for split, first, rows in (("train", 1000, 40), ("test", 0, 160)):
            lines = [
                {"id": f"{split}{n}", "question": f"In {task} about parcel {n} of {n * n + 7}", "answer": TEAMS[n % 2]}
                for n in range(first, first + rows)
            ]
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    search = {
        "seed": OLD,
        "models": {"base": {"model": "base", "api_base": f"http://127.0.0.1:{provider.server_port}/v1"}},
        "tasks": [{"path": name} for name in TASKS],
        "options": {"safety_per_suite": 10},
        "home": str(folder / "home"),
    }
    (folder / "gate.yaml").write_text(yaml.safe_dump(search))
