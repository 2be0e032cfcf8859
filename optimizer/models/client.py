"""A thin client for OpenAI-compatible chat endpoints: vLLM, llama.cpp, OpenAI itself, a gateway of ours.

Thin because a search makes tens of thousands of short calls: one pooled session, bytes encoded and decoded by
msgspec, no model of the whole API. Transient failures are tried again with jitter; what cannot get better stops the
run with one sentence; what concerns one request alone comes back as data.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.models.backend import Note
from optimizer.models.dialect import Dialect, completion, decode_reply, error_of, shown
from optimizer.models.pace import Pace
from optimizer.records import Completion, ModelSpec, Request

OPENAI = "https://api.openai.com/v1"

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_TOO_LONG = re.compile(
    r"context_length|string_above_max_length|exceed_context|context (?:size|window|length)|too long",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content_filter|content_policy|content management policy", re.IGNORECASE)
_encode = msgspec.json.Encoder().encode

_LARGEST_REPLY = 32 * 1024**2
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0


class OpenAICompatible:
    """One model behind ``POST {api_base}/chat/completions``."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        note: Note,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        base = (spec.api_base or OPENAI).rstrip("/")
        self._url = f"{base}/chat/completions"
        self._spec = spec
        name = spec.model
        for prefix in ("openai/", "hosted_vllm/", "custom_openai/", "llamacpp/"):
            name = name.removeprefix(prefix)
        self._dialect = Dialect(spec, name, note)
        self._rng = rng or random.Random()  # noqa: S311 -- jitter, not a secret
        self._sleep = sleep
        self._pace = Pace(spec.concurrency, sleep=sleep)
        self._session: aiohttp.ClientSession | None = None
        self._answered = False
        self.identity = spec.identity
        self.concurrency = spec.concurrency
        self.retries = 0

    async def complete(self, request: Request) -> Completion:
        """The reply, after as many transient failures as ``spec.retries`` allows."""
        attempt = 0
        while True:
            async with self._pace.slot(lambda: _tokens(request)):
                outcome = await self._once(request)
            if isinstance(outcome, Completion):
                self._answered = True
                return outcome
            if outcome.again:
                continue
            patience = self._spec.retries if self._answered or not outcome.nobody_there else min(1, self._spec.retries)
            if attempt >= patience:
                raise EndpointDown(
                    f"{self._label()} {outcome.what} ({attempt + 1} attempts). Nothing paid for is lost: "
                    f"{outcome.advice}, then start again with --resume."
                )
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * self._rng.uniform(0.5, 1.0)
            if outcome.wait is not None:
                wait = outcome.wait + self._rng.uniform(0.0, 0.25)
                self._pace.pause(outcome.wait)
            attempt += 1
            self.retries += 1
            await self._sleep(wait)

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- one attempt -------------------------------------------------------------------------------------------------

    async def _once(self, request: Request) -> Completion | _Failed:
        session = self._session or self._open()
        body = self._dialect.body(request)
        try:
            async with session.post(self._url, data=aiohttp.BytesPayload(_encode(body))) as response:
                raw = await self._whole(response)
                status, headers = response.status, response.headers
        except asyncio.TimeoutError:  # noqa: UP041 -- aiohttp raises a subclass of its own
            return _Failed(f"did not answer within {self._spec.timeout:g} s", "see whether it is overloaded")
        except aiohttp.ClientConnectorError as error:
            return _Failed(f"cannot be reached ({error.strerror or error})", "see whether it runs", nobody_there=True)
        except aiohttp.InvalidURL as error:
            raise EndpointRefused(f"{self._label()}: {self._url!r} is no address. Mend api_base.") from error
        except aiohttp.ClientError as error:
            return _Failed(f"broke the connection ({type(error).__name__})", "see whether it still runs")
        self._pace.learn(headers)
        if status == 200:
            return self._read(raw, headers.get("content-type", ""))
        return self._refused(body, status, raw, self._pace.retry_after(headers))

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, but never more than a reply can sensibly have."""
        if response.content_length is not None and response.content_length <= _LARGEST_REPLY:
            return await response.read()
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _LARGEST_REPLY:
                raise EndpointRefused(
                    f"{self._label()} answered more than {_LARGEST_REPLY // 1024**2} MiB. Check that api_base is right."
                )
        return bytes(body)

    def _read(self, raw: bytes, content_type: str) -> Completion | _Failed:
        if not raw.strip():
            return _Failed("answered 200 with an empty body", "see its log")
        try:
            reply = decode_reply(raw)
        except msgspec.DecodeError as error:
            if raw.lstrip()[:1] == b"<" or "html" in content_type:
                raise EndpointRefused(
                    f"{self._label()} answered a web page instead of JSON. api_base should be the address of an "
                    "OpenAI-compatible API; it usually ends in /v1."
                ) from error
            raise EndpointRefused(
                f"{self._label()} answered something that is no chat completion: {shown(raw)}"
            ) from error
        if not reply.choices:
            return _Failed("answered without any choice", "see its log")
        return completion(reply.choices[0].message, reply.choices[0].finish_reason, reply.usage)

    def _refused(self, body: dict[str, Any], status: int, raw: bytes, wait: float | None) -> Completion | _Failed:
        code, message = error_of(raw)
        if self._spec.api_key:
            message = message.replace(self._spec.api_key, "***")
        told = f"answered {status}: {message}" if message else f"answered {status}"
        if "insufficient_quota" in code:
            raise EndpointRefused(f"{self._label()} {told} Add credit at the provider, then start again with --resume.")
        if status in _TRANSIENT:
            advice = "wait until it takes requests again" if status == 429 else "see its log"
            return _Failed(told.rstrip("."), advice, wait=wait)
        if status in (400, 413, 422):
            if _FILTERED.search(f"{code} {message}"):
                return Completion(text="", finish="filter", detail="content_filter")
            if _TOO_LONG.search(f"{code} {message}"):
                return Completion(text="", finish="filter", detail="context_length_exceeded")
            if self._dialect.drop(body, f"{code} {message}"):
                return _Failed(told, "", again=True)
        advice = {
            401: "Check the API key",
            403: "Check that the key may use this model",
            404: "Check the model's name and api_base",
        }.get(status, "Check the model's settings in the search file")
        raise EndpointRefused(f"{self._label()} {told} {advice}.")

    def _open(self) -> aiohttp.ClientSession:
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._spec.api_key:
            headers["authorization"] = f"Bearer {self._spec.api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=self._spec.timeout, sock_connect=10),
            headers=headers,
            trust_env=urlsplit(self._url).hostname
            not in _LOOPBACK,  # a proxy of the environment, but never to this machine
            skip_auto_headers=("user-agent",),
        )
        return self._session

    def _label(self) -> str:
        return f"The model {self._spec.model!r} at {self._url.removesuffix('/chat/completions')}"


class _Failed(msgspec.Struct):
    """One attempt that brought no reply: what happened, what to look at, how long to wait, whether nobody was there."""

    what: str
    advice: str
    wait: float | None = None
    nobody_there: bool = False
    again: bool = False


def _tokens(request: Request) -> float:
    """A guess at what the endpoint's token limit counts for this request: prompt plus the most it may answer."""
    return sum(len(content) for _, content in request.messages) / 4 + request.max_tokens
