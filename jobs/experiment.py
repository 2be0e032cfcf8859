"""The nouns of a canary: the plan as it is read, the levels of its tests, where it stands, what is kept between
looks, the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from jobs.statistics import RATIOS, Wealth
from jobs.units import HARD_SIGNALS

Action = Literal["hold", "next_stage", "rollback", "pause", "promote", "inconclusive", "end_holdback"]
Phase = Literal["ramp", "holdback"]

HOUR = 3600.0


class Plan(Protocol):
    """What is read of a domain's canary plan (``registry.CanaryPlan``)."""

    @property
    def stages(self) -> Sequence[float]: ...
    @property
    def dwell_hours(self) -> Sequence[float]: ...
    @property
    def n_final(self) -> int: ...
    @property
    def margin(self) -> float: ...


class Pointers(Protocol):
    """What is read of a deployment (``registry.Deployment``)."""

    @property
    def canary(self) -> int | None: ...
    @property
    def share(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Levels and sizes of the tests. The defaults are those whose error rates are published.

    ``hard_alpha``: average e-process of the hard signals. ``quality_alpha``, ``n_star``, ``min_units``: harm in the
    judged quality, looked at from that many units per arm. ``task_alpha``, ``task_units``: the same per task.
    ``drift``: largest bearable ratio of tokens, latency and cost. ``judged_steps``: judged units that the stages but
    the last need when ``n_final`` is 4,400; smaller plans need proportionally fewer.
    """

    hard_alpha: float = 0.01
    quality_alpha: float = 0.05
    n_star: float = 2_000
    min_units: int = 100
    task_alpha: float = 0.05
    task_units: int = 300
    drift_alpha: float = 0.05
    drift: float = 1.15
    balance_p: float = 0.001
    crossed: float = 0.01
    block: int = 10
    settle: float = 30.0
    deadline: float = 14 * 24 * HOUR
    judged_steps: tuple[int, ...] = (100, 300, 1_000)
    judged_steps_at: int = 4_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Where a canary stands: when it and its present stage began (seconds), and whether its measuring rod is still the
    same.

    ``crossed``: units seen in more than one arm. Judge and model are identities at the start and now; empty means
    unknown.
    """

    started_at: float
    stage_started_at: float
    phase: Phase = "ramp"
    crossed: int = 0
    judge_then: str = ""
    judge_now: str = ""
    model_then: str = ""
    model_now: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What may be kept between two looks: how many units have entered the hard-failure test, and its wealth.

    A unit enters once, in order of first appearance, with what it had shown when first looked at. A look repeated after
    a crash changes nothing, and a look without a kept state starts from the first unit and finds the same.
    """

    entered: int = 0
    wealth: Wealth = field(default_factory=lambda: Wealth.start(len(HARD_SIGNALS)))
    peak: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        w = self.wealth
        return {
            "entered": self.entered,
            "peak": self.peak,
            "log_e": [list(row) for row in w.log_e],
            "failed_control": list(w.failed_control),
            "failed_candidate": list(w.failed_candidate),
            "n": [w.n_control, w.n_candidate],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> State:
        """Read back; nothing stored (or other signals or bets) starts anew, which is valid and only less powerful."""
        rows = (data or {}).get("log_e", ())
        if not data or len(rows) != len(HARD_SIGNALS) or any(len(row) != len(RATIOS) for row in rows):
            return cls()
        wealth = Wealth(
            tuple(tuple(map(float, row)) for row in data["log_e"]),
            tuple(map(float, data["failed_control"])),
            tuple(map(float, data["failed_candidate"])),
            int(data["n"][0]),
            int(data["n"][1]),
        )
        return cls(int(data["entered"]), wealth, float(data["peak"]))


@dataclass(frozen=True, slots=True)
class Signal:
    """One line of what was looked at: name, value, the bound at which something happens, and whether it was crossed."""

    name: str
    value: float
    bound: str
    crossed: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the short cause (a metric label), one sentence for the audit, the new share, the table, the state
    to keep.
    """

    action: Action
    cause: str
    reason: str
    state: State
    share: float | None = None
    table: tuple[Signal, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values for the audit entry."""
        return {
            "action": self.action,
            "cause": self.cause,
            "reason": self.reason,
            "share": self.share,
            "table": [
                {
                    "name": s.name,
                    "value": s.value if math.isfinite(s.value) else None,
                    "bound": s.bound,
                    "crossed": s.crossed,
                }
                for s in self.table
            ],
        }
