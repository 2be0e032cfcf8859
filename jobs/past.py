"""What a domain's past says to the gate: how many confirmations came before, and how noisy its judge has been.

A useless search that confirms weekly at a fixed level promotes something within a year. So the level is shared by all
confirmations since the last promotion (``optimizer.GatePolicy.level``), and how many those are is counted here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from jobs import calibrate
from jobs.work import Work
from registry import Domain, Registry, Run

MOST_RUNS = 500
LEAST_HISTORY = 3
"""Earlier calibrations of the same judge that make a history."""
SIGMAS = 3.0


async def attempt(work: Work, domain: str) -> int:
    """The number of the confirmation that comes next, from 1: runs that the gate judged since the last promotion."""
    promoted = 0.0
    for entry in await work.registry.history(domain, limit=1_000, moves_only=True):
        if entry.kind == "promote":
            promoted = entry.at
            break
    return 1 + gated_since(await work.registry.list_runs(domain, limit=MOST_RUNS), promoted)


def gated_since(runs: Iterable[Run], at: float) -> int:
    """Runs that showed a challenger to the holdout after ``at``, whatever the gate said."""
    return sum(run.gate is not None and (run.ended_at or run.queued_at) > at for run in runs)


async def judge_noise(registry: Registry, domain: Domain) -> tuple[float, float] | None:
    """(flip rate of the last calibration, the highest that its history allows); None while there is no history.

    Only calibrations by the judge as it is now count: another model or rubric is another measuring rod.
    """
    now = calibrate.judges(domain)
    rates = [
        float(entry.detail["flip_rate"])
        for entry in await registry.history(domain.name, limit=calibrate.LOOK_BACK)
        if entry.kind == calibrate.KIND
        and entry.detail.get("flip_rate") is not None
        and entry.detail.get("judges") == now
    ]
    if len(rates) <= LEAST_HISTORY:
        return None
    return rates[0], highest_allowed(rates[1:])


def highest_allowed(earlier: Sequence[float], answers: int = calibrate.AGAIN) -> float:
    """The upper control limit of a flip rate that was measured on ``answers`` answers each time (a p-chart, three
    standard errors). Half a flip is added, so that a judge that never flipped may flip once or twice.
    """
    centre = min(1.0, statistics.fmean(earlier) + 0.5 / answers)
    return min(1.0, centre + SIGMAS * math.sqrt(centre * (1 - centre) / answers))
