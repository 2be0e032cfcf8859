"""The whole config file, ``metaspo.yaml``: every setting with its type, its default and its meaning.

``load_settings`` (``settings_sources.py``) reads file, ``.env`` and environment; the models here say what may stand
there. Every field's description is the documentation: ``settings_reference`` makes the table in ``docs/registry.md``
from it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from registry import records
from registry.errors import Refused
from registry.redis_keys import PREFIX, domain_name
from registry.schedules import schedule_fault

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Dialect = Literal["openai", "anthropic", "litellm"]
REDIS_SCHEMES = frozenset(
    f"{name}{tls}{kind}" for name in ("redis", "valkey") for tls in ("", "s") for kind in ("", "+cluster", "+sentinel")
) | {"unix", "cluster", "sentinel"}


class Section(BaseModel):
    """A part of the file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TimeoutSettings(Section):
    """How long the gateway waits for an upstream."""

    connect: Seconds = Field(default=5.0, description="seconds until a connection must stand")
    first_token: Seconds = Field(default=60.0, description="seconds until the first byte of an answer")
    between_chunks: Seconds = Field(default=60.0, description="seconds between two pieces of a streamed answer")
    total: Seconds = Field(default=600.0, description="seconds for a whole answer")


class UpstreamSettings(Section):
    """One model provider."""

    name: str = Field(min_length=1, description="how `models` refers to it")
    dialect: Dialect = Field(
        default="openai", description="wire format it speaks; `litellm`: translated by the LiteLLM SDK"
    )
    base_url: str | None = Field(default=None, description="address up to and without `/chat/completions`")
    api_key: str | None = Field(default=None, repr=False, description="`env:NAME`, `os.environ/NAME` or the key itself")
    timeouts: TimeoutSettings = Field(default=TimeoutSettings(), description="how long to wait for it")
    headers: dict[str, str] = Field(default={}, repr=False, description="headers added to every request to it")
    max_in_flight: Positive = Field(default=512, description="requests at one time per worker")
    weight: Positive = Field(default=1, description="share of the traffic among equals")
    params: dict[str, Any] = Field(
        default={}, repr=False, description="more arguments for the LiteLLM SDK (`litellm` only)"
    )

    @model_validator(mode="after")
    def _address(self) -> UpstreamSettings:
        if self.base_url is not None and not re.match(r"https?://[^/\s]+", self.base_url):
            raise ValueError(f"base_url {self.base_url!r} is not an http:// or https:// address")
        if self.base_url is None and self.dialect == "anthropic":
            object.__setattr__(self, "base_url", "https://api.anthropic.com")
        if self.base_url is None and self.dialect == "openai":
            object.__setattr__(self, "base_url", "https://api.openai.com/v1")
        if self.base_url is not None:
            object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        return self


class ModelRoute(Section):
    """A model name that callers may ask for, and where it goes. The same name twice: two deployments of it."""

    name: str = Field(min_length=1, description="what callers ask for; `*` at the end matches any rest")
    upstream: str = Field(description="name of the upstream")
    model: str | None = Field(default=None, description="name at the upstream; absent: the caller's, unchanged")
    fallbacks: list[str] = Field(default=[], description="model names tried in order when this one fails")
    price_in: Annotated[float, Field(ge=0)] | None = Field(default=None, description="USD per million prompt tokens")
    price_out: Annotated[float, Field(ge=0)] | None = Field(default=None, description="USD per million answer tokens")
    weight: Positive = Field(default=1, description="share of the traffic among deployments of the same name")
    params: dict[str, Any] = Field(
        default={}, repr=False, description="more arguments for the LiteLLM SDK (`litellm` only)"
    )

    @field_validator("name")
    @classmethod
    def _star_last(cls, value: str) -> str:
        if "*" in value[:-1]:
            raise ValueError("a model name may hold one '*', at its end")
        return value


