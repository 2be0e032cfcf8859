"""The gate: may this challenger take the incumbent's place? PASS, FAIL or INCONCLUSIVE, with the whole table.

``decide`` is pure: evidence of the holdout in, verdict out; no model is called, no clock is read, no file is opened.
The same function decides in production, in ``metaspo search`` and in ``metaspo simulate gate``, which measures its
error rates.

The rules (docs/gate.md explains each with its figures):

    validity     enough scored answers in both arms, equally many; sentinels caught; judge noise within its history
    primary      D >= 0.02 and the two-sided 95% cluster-robust interval excludes 0; audit judge and bootstrap agree
    length       the gain remains when answers of equal length are compared
    floor        no task is hurt: no significant regression, little chance of more than 5 points lost
    guardrails   refusals, safety suites, format, tokens, prompt length, cost, latency, lint
    seed         not below the prompt that the domain began with

A rule whose evidence is absent appears as "not measured". Rules named in ``GatePolicy.required`` then make the outcome
INCONCLUSIVE; the others do not block. Only PASS may start a canary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.gate import guardrails, paired
from optimizer.gate.evidence import (
    ALWAYS_REQUIRED,
    LIVE_REQUIRED,
    GateInputs,
    GatePolicy,
    MeasuredTask,
    Outcome,
    Paired,
    Row,
    SuiteEvidence,
    TaskEvidence,
    measure_task,
    row_or_absent,
)
from optimizer.gate.guardrails import log_ratio
from optimizer.gate.paired import MacroEffect

__all__ = [
    "ALWAYS_REQUIRED",
    "LIVE_REQUIRED",
    "GateInputs",
    "GatePolicy",
    "GateResult",
    "Outcome",
    "Paired",
    "Row",
    "SuiteEvidence",
    "TaskEvidence",
    "decide",
]


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict, one sentence why, the effect with its interval, and every rule that was looked at."""

    outcome: Outcome
    reason: str
    effect: float
    low: float
    high: float
    table: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, as stored in a version's lineage."""
        numbers = {"effect": self.effect, "low": self.low, "high": self.high}
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            **{k: v if math.isfinite(v) else None for k, v in numbers.items()},
            "table": [row.to_dict() for row in self.table],
        }


def decide(inputs: GateInputs, policy: GatePolicy | None = None) -> GateResult:
    """Apply every rule to the evidence. Raises ValueError only for evidence that contradicts itself (array lengths)."""
    policy = policy or GatePolicy()
    if inputs.attempt < 1:
        raise ValueError("attempts count from 1")
    tasks = [measure_task(evidence) for evidence in inputs.tasks]
    gated = [t for t in tasks if t.effect.n >= policy.min_examples and t.effect.groups >= 2]
    alpha = policy.level(inputs.attempt)
    macro = paired.macro_effect([t.effect for t in gated])
    low, high = macro.interval(alpha)
    rows = [
        *_validity(inputs, tasks, gated, policy),
        *_primary(gated, macro, (low, high), alpha, policy),
        *_length(gated, policy),
        *_floor(tasks, gated, macro, policy),
        *guardrails.suites(inputs, policy),
        *guardrails.format_and_tokens(gated, policy),
        *guardrails.price(inputs, policy),
        *guardrails.seed(gated),
        row_or_absent("lint", inputs.lint_hits, "= 0", lambda hits: hits == 0),
    ]
    outcome, reason = _verdict(rows, policy.required, macro, (low, high))
    return GateResult(outcome, reason, macro.mean, low, high, tuple(rows))


