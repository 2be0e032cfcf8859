"""Language models: one small protocol, and the backends that speak to them. Heavy libraries are imported when first
used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from optimizer.errors import SearchFileError
from optimizer.models.backend import Backend, Note
from optimizer.models.prices import price_of
from optimizer.records import ModelSpec

if TYPE_CHECKING:
    from optimizer.run.journal import Journal

__all__ = ["Backend", "Note", "endpoint_of", "open_backend", "price_of"]

_OTHER_DIALECTS = frozenset(
    [
        "anthropic",
        "azure",
        "azure_ai",
        "bedrock",
        "cohere",
        "cohere_chat",
        "databricks",
        "gemini",
        "huggingface",
        "ollama",
        "ollama_chat",
        "palm",
        "replicate",
        "sagemaker",
        "sagemaker_chat",
        "vertex_ai",
        "vertex_ai_beta",
        "watsonx",
    ]
)
"""Providers that stay with LiteLLM even at an ``api_base``: they do not speak OpenAI's dialect there."""


def endpoint_of(spec: ModelSpec) -> bytes:
    """What makes two roles one model: they then share connections, concurrency and speed limits."""
    return msgspec.json.encode(
        (
            spec.model,
            spec.api_base,
            spec.api_key,
            spec.execution,
            spec.revision,
            spec.extra,
            spec.timeout,
            spec.retries,
        ),
        order="deterministic",
    )


def open_backend(spec: ModelSpec, *, journal: Journal, note: Note) -> Backend:
    """The backend for ``spec``: a simulated world, a provider's batch endpoint, the thin client, or LiteLLM.

    The thin client serves ``openai/...`` and whatever is at an ``api_base``; every other name goes to LiteLLM.
    """
    if spec.model.startswith("world:"):
        from optimizer.worlds.world import open_world

        return open_world(spec)
    if spec.execution == "batch":
        from optimizer.models.batch import open_batch

        return open_batch(spec, journal=journal, note=note)
    provider, slash, _ = spec.model.partition("/")
    if provider == "openai" or (spec.api_base and not (slash and provider in _OTHER_DIALECTS)):
        from optimizer.models.client import OpenAICompatible

        return OpenAICompatible(spec, note=note)
    if not slash and not spec.model.startswith(("gpt-", "o1", "o3", "o4", "claude", "gemini")):
        raise SearchFileError(f"The model {spec.model!r} needs a provider (like openai/{spec.model}) or an api_base.")
    from optimizer.models.litellm import LiteLLM

    return LiteLLM(spec, note=note)