class KeySettings(Section):
    """A gateway key that the file defines."""

    name: str = Field(min_length=1, description="name of the app or person")
    role: records.Role = Field(default="caller", description="`caller`, `operator` or `viewer`")
    key: str = Field(default="", repr=False, description="`env:NAME`, `os.environ/NAME` or the key itself")
    domain: str | None = Field(default=None, description="domain of its traffic when the request names none")
    requests_per_minute: Positive | None = Field(default=None, description="limit, 429 above it")
    tokens_per_minute: Positive | None = Field(default=None, description="limit, 429 above it")
    parallel: Positive | None = Field(default=None, description="requests at one time")
    usd_per_day: Annotated[float, Field(ge=0)] | None = Field(default=None, description="budget, 429 above it")
    both_planes: bool = Field(
        default=False, description="an operator's key that may call models, too, as LiteLLM's master key"
    )


class SampleSettings(Section):
    """How much of a domain's traffic is kept for learning."""

    share: Share = Field(default=0.05, description="share of exchanges")
    per_hour: Annotated[int, Field(ge=0)] = Field(default=500, description="at most so many an hour")


class CanarySettings(Section):
    """How a challenger meets traffic."""

    stages: list[Annotated[float, Field(gt=0, le=0.5)]] = Field(
        default=[0.01, 0.05, 0.2, 0.5], min_length=1, description="shares of traffic, growing, at most 0.5"
    )
    dwell_hours: list[Annotated[float, Field(ge=0)]] = Field(
        default=[1, 6, 24, 48], description="least hours in each stage"
    )
    n_final: Positive = Field(default=4400, description="scored exchanges per arm for the final test")
    margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.03, description="non-inferiority margin of the final test"
    )

    @model_validator(mode="after")
    def _matching(self) -> CanarySettings:
        if len(self.stages) != len(self.dwell_hours):
            raise ValueError(f"stages ({len(self.stages)}) and dwell_hours ({len(self.dwell_hours)}) differ in length")
        if sorted(set(self.stages)) != self.stages:
            raise ValueError("stages must grow")
        return self


class BudgetSettings(Section):
    """What one search may spend."""

    calls: Annotated[int, Field(ge=0)] = Field(default=6000, description="model calls; 0 is no limit")
    usd: Annotated[float, Field(ge=0)] | None = Field(default=None, description="USD; absent is no limit")


class JudgeSettings(Section):
    """How an answer of a task is scored."""

    kind: records.JudgeKind = Field(default="exact", description="the scorer")
    labels: list[str] = Field(default=[], description="the choices, for `choice` and `macro_f1`")
    rubric: list[str] = Field(default=[], description="yes/no criteria, for `rubric`")
    schema_: dict[str, Any] | None = Field(default=None, alias="schema", description="JSON schema, for `json_schema`")
    lenient: bool = Field(default=False, description="`choice` only: the first label that the reply names counts")

    @model_validator(mode="after")
    def _complete(self) -> JudgeSettings:
        if self.kind in ("choice", "macro_f1") and len(self.labels) < 2:
            raise ValueError(f"a judge of kind {self.kind} needs at least two labels")
        if self.kind == "rubric" and not self.rubric:
            raise ValueError("a judge of kind rubric needs a rubric: a list of yes/no criteria")
        if self.kind == "json_schema" and self.schema_ is None:
            raise ValueError("a judge of kind json_schema needs a schema")
        return self


class TaskSettings(Section):
    """One kind of work in a domain."""

    user_prompt: str = Field(default="{question}", description="template with exactly one `{question}` slot")
    judge: JudgeSettings = Field(default=JudgeSettings(), description="how its answers are scored")
    adapted_prompt: str | None = Field(default=None, description="a user prompt optimized for it, when one is")

    @field_validator("user_prompt", "adapted_prompt")
    @classmethod
    def _one_slot(cls, value: str | None) -> str | None:
        if value is not None and value.count("{question}") != 1:
            raise ValueError(
                f"the user prompt must hold {{question}} exactly once, not {value.count('{question}')} times"
            )
        return value


class MatchSettings(Section):
    """Sends traffic to this domain by what the request shows."""

    model: str | None = Field(default=None, description="model name; `*` at the end matches any rest")
    header: tuple[str, str] | None = Field(default=None, description="[name, value] of a request header")
    system_prefix: str | None = Field(default=None, description="how the caller's system prompt begins")
    task: str | None = Field(default=None, description="task of the matched traffic")

    @model_validator(mode="after")
    def _something(self) -> MatchSettings:
        if self.model is None and self.header is None and self.system_prefix is None:
            raise ValueError("a match rule needs a model, a header or a system_prefix")
        return self


