"""Job ``judge``: scores for fresh samples of every arm.

A sample with a reference from people is scored by the task's own rule, at no cost. One without waits for a reference,
unless its task is judged by a rubric: then the judge model is asked, in batches with planted sentinels, within the
domain's budget of the day. When the budget is spent nothing is judged until tomorrow; serving does not notice.

Samples of a running canary and its control come first, then the holdback, then the rest, newest first; of one unit in
one arm at most three, since only those count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import optimizer
from jobs import convert, judging, scores
from jobs.errors import NoWork
from jobs.work import Work
from registry import Domain, JudgeSpec, NotFound, Sample

BATCH = 25
MOST_LOOKED_AT = 5_000
"""Unscored samples looked at in one firing: references may come long after the answer."""
MOST_AT_ONCE = 400
"""Of these, asked of the judge model in one firing; the next one comes soon."""
PER_UNIT = 3
DAY = 86_400
KEPT_DAYS = 9
"""Days for which a day's spending is kept: the weekly report adds it up."""
_FIRST = {"canary": 0, "control": 0, "holdback": 1, "stable": 2, "none": 3}


async def run(work: Work) -> str:
    """Score what can be scored. Raises NoWork when nothing can."""
    domain = await work.domain()
    fresh = choose(await work.registry.samples(domain.name, unscored_only=True, limit=MOST_LOOKED_AT))
    by_rule, by_model = sort_out(domain, fresh)
    scored = await score_by_rule(work, domain, by_rule)
    scored += await score_by_model(work, domain, by_model[:MOST_AT_ONCE])
    await scores.publish(work.registry, work.metrics)
    if not fresh:
        raise NoWork("nothing_fresh", f"No unscored samples of {domain.name!r}.")
    return f"{scored} of {len(fresh)} fresh samples scored"


def choose(samples: Iterable[Sample]) -> list[Sample]:
    """The order of judging: arms on trial first, and no more of a unit than counts."""
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    for sample in sorted(samples, key=lambda s: (_FIRST[s.arm], -s.at, s.id)):
        taken[sample.arm, sample.unit] += 1
        if (
            taken[sample.arm, sample.unit] <= PER_UNIT
            and not sample.skipped
            and sample.status < 400
            and sample.messages
        ):
            chosen.append(sample)
    return chosen


def sort_out(
    domain: Domain, samples: Iterable[Sample]
) -> tuple[list[tuple[Sample, JudgeSpec]], list[tuple[Sample, JudgeSpec]]]:
    """(scored by rule, asked of the judge model); what fits neither waits for a reference."""
    by_rule, by_model = [], []
    for sample in samples:
        task = domain.tasks.get(sample.task)
        spec = task.judge if task else JudgeSpec(kind="rubric" if not sample.reference else "f1")
        if spec.kind == "rubric":
            by_model.append((sample, spec))
        elif sample.reference:
            by_rule.append((sample, spec))
    return by_rule, by_model


# --- by rule ---------------------------------------------------------------------------------------------------------


async def score_by_rule(work: Work, domain: Domain, samples: Sequence[tuple[Sample, JudgeSpec]]) -> int:
    """Compare with the reference, as the search does. Returns how many got a score."""
    scored = 0
    for sample, spec in samples:
        try:
            judge = optimizer.judge_for(convert.judge_spec(spec))
        except optimizer.OptimizerError:
            continue
        verdict = getattr(judge, "verdict", None)
        if verdict is not None:
            scored += await _write(
                work, domain, sample, verdict(judging.example_of(sample), sample.answer), f"reference:{spec.kind}"
            )
    return scored


# --- by the judge model ----------------------------------------------------------------------------------------------


async def score_by_model(work: Work, domain: Domain, samples: Sequence[tuple[Sample, JudgeSpec]]) -> int:
    """Ask in batches of one task while the day's budget lasts. Returns how many got a score."""
    if not domain.judge_model:
        return 0
    by_task: dict[str, list[tuple[Sample, JudgeSpec]]] = defaultdict(list)
    for sample, spec in samples:
        by_task[sample.task].append((sample, spec))
    scored = 0
    for group in by_task.values():
        for batch in _batches(group, BATCH):
            if not await room_in_budget(work, domain.name, len(batch)):
                work.metrics.unscored.labels(domain.name, "budget").inc(len(batch))
                return scored
            scored += await _judge_batch(work, domain, [s for s, _ in batch], batch[0][1])
    return scored


