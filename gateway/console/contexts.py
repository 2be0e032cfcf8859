"""What the pages show, as types: one context per page, rendered as HTML or as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.api.answers import Pointers
from gateway.console.diff import Origin, Piece
from registry import Approval, AuditEntry, Domain, KeyRecord, Run, Sample, Version


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


class DomainPage(Page):
    """One domain."""

    domain: Domain
    deployment: Pointers
    chart: Chart
    arms: list[ArmRow]
    versions: list[Version]
    runs: list[Run]
    audit: list[AuditEntry]
    approvals: list[Approval]
    looks: list[dict[str, Any]]
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


class ApprovalsPage(Page):
    """What waits for a person, and what was decided lately."""

    waiting: list[Approval]
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


class JobsPage(Page):
    """What runs by itself."""

    rows: list[JobRow]
    runs: list[Run]


class HealthPage(Page):
    """How the gateway itself is."""

    facts: dict[str, str]
    ready: bool
    refused: dict[str, int]


class ConfirmPage(Page):
    """A move, before it is made: what it changes and what it costs."""

    domain: str
    action: str
    version: int | None
    share: float
    epoch: int
    deployment: Pointers
    diff: list[Piece]
    rewritten: float
    live_units: int
    prefix_tokens: int
    warning: str = ""
