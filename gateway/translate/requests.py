"""A caller's body as arguments of the SDK: by an allow-list, never splatted.

The SDK takes its own switches as keyword arguments beside the model's parameters: where to connect, with which key,
what to answer without asking. A body that names one of them is refused, and so is any name that is not a parameter
of the dialect.

Hints that a provider has no use for (``user``, ``seed``, ``metadata`` ...) are left out for it; what would change
the answer is not, and the provider's refusal is passed on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import BadRequest
from gateway.exchange import Dialect

_CHAT = frozenset(
    {
        "messages", "temperature", "top_p", "top_k", "n", "stream", "stream_options", "stop", "max_tokens",
        "max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
        "top_logprobs", "user", "response_format", "seed", "tools", "tool_choice", "parallel_tool_calls",
        "functions", "function_call", "reasoning_effort", "thinking", "modalities", "audio", "prediction",
        "web_search_options", "verbosity", "service_tier", "store", "metadata", "safety_identifier",
        "prompt_cache_key", "prompt_cache_retention",
    }
)  # fmt: skip
_MESSAGES = frozenset(
    {
        "messages", "system", "max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_p",
        "top_k", "tools", "tool_choice", "thinking", "output_format", "service_tier",
    }
)  # fmt: skip
_RESPONSES = frozenset(
    {
        "input", "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "store",
        "stream", "temperature", "text", "tool_choice", "tools", "top_p", "truncation", "user", "include",
        "service_tier", "safety_identifier", "prompt_cache_key", "stream_options", "top_logprobs",
    }
)  # fmt: skip
_EMBEDDINGS = frozenset({"input", "dimensions", "encoding_format", "user"})
FIELDS: dict[Dialect, frozenset[str]] = {
    "chat": _CHAT,
    "messages": _MESSAGES,
    "responses": _RESPONSES,
    "embeddings": _EMBEDDINGS,
}
HINTS = frozenset(
    {
        "user", "seed", "store", "metadata", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "service_tier", "verbosity", "stream_options", "include", "truncation",
    }
)  # fmt: skip
"""Parameters that a provider without them can do without: the answer means the same."""
_READ_BY_THE_SDK = frozenset(
    {
        "messages", "stream", "stream_options", "n", "tools", "tool_choice", "functions", "function_call",
        "response_format",
    }
)  # fmt: skip
"""Parameters by which the SDK chooses its way; all others it would only check against its table of models."""
_REQUIRED: dict[Dialect, str] = {
    "chat": "messages",
    "messages": "messages",
    "responses": "input",
    "embeddings": "input",
}


def read_body(dialect: Dialect, body: bytes) -> dict[str, Any]:
    """The body's parameters, without ``model``. Raises `BadRequest` naming what cannot be carried."""
    if dialect not in FIELDS:
        raise BadRequest("This model's upstream speaks another dialect, into which this endpoint cannot be translated.")
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("We could not parse the JSON body of your request.") from error
    if not isinstance(given, dict):
        raise BadRequest("The body of the request must be a JSON object.")
    for name in given:
        if name != "model" and name not in FIELDS[dialect]:
            raise BadRequest(
                f"Unrecognized request argument supplied: {name[:80]}", param=name[:80], code="unknown_parameter"
            )
    if given.get(_REQUIRED[dialect]) is None:
        name = _REQUIRED[dialect]
        raise BadRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    _check_tools(given.get("tools"))
    return {name: value for name, value in given.items() if name != "model" and value is not None}


def _check_tools(tools: Any) -> None:
    """Only tools that the model calls and the caller runs: the SDK would connect to an MCP server itself."""
    for number, tool in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(tool, dict) and str(tool.get("type", "function")).startswith("mcp"):
            raise BadRequest(
                "MCP tools cannot be carried to this provider.",
                param=f"tools[{number}].type",
                code="unsupported_parameter",
            )


def suit(parameters: dict[str, Any], *, supported: frozenset[str], openai_shaped: bool, exact: bool) -> dict[str, Any]:
    """The parameters as keyword arguments for one provider.

    ``supported``: OpenAI parameters that the SDK's table gives the model. ``openai_shaped``: the provider takes
    OpenAI's bodies, so that the table is not asked: everything goes as it is. ``exact``: it is OpenAI's own format,
    so what the SDK need not read goes round it, and messages too go unchanged (it would refuse a ``temperature`` for
    some models, rename ``max_tokens``, turn ``developer`` into ``system`` and drop ``content: null``).
    """
    arguments = dict(parameters)
    metadata = arguments.pop("metadata", None)  # the SDK's own metadata has the same name
    extra: dict[str, Any] = {}
    if openai_shaped:
        if metadata is not None:
            extra["metadata"] = metadata
        if exact:
            for name in arguments.keys() - _READ_BY_THE_SDK:
                extra[name] = arguments.pop(name)
            if _would_be_rewritten(parameters.get("messages")):
                extra["messages"] = parameters["messages"]
        unlisted = sorted(name for name in arguments if name not in supported and name != "messages")
        arguments["allowed_openai_params"] = unlisted
    else:
        if isinstance(metadata, dict) and isinstance(metadata.get("user_id"), str):
            arguments.setdefault("user", metadata["user_id"])
        for name in HINTS & arguments.keys() - supported:
            if name != "stream_options":  # the SDK answers it itself
                del arguments[name]
    if extra:
        arguments["extra_body"] = extra
    return arguments


def _would_be_rewritten(messages: Any) -> bool:
    return any(
        isinstance(message, dict)
        and (message.get("role") == "developer" or ("content" in message and message["content"] is None))
        for message in (messages if isinstance(messages, list) else [])
    )
