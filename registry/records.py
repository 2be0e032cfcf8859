"""The nouns that are stored: what the registry keeps, in the words of the house.

Every record is an immutable ``msgspec.Struct``, encoded as JSON. Times are seconds since the epoch (UTC, float), shares
are in 0..1, scores in 0..1. A record never reads a clock and never draws an id: both are handed in by whoever makes it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

GLOBAL = "global"
"""The parent of every domain: its prompt serves traffic of no known domain."""

Arm = Literal["stable", "canary", "control", "holdback", "none"]
InjectMode = Literal["prepend", "append", "replace", "fill", "off"]
PromotionPolicy = Literal["manual", "canary", "auto"]
Role = Literal["caller", "operator", "viewer"]
JudgeKind = Literal["exact", "choice", "number", "contains", "f1", "macro_f1", "json_schema", "math", "rubric"]
GateOutcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
RunState = Literal["queued", "running", "done", "failed", "cancelled"]
MoveKind = Literal["promote", "canary", "share", "rollback", "abort", "holdback"]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all records: immutable, compared by value, unknown fields ignored on read."""


# --- what a domain is ------------------------------------------------------------------------------------------------


class JudgeSpec(Record, frozen=True, kw_only=True):
    """How an answer of a task is scored. ``labels`` fix the choices, ``rubric`` is a list of yes/no criteria.

    ``lenient`` lets a choice judge take the first label that the reply names, for models that obey no format.
    """

    kind: JudgeKind = "exact"
    labels: tuple[str, ...] = ()
    rubric: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    lenient: bool = False


class Task(Record, frozen=True, kw_only=True):
    """One kind of work inside a domain. ``user_prompt`` holds exactly one ``{question}`` slot."""

    user_prompt: str = "{question}"
    judge: JudgeSpec = JudgeSpec()
    adapted_prompt: str | None = None


class SamplePolicy(Record, frozen=True, kw_only=True):
    """How much of the traffic is kept: a share of exchanges, at most so many an hour."""

    share: float = 0.05
    per_hour: int = 500


class CanaryPlan(Record, frozen=True, kw_only=True):
    """Exposure stages with their minimal dwell, and the single test that promotes at the end."""

    stages: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5)
    dwell_hours: tuple[float, ...] = (1, 6, 24, 48)
    n_final: int = 4400
    margin: float = 0.03


class Budget(Record, frozen=True, kw_only=True):
    """What one search may spend. Zero or None means: no limit of that kind."""

    calls: int = 6000
    usd: float | None = None


class MatchRule(Record, frozen=True, kw_only=True):
    """Sends traffic to a domain (and task) by what the request shows: model name, header, system prompt prefix."""

    model: str | None = None
    header: tuple[str, str] | None = None
    system_prefix: str | None = None
    task: str | None = None


class Domain(Record, frozen=True, kw_only=True):
    """A family of tasks that share one system prompt: the unit that is optimized and deployed."""

    name: str
    parent: str | None = GLOBAL
    locked: str = ""
    locked_signature: str = ""
    """Ed25519 over the locked block, which stands above every prompt; set by the registry."""
    inject: InjectMode = "prepend"
    sample: SamplePolicy = SamplePolicy()
    base_model: str | None = None
    optimizer_model: str | None = None
    judge_model: str | None = None
    audit_judge_model: str | None = None
    schedule: str | None = None
    canary: CanaryPlan = CanaryPlan()
    budget: Budget = Budget()
    promotion: PromotionPolicy = "manual"
    tasks: dict[str, Task] = {}
    match: tuple[MatchRule, ...] = ()
    meta_learning: bool = False
    read_only: bool = False
    """True when the config file names this domain: then the file wins at every start."""


# --- versions and pointers -------------------------------------------------------------------------------------------


class Lineage(Record, frozen=True, kw_only=True):
    """Where a version comes from: parent version number, run, datasets, the gate's table, who wrote it and why."""

    parent: int | None = None
    run: str | None = None
    datasets: tuple[str, ...] = ()
    gate: dict[str, Any] | None = None
    author: str = "unknown"
    why: str = ""


class Version(Record, frozen=True, kw_only=True):
    """An immutable, numbered, signed system prompt of one domain. ``hash`` is ``sha256:<hex>`` of the text."""

    domain: str
    number: int
    system_prompt: str
    hash: str
    created_at: float
    lineage: Lineage = Lineage()
    signature: str = ""
    blocked: str = ""


