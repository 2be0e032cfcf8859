"""What comes in: the bodies of the control plane's routes. Unknown fields are errors, so that a typo is not a
default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from registry import InjectMode, JudgeKind, PromotionPolicy, schedule_fault

Why = Annotated[str, Field(max_length=2000, description="the reason, for the audit")]
Number = Annotated[int, Field(ge=1, le=2**31 - 1, description="a version's number")]
Epoch = Annotated[int | None, Field(ge=0, le=2**53, description="move only while the deployment still has this epoch")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
LIMIT = 2**31 - 1
Rows = Annotated[int, Field(ge=1, le=100_000)]


class Ask(BaseModel):
    """Base of the bodies."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    @field_validator("*", mode="after")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("has a lone surrogate, which is no character") from None
        return value


class Add(Ask):
    """A new system prompt. The same text again gets the number that it already has."""

    system_prompt: str = Field(max_length=200_000)
    why: Why = ""
    parent: Number | None = Field(None, description="the version it was made from")


class Promote(Ask):
    """Make a version stable."""

    version: Number
    why: Why = ""
    if_epoch: Epoch = None


class Canary(Ask):
    """Give a version a share of the units, beside a control of the same size."""

    version: Number
    share: Share = 0.05
    why: Why = ""
    if_epoch: Epoch = None


class Move(Ask):
    """Roll back or abort."""

    why: Why = ""
    if_epoch: Epoch = None


class Block(Ask):
    """Forbid a version for good."""

    why: Annotated[str, Field(min_length=1, max_length=2000, description="the reason, for the audit")]


class BudgetAsk(Ask):
    """What one search may spend; absent fields are the domain's."""

    calls: Annotated[int, Field(ge=0, le=LIMIT)] | None = None
    usd: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None


class Optimize(Ask):
    """Ask for a search now."""

    method: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")] = "metaspo"
    budget: BudgetAsk | None = None
    why: Why = ""
    tasks: Annotated[list[Name], Field(max_length=200, description="only these tasks")] | None = None
    unseen: Annotated[list[Name], Field(max_length=200, description="kept out of the search, measured at its end")] = []
    most: tuple[Rows, Rows, Rows] | None = Field(None, description="most rows of a task: reflect, select, holdout")
    options: Annotated[dict[Name, Any], Field(max_length=50, description="sizes of the search, for its method")] = {}
    lenient: bool | None = Field(None, description="take the first label that a reply names")
    resume: Annotated[str, Field(max_length=200, description="an ended run to go on with")] | None = None


class SamplePolicyAsk(Ask):
    """How much of the traffic is kept."""

    share: Share = 0.05
    per_hour: Annotated[int, Field(ge=0, le=LIMIT)] = 500


class JudgeAsk(Ask):
    """How answers are scored."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    kind: JudgeKind = "exact"
    labels: Annotated[list[Name], Field(max_length=200)] = []
    rubric: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=50)] = []
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TaskAsk(Ask):
    """One kind of work inside a domain."""

    user_prompt: str = Field("{question}", max_length=20_000)
    judge: JudgeAsk = JudgeAsk()
    adapted_prompt: str | None = Field(None, max_length=20_000)

    @field_validator("user_prompt", "adapted_prompt")
    @classmethod
    def _one_slot(cls, value: str | None) -> str | None:
        if value is not None and value.count("{question}") != 1:
            raise ValueError("must hold exactly one {question}")
        return value


class CanaryPlanAsk(Ask):
    """Exposure stages with their least dwell, and the test at the end."""

    stages: Annotated[list[Annotated[float, Field(gt=0, le=0.5)]], Field(min_length=1, max_length=20)] = [
        0.01,
        0.05,
        0.2,
        0.5,
    ]
    dwell_hours: Annotated[list[Annotated[float, Field(ge=0, le=1e5)]], Field(min_length=1, max_length=20)] = [
        1,
        6,
        24,
        48,
    ]
    n_final: Annotated[int, Field(gt=0, le=LIMIT)] = 4400
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.03


class MatchAsk(Ask):
    """Sends traffic to the domain by what the request shows."""

    model: Name | None = None
    header: tuple[Name, Name] | None = None
    system_prefix: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    task: Name | None = None


class DomainAsk(Ask):
    """A domain as the operator wants it; what is left out gets its default."""

    parent: Name | None = "global"
    locked: str = Field("", max_length=50_000)
    inject: InjectMode = "prepend"
    sample: SamplePolicyAsk = SamplePolicyAsk()
    base_model: Name | None = None
    optimizer_model: Name | None = None
    judge_model: Name | None = None
    audit_judge_model: Name | None = None
    schedule: str | None = Field(None, max_length=200, description="cron expression of five fields")
    canary: CanaryPlanAsk = CanaryPlanAsk()
    budget: BudgetAsk = BudgetAsk(calls=6000)
    promotion: PromotionPolicy = "manual"
    tasks: Annotated[dict[Annotated[str, Field(min_length=1, max_length=128)], TaskAsk], Field(max_length=200)] = {}
    match: Annotated[list[MatchAsk], Field(max_length=100)] = []
    meta_learning: bool = False

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None and (fault := schedule_fault(value)):
            raise ValueError(fault)
        return value


class Decide(Ask):
    """A person's word on an approval."""

    decision: Literal["approved", "rejected"]
    why: Why = ""


class Label(Ask):
    """A person's score of a sample: judges are calibrated against it."""

    score: Share


class CreateKey(Ask):
    """A new key."""

    name: Name
    role: Literal["caller", "operator", "viewer"] = "caller"
    domain: Name | None = None
    requests_per_minute: Annotated[int, Field(gt=0, le=LIMIT)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0, le=LIMIT)] | None = None
    parallel: Annotated[int, Field(gt=0, le=LIMIT)] | None = None
    usd_per_day: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    expires_at: Annotated[float, Field(gt=0, le=1e11, allow_inf_nan=False)] | None = None
