"""What a canary does next: pure decisions over what the units of both arms did. No registry, no clock, no model.

``decide`` looks at one running canary and answers with one of

    hold           nothing to do yet
    next_stage     expose more: ``share`` is the new one
    rollback       the candidate does harm; it is blocked
    pause          it is slower or longer-winded: stop growing and ask a person
    inconclusive   the experiment cannot answer (or did not, in time): back to the incumbent
    promote        the one planned test at the end says "not worse"
    end_holdback   (after a promotion) the watch over the old prompt's 5% is over

in the order of urgency: hard failures, broken experiments, quality, cost and delay, time, the final test, the next
stage. Harm is looked for continuously with tests that allow it; promotion is looked at exactly once, at the planned
size. The same function decides in production and in ``metaspo simulate canary``, which measures its error rates
(docs/canary.md).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from jobs import statistics
from jobs.experiment import HOUR, Action, Decision, Experiment, Phase, Plan, Pointers, Rules, Signal, State
from jobs.statistics import Difference
from jobs.units import HARD_SIGNALS, Units, collect

__all__ = [
    "Action",
    "Decision",
    "Experiment",
    "Phase",
    "Plan",
    "Pointers",
    "Rules",
    "Signal",
    "State",
    "Units",
    "collect",
    "decide",
    "judged_needed",
    "stage_of",
]

Z_FINAL = 1.6448536269514722
"""One-sided 5% quantile of the normal distribution: the bound of the final test."""


def stage_of(plan: Plan, share: float) -> int:
    """Index of the stage that exposes ``share``; -1 below the first."""
    return sum(1 for s in plan.stages if s <= share + 1e-9) - 1


def judged_needed(plan: Plan, stage: int, rules: Rules) -> int:
    """Judged units of both arms that a stage needs before the next one (at the last stage: ``n_final``)."""
    if stage >= len(plan.stages) - 1:
        return plan.n_final
    full = rules.judged_steps[min(max(stage, 0), len(rules.judged_steps) - 1)]
    return math.ceil(full * min(1.0, plan.n_final / rules.judged_steps_at))


def decide(
    plan: Plan,
    deployment: Pointers,
    experiment: Experiment,
    control: Units,
    candidate: Units,
    *,
    now: float,
    state: State | None = None,
    rules: Rules | None = None,
) -> Decision:
    """One look. ``control`` and ``candidate`` hold the units of the two analysed arms since the experiment began.

    In the phase ``holdback`` the candidate is the promoted version and the control the old prompt's holdback.
    """
    rules, state = rules or Rules(), state or State()
    if experiment.phase == "ramp" and deployment.canary is None:
        return Decision("hold", "no_canary", "No canary is running.", state)
    if now < max(experiment.started_at, experiment.stage_started_at):
        return Decision(
            "hold", "clock", "The clock stands before the start of this stage; nothing is decided by it.", state
        )

    state = _hard_failures(control, candidate, state, now, rules)
    quality = statistics.difference(control.quality(), candidate.quality())
    checks = (
        _hard_signal(state, rules),
        *_validity(experiment, control, candidate, rules),
        *_quality(quality, control, candidate, rules),
        *_drift(control, candidate, rules),
    )
    table = tuple(signal for signal, _, _ in checks)
    for signal, action, reason in checks:
        if signal.crossed:
            return Decision(action, signal.name, reason, state, table=table)
    if experiment.phase == "holdback":
        if now - experiment.started_at >= rules.deadline:
            return Decision(
                "end_holdback",
                "watched",
                "The promoted prompt did no harm while the holdback lasted.",
                state,
                table=table,
            )
        return Decision("hold", "watching", "The promoted prompt is watched against the holdback.", state, table=table)
    decision = _advance(plan, deployment, experiment, quality, now, state, rules, table)
    return _balanced(decision, len(control), len(candidate), rules)


_Check = tuple[Signal, Action, str]


def _balanced(decision: Decision, n_control: int, n_candidate: int, rules: Rules) -> Decision:
    """Before anything grows: the chi-square test of the split, at these few planned looks only."""
    if decision.action not in ("next_stage", "promote"):
        return decision
    p = statistics.balance_p(n_control, n_candidate)
    row = Signal("sample_ratio_chi2", p, f"p < {rules.balance_p}", p < rules.balance_p)
    table = (*decision.table, row)
    if row.crossed:
        reason = _unbalanced(n_control, n_candidate)
        return Decision("inconclusive", "sample_ratio", reason, decision.state, table=table)
    return replace(decision, table=table)


def _hard_failures(control: Units, candidate: Units, state: State, now: float, rules: Rules) -> State:
    """Let whole blocks of units enter that appeared since the last look, in order of appearance.

    Only whole blocks: then blocks do not depend on when somebody looked, and a look from the very first unit on
    (without a kept state) comes to the same numbers as looks that went on from each other.
    """
    until = now - rules.settle
    old0, old1 = control.until(until), candidate.until(until)
    order = np.argsort(np.concatenate([control.first_at[:old0], candidate.first_at[:old1]]), kind="stable")
    fresh = order[state.entered : len(order) // rules.block * rules.block]
    if not len(fresh):
        return state
    failures = np.concatenate([control.failures[:, :old0], candidate.failures[:, :old1]], axis=1)[:, fresh]
    wealth, peak = statistics.harm_wealth(state.wealth, failures, fresh >= old0, block=rules.block)
    return State(state.entered + len(fresh), wealth, max(state.peak, peak))


def _hard_signal(state: State, rules: Rules) -> _Check:
    bound = 1 / rules.hard_alpha
    worst = HARD_SIGNALS[int(np.argmax(state.wealth.by_signal()))]
    reason = f"Hard failures: the average e-value reached {state.peak:.0f} (bound {bound:.0f}), led by {worst}."
    return Signal("hard_failures", state.peak, f">= {bound:.0f}", state.peak >= bound), "rollback", reason


def _validity(experiment: Experiment, control: Units, candidate: Units, rules: Rules) -> list[_Check]:
    n0, n1 = len(control), len(candidate)
    rows: list[_Check] = []
    if experiment.phase == "ramp":
        p = min(1.0, 1 / statistics.balance_e(n0, n1))
        broken = p < rules.balance_p
        row = Signal("sample_ratio", p, f"always-valid p < {rules.balance_p}", broken)
        rows.append((row, "inconclusive", _unbalanced(n0, n1)))
    share = experiment.crossed / max(n0 + n1, 1)
    reason = f"{share:.1%} of the units were seen in both arms."
    rows.append((Signal("crossed_units", share, f"> {rules.crossed}", share > rules.crossed), "inconclusive", reason))
    for name, then, today in (
        ("judge_changed", experiment.judge_then, experiment.judge_now),
        ("model_changed", experiment.model_then, experiment.model_now),
    ):
        changed = bool(then and today and then != today)
        reason = (
            f"The {name.partition('_')[0]} changed during the experiment, so early and late units cannot be compared."
        )
        rows.append((Signal(name, float(changed), "changed", changed), "inconclusive", reason))
    return rows


def _unbalanced(n_control: int, n_candidate: int) -> str:
    sizes = f"{n_control} control, {n_candidate} candidate"
    return f"The arms are not equally large ({sizes}): assignment or logging is broken."


def _quality(quality: Difference, control: Units, candidate: Units, rules: Rules) -> list[_Check]:
    enough = min(quality.n_control, quality.n_candidate) >= rules.min_units
    upper = statistics.upper_bound(quality, alpha=rules.quality_alpha, n_star=rules.n_star) if enough else math.inf
    reason = f"Quality fell by {-quality.effect:.3f}; the always-valid upper bound of the difference is {upper:+.3f}."
    rows: list[_Check] = [(Signal("quality", upper, "upper bound < 0", upper < 0), "rollback", reason)]
    tasks = sorted(control.tasks.keys() | candidate.tasks.keys())
    if tasks:
        evidence = {task: _task_e(control, candidate, task, rules) for task in tasks}
        mean = sum(evidence.values()) / len(evidence)
        bound = 1 / rules.task_alpha
        worst = max(evidence, key=lambda t: evidence[t])
        reason = f"One task is hurt ({worst}): the e-value averaged over tasks reached {mean:.0f}."
        rows.append((Signal("task_quality", mean, f">= {bound:.0f}", mean >= bound), "rollback", reason))
    return rows


def _task_e(control: Units, candidate: Units, task: str, rules: Rules) -> float:
    d = statistics.difference(control.task_quality(task), candidate.task_quality(task))
    if d.n < rules.task_units or not math.isfinite(d.se):
        return 1.0
    return statistics.mixture_e(d, alpha=rules.task_alpha, n_star=rules.n_star) if d.effect < 0 else 0.0


def _drift(control: Units, candidate: Units, rules: Rules) -> list[_Check]:
    rows: list[_Check] = []
    for name in ("tokens", "latency", "cost"):
        d = statistics.difference(control.log_mean(name), candidate.log_mean(name))
        enough = min(d.n_control, d.n_candidate) >= rules.min_units
        lower = statistics.lower_bound(d, alpha=rules.drift_alpha, n_star=rules.n_star) if enough else -math.inf
        crossed = lower > math.log(rules.drift)
        ratio = math.exp(min(d.effect, 50.0)) if math.isfinite(d.effect) else math.nan
        reason = f"{name.capitalize()} grew to {ratio:.2f} times the control's, beyond {rules.drift} for certain."
        value = math.exp(lower) if math.isfinite(lower) else math.nan
        rows.append((Signal(name, value, f"lower bound of the ratio > {rules.drift}", crossed), "pause", reason))
    return rows


def _advance(
    plan: Plan,
    deployment: Pointers,
    experiment: Experiment,
    quality: Difference,
    now: float,
    state: State,
    rules: Rules,
    table: tuple[Signal, ...],
) -> Decision:
    """Nothing is wrong: is it time for the final test, for more exposure, or to give up?"""
    stage = stage_of(plan, deployment.share)
    dwell = plan.dwell_hours[min(max(stage, 0), len(plan.dwell_hours) - 1)] * HOUR
    needed = judged_needed(plan, stage, rules)
    dwelt, judged = now - experiment.stage_started_at, quality.n
    last = stage >= len(plan.stages) - 1
    if (stage < 0 and plan.stages) or (not last and dwelt >= dwell and judged >= needed):
        share = plan.stages[stage + 1]
        return Decision(
            "next_stage", "no_harm", f"No harm at {deployment.share:.0%}: on to {share:.0%}.", state, share, table
        )
    if last and dwelt >= dwell and judged >= needed:
        z = statistics.not_worse(quality, margin=plan.margin)
        table = (*table, Signal("not_worse", z, f"> {Z_FINAL:.3f}", z > Z_FINAL))
        shown = f"difference {quality.effect:+.3f}, error {quality.se:.3f}, {judged} units"
        if z > Z_FINAL:
            return Decision("promote", "not_worse", f"Not worse by {plan.margin} ({shown}).", state, table=table)
        return Decision(
            "inconclusive", "not_shown", f"Not shown to be no worse by {plan.margin} ({shown}).", state, table=table
        )
    if now - experiment.started_at >= rules.deadline:
        days = rules.deadline / (24 * HOUR)
        reason = f"{judged} of {needed} judged units after {days:.0f} days: too little traffic to decide."
        return Decision("inconclusive", "deadline", reason, state, table=table)
    waited = f"{dwelt / HOUR:.1f} of {dwell / HOUR:.1f} hours"
    reason = f"Stage {stage + 1} of {len(plan.stages)}: {judged} of {needed} judged units, {waited}."
    return Decision("hold", "dwell", reason, state, table=table)