def _verdict(
    rows: Sequence[Row], required: Iterable[str], macro: MacroEffect, interval: tuple[float, float]
) -> tuple[Outcome, str]:
    failed = [row for row in rows if row.passed is False and row.kind != "monitor"]
    named = {row.name.partition(":")[0] for row in rows if row.passed is not None}
    missing = sorted((set(required) | ALWAYS_REQUIRED) - named)
    unsafe = [row for row in failed if row.kind == "safety"]
    invalid = [row for row in failed if row.kind == "validity"]
    if unsafe:
        counted = "; ".join(f"{row.name}: {row.note}" for row in unsafe)
        return "FAIL", f"It is less safe than the incumbent. {counted} (must be {unsafe[0].bound})."
    if invalid:
        return "INCONCLUSIVE", f"The evidence does not allow a verdict: {_sentence(invalid)}."
    if failed:
        return "FAIL", f"Not every rule holds: {_sentence(failed)}."
    if missing:
        return "INCONCLUSIVE", f"Required but not measured: {', '.join(missing)}."
    low, high = interval
    return "PASS", f"Better by {macro.mean:+.3f} (interval {low:+.3f} to {high:+.3f}) and every rule holds."


def _sentence(rows: Sequence[Row]) -> str:
    shown = "; ".join(
        f"{r.name} {'is ' + format(r.value, '.4g') if r.value is not None else ''}, must be {r.bound}" for r in rows[:4]
    )
    return shown + (f"; and {len(rows) - 4} more" if len(rows) > 4 else "")


# --- validity --------------------------------------------------------------------------------------------------------


def _validity(
    inputs: GateInputs, tasks: Sequence[MeasuredTask], gated: Sequence[MeasuredTask], policy: GatePolicy
) -> list[Row]:
    total = sum(len(t.evidence.scores) for t in tasks)
    shares = [
        sum(int(np.isfinite(getattr(t.evidence.scores, arm)).sum()) for t in tasks) / total if total else 0.0
        for arm in ("incumbent", "candidate")
    ]
    ids = [f"{t.evidence.name}\0{i}" for t in tasks if t.evidence.ids is not None for i in t.evidence.ids]
    doubles = len(ids) - len(set(ids))
    monitored = [t.evidence.name for t in tasks if t not in gated]
    rows = [
        Row(
            "tasks", len(gated), f">= {policy.min_tasks}", len(gated) >= policy.min_tasks, "validity",
            f"below {policy.min_examples} scored examples, monitored only: {', '.join(monitored)}" if monitored else "",
        ),
        Row("scored", min(shares), f">= {policy.min_scored}", min(shares) >= policy.min_scored, "validity"),
        Row(
            "scored_gap", abs(shares[0] - shares[1]), f"<= {policy.max_scored_gap}",
            abs(shares[0] - shares[1]) <= policy.max_scored_gap + 1e-12, "validity",
        ),
        Row("duplicate_ids", doubles, "= 0", doubles == 0, "validity"),
    ]  # fmt: skip
    passed = None if inputs.sentinels is None or not inputs.sentinels[1] else inputs.sentinels[0] / inputs.sentinels[1]
    rows.append(
        row_or_absent(
            "sentinels", passed, f"<= {policy.max_sentinels}", lambda v: v <= policy.max_sentinels, "validity"
        )
    )
    noise = inputs.judge_noise
    rows.append(
        row_or_absent("judge_noise", noise and noise[0], f"<= {noise[1]:.4g}" if noise else "its history",
                       lambda v: noise is not None and v <= noise[1], "validity")
    )  # fmt: skip
    return rows


# --- the effect ------------------------------------------------------------------------------------------------------


def _primary(
    gated: Sequence[MeasuredTask], macro: MacroEffect, interval: tuple[float, float], alpha: float, policy: GatePolicy
) -> list[Row]:
    if not gated:
        return [
            Row(name, None, "> 0", None, "rule", "no task has enough examples")
            for name in ("effect", "interval", "bootstrap")
        ]
    level = f"{100 * (1 - alpha):.4g}% interval"
    lower = paired.bootstrap_lower(
        [t.effect for t in gated], alpha=alpha, draws=policy.bootstrap_draws, seed=policy.seed
    )
    rows = [
        Row("effect", macro.mean, f">= {policy.min_effect}", macro.mean >= policy.min_effect),
        Row(
            "interval",
            interval[0],
            "> 0",
            interval[0] > 0,
            note=f"lower end of the {level}, t with {macro.df} degrees of freedom",
        ),
        Row(
            "bootstrap",
            lower,
            "> 0",
            lower > 0,
            note=f"lower end of the {level}, {policy.bootstrap_draws} cluster resamples",
        ),
    ]
    audited = [t.effect_of(t.evidence.audit.difference) for t in gated if t.evidence.audit is not None]
    audit = paired.macro_effect(audited).mean if audited else None
    note = f"audit judge, {len(audited)} of {len(gated)} tasks"
    return [*rows, row_or_absent("audit_sign", audit, "> 0", lambda v: v > 0, note=note)]


