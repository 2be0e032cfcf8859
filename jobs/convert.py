"""The one place where the registry's nouns become the optimizer's, and back: the packages do not know each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

import optimizer
import registry
from jobs.errors import BadModel, NoWork
from jobs.settings import Endpoint, find_endpoint

_Role = Literal["base", "optimizer", "judge", "audit_judge"]


def judge_spec(spec: registry.JudgeSpec) -> optimizer.JudgeSpec:
    """The same words in the optimizer's record; without a rubric of its own, a rubric judge uses the general
    criteria.
    """
    return optimizer.JudgeSpec(
        kind=spec.kind, labels=spec.labels, rubric=spec.rubric, schema=spec.schema, lenient=spec.lenient
    )


def example(row: registry.Example) -> optimizer.Example:
    return optimizer.Example(
        id=row.id,
        question=row.question,
        answers=row.answers,
        history=tuple((m.role, m.content) for m in row.history),
        cluster=row.cluster,
        unit=row.unit,
        weight=row.weight,
    )


def examples(dataset: registry.Dataset | None) -> tuple[optimizer.Example, ...]:
    return tuple(example(row) for row in dataset.examples) if dataset else ()


def model_spec(endpoint: Endpoint, *, answer_tokens: int = 0) -> optimizer.ModelSpec:
    """``answer_tokens``: room for an answer; 0 leaves it to the optimizer."""
    spec = optimizer.ModelSpec(
        model=endpoint.model,
        api_base=endpoint.api_base,
        api_key=endpoint.api_key,
        concurrency=endpoint.concurrency,
        price_in=endpoint.price_in,
        price_out=endpoint.price_out,
        timeout=endpoint.timeout,
    )
    return msgspec.structs.replace(spec, max_tokens=answer_tokens) if answer_tokens else spec


def models(settings: registry.Settings, domain: registry.Domain, *, answer_tokens: int = 0) -> optimizer.Models:
    """The four roles of a domain. Raises NoWork when there is no base model or a name cannot be resolved."""
    if not domain.base_model:
        raise NoWork(
            "no_base_model", f"The domain {domain.name!r} names no base_model: set it, so that prompts can be tried."
        )
    names: dict[_Role, str | None] = {
        "base": domain.base_model,
        "optimizer": domain.optimizer_model,
        "judge": domain.judge_model,
        "audit_judge": domain.audit_judge_model,
    }
    found: dict[_Role, optimizer.ModelSpec] = {}
    for role, name in names.items():
        if name:
            try:
                room = answer_tokens if role == "base" else 0
                found[role] = model_spec(find_endpoint(settings, name), answer_tokens=room)
            except BadModel as error:
                raise NoWork("unknown_model", f"The {role} model of {domain.name!r} cannot be used: {error}") from error
    return optimizer.Models(
        base=found["base"],
        optimizer=found.get("optimizer"),
        judge=found.get("judge"),
        audit_judge=found.get("audit_judge"),
    )


def plain(value: Any) -> Any:
    """Plain JSON values of any record; numbers that JSON does not know become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    return plain(msgspec.to_builtins(value))


def result(found: optimizer.SearchResult) -> dict[str, Any]:
    """What a run keeps of a search's result: everything but the examples' own texts."""
    return {
        "winner": found.winner,
        "method": found.method,
        "proposer": found.proposer,
        "reason": found.reason,
        "notes": list(found.notes),
        "user_prompts": plain(found.user_prompts),
        "incumbent_scores": plain(found.incumbent_scores),
        "winner_scores": plain(found.winner_scores),
        "baselines": plain(found.baselines),
        "constant_baseline": plain(found.constant_baseline),
        "ledger": plain(found.ledger),
        "generations": plain(found.generations),
        "per_item": plain(found.per_item),
        "wall_seconds": found.wall_seconds,
    }
