"""What the pages show, as types: one context per page, rendered as HTML or as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.api.answers import Pointers
from gateway.console.diff import Origin, Piece
from registry import Approval, AuditEntry, Domain, KeyRecord, Run, Sample, Trigger, Version


class Page(msgspec.Struct, kw_only=True):
    """What every page has: a title, the navigation entry it belongs to, and what the last action said."""

    title: str
    section: str = ""
    said: str = ""


class Interval(msgspec.Struct, frozen=True):
    """A mean score with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


class Need(msgspec.Struct, frozen=True):
    """Something that waits for a person."""

    text: str
    href: str


class DomainRow(msgspec.Struct, frozen=True):
    """A domain on the overview."""

    name: str
    deployment: Pointers
    score: Interval | None
    requests: int
    errors: int
    promotion: str


class Overview(Page):
    """All domains, and what needs a person."""

    rows: list[DomainRow]
    needs: list[Need]
    query: str
    page: int
    pages: int
    total: int


class Series(msgspec.Struct, frozen=True):
    """One line of a chart: None where it has no point."""

    label: str
    y: list[float | None]
    thin: bool = False


class Mark(msgspec.Struct, frozen=True):
    """A moment marked on a chart."""

    x: float
    label: str
    bad: bool = False


class Chart(msgspec.Struct, frozen=True):
    """A chart over time: ``x`` in seconds since the epoch."""

    x: list[float]
    series: list[Series]
    marks: list[Mark] = []
    range: tuple[float, float] | None = None


class ArmRow(msgspec.Struct, frozen=True):
    """One arm: what was counted, and what it scored."""

    arm: str
    version: int | None
    requests: int
    errors: int
    latency: float | None
    cost: float
    score: Interval | None


class TaskRow(msgspec.Struct, frozen=True):
    """A task: its judge, and what its kept samples scored under the live version."""

    name: str
    judge: str
    prompt: str
    samples: int
    score: Interval | None


class Standing(msgspec.Struct, frozen=True):
    """Where a running canary stands: its stage, the judged units of both arms so far, and when it may decide.

    Times in seconds since the epoch. ``decides_at`` is the earliest time of the final test at the present traffic,
    with the stages' growing shares; None while nothing is judged.
    """

    stage: int
    stages: int
    began_at: float
    stage_ends_at: float
    units: dict[str, int]
    judged: dict[str, int]
    needed: int
    judged_per_hour: float
    decides_at: float | None


class DomainPage(Page):
    """One domain."""

    domain: Domain
    deployment: Pointers
    chart: Chart
    arms: list[ArmRow]
    tasks: list[TaskRow]
    traffic_usd: float
    search_usd: float
    versions: list[Version]
    runs: list[Run]
    audit: list[AuditEntry]
    approvals: list[Approval]
    trial: Standing | None
    looks: list[dict[str, Any]]
    looked_at: float | None
    reported: bool
    may_move: bool
    running: bool


class VersionPage(Page):
    """One version: its text, what changed, where its words come from, and the gate's table."""

    domain: str
    version: Version
    deployment: Pointers
    against: int | None
    numbers: list[int]
    diff: list[Piece]
    rewritten: float
    origins: list[Origin]
    may_move: bool


class GenerationRow(msgspec.Struct, frozen=True):
    """One generation of a search: the best prompt so far, its score on the select split, the calls by then."""

    number: int
    score: float | None
    best: str
    calls: int | None


class RunPage(Page):
    """One search."""

    run: Run
    events: list[str]
    generations: list[GenerationRow]
    chart: Chart
    last_event: str
    live: bool
    spent: int
    budget: int
    failures: dict[str, int]


class SamplesPage(Page):
    """Kept exchanges of a domain."""

    domain: str
    samples: list[Sample]
    tasks: list[str]
    task: str
    band: str
    may_move: bool


class Change(msgspec.Struct, frozen=True):
    """From one version to another: the words, and how many conversations pay for a whole prompt once more.

    ``live_units`` are the conversations of the last hour, ``share`` the part of them that the move reaches.
    """

    before: int | None
    after: int | None
    diff: list[Piece]
    rewritten: float
    live_units: int
    prefix_tokens: int
    share: float


class WaitingRow(msgspec.Struct, frozen=True):
    """A move that waits for approval, and what it would change; None where that is not shown."""

    approval: Approval
    change: Change | None


class ApprovalsPage(Page):
    """What waits for a person, and what was decided lately."""

    waiting: list[WaitingRow]
    decided: list[Approval]
    may_move: bool


class KeysPage(Page):
    """The gateway's keys. ``new_key`` is the text of one just made, shown this once."""

    keys: list[KeyRecord]
    domains: list[str]
    may_move: bool
    new_key: str = ""


class AuditPage(Page):
    """Who moved what."""

    audit: list[AuditEntry]
    domains: list[str]
    domain: str


class JobRow(msgspec.Struct, frozen=True):
    """A domain's schedule."""

    domain: str
    schedule: str
    last: Run | None


class FiringJob(msgspec.Struct, frozen=True):
    """A kind of work, when it fires, and what it does."""

    name: str
    when: str
    about: str


class JobsPage(Page):
    """What runs by itself, what waits, and what ran."""

    jobs: list[FiringJob]
    waiting: list[Trigger]
    rows: list[JobRow]
    page: int
    pages: int
    runs: list[Run]


class ReportPage(Page):
    """A domain's week: what changed, what it was worth, what it cost."""

    domain: str
    entry: AuditEntry | None
    facts: dict[str, Any]
    reports: list[AuditEntry]


class HealthPage(Page):
    """How the gateway itself is."""

    facts: dict[str, str]
    ready: bool
    refused: dict[str, int]


class OptimizePage(Page):
    """A search, before it is asked for: what it would work on, with which models, and what it may spend.

    ``samples`` counts the kept exchanges per task. ``live_run`` is a search of this domain that has not ended.
    """

    domain: Domain
    deployment: Pointers
    samples: dict[str, int]
    live_run: str


class ConfirmPage(Page):
    """A move, before it is made: what it changes and what it costs."""

    domain: str
    action: str
    version: int | None
    share: float
    epoch: int
    deployment: Pointers
    change: Change
    warning: str = ""
