"""The nouns of a search: examples, tasks, models, budgets, rollouts, scores, the result.

All are immutable ``msgspec.Struct`` values. Scores and shares are in 0..1, money is USD, times are seconds since the
epoch (UTC), prices are USD per million tokens. Nothing here reads a clock, a file or a random source.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from optimizer.gate.decision import GateResult

ModelRole = Literal["base", "optimizer", "judge", "audit_judge"]
TaskRole = Literal["source", "unseen"]
Split = Literal["reflect", "select", "holdout"]
Origin = Literal["files", "traffic"]
Method = Literal[
    "metaspo",
    "outer_loop",
    "metaspo_ape",
    "metaspo_evo",
    "protegi",
    "ape",
    "sprig",
    "gepa",
    "default",
    "cot",
    "service",
    "empty",
    "constant",
    "one_shot",
    "repeat",
]

Message: TypeAlias = tuple[str, str]
"""One chat message: (role, content), role being ``system``, ``user`` or ``assistant``."""

SLOT = "{question}"
"""The literal that a user prompt holds exactly once; the question is put in its place."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the records: immutable, compared by value."""


# --- what is asked ---------------------------------------------------------------------------------------------------


class Example(Record, frozen=True, kw_only=True):
    """One query with its reference answers.

    ``cluster`` names its group of near-duplicates: splits and standard errors go by it. ``unit`` is the end user it
    came from (empty for files), ``position`` its line in the file (from 1), ``weight`` its share in a mean.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()
    cluster: str = ""
    unit: str = ""
    weight: float = 1.0
    position: int = 0


class JudgeSpec(Record, frozen=True, kw_only=True):
    """How an answer is scored. ``kind`` is the name of a judge (``optimizer.judges.registry``), ``labels`` fix the
    choices, ``rubric`` is a list of yes/no criteria, ``schema`` a JSON schema.

    ``lenient`` lets a choice judge take the first label that the reply names, for models that obey no format.
    ``require_tags`` makes an answer without ``<answer>`` tags malformed; otherwise a bare answer counts as well.
    Rubric only: ``weights`` stand beside the criteria (empty: all weigh 1); ``gates`` are yes/no faults, any of which
    makes the score 0.
    """

    kind: str = "exact"
    labels: tuple[str, ...] = ()
    rubric: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    gates: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    lenient: bool = False
    require_tags: bool = False


class SearchTask(Record, frozen=True, kw_only=True):
    """One kind of work with its user prompt, judge and examples. An unseen task is scored on its ``holdout`` only."""

    name: str
    user_prompt: str
    judge: JudgeSpec = JudgeSpec()
    domain: str = ""
    role: TaskRole = "source"
    editable_user_prompt: bool = True
    robustness_prompts: tuple[str, ...] = ()
    """Fixed further user prompts: where the user prompt may not change, they are the robustness set."""
    reflect: tuple[Example, ...] = ()
    select: tuple[Example, ...] = ()
    holdout: tuple[Example, ...] = ()
    origin: Origin = "files"
    notes: tuple[str, ...] = ()

    @property
    def train(self) -> tuple[Example, ...]:
        """Reflect and select together in file order: what the published algorithm trains on."""
        return tuple(sorted((*self.reflect, *self.select), key=lambda example: example.position))

    @property
    def by_model(self) -> bool:
        """True when a model judges the answers, not a rule."""
        return self.judge.kind == "rubric"

    @property
    def gated(self) -> bool:
        """True when the splits are large enough (20/30/50) for the gate; a smaller task is only monitored."""
        return len(self.reflect) >= 20 and len(self.select) >= 30 and len(self.holdout) >= 50


# --- who answers -----------------------------------------------------------------------------------------------------


class ModelSpec(Record, frozen=True, kw_only=True):
    """One language model. ``model`` is a LiteLLM name, a bare name at ``api_base``, or ``world:...`` for a simulated
    one.

    ``temperature`` and ``max_tokens`` None take the role's default (base 0 and 512, optimizer 1 and 2048, judges 0 and
    1024). Prices are USD per million tokens; unknown prices are looked up by model name.
    ``execution`` ``batch`` sends base and judge calls through the provider's batch endpoint (half price, hours).
    ``revision`` tells two models of the same name apart in the cache.
    """

    model: str
    api_base: str | None = None
    api_key: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    concurrency: int = 16
    price_in: float | None = None
    price_out: float | None = None
    execution: Literal["live", "batch"] = "live"
    timeout: float = 120.0
    retries: int = 6
    revision: str = ""
    extra: dict[str, Any] = {}

    @property
    def identity(self) -> str:
        """The model's name in the cache. The address is left out: a local server may come back on another port."""
        return f"{self.model}#{self.revision}" if self.revision else self.model

    def __repr__(self) -> str:
        """Short, and without the key: specs end up in logs and tracebacks."""
        place = f", api_base={self.api_base!r}" if self.api_base else ""
        return f"ModelSpec(model={self.model!r}{place})"