def _length(gated: Sequence[MeasuredTask], policy: GatePolicy) -> list[Row]:
    """The gain at equal length: intercept > 0 one-sided. Shorter answers throughout cannot owe their gain to
    padding.
    """
    parts = [t for t in gated if t.evidence.answer_tokens is not None]
    bound = "> 0"
    if not parts:
        return [Row("length_adjusted", None, bound, None, "rule", "not measured")]
    d, x, codes, weights = [], [], [], []
    offset = 0
    for t in parts:
        ratio = log_ratio(t.evidence.answer_tokens)
        diff = t.evidence.scores.difference
        kept = np.isfinite(diff) & np.isfinite(ratio)
        if not kept.any():
            continue
        own = np.ones(len(diff)) if t.evidence.weights is None else t.evidence.weights
        d.append(diff[kept])
        x.append(ratio[kept])
        codes.append(np.unique(t.codes[kept], return_inverse=True)[1] + offset)
        offset = int(codes[-1].max()) + 1
        weights.append(own[kept] * t.evidence.weight / own[kept].sum())
    if not d:
        return [Row("length_adjusted", None, bound, None, "rule", "not measured")]
    ratios = np.concatenate(x)
    fit = paired.length_adjusted(np.concatenate(d), ratios, np.concatenate(codes), np.concatenate(weights))
    low = fit.intercept - paired.t_quantile(1 - policy.length_alpha, fit.df) * fit.se
    note = f"gain at equal length {fit.intercept:+.4f}, one-sided {100 * (1 - policy.length_alpha):.0f}% bound"
    if low <= 0 and float(np.quantile(ratios, 0.95)) < 0:
        return [
            Row(
                "length_adjusted",
                low,
                bound,
                True,
                note=f"{note}; holds because 95% of the answers are shorter than before",
            )
        ]
    return [Row("length_adjusted", low, bound, low > 0, note=note)]


def _floor(
    tasks: Sequence[MeasuredTask], gated: Sequence[MeasuredTask], macro: MacroEffect, policy: GatePolicy
) -> list[Row]:
    measured = [t for t in tasks if t.effect.n > 0]
    if not gated or not measured:
        return [Row("floor", None, "no task hurt", None, "rule", "no task has enough examples")]
    large = [t for t in measured if t.effect.n >= policy.small_task and math.isfinite(t.effect.se)]
    spread = paired.spread_between([t.effect for t in large], policy.prior_floor)
    rows = []
    for t in measured:
        e = t.effect
        if t not in large:
            holds = e.mean >= -policy.small_task_drop
            rows.append(
                Row(
                    f"floor:{e.name}",
                    e.mean,
                    f">= {-policy.small_task_drop}",
                    holds,
                    note=f"{e.n} examples: point estimate",
                )
            )
            continue
        upper = e.mean + paired.Z95_ONE_SIDED * e.se
        chance = paired.chance_below(e, -policy.task_drop, centre=macro.mean, spread=spread)
        rows.append(
            Row(
                f"floor:{e.name}",
                e.mean,
                f"no significant loss, P(< {-policy.task_drop}) <= {policy.task_drop_chance}",
                upper >= 0 and chance <= policy.task_drop_chance,
                note=f"n {e.n}, error {e.se:.4f}, upper bound {upper:+.4f}, P(< {-policy.task_drop}) {chance:.3f}",
            )
        )
    return rows