class Deployment(Record, frozen=True, kw_only=True):
    """A domain's pointers. ``epoch`` grows by one with each move; ``experiment`` names a running canary (its salt)."""

    domain: str
    epoch: int = 0
    stable: int | None = None
    canary: int | None = None
    share: float = 0.0
    previous: int | None = None
    holdback: int | None = None
    holdback_share: float = 0.0
    experiment: str = ""
    moved_at: float = 0.0


class AuditEntry(Record, frozen=True, kw_only=True):
    """Who moved which pointer, when and why: append-only. ``seq`` grows per domain without gaps."""

    domain: str
    seq: int
    at: float
    kind: str
    actor: str
    why: str
    before: Deployment | None = None
    after: Deployment | None = None
    request_id: str = ""
    detail: dict[str, Any] = {}


class ServedVersion(Record, frozen=True, kw_only=True):
    """What a gateway needs of a version to serve it: the text, and the proof that the control plane wrote it."""

    number: int
    system_prompt: str
    hash: str
    signature: str = ""


class DomainView(Record, frozen=True, kw_only=True):
    """One domain inside a snapshot: its rules, its pointers and the texts that they name."""

    domain: Domain
    deployment: Deployment
    versions: dict[int, ServedVersion] = {}


class KeyRecord(Record, frozen=True, kw_only=True):
    """A gateway key. Only its hash is stored; ``id`` is the public handle that stands in logs and the audit."""

    id: str
    name: str
    role: Role
    hash: str
    domain: str | None = None
    created_at: float = 0.0
    revoked_at: float | None = None
    expires_at: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel: int | None = None
    usd_per_day: float | None = None
    both_planes: bool = False
    """An operator's key that may call models, too, as LiteLLM's master key may."""
    from_file: bool = False


class Snapshot(Record, frozen=True, kw_only=True):
    """Everything a gateway serves from, read in one round trip and kept as a file. ``epoch`` is fleet-wide."""

    epoch: int
    taken_at: float
    domains: dict[str, DomainView] = {}
    keys: dict[str, KeyRecord] = {}
    """By hash of the key's text."""


# --- what happened ---------------------------------------------------------------------------------------------------


class Message(Record, frozen=True, kw_only=True):
    """One turn of a conversation, as plain text."""

    role: str
    content: str


class Sample(Record, frozen=True, kw_only=True):
    """A scrubbed exchange kept for learning. Only scrubbed text ever stands in one."""

    id: str
    domain: str
    task: str
    at: float
    key: str
    unit: str
    unit_is_fallback: bool = False
    arm: Arm = "none"
    version: int | None = None
    experiment: str = ""
    model: str = ""
    messages: tuple[Message, ...] = ()
    answer: str = ""
    finish: str = ""
    status: int = 200
    latency: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    scaffold: str = ""
    """Hash of the app's own system prompt skeleton, tools and response format."""
    reservoir: Literal["representative", "failures"] = "representative"
    inclusion: float = 1.0
    score: float | None = None
    score_by: str = ""
    unscored: str = ""
    reference: str | None = None
    feedback: float | None = None
    comment: str = ""
    label: float | None = None
    label_by: str = ""
    """A person's score, kept beside the judge's: the judge is calibrated against it."""
    skipped: str = ""
    """Why no example can be made of it: ``tool_call``, ``non_text`` ... else empty."""


class Feedback(Record, frozen=True, kw_only=True):
    """What came back for an exchange: at most one vote per unit counts, a second replaces the first."""

    exchange: str
    domain: str
    key: str
    unit: str
    at: float
    score: float | None = None
    reference: str | None = None
    comment: str = ""
    arm: Arm = "none"
    version: int | None = None
    experiment: str = ""
    """Arm, version and experiment of the exchange, so that a vote counts even when the exchange was not sampled."""


class Outcome(Record, frozen=True, kw_only=True):
    """What the gateway counts of each exchange by version and arm: only numbers, no text."""

    domain: str
    arm: Arm
    version: int | None
    unit: str
    at: float
    status: int = 200
    error: bool = False
    refusal: bool = False
    bad_format: bool = False
    latency: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0
    score: float | None = None
    negative: bool = False
    exchange: str = ""
    experiment: str = ""
    """Empty for canary and control: the registry fills in the experiment that runs when it is written."""