class Models(Record, frozen=True, kw_only=True):
    """The four roles. Without an optimizer model prompts are proposed from components; without a judge no rubric task
    runs."""

    base: ModelSpec
    optimizer: ModelSpec | None = None
    judge: ModelSpec | None = None
    audit_judge: ModelSpec | None = None

    def role(self, role: ModelRole) -> ModelSpec | None:
        """The model that plays ``role``, or None."""
        spec: ModelSpec | None = getattr(self, role)
        return spec


class Budget(Record, frozen=True, kw_only=True):
    """What one run may spend: model calls of all roles, money. None means no limit of that kind."""

    calls: int | None = None
    usd: float | None = None


class LoopSizes(Record, frozen=True, kw_only=True):
    """The published sizes of the bilevel loop, in the words of the paper's letters: N, m, k, C, n, n_test, failures
    shown."""

    iterations: int = 3
    user_candidates: int = 3
    user_keep: int = 3
    system_candidates: int = 9
    train_size: int = 50
    test_size: int = 500
    user_failures: int = 3
    system_failures: int = 2


class Standing(Record, frozen=True, kw_only=True):
    """What a domain's past says to the gate. The default is a search on files: nothing is known and nothing counted.

    ``attempt`` counts confirmations in the domain since its last promotion, from 1, and spends the gate's alpha over
    them; None spends nothing. ``judge_noise``: (share of verdicts that change when judged again, the highest that the
    judge's past allows). ``live``: the prompt would meet traffic, so everything that traffic needs has to be measured.
    """

    attempt: int | None = None
    judge_noise: tuple[float, float] | None = None
    live: bool = False
    min_tasks: int | None = None


class SearchSpec(Record, frozen=True, kw_only=True):
    """Everything one search needs: from a search file, or built by a job."""

    seed_prompt: str
    tasks: tuple[SearchTask, ...]
    models: Models
    incumbent: str | None = None
    """What the winner must beat; None means the seed prompt."""
    method: Method = "metaspo"
    faithful: bool = False
    budget: Budget = Budget()
    seed: int = 20261120
    home: Path = Path(".metaspo/search")
    resume: bool = False
    sizes: LoopSizes = LoopSizes()
    standing: Standing = Standing()
    holdout: Literal["untracked", "once", "reuse"] = "untracked"
    """``once``: an account beside the journals sees to it that a holdout example confirms one run only, as for search
    files; ``reuse`` takes it again and says so; ``untracked``: the caller keeps the account."""
    options: dict[str, Any] = {}

    @property
    def sources(self) -> tuple[SearchTask, ...]:
        """The tasks the search learns from."""
        return tuple(task for task in self.tasks if task.role == "source")

    @property
    def seed_is_measured(self) -> bool:
        """The domain began with another prompt than the incumbent: the gate compares the winner with both."""
        return self.incumbent is not None and self.incumbent != self.seed_prompt

    @property
    def unseen(self) -> tuple[SearchTask, ...]:
        """The tasks kept out, to see whether the prompt generalizes."""
        return tuple(task for task in self.tasks if task.role == "unseen")


# --- one call --------------------------------------------------------------------------------------------------------


class Request(Record, frozen=True, kw_only=True):
    """One call to a model. ``sample`` numbers draws of the same question; ``seed`` is sent where sampling takes one.
    ``purpose`` is for people and the journal and no part of the call's identity."""

    role: ModelRole
    messages: tuple[Message, ...]
    temperature: float | None = None
    max_tokens: int = 1024
    schema: dict[str, Any] | None = None
    sample: int = 0
    seed: int | None = None
    purpose: str = ""


Finish = Literal["stop", "length", "refusal", "filter"]


class Completion(Record, frozen=True, kw_only=True):
    """One reply. A truncated (``length``), refused or filtered one is data like any other, ``detail`` says more."""

    text: str
    finish: Finish = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    detail: str = ""


class Verdict(Record, frozen=True, kw_only=True):
    """A judge's finding on one answer: a score, or none with the reason.

    ``answer`` is what was read from the reply (a label, a number, a text), ``malformed`` says that the form demanded
    was not kept, ``critique`` is one sentence for the analyser.
    """

    score: float | None
    unscored: str = ""
    answer: str = ""
    malformed: bool = False
    critique: str = ""
    suspicious: bool = False


