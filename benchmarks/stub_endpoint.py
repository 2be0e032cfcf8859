"""An OpenAI-compatible endpoint that answers every chat completion after a fixed time, cheap enough not to be the
bottleneck: one asyncio protocol over httptools, uvloop underneath, no framework.

    python benchmarks/stub_endpoint.py --delay 0.020

prints its port on the first line of standard output. What it says depends on the model: the optimizer gets every tag
that the published methods ask for, with a new text each time; the base model gets ``<answer>A</answer>``.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from typing import cast

import httptools
import uvloop


class Stub(asyncio.Protocol):
    """One connection. Requests are answered in order of arrival, each after the delay."""

    def __init__(self, delay: float, say: Callable[[bytes], bytes]) -> None:
        self._delay = delay
        self._say = say
        self._transport: asyncio.WriteTransport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transports register no base class

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._loop.call_later(self._delay, self._answer, body)

    def _answer(self, body: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        reply = self._say(body)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(reply)
        self._transport.write(head + reply)


def completion(text: str) -> bytes:
    """A chat completion body."""
    return json.dumps(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
    ).encode()


def fresh(number: int) -> str:
    """A well-formed optimizer reply that was never said before."""
    return (
        f"<Analysis>The answers break the form, finding {number}.</Analysis>\n"
        f"<improved_system_prompt>Keep the form that is asked for, rule {number}.</improved_system_prompt>\n"
        f"<improved_user_prompt>Answer as told, variant {number}.\n"
        f"<Question>{{question}}</Question>\nPut the answer between <answer> tags.</improved_user_prompt>\n"
        f"<instruction>Answer as told, variant {number}.</instruction>"
    )


def clumsy(number: int) -> str:
    """Optimizer replies as a small model gives them: well-formed, without tags, a copy, without slot, said before."""
    copy = "<improved_system_prompt>You are a helpful assistant.</improved_system_prompt>"
    slotless = "<improved_user_prompt>Answer well.</improved_user_prompt>"
    analysis = f"<Analysis>Finding {number}.</Analysis>"
    kinds = (fresh(number), "I would improve it.", f"{analysis}{copy}{slotless}", fresh(1))
    return kinds[number % len(kinds)]


def speaker(mode: str) -> Callable[[bytes], bytes]:
    """What the endpoint says to a request body."""
    numbers = itertools.count(1)
    plain = completion("<answer>A</answer>")
    write = {"fresh": fresh, "clumsy": clumsy}[mode]
    return lambda body: plain if b'"model":"base"' in body else completion(write(next(numbers)))


async def serve(delay: float, mode: str) -> None:
    """Listen on a free port until killed."""
    say = speaker(mode)
    server = await asyncio.get_running_loop().create_server(lambda: Stub(delay, say), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.020, help="seconds from request to answer")
    parser.add_argument("--mode", choices=["fresh", "clumsy"], default="fresh")
    arguments = parser.parse_args()
    try:
        uvloop.run(serve(arguments.delay, arguments.mode))
    except KeyboardInterrupt:
        sys.exit(0)
