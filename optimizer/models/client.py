"""A thin client for OpenAI-compatible chat endpoints: vLLM, llama.cpp, OpenAI itself, a gateway of ours.

Thin because a search makes tens of thousands of short calls: one pooled session, bytes encoded and decoded by msgspec, no
model of the whole API. Transient failures are tried again with jitter; what cannot get better stops the run with one
sentence; what concerns one request alone comes back as data.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec

from optimizer.errors import EndpointDown, EndpointRefused
from optimizer.models.backend import Note
from optimizer.models.pace import Pace
from optimizer.records import Completion, Finish, ModelSpec, Request

OPENAI = "https://api.openai.com/v1"

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_OWN_FAULT = ("context_length", "content_filter", "content_policy", "string_above_max_length", "exceed_context")
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Reply).decode
_encode = msgspec.json.Encoder().encode


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
        self._name = spec.model
        for prefix in ("openai/", "hosted_vllm/", "custom_openai/", "llamacpp/"):
            self._name = self._name.removeprefix(prefix)
        self._note = note
        self._rng = rng or random.Random()  # noqa: S311 -- jitter, not a secret
        self._sleep = sleep
        self._pace = Pace(spec.concurrency, sleep=sleep)
        self._session: aiohttp.ClientSession | None = None
        self._dropped: set[str] = set()
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
        try:
            async with session.post(self._url, data=_encode(self._body(request))) as response:
                raw = await response.read()
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
        return self._refused(request, status, raw, self._pace.retry_after(headers))

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._name,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
            **self._spec.extra,
        }
        swapped = "max_tokens" in self._dropped
        body["max_completion_tokens" if swapped else "max_tokens"] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
            if request.temperature > 0 and request.seed is not None:
                body["seed"] = request.seed
        if request.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": request.schema},
            }
        for name in self._dropped:
            body.pop(name, None)
        return body

    def _read(self, raw: bytes, content_type: str) -> Completion | _Failed:
        if not raw.strip():
            return _Failed("answered 200 with an empty body", "see its log")
        try:
            reply = _decode(raw)
        except msgspec.DecodeError as error:
            if raw.lstrip()[:1] == b"<" or "html" in content_type:
                raise EndpointRefused(
                    f"{self._label()} answered a web page instead of JSON. api_base should be the address of an "
                    "OpenAI-compatible API; it usually ends in /v1."
                ) from error
            raise EndpointRefused(
                f"{self._label()} answered something that is no chat completion: {_shown(raw)}"
            ) from error
        if not reply.choices:
            return _Failed("answered without any choice", "see its log")
        return completion(reply.choices[0].message, reply.choices[0].finish_reason, reply.usage)

    def _refused(self, request: Request, status: int, raw: bytes, wait: float | None) -> Completion | _Failed:
        code, message = _error(raw)
        told = f"answered {status}: {message}" if message else f"answered {status}"
        if "insufficient_quota" in code:
            raise EndpointRefused(f"{self._label()} {told} Add credit at the provider, then start again with --resume.")
        if status in _TRANSIENT:
            advice = "wait until it takes requests again" if status == 429 else "see its log"
            return _Failed(told.rstrip("."), advice, wait=wait)
        if status in (400, 413, 422):
            if status != 422 and any(mark in code for mark in _OWN_FAULT):
                return Completion(text="", finish="filter", detail=code.split()[0] if code.split() else "refused")
            if self._drop(request, f"{code} {message}"):
                return _Failed(told, "", again=True)
        advice = {
            401: "Check the API key",
            403: "Check that the key may use this model",
            404: "Check the model's name and api_base",
        }.get(status, "Check the model's settings in the search file")
        raise EndpointRefused(f"{self._label()} {told} {advice}.")

    def _drop(self, request: Request, complaint: str) -> bool:
        """Stop sending the optional parameter that the endpoint complains about. False when it names none of ours."""
        sent = self._body(request)
        for name in ("max_tokens", "temperature", "seed", "response_format", *self._spec.extra):
            if name in sent and re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", complaint):
                self._dropped.add(name)
                instead = "; max_completion_tokens is sent instead" if name == "max_tokens" else ""
                self._note(f"{self._spec.model} refuses the parameter {name}: it is no longer sent{instead}.")
                return True
        if "json_schema" in complaint and "response_format" in sent:
            self._dropped.add("response_format")
            self._note(f"{self._spec.model} refuses structured output: the form is asked for in words alone.")
            return True
        return False

    def _open(self) -> aiohttp.ClientSession:
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._spec.api_key:
            headers["authorization"] = f"Bearer {self._spec.api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=self._spec.timeout, sock_connect=10),
            headers=headers,
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


def completion(message: _Message, finish_reason: str | None, usage: _Usage | None) -> Completion:
    """One choice of a chat completion as our record."""
    content = message.content
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content)
    finish: Finish = "stop"
    if message.refusal:
        finish = "refusal"
    elif finish_reason in ("length", "max_tokens"):
        finish = "length"
    elif finish_reason == "content_filter":
        finish = "filter"
    used = usage or _Usage()
    details = used.prompt_tokens_details or {}
    cached = details.get("cached_tokens")
    return Completion(
        text=content or message.refusal or "",
        finish=finish,
        tokens_in=used.prompt_tokens or 0,
        tokens_out=used.completion_tokens or 0,
        tokens_cached=cached if isinstance(cached, int) else 0,
        detail="content_filter" if finish == "filter" else "",
    )


def _tokens(request: Request) -> float:
    """A guess at what the endpoint's token limit counts for this request: prompt plus the most it may answer."""
    return sum(len(content) for _, content in request.messages) / 4 + request.max_tokens


def _error(raw: bytes) -> tuple[str, str]:
    """(code, type and parameter in one string; message) of an error body of any common shape."""
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return "", _shown(raw)
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", _shown(raw)
    parts = [str(error[name]) for name in ("code", "type", "param") if error.get(name)]
    message = str(error.get("message") or error.get("detail") or "")[:300].strip()
    if message and message[-1] not in ".!?":
        message += "."
    return " ".join(parts), message


def _shown(raw: bytes) -> str:
    text = " ".join(raw[:200].decode("utf-8", "replace").split())
    return f"{text}..." if len(raw) > 200 else (text or "(nothing)")
