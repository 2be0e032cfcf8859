"""A provider on loopback that speaks chat completions and Anthropic messages, whole and streamed, as a person would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ["It", " is", " on", " its", " way", "."]


class Provider(BaseHTTPRequestHandler):
    """Answers every question with the same sentence and remembers what it was asked (``server.seen``)."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._whole({"object": "list", "data": [{"id": "gpt-4o-mini", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(body)  # type: ignore[attr-defined]
        events = self._messages(body) if self.path.endswith("/messages") else self._chat(body)
        if body.get("stream"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for event in events:
                data = event.encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        self._whole(next(events))

    def _whole(self, answer: dict[str, Any]) -> None:
        raw = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _chat(self, body: dict[str, Any]) -> Iterator[Any]:
        base = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            usage = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
            yield {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
            return
        for position, word in enumerate(WORDS):
            delta = {"content": word} if position else {"role": "assistant", "content": word}
            chunk = {**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
            yield f"data: {json.dumps(chunk)}\n\n"
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield f"data: {json.dumps({**base, 'object': 'chat.completion.chunk', 'choices': [end]})}\n\n"
        yield "data: [DONE]\n\n"

    def _messages(self, body: dict[str, Any]) -> Iterator[Any]:
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None,
            "content": [{"type": "text", "text": "".join(WORDS)}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 9, "output_tokens": 6},
        }  # fmt: skip
        if not body.get("stream"):
            yield message
            return
        start = {**message, "content": [], "stop_reason": None}
        yield _named("message_start", message=start)
        yield _named("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for word in WORDS:
            yield _named("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        yield _named("content_block_stop", index=0)
        yield _named(
            "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 6}
        )
        yield _named("message_stop")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _named(type: str, **fields: Any) -> str:
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n"


@contextmanager
def provider() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A running provider: its address, and the bodies that it was asked with."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.daemon_threads = True
    seen: list[dict[str, Any]] = []
    server.seen = seen  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