class DomainSettings(Section):
    """A family of tasks that share one system prompt."""

    system_prompt: str | None = Field(default=None, description="becomes version 1 when the domain has none")
    parent: str | None = Field(default=records.GLOBAL, description="whose prompt serves while this domain has none")
    locked: str = Field(default="", description="operator text that always stands first and is never optimized")
    inject: records.InjectMode = Field(default="prepend", description="how the prompt meets the caller's own")
    sample: SampleSettings = Field(default=SampleSettings(), description="what is kept of the traffic")
    base_model: str | None = Field(default=None, description="model that answers, for searches")
    optimizer_model: str | None = Field(default=None, description="model that writes prompts")
    judge_model: str | None = Field(default=None, description="model that scores")
    audit_judge_model: str | None = Field(default=None, description="second judge, of another family, at the gate")
    schedule: str | None = Field(default=None, description="cron expression (5 fields) for re-optimization")
    canary: CanarySettings = Field(default=CanarySettings(), description="how a challenger meets traffic")
    budget: BudgetSettings = Field(default=BudgetSettings(), description="what one search may spend")
    promotion: records.PromotionPolicy = Field(default="manual", description="`manual`, `canary` or `auto`")
    tasks: dict[str, TaskSettings] = Field(default={}, description="task name -> task")
    match: list[MatchSettings] = Field(default=[], description="rules that send traffic here")
    meta_learning: bool = Field(default=False, description="this domain's traffic may teach the `global` prompt")

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None and (fault := schedule_fault(value)):
            raise ValueError(f"schedule {value!r} {fault}")
        return value

    def record(self, name: str) -> records.Domain:
        """The stored form. ``read_only`` is set: while the file names a domain, the file wins."""
        fields = self.model_dump(mode="json", by_alias=True, exclude={"system_prompt"})
        if name == records.GLOBAL:
            fields["parent"] = None
        return msgspec.convert({**fields, "name": domain_name(name), "read_only": True}, records.Domain)


class GatewaySettings(Section):
    """The gateway's own limits and habits."""

    workers: Positive = Field(default=1, description="processes that share the port")
    max_body_bytes: Positive = Field(default=32 * 2**20, description="largest request body, decompressed")
    max_response_copy_bytes: Positive = Field(
        default=2**20, description="bytes of an answer that are looked at for a sample"
    )
    max_depth: Positive = Field(default=256, description="deepest nesting of a JSON body")
    max_in_flight: Positive = Field(default=1024, description="requests at one time per worker; above it 429 at once")
    sample_queue: Positive = Field(
        default=10_000, description="exchanges that wait to be written; above it they are dropped"
    )
    sample_per_key_share: Share = Field(
        default=0.5, description="largest share of a domain's hourly samples from one key"
    )
    sample_per_unit: Positive = Field(default=20, description="most samples from one unit in an hour")
    keepalive: Seconds = Field(default=15.0, description="seconds of silence after which a stream gets a comment")
    drain: Seconds = Field(default=30.0, description="seconds that streams may still take after SIGTERM")
    feedback_days: Positive = Field(default=30, description="days for which an exchange id takes feedback")
    eject_after: Positive = Field(default=5, description="failures in a row that take an upstream out")
    eject_for: Seconds = Field(default=10.0, description="seconds an upstream stays out")
    metrics: bool = Field(default=True, description="serve `/metrics`")
    metrics_key: bool = Field(default=False, description="ask for a viewer or operator key on `/metrics`")
    console: bool = Field(default=True, description="serve `/console`")
    control_plane: bool = Field(default=True, description="serve `/api`; a gateway without it cannot move a pointer")
    log: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level that is logged")
    log_format: Literal["text", "json"] = Field(default="text", description="form of the log lines")
    log_requests: bool = Field(default=False, description="one line per request, never with its content")
    cors: list[str] = Field(default=[], description="web origins whose pages may call the data plane; `*`: all")
    cache_breakpoint: Positive | None = Field(
        default=None,
        description="a prompt of more characters gets Anthropic's `cache_control`, where the request has none",
    )
    forwarded_allow: str = Field(
        default="127.0.0.1", description="addresses whose `x-forwarded-*` headers are believed"
    )
    presidio: bool = Field(default=False, description="names and places are scrubbed too (extra `presidio`)")
    otel: bool = Field(default=False, description="OpenTelemetry traces (extra `otel`)")
    webhooks: list[str] = Field(default=[], description="addresses told of promotions, rollbacks and approvals")
    webhook_secret: str | None = Field(
        default=None, repr=False, description="signs webhooks; `env:NAME` or the secret itself"
    )


