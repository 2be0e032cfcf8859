"""Texts as vectors, by any model that answers ``POST /v1/embeddings`` as OpenAI does: OpenAI, vLLM, a llama.cpp
server, a gateway of ours. Nothing of it is loaded unless ``jobs.embedding_model`` is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jobs.errors import BadModel, NoWork
from jobs.settings import Endpoint, find_endpoint
from jobs.work import Work
from registry import Domain

Vectors = npt.NDArray[np.float32]
"""Shape (texts, dimensions), each row of length one."""

BATCH = 32
"""Texts per call."""
LONGEST = 2_000
"""Characters of a text that are sent: the kind of a task shows in its beginning."""
DAY = 86_400
BUDGET = "embedding"


async def embed(work: Work, domain: Domain, texts: Sequence[str]) -> Vectors:
    """The vectors of ``texts``. Raises NoWork: today's budget is spent, or the model cannot be used."""
    model = work.settings.jobs.embedding_model
    assert model is not None
    try:
        endpoint = find_endpoint(work.settings, model)
    except BadModel as error:
        raise NoWork("unknown_model", f"jobs.embedding_model cannot be used: {error}") from error
    if endpoint.api_base is None or endpoint.model.startswith("anthropic/"):
        raise NoWork(
            "unknown_model",
            f"jobs.embedding_model {model!r} must be at an upstream that speaks OpenAI's dialect at a base_url.",
        )
    await _within_budget(work, domain, len(texts))
    parts = [[t[:LONGEST] for t in texts[at : at + BATCH]] for at in range(0, len(texts), BATCH)]
    rows = await _ask(work, endpoint, parts)
    try:
        found = np.asarray([row for part in rows for row in part], dtype=np.float32)
    except ValueError as error:
        raise NoWork("no_embeddings", f"The model {model!r} gave vectors of different lengths.") from error
    if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
        raise NoWork("no_embeddings", f"The model {model!r} gave no usable vectors.")
    unit: Vectors = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return unit


async def _within_budget(work: Work, domain: Domain, texts: int) -> None:
    """Count them towards the domain's day. Raises NoWork when that is spent: then nothing is sent."""
    limit = work.settings.jobs.embedding_texts_per_day
    name, window = f"{BUDGET}-{domain.name}", f"day-{int(work.clock() // DAY)}"
    total = (await work.registry.add_usage({name: {"texts": float(texts)}}, window, 2.0 * DAY))[name]["texts"]
    work.metrics.spent(BUDGET, (total, limit))
    if total > limit:
        await work.registry.add_usage({name: {"texts": -float(texts)}}, window, 2.0 * DAY)
        raise NoWork(
            "daily_budget",
            f"{texts} texts more than the {total - texts:.0f} of today would pass jobs.embedding_texts_per_day"
            f" ({limit}).",
        )


async def _ask(work: Work, endpoint: Endpoint, parts: Sequence[Sequence[str]]) -> list[list[list[float]]]:
    import openai

    client = openai.AsyncOpenAI(
        base_url=endpoint.api_base,
        api_key=endpoint.api_key or "none",
        default_headers=endpoint.headers,
        timeout=endpoint.timeout,
        max_retries=3,
    )
    name = endpoint.model.removeprefix("openai/")

    async def one(texts: Sequence[str]) -> list[list[float]]:
        async with work.places.at(endpoint.api_base or "", endpoint.concurrency):
            answer = await client.embeddings.create(model=name, input=list(texts), encoding_format="float")
        if len(answer.data) != len(texts):
            raise NoWork(
                "no_embeddings", f"The model {name!r} answered {len(texts)} texts with {len(answer.data)} vectors."
            )
        return [row.embedding for row in sorted(answer.data, key=lambda row: row.index)]

    try:
        return await asyncio.gather(*map(one, parts))
    except openai.OpenAIError as error:
        told = str(error).replace(endpoint.api_key or "\0", "***")[:300]
        raise NoWork("no_embeddings", f"The embedding model {name!r} cannot be used now: {told}") from error
    finally:
        await client.close()