class Rollout(Record, frozen=True, kw_only=True):
    """One completion of one example under one (system prompt, user prompt), with its score or the reason for none.

    ``error_kind`` types a failure: ``""`` right or unscored, ``format``, ``truncated``, ``refusal``, ``wrong``.
    """

    example_id: str
    text: str
    score: float | None
    unscored: str = ""
    error_kind: str = ""
    answer: str = ""
    malformed: bool = False
    critique: str = ""
    suspicious: bool = False
    finish: Finish = "stop"
    tokens_in: int = 0
    tokens_out: int = 0


# --- what it cost ----------------------------------------------------------------------------------------------------


class LedgerRow(Record, frozen=True, kw_only=True):
    """What one role spent. ``requested`` = ``paid`` + ``cache_hits``; ``replayed`` of the paid ones came from the
    journal of an earlier, interrupted session of the same run, so this session did not pay them again."""

    requested: int = 0
    paid: int = 0
    cache_hits: int = 0
    replayed: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    usd: float = 0.0


class Ledger(Record, frozen=True, kw_only=True):
    """What a run spent, by role, and what it refused before spending (``rejects`` by reason). ``headroom``: the calls
    among them that asked whether prompts matter at all."""

    roles: dict[str, LedgerRow] = {}
    rejects: dict[str, int] = {}
    headroom: int = 0

    @property
    def calls(self) -> int:
        """Calls paid, all roles."""
        return sum(row.paid for row in self.roles.values())

    @property
    def usd(self) -> float:
        """Money spent, all roles."""
        return sum(row.usd for row in self.roles.values())


class Event(Record, frozen=True, kw_only=True):
    """Something a follower of the run may want to see. ``data`` holds plain JSON values."""

    kind: str
    message: str
    at: float = 0.0
    data: dict[str, Any] = {}


# --- what came out ---------------------------------------------------------------------------------------------------


class Interval(Record, frozen=True, kw_only=True):
    """A score with its 95 % interval and the number of examples behind it."""

    score: float
    low: float
    high: float
    n: int


class TaskScore(Record, frozen=True, kw_only=True):
    """A task's score on some examples: the interval, and the shares that were malformed, unscored, truncated."""

    interval: Interval
    malformed: float = 0.0
    unscored: float = 0.0
    truncated: float = 0.0


class SplitScores(Record, frozen=True, kw_only=True):
    """Scores per task and their plain mean over tasks (None when there is no task)."""

    tasks: dict[str, TaskScore] = {}
    mean: Interval | None = None


class Scores(Record, frozen=True, kw_only=True):
    """One system prompt measured on what nobody searched on: holdout of source tasks, test of unseen tasks."""

    holdout: SplitScores = SplitScores()
    unseen: SplitScores = SplitScores()


class ItemScore(Record, frozen=True, kw_only=True):
    """One holdout item under incumbent and winner."""

    task: str
    example_id: str
    cluster: str
    incumbent: float | None
    winner: float | None


class Candidate(Record, frozen=True, kw_only=True):
    """A system prompt under trial: where it came from, what it was meant to mend, what became of it."""

    id: str
    system_prompt: str
    parent: str = ""
    hypothesis: str = ""
    generation: int = 0
    score: float | None = None
    n: int = 0
    fate: str = ""


class Generation(Record, frozen=True, kw_only=True):
    """One inner and one outer loop: what was tried and which system prompt went on."""

    number: int
    kept: str
    score: float | None = None
    candidates: tuple[Candidate, ...] = ()
    user_prompts: dict[str, tuple[str, ...]] = {}


class SearchResult(Record, frozen=True, kw_only=True):
    """The outcome of one run. ``winner`` may equal the incumbent; ``reason`` says in one sentence why the run ended
    so."""

    method: str
    winner: str
    incumbent: str
    user_prompts: dict[str, tuple[str, ...]] = {}
    incumbent_scores: Scores = Scores()
    winner_scores: Scores = Scores()
    baselines: dict[str, Scores] = {}
    constant_baseline: dict[str, float] = {}
    gate: GateResult | None = None
    ledger: Ledger = Ledger()
    wall_seconds: float = 0.0
    proposer: Literal["rewrite", "components", "none"] = "none"
    generations: tuple[Generation, ...] = ()
    reason: str = ""
    per_item: tuple[ItemScore, ...] = ()
    notes: tuple[str, ...] = ()
    datasets: dict[str, str] = {}


class Finding(Record, frozen=True, kw_only=True):
    """One line of ``metaspo doctor``: what was looked at, whether it is well, and how to mend it."""

    name: str
    ok: bool
    message: str
    mend: str = ""
