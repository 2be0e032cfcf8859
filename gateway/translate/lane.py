"""The call through the SDK: one attempt, within the upstream's time limits, and closed whatever happens.

No hidden retries: the SDK would ask three times for one 429, inside the caller's own retries. Whoever closes the
reply's iterator, or is cancelled while waiting, cancels the call upstream: in every phase.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Mapping
from typing import Any

import msgspec

from gateway.errors import UpstreamFailed, UpstreamTimeout
from gateway.exchange import Dialect, Exchange, Headers, Target
from gateway.translate import replies
from gateway.translate.claude import settle as settle_claude
from gateway.translate.failures import UpstreamSaid, explain, kept_headers
from gateway.translate.honest import honest
from gateway.translate.requests import read_body, suit
from gateway.translate.sdk import sdk
from registry import Settings, TimeoutSettings, UpstreamSettings

JSON = (b"content-type", b"application/json")
STREAM: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_NATIVE_MESSAGES = frozenset({"anthropic", "bedrock", "vertex_ai", "azure_ai", "databricks"})
"""Providers that serve Claude in Anthropic's own format: messages go to them as they are."""
_EXACT = frozenset({"openai", "azure", "hosted_vllm", "custom_openai", "openai_like"})
"""Providers of OpenAI's own format, whose bodies the SDK need not understand."""


class LiteLLMLane:
    """Carries requests to upstreams of another dialect. Implements `gateway.exchange.TranslateLane`."""

    def __init__(self, settings: Settings) -> None:
        self._upstreams: dict[str, UpstreamSettings] = {upstream.name: upstream for upstream in settings.upstreams}
        self._params: dict[tuple[str, str], Mapping[str, Any]] = {
            (route.upstream, route.model or route.name): route.params for route in settings.models if route.params
        }
        self._default_timeouts = TimeoutSettings()

    async def warm(self) -> None:
        """Load the SDK now, in a thread, so that the first request need not wait for it."""
        await asyncio.to_thread(sdk)

    async def send(
        self, exchange: Exchange, body: bytes, target: Target
    ) -> tuple[int, Headers, AsyncGenerator[bytes, None]]:
        """Send ``body`` (the caller's dialect) to ``target``; see `gateway.exchange.TranslateLane`.

        Raises `BadRequest` for a body that cannot be carried, `UpstreamFailed` when no answer came.
        """
        parameters = read_body(exchange.dialect, body)
        litellm = await asyncio.to_thread(sdk)
        upstream = self._upstreams.get(target.upstream)
        limits = upstream.timeouts if upstream is not None else self._default_timeouts
        call = _Call(litellm, exchange.dialect, parameters, target, self._own(target, upstream), limits)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limits.total
        patience = limits.first_token if call.streamed else limits.total
        try:
            async with asyncio.timeout(patience):
                reply = await call.start()
        except TimeoutError:
            raise UpstreamTimeout("first_token" if call.streamed else "total", patience) from None
        except Exception as error:
            failure = explain(error, started=False, seconds=patience)
            if isinstance(failure, UpstreamSaid):
                status, headers, said = failure.reply(exchange.dialect)
                return status, headers, _once(said)
            raise failure from error
        kept = kept_headers(call.upstream_headers(reply))
        if call.streamed:
            chunks = call.stream(reply)
            return (
                200,
                (*STREAM, *kept),
                _timed(chunks, (chunks, *call.sources, reply), limits.between_chunks, deadline),
            )
        return 200, (JSON, *kept), _once(msgspec.json.encode(call.whole(reply)))

    def _own(self, target: Target, upstream: UpstreamSettings | None) -> dict[str, Any]:
        """The operator's arguments: from the config, never from a body."""
        own: dict[str, Any] = {}
        if upstream is not None:
            own.update(upstream.params)
            if upstream.headers:
                own["extra_headers"] = dict(upstream.headers)
        own.update(self._params.get((target.upstream, target.model), {}))
        if target.base_url:
            own["api_base"] = target.base_url
        if target.api_key:
            own["api_key"] = target.api_key
        return {**own, "max_retries": 0, "num_retries": 0}


