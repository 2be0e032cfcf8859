"""``metaspo simulate canary``: false alarms, delays and promotions of the very code that decides about live canaries.

Units arrive hour by hour, exposed according to the stage, half of the exposed to the candidate and half to the control.
Every hour ``jobs.canary.decide`` looks once, as the job does in production. Beside it, on the same traffic, what others
do: a z-test looked at every hour, the same on requests instead of units, and the assignment of every request by chance.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import click
import numpy as np

from jobs.canary import Decision, Experiment, Rules, State, decide
from jobs.experiment import HOUR
from jobs.statistics import FloatArray
from jobs.units import HARD_SIGNALS, Units

SEED = 20_261_120
Z_ONE_SIDED = 1.6448536269514722


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A canary plan: exposure stages, their least dwell in hours, units of the final test, margin."""

    stages: tuple[float, ...] = (0.01, 0.05, 0.2, 0.5)
    dwell_hours: tuple[float, ...] = (1, 6, 24, 48)
    n_final: int = 4_400
    margin: float = 0.03


@dataclass(frozen=True, slots=True)
class Pointers:
    """The deployment as the decision reads it."""

    canary: int | None
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What arrives: new units per hour in all, requests per unit (mean; geometric), how much units differ (share of the
    variance of a request's score that lies between units), pass rate, and the rate of each hard failure.
    """

    units_per_hour: float = 200.0
    requests: float = 1.0
    between_units: float = 0.0
    quality: float = 0.80
    failures: tuple[float, ...] = (0.01, 0.005, 0.02, 0.03)
    token_spread: float = 0.6
    latency_spread: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What the candidate changes: quality in points of 0..1, and failure rates by signal."""

    quality: float = 0.0
    failures: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Arm:
    """The units of one arm as they arrive, in columns that grow."""

    first_at: FloatArray = field(default_factory=lambda: np.zeros(0))
    failures: FloatArray = field(default_factory=lambda: np.zeros((len(HARD_SIGNALS), 0)))
    scores: FloatArray = field(default_factory=lambda: np.zeros(0))
    requests: FloatArray = field(default_factory=lambda: np.zeros(0))
    passed: FloatArray = field(default_factory=lambda: np.zeros(0))
    tokens: FloatArray = field(default_factory=lambda: np.zeros(0))
    latency: FloatArray = field(default_factory=lambda: np.zeros(0))

    def units(self) -> Units:
        """As the decision takes them."""
        return Units(self.first_at, self.failures, self.scores, {"tokens": self.tokens, "latency": self.latency})

    def arrive(self, rng: np.random.Generator, hour: int, expected: float, traffic: Traffic, harm: Harm) -> None:
        """A Poisson number of new units within the hour."""
        n = int(rng.poisson(expected))
        if n == 0:
            return
        requests = 1 + rng.geometric(1 / traffic.requests, n) - 1 if traffic.requests > 1 else np.ones(n, dtype=int)
        rates = np.array(
            [harm.failures.get(name, rate) for name, rate in zip(HARD_SIGNALS, traffic.failures, strict=True)]
        )
        mean = traffic.quality + harm.quality
        tendency = np.full(n, mean)
        if traffic.between_units > 0:  # beta-distributed pass rates of units with the intra-unit correlation asked for
            size = 1 / traffic.between_units - 1
            tendency = rng.beta(mean * size, (1 - mean) * size, n)
        judged = np.minimum(requests, 3)
        self.first_at = np.concatenate([self.first_at, np.sort(hour * HOUR + rng.random(n) * HOUR)])
        failed = rng.binomial(requests, rates[:, None], (len(rates), n)) / requests
        self.failures = np.concatenate([self.failures, failed], axis=1)
        self.scores = np.concatenate([self.scores, rng.binomial(judged, tendency) / judged])
        self.requests = np.concatenate([self.requests, requests])
        self.passed = np.concatenate([self.passed, rng.binomial(requests, tendency)])
        self.tokens = np.concatenate([self.tokens, 5 + traffic.token_spread * rng.standard_normal(n)])
        self.latency = np.concatenate([self.latency, traffic.latency_spread * rng.standard_normal(n)])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one simulated canary ended: the last decision, judged units of both arms, hours, and what others would
    have said.
    """

    decision: Decision
    units: int
    hours: int
    peeking: bool
    peeking_requests: bool


def run_canary(
    rng: np.random.Generator, plan: Plan, traffic: Traffic, harm: Harm, rules: Rules | None = None
) -> Outcome:
    """One canary from its first hour to its end, looked at once an hour."""
    rules = rules or Rules()
    control, candidate = Arm(), Arm()
    share, stage_started, state = plan.stages[0], 0.0, State()
    peeking = peeking_requests = False
    hour = 0
    while True:
        expected = share * traffic.units_per_hour
        control.arrive(rng, hour, expected, traffic, Harm())
        candidate.arrive(rng, hour, expected, traffic, harm)
        hour += 1
        now = hour * HOUR + rules.settle
        units = len(control.scores) + len(candidate.scores)
        if min(len(control.scores), len(candidate.scores)) >= rules.min_units:
            peeking = peeking or _z(control.scores, candidate.scores) < -Z_ONE_SIDED
            peeking_requests = peeking_requests or _z_requests(control, candidate) < -Z_ONE_SIDED
        decision = decide(
            plan, Pointers(2, share), Experiment(started_at=0.0, stage_started_at=stage_started),
            control.units(), candidate.units(), now=now, state=state, rules=rules,
        )  # fmt: skip
        state = decision.state
        if decision.action == "next_stage":
            assert decision.share is not None
            share, stage_started = decision.share, now
        elif decision.action != "hold":
            return Outcome(decision, units, hour, peeking, peeking_requests)


def _z(control: FloatArray, candidate: FloatArray) -> float:
    se = math.sqrt(control.var(ddof=1) / len(control) + candidate.var(ddof=1) / len(candidate))
    return (float(candidate.mean()) - float(control.mean())) / se if se else 0.0


def _z_requests(control: Arm, candidate: Arm) -> float:
    n0, n1 = control.requests.sum(), candidate.requests.sum()
    p0, p1 = control.passed.sum() / n0, candidate.passed.sum() / n1
    se = math.sqrt(p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1)
    return float(p1 - p0) / se if se else 0.0


def _alarm(outcome: Outcome) -> bool:
    """Any stop on an innocent candidate: rollback, pause, or an experiment called broken. Not reaching the final
    proof is none.
    """
    return outcome.decision.action in ("rollback", "pause") or outcome.decision.cause in (
        "sample_ratio",
        "crossed_units",
    )


def per_request_split(rng: np.random.Generator, traffic: Traffic, *, units: int) -> dict[str, float]:
    """What assigning every request by chance does: the share of units with several requests that see both prompts, and
    how often a unit's prompt changes between two of its requests.
    """
    requests = rng.geometric(1 / max(traffic.requests, 1.0), units)
    several = requests[requests > 1]
    if not len(several):
        return {"units_that_see_both_prompts": 0.0, "switches_between_requests": 0.0}
    return {"units_that_see_both_prompts": float(np.mean(1 - 0.5 ** (several - 1))), "switches_between_requests": 0.5}


def simulate_canary_runs(
    *,
    runs: int,
    seed: int,
    plan: Plan,
    traffic: Traffic,
    effect: float | None = None,
    delays: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """A/A experiments, and harmful candidates over ``delays`` runs each (by default a fifth; delays vary little)."""
    fewer = delays or _delay_runs(runs)

    def several(stream: int, count: int, harm: Harm, how: Traffic = traffic) -> list[Outcome]:
        outcomes = []
        for run in range(count):
            outcomes.append(run_canary(np.random.default_rng([seed, stream, run]), plan, how, harm))
            done()
        return outcomes

    same = several(0, runs, Harm())
    causes: dict[str, int] = {}
    for outcome in same:
        causes[outcome.decision.cause] = causes.get(outcome.decision.cause, 0) + 1
    harms = {
        "0.80->0.70": Harm(quality=-0.10),
        "0.80->0.60": Harm(quality=-0.20),
        "errors 1%->5%": Harm(failures={"error": 0.05}),
    }
    if effect is not None:
        harms[f"quality {effect:+g} points"] = Harm(quality=effect / 100)
    timed = {name: several(1 + i, fewer, harm) for i, (name, harm) in enumerate(harms.items())}
    clustered = replace(traffic, requests=10.0, between_units=0.2)
    many = several(50, fewer, Harm(), clustered)
    return {
        "runs": runs,
        "seed": seed,
        "false_alarms": sum(map(_alarm, same)) / runs,
        "false_alarms_count": sum(map(_alarm, same)),
        "ended": {cause: count / runs for cause, count in sorted(causes.items())},
        "median_units": {name: _median([o.units for o in outcomes if _caught(o)]) for name, outcomes in timed.items()},
        "p90_units": {
            name: _quantile([o.units for o in outcomes if _caught(o)], 0.9) for name, outcomes in timed.items()
        },
        "median_hours": {name: _median([o.hours for o in outcomes if _caught(o)]) for name, outcomes in timed.items()},
        "caught": {name: sum(map(_caught, outcomes)) / len(outcomes) for name, outcomes in timed.items()},
        "runs_per_delay": fewer,
        "clustered_requests": {
            "requests_per_unit": clustered.requests,
            "correlation_within_units": clustered.between_units,
            "false_alarms": sum(map(_alarm, many)) / len(many),
            "z-test on requests with peeking": sum(o.peeking_requests for o in many) / len(many),
        },
        "others": {
            "z-test with peeking": sum(o.peeking for o in same) / runs,
            "random per-request split": per_request_split(np.random.default_rng([seed, 99]), clustered, units=10_000),
        },
        "plan": asdict(plan),
        "traffic": asdict(traffic),
    }


def _delay_runs(runs: int) -> int:
    return min(runs, max(100, runs // 5))


def _caught(outcome: Outcome) -> bool:
    return outcome.decision.action == "rollback"


def _median(values: list[int]) -> float | None:
    return _quantile(values, 0.5)


def _quantile(values: list[int], q: float) -> float | None:
    return float(np.quantile(np.array(values), q)) if values else None


# --- command ---------------------------------------------------------------------------------------------------------


@click.group()
def simulate() -> None:
    """Measured error rates, power and delays on simulated worlds with known truth."""


@simulate.command("canary")
@click.option("--runs", default=1000, show_default=True, type=click.IntRange(1), help="A/A experiments.")
@click.option("--effect", type=float, help="One more harm to time: change of quality in percentage points.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of all draws.")
@click.option(
    "--quality", default=0.80, show_default=True, type=click.FloatRange(0.3, 0.99), help="Control's pass rate."
)
@click.option(
    "--units-per-hour",
    default=200.0,
    show_default=True,
    type=click.FloatRange(1),
    help="New units per hour, all traffic.",
)
@click.option(
    "--n-final", default=4400, show_default=True, type=click.IntRange(10), help="Judged units of the final test."
)
@click.option(
    "--margin", default=0.03, show_default=True, type=click.FloatRange(0.001, 0.5), help="Margin of the final test."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def simulate_canary(
    runs: int,
    effect: float | None,
    seed: int,
    quality: float,
    units_per_hour: float,
    n_final: int,
    margin: float,
    as_json: bool,
) -> None:
    """How often an innocent canary is stopped, how fast a harmful one is, and how often the final test promotes."""
    plan = Plan(n_final=n_final, margin=margin)
    traffic = Traffic(units_per_hour=units_per_hour, quality=quality)
    started = time.perf_counter()
    total = runs + (4 + (effect is not None)) * _delay_runs(runs)
    with click.progressbar(length=total, label="canaries", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        report = simulate_canary_runs(
            runs=runs, seed=seed, plan=plan, traffic=traffic, effect=effect, done=lambda: bar.update(1)
        )
    report["seconds"] = round(time.perf_counter() - started, 1)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"{runs} A/A experiments, looked at every hour, seed {seed}")
    click.echo(f"stopped although nothing was wrong: {report['false_alarms']:.1%} (all stop rules together)")
    click.echo("ended by: " + ", ".join(f"{cause} {share:.1%}" for cause, share in report["ended"].items()))
    for name, units in report["median_units"].items():
        caught = report["caught"][name]
        click.echo(f"{name}: rolled back in {caught:.0%} of the runs, after {units or math.nan:.0f} units (median)")
    click.echo(f"z-test with peeking: {report['others']['z-test with peeking']:.1%} false alarms")
