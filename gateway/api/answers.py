"""What goes out: the shapes of the control plane's answers, and their JSON.

Stored nouns (`registry.records`) go out as they are, but with every field present: a pointer that names nothing is
``null``, not absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from registry import Arm, Deployment, Domain, Lineage, Version


class Pointers(msgspec.Struct):
    """A domain's pointers, as version numbers or null."""

    domain: str
    stable: int | None
    canary: int | None
    share: float
    previous: int | None
    holdback: int | None
    holdback_share: float
    epoch: int
    experiment: str
    moved_at: float


class Score(msgspec.Struct):
    """What was counted of one version in one arm. ``score`` is the mean of the judges', ``vote`` of the callers'
    scores.
    """

    version: int | None
    arm: Arm
    requests: int = 0
    errors: int = 0
    refusals: int = 0
    bad_formats: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0
    latency_mean: float | None = None
    scored: int = 0
    score: float | None = None
    low: float | None = None
    high: float | None = None
    """The 95 % interval of the mean score."""
    votes: int = 0
    vote: float | None = None


class DomainAnswer(msgspec.Struct):
    """A domain with what serves it now."""

    name: str
    settings: Domain
    deployment: Pointers
    scores: list[Score]


class VersionBrief(msgspec.Struct):
    """A version without its text."""

    version: int
    hash: str
    created_at: float
    lineage: Lineage
    blocked: str
    characters: int


class VersionAnswer(msgspec.Struct):
    """A version. ``blocked`` says why it may never be served again, empty when it may."""

    version: int
    system_prompt: str
    hash: str
    created_at: float
    lineage: Lineage
    blocked: str


class Added(msgspec.Struct):
    """The number of a text: a new one, or the one that it already had."""

    version: int
    hash: str


class RunAsked(msgspec.Struct):
    """The id of the run that was asked for."""

    run: str


class KeyAnswer(msgspec.Struct):
    """A key without its hash. ``key`` is the text, in the answer to its creation and never again."""

    id: str
    name: str
    role: str
    domain: str | None
    created_at: float
    revoked_at: float | None
    expires_at: float | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    parallel: int | None
    usd_per_day: float | None
    from_file: bool
    key: str | None = None


class TaskPrompt(msgspec.Struct):
    """A task's user prompt: the adapted one where a search found one, else the domain's own."""

    domain: str
    task: str
    user_prompt: str
    adapted: bool


class Done(msgspec.Struct):
    """It is done."""

    ok: bool = True


def pointers(deployment: Deployment) -> Pointers:
    """The deployment as its answer."""
    return Pointers(**{field: getattr(deployment, field) for field in Pointers.__struct_fields__})


def brief(version: Version) -> VersionBrief:
    """The version without its text."""
    return VersionBrief(
        version.number, version.hash, version.created_at, version.lineage, version.blocked, len(version.system_prompt)
    )


def whole(version: Version) -> VersionAnswer:
    """The version with its text."""
    return VersionAnswer(
        version.number, version.system_prompt, version.hash, version.created_at, version.lineage, version.blocked
    )


def full(value: Any) -> Any:
    """Structs as dictionaries with every field present."""
    if isinstance(value, msgspec.Struct):
        return {field: full(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {key: full(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [full(item) for item in value]
    return value


_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """JSON with every field present."""
    return _encode(full(value))


def answer(value: Any, status: int = 200) -> Response:
    """The value as a JSON response."""
    return Response(encode(value), status, {"cache-control": "no-store"}, "application/json")