class JobsSettings(Section):
    """The clock's own limits and habits."""

    concurrency: Positive = Field(default=2, description="jobs at one time per worker")
    calls_in_flight: Positive = Field(
        default=8, description="model calls at one time per provider, of all workers together"
    )
    metrics: str | None = Field(default=None, description="HOST:PORT for a worker's metrics")
    lease_seconds: Seconds = Field(default=30.0, description="after so long without a sign a job is taken over")
    judge_calls_per_day: Annotated[int, Field(ge=0)] = Field(default=5_000, description="per domain; 0 judges nothing")
    judge_usd_per_day: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="per domain; absent: no limit"
    )
    search_usd_per_day: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="fleet; absent: no limit"
    )
    search_calls_per_day: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="fleet; absent: no limit"
    )
    judge_every_minutes: Seconds = Field(default=10.0, description="minutes between two rounds of judging")
    canary_every_seconds: Seconds = Field(default=2.0, description="seconds between two looks at running canaries")
    curate_every_hours: Seconds = Field(default=6.0, description="hours between two rounds of making datasets")
    embedding_model: str | None = Field(
        default=None,
        description="groups messages that show no task (extra `embeddings`); absent: such messages are only watched",
    )
    embedding_texts_per_day: Annotated[int, Field(ge=0)] = Field(
        default=20_000, description="per domain; beyond it new messages belong to no group"
    )
    min_tasks: Annotated[int, Field(ge=2)] = Field(
        default=3, description="tasks with enough examples that a search needs; the gate counts as many"
    )
    spend_alpha: bool = Field(
        default=True, description="the gate's error level is shared by all attempts since a promotion"
    )
    automatic_promotions: Positive = Field(default=5, description="in a row, then a person must confirm")
    holdback_share: Share = Field(
        default=0.05, description="traffic left on the old prompt after an automatic promotion"
    )
    holdback_days: Seconds = Field(default=14.0, description="days the holdback lasts")
    shadow_first: bool = Field(
        default=True, description="where traffic cannot end a canary in time, replay samples before one is started"
    )
    cache_cost_veto_usd: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="a promotion that costs more in prompt cache waits for a person"
    )


class RetentionSettings(Section):
    """How long and how much the registry keeps. Versions are kept for ever."""

    sample_days: Positive = Field(default=30, description="days a sample lives")
    samples_per_task: Positive = Field(default=10_000, description="representative samples per task")
    failures_per_task: Positive = Field(default=2_000, description="failure samples per task")
    tasks: Positive = Field(default=500, description="tasks per domain that have samples; of further ones none is kept")
    half_life_days: Seconds = Field(
        default=1.0, description="a sample's weight in a full reservoir halves in so many days"
    )
    outcomes: Positive = Field(default=100_000, description="single outcomes kept per domain (sums are kept longer)")
    units_per_arm: Positive = Field(default=200_000, description="units with sums of their own per version and arm")
    unit_days: Positive = Field(default=90, description="days the sums per unit live")
    dataset_days: Positive = Field(default=90, description="days a dataset made from traffic lives")
    datasets: Positive = Field(default=200, description="datasets per domain")
    run_days: Positive = Field(default=365, description="days a run lives")
    runs: Positive = Field(default=500, description="runs per domain")
    run_events: Positive = Field(default=20_000, description="events per run")
    audit: Positive = Field(default=100_000, description="audit entries per domain")
    request_hours: Positive = Field(default=24, description="hours a request id is remembered")
    approvals: Positive = Field(default=2_000, description="approvals, decided ones go first")
    triggers: Positive = Field(default=10_000, description="triggers that wait")


