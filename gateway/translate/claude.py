"""Claude in Anthropic's own format through the SDK (Bedrock, Vertex): bytes through, without the SDK's proxy.

The SDK hands such a stream to the logging of its proxy, whose imports the SDK alone does not bring, and keeps a copy of
all of it; of a whole reply's header fields it keeps nothing. `settle` replaces these three methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any


class Frames:
    """A streamed reply's bytes as they come."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()

    def __aiter__(self) -> Frames:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Let the upstream go."""
        await self._response.aclose()


@cache
def settle() -> None:
    """Replace the methods. `ImportError` or `AttributeError` when the SDK has been built anew: its version is pinned,
    and a test goes this way."""
    from litellm.litellm_core_utils.core_helpers import process_response_headers
    from litellm.llms.anthropic.experimental_pass_through.messages.streaming_iterator import (
        BaseAnthropicMessagesStreamingIterator,
    )
    from litellm.llms.anthropic.experimental_pass_through.messages.transformation import AnthropicMessagesConfig

    def frames(self: Any, httpx_response: Any, request_body: Any, litellm_logging_obj: Any) -> Frames:  # noqa: ARG001
        return Frames(httpx_response)

    async def nothing(self: Any, collected_chunks: Any) -> None:
        pass

    whole = AnthropicMessagesConfig.transform_anthropic_messages_response

    def with_headers(self: Any, model: str, raw_response: Any, logging_obj: Any) -> Any:
        reply: Any = whole(self, model, raw_response, logging_obj)
        reply["_hidden_params"] = {"additional_headers": process_response_headers(raw_response.headers)}
        return reply

    setattr(AnthropicMessagesConfig, "transform_anthropic_messages_response", with_headers)  # noqa: B010
    setattr(BaseAnthropicMessagesStreamingIterator, "get_async_streaming_response_iterator", frames)  # noqa: B010
    setattr(BaseAnthropicMessagesStreamingIterator, "_handle_streaming_logging", nothing)  # noqa: B010
