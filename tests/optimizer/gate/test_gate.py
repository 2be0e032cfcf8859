"""Every rule of the gate: what passes, what fails, what is inconclusive, and what happens to evidence that is
missing.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from optimizer.gate.decision import (
    GateInputs,
    GatePolicy,
    GateResult,
    Paired,
    Row,
    SuiteEvidence,
    TaskEvidence,
    decide,
)
from optimizer.gate.evidence import ALWAYS_REQUIRED, LIVE_REQUIRED

N = 100


def scores(gain: float, *, seed: int, n: int = N, base: float = 0.7) -> Paired:
    """Pass/fail scores with exactly ``base`` passes before and ``gain`` more after; a fifth of the rest flips both
    ways.
    """
    rng = np.random.default_rng(seed)
    before = np.zeros(n)
    before[: round(base * n)] = 1.0
    after = before.copy()
    flips = round(0.05 * n)
    after[:flips] = 0.0
    up = flips + round(gain * n)
    after[round(base * n) : round(base * n) + max(up, 0)] = 1.0
    if up < 0:
        after[flips : flips - up] = 0.0
    order = rng.permutation(n)
    return Paired(before[order], after[order])


def task(name: str, gain: float = 0.08, *, seed: int = 0, n: int = N) -> TaskEvidence:
    rng = np.random.default_rng(seed + 1)
    tokens = np.exp(4 + 0.3 * rng.standard_normal(n))
    return TaskEvidence(
        name=name,
        scores=scores(gain, seed=seed, n=n),
        ids=[f"{i}" for i in range(n)],
        answer_tokens=Paired(tokens, tokens * np.exp(0.05 * rng.standard_normal(n))),
        valid_format=Paired(np.ones(n), np.ones(n)),
    )


def suite(new: int = 0, mended: int = 0, n: int = 100, *, critical: bool = False) -> SuiteEvidence:
    before, after = np.zeros(n), np.zeros(n)
    after[:new] = 1.0
    before[n - mended : n] = 1.0
    return SuiteEvidence(Paired(before, after), np.full(n, critical))


def good(**changes: object) -> GateInputs:
    """Evidence of a candidate that deserves to pass, with everything measured."""
    inputs = GateInputs(
        tasks=[task(f"t{i}", seed=i) for i in range(6)],
        unsafe=suite(),
        over_refusal=suite(),
        injection=suite(),
        prompt_tokens=(100, 140),
        cost_per_request=(0.001, 0.00105),
        latencies=(np.full(50, 1.0), np.full(50, 1.02)),
        sentinels=(0, 20),
        judge_noise=(0.02, 0.05),
        lint_hits=0,
    )
    return replace(inputs, **changes)  # type: ignore[arg-type]


def row(result: GateResult, name: str) -> Row:
    return next(r for r in result.table if r.name == name)


def failed(result: GateResult) -> set[str]:
    return {r.name for r in result.table if r.passed is False}


def test_a_good_candidate_passes_every_rule() -> None:
    result = decide(good(), GatePolicy(required=LIVE_REQUIRED))
    assert result.outcome == "PASS", result.reason
    assert not failed(result)
    assert result.low > 0 and result.effect == pytest.approx(0.08)
    assert {"audit_sign", "seed"} == {r.name for r in result.table if r.passed is None}


def test_the_result_is_json_and_names_every_rule() -> None:
    told = json.loads(json.dumps(decide(good()).to_dict(), allow_nan=False))
    assert told["outcome"] == "PASS"
    assert all(set(r) == {"name", "value", "bound", "passed", "kind", "note"} for r in told["table"])


def test_the_verdict_is_a_function_of_the_evidence() -> None:
    assert decide(good()) == decide(good())


def test_no_gain_fails() -> None:
    result = decide(good(tasks=[task(f"t{i}", 0.0, seed=i) for i in range(6)]))
    assert result.outcome == "FAIL"
    assert {"effect", "interval", "bootstrap"} <= failed(result)


def test_a_sure_but_tiny_gain_fails() -> None:
    tasks = [TaskEvidence(name=f"t{i}", scores=Paired(np.full(N, 0.5), np.full(N, 0.51))) for i in range(6)]
    result = decide(good(tasks=tasks))
    assert result.outcome == "FAIL"
    assert failed(result) == {"effect"}


def test_two_lucky_examples_do_not_make_a_gain() -> None:
    before = np.ones(60)
    before[:2] = 0.0
    tasks = [TaskEvidence(name=f"t{i}", scores=Paired(before, np.ones(60))) for i in range(3)]
    result = decide(good(tasks=tasks))
    assert "interval" not in failed(result) or result.outcome == "FAIL"
    assert result.effect == pytest.approx(2 / 60)


# --- validity --------------------------------------------------------------------------------------------------------


def with_unscored(evidence: TaskEvidence, *, incumbent: int = 0, candidate: int = 0) -> TaskEvidence:
    before, after = evidence.scores.incumbent.copy(), evidence.scores.candidate.copy()
    before[:incumbent] = np.nan
    after[N - candidate :] = np.nan
    return replace(evidence, scores=Paired(before, after))


def test_too_many_unscored_is_inconclusive_not_failed() -> None:
    tasks = [with_unscored(task(f"t{i}", seed=i), incumbent=3, candidate=3) for i in range(6)]
    result = decide(good(tasks=tasks))
    assert result.outcome == "INCONCLUSIVE"
    assert failed(result) == {"scored"}


def test_unequal_unscored_is_inconclusive() -> None:
    tasks = [with_unscored(task(f"t{i}", seed=i), candidate=2) for i in range(6)]
    result = decide(good(tasks=tasks))
    assert (result.outcome, failed(result)) == ("INCONCLUSIVE", {"scored_gap"})


def test_missing_judgements_never_count_as_zero() -> None:
    clean = decide(good())
    tasks = [with_unscored(task(f"t{i}", seed=i), incumbent=1, candidate=1) for i in range(6)]
    holed = decide(good(tasks=tasks))
    assert abs(holed.effect - clean.effect) < 0.02


def test_duplicate_ids_are_no_evidence() -> None:
    twice = replace(task("t0"), ids=["a"] * N)
    result = decide(good(tasks=[twice, *(task(f"t{i}", seed=i) for i in range(1, 6))]))
    assert (result.outcome, failed(result)) == ("INCONCLUSIVE", {"duplicate_ids"})


def test_a_judge_that_passes_planted_rubbish_voids_the_run() -> None:
    result = decide(good(sentinels=(2, 20)))
    assert (result.outcome, failed(result)) == ("INCONCLUSIVE", {"sentinels"})


def test_a_judge_noisier_than_ever_voids_the_run() -> None:
    assert decide(good(judge_noise=(0.09, 0.05))).outcome == "INCONCLUSIVE"


def test_small_tasks_are_watched_but_do_not_count() -> None:
    tasks = [*(task(f"t{i}", seed=i) for i in range(3)), task("small", gain=0.5, n=40)]
    result = decide(good(tasks=tasks))
    assert result.effect == pytest.approx(0.08)
    assert "small" in row(result, "tasks").note
    assert row(result, "floor:small").passed


def test_two_tasks_are_too_few() -> None:
    result = decide(good(tasks=[task("a"), task("b", seed=1)]))
    assert (result.outcome, failed(result)) == ("INCONCLUSIVE", {"tasks"})


def test_no_task_at_all_is_inconclusive() -> None:
    result = decide(GateInputs(tasks=[]))
    assert result.outcome == "INCONCLUSIVE"
    json.dumps(result.to_dict(), allow_nan=False)


# --- the floor -------------------------------------------------------------------------------------------------------


def test_one_ruined_task_blocks_a_gain_elsewhere() -> None:
    tasks = [*(task(f"t{i}", 0.10, seed=i) for i in range(5)), task("ruined", -0.20, seed=9)]
    result = decide(good(tasks=tasks))
    assert result.outcome == "FAIL"
    assert "floor:ruined" in failed(result)


def test_a_small_task_is_held_to_its_point_estimate() -> None:
    tasks = [*(task(f"t{i}", seed=i) for i in range(5)), task("tiny", -0.15, n=20)]
    assert "floor:tiny" in failed(decide(good(tasks=tasks)))
    tasks[-1] = task("tiny", -0.05, n=20)
    assert "floor:tiny" not in failed(decide(good(tasks=tasks)))


def test_noise_in_one_task_is_borrowed_strength_for() -> None:
    """A task that looks four points worse among tasks that gain is most likely not: shrinkage keeps power."""
    tasks = [*(task(f"t{i}", 0.08, seed=i) for i in range(5)), task("noisy", -0.03, seed=9)]
    result = decide(good(tasks=tasks))
    assert "floor:noisy" not in failed(result)


# --- audit, length, seed ---------------------------------------------------------------------------------------------


def test_the_audit_judge_must_agree_in_sign() -> None:
    disagree = Paired(np.full(N, 0.6), np.full(N, 0.58))
    result = decide(good(tasks=[replace(task(f"t{i}", seed=i), audit=disagree) for i in range(6)]))
    assert (result.outcome, failed(result)) == ("FAIL", {"audit_sign"})
    agree = Paired(np.full(N, 0.6), np.full(N, 0.61))
    assert decide(good(tasks=[replace(task(f"t{i}", seed=i), audit=agree) for i in range(6)])).outcome == "PASS"


def padded(seed: int) -> TaskEvidence:
    """A judge that likes length: the gain is there exactly as far as answers grew."""
    rng = np.random.default_rng(seed)
    growth = np.where(rng.random(N) < 0.4, 0.30, 0.0) + 0.02 * rng.standard_normal(N)
    before, tokens = np.full(N, 0.5), np.exp(4 + 0.2 * rng.standard_normal(N))
    after = before + 0.8 * growth + 0.05 * rng.standard_normal(N) - 0.005
    return TaskEvidence(
        name=f"t{seed}", scores=Paired(before, after), answer_tokens=Paired(tokens, tokens * np.exp(growth))
    )


def test_a_gain_that_is_only_length_fails() -> None:
    result = decide(good(tasks=[padded(s) for s in range(6)]))
    assert result.outcome == "FAIL"
    assert "length_adjusted" in failed(result)
    assert result.effect > 0.05


def test_shorter_answers_throughout_cannot_owe_their_gain_to_padding() -> None:
    rng = np.random.default_rng(4)
    tasks = [
        replace(
            task(f"t{i}", seed=i), answer_tokens=Paired(np.full(N, 80.0), np.round(8 * np.exp(rng.normal(0, 0.2, N))))
        )
        for i in range(6)
    ]
    result = decide(good(tasks=tasks))
    assert row(result, "length_adjusted").passed
    assert result.outcome == "PASS"


def test_falling_below_the_first_prompt_fails() -> None:
    tasks = [replace(task(f"t{i}", seed=i), seed_scores=np.full(N, 0.9)) for i in range(6)]
    result = decide(good(tasks=tasks))
    assert (result.outcome, failed(result)) == ("FAIL", {"seed"})


# --- guardrails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unsafe", "injection"])
def test_a_safety_loss_fails_whatever_else_is_true(name: str) -> None:
    result = decide(good(**{name: suite(new=4, mended=1)}, sentinels=(10, 20)))
    assert result.outcome == "FAIL"
    assert name in failed(result)
    assert "less safe" in result.reason and "new failures" in result.reason, result.reason


def test_one_flip_is_noise_unless_it_is_critical() -> None:
    assert decide(good(unsafe=suite(new=1))).outcome == "PASS"
    assert decide(good(unsafe=suite(new=1, critical=True))).outcome == "FAIL"


def test_an_answer_that_never_came_is_not_a_safe_answer() -> None:
    before, after = np.zeros(100), np.zeros(100)
    after[3] = np.nan
    assert decide(good(injection=SuiteEvidence(Paired(before, after)))).outcome == "FAIL"


def test_over_refusal() -> None:
    assert decide(good(over_refusal=suite(new=1))).outcome == "PASS"
    assert failed(decide(good(over_refusal=suite(new=2)))) == {"over_refusal"}
    assert decide(good(over_refusal=suite(new=0, mended=30))).outcome == "PASS"


def test_format_may_not_get_worse() -> None:
    worse = np.ones(N)
    worse[:2] = 0.0
    tasks = [replace(task(f"t{i}", seed=i), valid_format=Paired(np.ones(N), worse)) for i in range(6)]
    assert failed(decide(good(tasks=tasks))) == {"format"}


def test_answers_may_not_bloat() -> None:
    tasks = [
        replace(task(f"t{i}", seed=i), answer_tokens=Paired(np.full(N, 100.0), np.full(N, 118.0))) for i in range(6)
    ]
    assert "output_tokens" in failed(decide(good(tasks=tasks)))


@pytest.mark.parametrize(
    ("tokens", "passes"),
    [
        ((10, 300), True),
        ((10, 301), False),
        ((400, 600), True),
        ((400, 601), False),
        ((700, 800), True),
        ((700, 801), False),
    ],
)
def test_prompt_length(tokens: tuple[int, int], passes: bool) -> None:
    assert (decide(good(prompt_tokens=tokens)).outcome == "PASS") is passes


def test_cost_and_latency() -> None:
    assert failed(decide(good(cost_per_request=(0.001, 0.00111)))) == {"cost"}
    assert failed(decide(good(latencies=(np.full(50, 1.0), np.full(50, 1.11))))) == {"latency_p50"}
    slow_tail = np.concatenate([np.full(45, 1.0), np.full(5, 3.0)])
    assert failed(decide(good(latencies=(np.full(50, 1.0), slow_tail)))) == {"latency_p95"}


def test_lint_hits_fail() -> None:
    assert failed(decide(good(lint_hits=2))) == {"lint"}


# --- absent evidence, repeated attempts ------------------------------------------------------------------------------


def test_what_was_not_measured_is_said_and_blocks_only_where_required() -> None:
    bare = GateInputs(tasks=[replace(task(f"t{i}", seed=i), answer_tokens=None, valid_format=None) for i in range(6)])
    result = decide(bare)
    assert result.outcome == "PASS"
    absent = {r.name for r in result.table if r.passed is None}
    assert {"unsafe", "injection", "over_refusal", "format", "output_tokens", "prompt_tokens", "cost", "lint"} <= absent
    assert all("not measured" in r.note for r in result.table if r.passed is None)
    live = decide(bare, GatePolicy(required=LIVE_REQUIRED))
    assert live.outcome == "INCONCLUSIVE"
    assert "unsafe" in live.reason


def test_the_core_rules_cannot_be_made_optional() -> None:
    assert decide(GateInputs(tasks=[]), GatePolicy(required=frozenset(), min_tasks=0)).outcome == "INCONCLUSIVE"
    assert ALWAYS_REQUIRED <= LIVE_REQUIRED


def test_spending_alpha_over_attempts() -> None:
    policy = GatePolicy(spend_alpha=True)
    assert policy.level(1) == GatePolicy().level(1), "the first attempt is held to the published interval"
    assert policy.level(2) == pytest.approx(2 * 0.05 * 6 / (math.pi**2 * 4))
    one_sided = sum(policy.level(j) / 2 for j in range(1, 100_000))
    assert one_sided == pytest.approx(0.025 + 0.05 * (1 - 6 / math.pi**2), rel=1e-4)
    assert one_sided < 0.05
    assert GatePolicy().level(7) == 0.05
    first, tenth = (decide(good(attempt=j), policy) for j in (1, 10))
    assert tenth.low < first.low < tenth.effect
    with pytest.raises(ValueError, match="count from 1"):
        decide(good(attempt=0))


def test_contradictory_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="equal length"):
        Paired(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="one entry for each"):
        decide(good(tasks=[replace(task("t"), weights=np.ones(3))]))
    with pytest.raises(ValueError, match="cluster names"):
        decide(good(tasks=[replace(task("t"), clusters=["a"])]))


def test_clusters_of_copies_do_not_make_evidence() -> None:
    """The same 20 examples copied five times are 20 examples."""
    few = scores(0.15, seed=3, n=20)
    copies = Paired(np.repeat(few.incumbent, 5), np.repeat(few.candidate, 5))
    clusters = np.repeat(np.arange(20), 5)
    alone = decide(good(tasks=[TaskEvidence(name=f"t{i}", scores=copies) for i in range(3)]))
    grouped = decide(good(tasks=[TaskEvidence(name=f"t{i}", scores=copies, clusters=clusters) for i in range(3)]))
    assert grouped.low < alone.low
    assert grouped.effect == pytest.approx(alone.effect)
    assert math.isfinite(grouped.low)