class Settings(Section):
    """The whole file."""

    home: Path = Field(default=Path(".metaspo"), description="embedded Redis, snapshots, journals, signing key")
    redis_url: str | None = Field(default=None, repr=False, description="absent: an embedded Redis under `home`")
    redis_url_data_plane: str | None = Field(
        default=None, repr=False, description="the same Redis as a user that cannot write versions or pointers"
    )
    redis_prefix: str = Field(default=PREFIX, pattern=r"^[A-Za-z0-9_.-]+$", description="first part of every Redis key")
    confirm_replicas: Annotated[int, Field(ge=0)] = Field(
        default=0, description="replicas that must hold a write before it counts"
    )
    signing_key: Path | None = Field(default=None, description="private key file; absent: `home/signing.key`")
    verify_key: str | None = Field(
        default=None, description="public key: file or base64; absent: `home/signing.pub` if there"
    )
    listen: str = Field(default="127.0.0.1:8080", description="HOST:PORT of the gateway")
    upstreams: list[UpstreamSettings] = Field(default=[], description="model providers")
    models: list[ModelRoute] = Field(default=[], description="what callers may ask for; absent: any name")
    keys: list[KeySettings] = Field(default=[], description="gateway keys that the file defines")
    domains: dict[str, DomainSettings] = Field(default={}, description="domain name -> domain")
    gateway: GatewaySettings = Field(default=GatewaySettings(), description="the gateway's limits and habits")
    jobs: JobsSettings = Field(default=JobsSettings(), description="the clock's limits and habits")
    retention: RetentionSettings = Field(default=RetentionSettings(), description="how long and how much is kept")
    notes: tuple[str, ...] = Field(
        default=(), exclude=True, repr=False, description="what was read but has no meaning here"
    )

    @field_validator("redis_url", "redis_url_data_plane")
    @classmethod
    def _redis_address(cls, value: str | None) -> str | None:
        if value and value.partition("://")[0] not in REDIS_SCHEMES:
            raise ValueError(
                f"{value.rpartition('@')[2]!r} is not an address of Redis, like redis://host:6379/0,"
                " rediss://..., unix:///path, redis+cluster://... or redis+sentinel://..."
            )
        return value

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"listen {value!r} is not HOST:PORT, like 127.0.0.1:8080")
        return value

    @field_validator("domains")
    @classmethod
    def _domain_names(cls, value: dict[str, DomainSettings]) -> dict[str, DomainSettings]:
        for name in value:
            try:
                domain_name(name)
            except Refused as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _references(self) -> Settings:
        names = [upstream.name for upstream in self.upstreams]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two upstreams are named {twice[0]!r}")
        key_names = [key.name for key in self.keys]
        if twice := sorted({name for name in key_names if key_names.count(name) > 1}):
            raise ValueError(f"two keys are named {twice[0]!r}")
        for route in self.models:
            if route.upstream not in names:
                known = ", ".join(names) or "none"
                raise ValueError(
                    f"model {route.name!r} names the upstream {route.upstream!r}; known upstreams: {known}"
                )
        return self

    @property
    def host(self) -> str:
        """Host part of ``listen``."""
        return self.listen.rpartition(":")[0]

    @property
    def port(self) -> int:
        """Port part of ``listen``."""
        return int(self.listen.rpartition(":")[2])

    @property
    def signing_key_path(self) -> Path:
        """File of the private signing key."""
        return self.signing_key or self.home / "signing.key"

    def domain_records(self) -> list[records.Domain]:
        """All domains of the file in their stored form."""
        return [domain.record(name) for name, domain in self.domains.items()]


def load_settings(path: Path | None, env: Any = None, *, require_secrets: bool = True) -> Settings:
    """Read file, ``.env`` beside it and environment. See ``settings_sources.read_settings``. Raises SettingsError."""
    from registry.settings_sources import read_settings

    return read_settings(path, env, require_secrets=require_secrets)