class _Call:
    """One call: how it is begun in the dialect, and how its reply is read."""

    def __init__(
        self,
        litellm: Any,
        dialect: Dialect,
        parameters: dict[str, Any],
        target: Target,
        own: dict[str, Any],
        limits: TimeoutSettings,
    ) -> None:
        self._litellm = litellm
        self._dialect = dialect
        self._parameters = parameters
        self._own = {**own, "timeout": limits.total}
        self._model = target.model if target.wire == "litellm" else f"{target.wire}/{target.model}"
        self._shown = target.model if target.wire != "litellm" else target.model.rsplit("/", 1)[-1]
        self._provider = self._find_provider()
        self._tool_names: dict[str, str] = {}
        self.sources: list[Any] = []
        """What a stream is read from: to be closed with it."""
        self.streamed = bool(parameters.get("stream")) and dialect != "embeddings"

    def _find_provider(self) -> str:
        try:
            return str(self._litellm.get_llm_provider(model=self._model, api_base=self._own.get("api_base"))[1])
        except Exception as error:  # the SDK raises its BadRequestError for a name it does not know
            raise UpstreamFailed(
                f"LiteLLM knows no provider of '{self._shown}': write the model as PROVIDER/MODEL in the config."
            ) from error

    @property
    def _native(self) -> bool:
        return self._provider in _NATIVE_MESSAGES and "claude" in self._model

    # --- begin --------------------------------------------------------------------------------------------------------

    def start(self) -> Awaitable[Any]:
        """Ask the upstream; the reply's head has come when this returns."""
        if self._dialect == "chat":
            return self._chat(self._parameters)
        if self._dialect == "responses":
            arguments = dict(self._parameters)
            metadata = arguments.pop("metadata", None)
            return self._call(self._litellm.aresponses, {**arguments, **({"metadata": metadata} if metadata else {})})
        if self._dialect == "embeddings":
            wanted = {k: v for k, v in self._parameters.items() if k not in {"encoding_format", "user"}}
            return self._call(self._litellm.aembedding, wanted)
        if self._native:
            settle_claude()
            return self._call(self._litellm.anthropic_messages, self._parameters)
        return self._chat(self._from_messages())

    def _chat(self, parameters: dict[str, Any]) -> Awaitable[Any]:
        supported = frozenset(
            self._litellm.get_supported_openai_params(model=self._model, custom_llm_provider=self._provider) or ()
        )
        shaped = self._provider in _EXACT or self._provider in self._litellm.openai_compatible_providers
        exact = self._provider in _EXACT and self._dialect == "chat"
        return self._call(
            self._litellm.acompletion, suit(parameters, supported=supported, openai_shaped=shaped, exact=exact)
        )

    def _call(self, function: Any, arguments: dict[str, Any]) -> Awaitable[Any]:
        extra_headers = self._own.get("extra_headers")
        own = {key: value for key, value in self._own.items() if key != "extra_headers"}
        if extra_headers:
            own["extra_headers"] = extra_headers
        awaitable: Awaitable[Any] = function(**arguments, model=self._model, **own)
        return awaitable

    def _from_messages(self) -> dict[str, Any]:
        """Anthropic's parameters as chat completion's, by the SDK's adapter."""
        from litellm.llms.anthropic.experimental_pass_through.adapters import transformation

        adapter = transformation.LiteLLMAnthropicMessagesAdapter()
        request, self._tool_names = adapter.translate_anthropic_to_openai({**self._parameters, "model": self._model})
        chat = {key: value for key, value in request.items() if key != "model"}
        if self.streamed:
            chat["stream_options"] = {"include_usage": True}
        return chat

    # --- read ---------------------------------------------------------------------------------------------------------

    def upstream_headers(self, reply: Any) -> dict[str, str]:
        """The headers that the upstream sent, under their own names."""
        hidden = getattr(reply, "_hidden_params", None) or (
            reply.get("_hidden_params") if isinstance(reply, dict) else None
        )
        found = (hidden or {}).get("additional_headers") or getattr(reply, "_response_headers", None) or {}
        prefix = "llm_provider-"
        return {name.removeprefix(prefix): value for name, value in dict(found).items() if name.startswith(prefix)}

    def whole(self, reply: Any) -> dict[str, Any]:
        """A whole reply in the caller's dialect."""
        if self._dialect == "chat":
            return replies.chat_whole(reply, self._shown)
        if self._dialect == "responses":
            return replies.responses_whole(reply)
        if self._dialect == "embeddings":
            as_base64 = self._parameters.get("encoding_format") == "base64"
            return replies.embeddings_whole(reply, self._shown, as_base64=as_base64)
        if self._native:
            return {name: value for name, value in dict(reply).items() if name != "_hidden_params"}
        from litellm.llms.anthropic.experimental_pass_through.adapters import transformation

        adapter = transformation.LiteLLMAnthropicMessagesAdapter()
        said = adapter.translate_openai_response_to_anthropic(response=reply, tool_name_mapping=self._tool_names)
        return replies.messages_whole(said, replies.refusal_of(reply.choices[0].message))

    def stream(self, reply: Any) -> AsyncIterator[bytes]:
        """The chunks of a streamed reply in the caller's dialect."""
        if self._dialect == "chat":
            options = self._parameters.get("stream_options")
            include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
            return replies.chat_stream(self._honest(reply), self._shown, include_usage=include_usage)
        if self._dialect == "responses":
            if hasattr(inner := getattr(reply, "litellm_custom_stream_wrapper", None), "received_finish_reason"):
                reply.litellm_custom_stream_wrapper = self._honest(inner)
            return replies.responses_stream(reply)
        return reply if self._native else self._messages(self._honest(reply))

    def _honest(self, stream: Any) -> Any:
        self.sources.append(found := honest(stream))
        return found

    async def _messages(self, chunks: Any) -> AsyncGenerator[bytes, None]:
        """Chat completion's chunks as Anthropic's events, by the SDK's adapter."""
        from litellm.llms.anthropic.experimental_pass_through.adapters import streaming_iterator

        await chunks.begin()
        wrapper = streaming_iterator.AnthropicStreamWrapper(
            completion_stream=chunks, model=chunks.model or self._shown, tool_name_mapping=self._tool_names
        )
        async for frame in replies.messages_stream(wrapper.async_anthropic_sse_wrapper()):
            yield frame


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


async def _timed(
    chunks: AsyncIterator[bytes], sources: Iterable[Any], between: float, deadline: float
) -> AsyncGenerator[bytes, None]:
    """The chunks, each within ``between`` seconds and all before ``deadline``; ``sources`` are closed at the end.

    Raises `UpstreamFailed`, ``started``, when the upstream breaks off.
    """
    loop = asyncio.get_running_loop()
    try:
        while True:
            patience = min(between, deadline - loop.time())
            try:
                async with asyncio.timeout(max(0.0, patience)):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                phase, seconds = ("total", 0.0) if patience < between else ("between_chunks", between)
                raise UpstreamTimeout(phase, seconds, started=True) from None  # type: ignore[arg-type]
            except UpstreamFailed:
                raise
            except Exception as error:
                failure = explain(error, started=True, seconds=between)
                assert isinstance(failure, UpstreamFailed)
                raise failure from error
            if chunk is None:
                return
            yield chunk
    finally:
        for part in sources:  # leaving the loop is not enough: the SDK would read to the upstream's end
            aclose = getattr(part, "aclose", None)
            if aclose is not None:
                with contextlib.suppress(Exception):
                    await aclose()