class Tally(Record, frozen=True, kw_only=True):
    """Running sums over exchanges: of one version and arm, or of one unit in them. Sums of squares allow variances."""

    version: int | None = None
    arm: Arm = "none"
    unit: str = ""
    experiment: str = ""
    n: int = 0
    errors: int = 0
    refusals: int = 0
    bad_formats: int = 0
    negatives: int = 0
    latency: float = 0.0
    latency_sq: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0
    scored: int = 0
    score: float = 0.0
    score_sq: float = 0.0
    """Scores by judge, label or match: ``scored`` of them, their sum and sum of squares."""
    votes: int = 0
    vote: float = 0.0
    vote_sq: float = 0.0
    """Feedback of callers, kept apart from scores."""


class Finding(Record, frozen=True, kw_only=True):
    """One thing that a check looked at: is it well, what is to be said, how is it mended."""

    name: str
    ok: bool
    message: str
    mend: str = ""


class ErasureReport(Record, frozen=True, kw_only=True):
    """What a person's erasure removed, and the versions that were derived from it (they are named, not removed)."""

    samples: int = 0
    outcomes: int = 0
    votes: int = 0
    datasets: tuple[str, ...] = ()
    versions: tuple[tuple[str, int], ...] = ()
    """``(domain, version number)`` of versions whose lineage names a removed dataset, and of their descendants."""


class Example(Record, frozen=True, kw_only=True):
    """One query with its reference as the search sees it. ``cluster`` is its near-duplicate cluster."""

    id: str
    question: str
    answers: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()
    cluster: str = ""
    unit: str = ""
    weight: float = 1.0
    origin: str = ""
    """Id of the sample it was made from, when it was."""
    key: str = ""
    """Id of the gateway key of that sample: erasing a caller's data finds the dataset by it."""


class Dataset(Record, frozen=True, kw_only=True):
    """A frozen, content-named set of examples of one task. ``hash`` is ``sha256:<hex>`` of its content."""

    hash: str
    domain: str
    task: str
    created_at: float
    examples: tuple[Example, ...] = ()
    source: str = "traffic"


class TaskGroup(Record, frozen=True, kw_only=True):
    """Messages of like meaning that show their task in no other way. ``centre``: float32 of unit length, little-endian;
    a message belongs to it whose cosine likeness to the centre is at least ``near``.
    """

    name: str
    centre: bytes
    near: float
    found_at: float = 0.0


class TaskGroups(Record, frozen=True, kw_only=True):
    """All groups of a domain, as vectors of one embedding model. ``named``: hash of a message -> its group's name,
    empty for none. ``looked_at``: how many belonged to none when new groups were last looked for.
    """

    domain: str
    model: str
    groups: tuple[TaskGroup, ...] = ()
    named: dict[str, str] = {}
    looked_at: int = 0


class Run(Record, frozen=True, kw_only=True):
    """One search from seed to result."""

    id: str
    domain: str
    state: RunState
    method: str = "metaspo"
    asked_by: str = ""
    why: str = ""
    queued_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    incumbent: int | None = None
    version: int | None = None
    reason: str = ""
    """Why it ended as it did, in one sentence."""
    gate: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    calls: dict[str, int] = {}
    usd: float = 0.0
    journal: int = 0
    datasets: tuple[str, ...] = ()
    budget: Budget | None = None
    """What it may spend when that is not the domain's own budget."""


class Lease(Record, frozen=True, kw_only=True):
    """The right to do one thing, until ``until``. ``fence`` grows with every holder: a late writer is refused by it."""

    name: str
    holder: str
    fence: int
    until: float


class Trigger(Record, frozen=True, kw_only=True):
    """An operator's or the schedule's wish that a job run. ``id`` is idempotent: the same firing is written once."""

    id: str
    job: str
    domain: str
    at: float
    by: str
    why: str = ""
    args: dict[str, Any] = {}


class Approval(Record, frozen=True, kw_only=True):
    """Something that waits for a person: a version that wants to go on canary or to be promoted."""

    id: str
    domain: str
    version: int
    kind: MoveKind
    asked_at: float
    reason: str
    run: str | None = None
    decided_at: float | None = None
    decision: Literal["", "approved", "rejected"] = ""
    by: str = ""
    why: str = ""