async def _judge_batch(work: Work, domain: Domain, samples: Sequence[Sample], spec: JudgeSpec) -> int:
    work.held.check()
    judged = await judging.ask(work, domain, spec, samples)
    await count_spending(work, domain.name, judged.calls, judged.usd)
    by = judging.judge_id(domain, spec)
    if judged.void:
        work.metrics.unscored.labels(domain.name, "sentinels").inc(len(samples))
        await work.registry.append_audit(
            domain.name, "judge-void", actor="jobs",
            why="The judge passed planted bad answers; none of this batch is believed.",
            detail={"judge": by, "samples": len(samples)},
        )  # fmt: skip
        return 0
    scored = 0
    for sample, verdict in zip(samples, judged.verdicts, strict=True):
        if verdict is not None:
            scored += await _write(work, domain, sample, verdict, by)
    return scored


async def _write(work: Work, domain: Domain, sample: Sample, verdict: optimizer.Verdict, by: str) -> int:
    reason = _bounded(verdict.unscored)
    try:
        await work.registry.set_score(sample.id, verdict.score, by, reason)
    except NotFound:
        return 0
    if verdict.score is None:
        work.metrics.unscored.labels(domain.name, reason).inc()
        return 0
    if sample.version is not None:
        work.metrics.judge_score.labels(domain.name, str(sample.version)).observe(verdict.score)
    return 1


def _bounded(reason: str) -> str:
    """A reason as a metric label: the judges' reasons are few; anything else is ``other``."""
    known = {
        "judge unreadable": "unreadable",
        "judge truncated": "truncated",
        "judge refused": "refused",
        "judge filtered": "filtered",
        "judge could not assess enough": "not_assessed",
    }
    return known.get(reason, "other") if reason else ""


def _batches(items: Sequence[tuple[Sample, JudgeSpec]], size: int) -> Iterable[Sequence[tuple[Sample, JudgeSpec]]]:
    return (items[i : i + size] for i in range(0, len(items), size))


# --- the day's budget ------------------------------------------------------------------------------------------------


async def room_in_budget(work: Work, domain: str, answers: int) -> bool:
    """Whether the day still has room for judging so many answers. A budget of 0 judges nothing."""
    limits = work.settings.jobs
    spent = await _spent(work, domain, {"calls": 0.0})
    usd_left = limits.judge_usd_per_day is None or spent.get("usd", 0.0) < limits.judge_usd_per_day
    work.metrics.spent(
        "judge",
        (spent.get("calls", 0.0), limits.judge_calls_per_day),
        (spent.get("usd", 0.0), limits.judge_usd_per_day),
    )
    return usd_left and spent.get("calls", 0.0) + judging.CALLS_PER_ANSWER * answers <= limits.judge_calls_per_day


async def count_spending(work: Work, domain: str, calls: int, usd: float) -> None:
    await _spent(work, domain, {"calls": float(calls), "usd": usd})


async def spent_since(work: Work, domain: str, since: float) -> dict[str, float]:
    """Calls and USD that judging took from the UTC day of ``since`` on, of at most the last week."""
    total = {"calls": 0.0, "usd": 0.0}
    today = int(work.clock() // DAY)
    for day in range(max(int(since // DAY), today - KEPT_DAYS + 1), today + 1):
        name = f"judging-{domain}"
        found = await work.registry.add_usage({name: {"calls": 0.0}}, f"day-{day}", KEPT_DAYS * DAY)
        total = {field: amount + found[name].get(field, 0.0) for field, amount in total.items()}
    return total


async def _spent(work: Work, domain: str, more: dict[str, float]) -> dict[str, float]:
    name = f"judging-{domain}"
    totals = await work.registry.add_usage({name: more}, f"day-{int(work.clock() // DAY)}", KEPT_DAYS * DAY)
    return totals[name]
