"""What is on trial, as the registry tells it: when it began, and what the units of its arms did since."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from jobs.canary import Experiment, Phase, Rules, Units, collect
from jobs.judging import judge_id
from jobs.work import Work
from registry import Arm, AuditEntry, Deployment, Domain, Outcome, Sample

MOST_OF_THE_KEPT = 0.6
"""Of the outcomes that the registry keeps, for the arms on trial: 30,000 per arm by default, seven times what the final
test asks for."""
MOST_SAMPLES = 20_000
LATE = 0.2
"""A model that serves this share of the later half and none of the earlier one has come in between."""
ENOUGH_TO_COMPARE = 100


async def began(work: Work, domain: str, pointers: Deployment) -> tuple[float, float]:
    """(when the experiment began, when its present stage began), from the audit; the last move where it tells
    nothing.
    """
    stage: float | None = None
    for entry in await work.registry.history(domain, limit=500, moves_only=True):
        if entry.after is None or entry.after.experiment != pointers.experiment:
            continue
        if stage is None and entry.kind in {"canary", "share"}:
            stage = entry.at
        if entry.before is None or entry.before.experiment != pointers.experiment:
            return entry.at, stage if stage is not None else entry.at
    return pointers.moved_at, stage if stage is not None else pointers.moved_at


async def last_move(work: Work, domain: str, kinds: set[str]) -> float:
    """When the newest move of one of these kinds was made; 0.0 when there is none."""
    entries: Iterable[AuditEntry] = await work.registry.history(domain, limit=200, moves_only=True)
    return next((e.at for e in entries if e.kind in kinds), 0.0)


async def samples_since(work: Work, domain: str, since: float) -> dict[str, Sample]:
    """Kept exchanges by id, with the scores and votes that have come for them."""
    return {s.id: s for s in await work.registry.samples(domain, since=since, limit=MOST_SAMPLES)}


async def outcomes_since(work: Work, domain: str, since: float, arms: tuple[Arm, ...]) -> list[Outcome]:
    """What the compared arms did since the trial began: the bulk of a young canary's traffic is in neither."""
    most = int(MOST_OF_THE_KEPT * work.settings.retention.outcomes)
    return await work.registry.outcomes(domain, arm=arms, since=since, limit=most)


def units(outcomes: Sequence[Outcome], samples: dict[str, Sample]) -> Units:
    """One arm's exchanges as units, with the scores and votes that came later joined by the exchange's id."""
    joined = [_joined(o, samples.get(o.exchange)) for o in outcomes]
    task_of = {o.exchange: samples[o.exchange].task for o in joined if o.exchange in samples}
    whole = collect(joined, task_of=lambda e: task_of.get(getattr(e, "exchange", ""), ""))
    first: dict[str, float] = {}
    for outcome in joined:
        first[outcome.unit] = min(outcome.at, first.get(outcome.unit, outcome.at))
    settle = Rules().settle
    early = collect([o for o in joined if o.at <= first[o.unit] + settle])
    order = np.argsort(early.first_at, kind="stable")
    return Units(whole.first_at, early.failures[:, order], whole.scores, whole.logs, whole.tasks)


def _joined(outcome: Outcome, sample: Sample | None) -> Outcome:
    if sample is None:
        return outcome
    score = outcome.score if outcome.score is not None else sample.score
    negative = outcome.negative or (sample.feedback is not None and sample.feedback < 0.5)
    return msgspec.structs.replace(outcome, score=score, negative=negative)


def standing(
    domain: Domain,
    started: float,
    stage_started: float,
    outcomes: Sequence[Outcome],
    samples: dict[str, Sample],
    pointers: Deployment,
    phase: Phase = "ramp",
) -> Experiment:
    """Where the trial stands, and whether it still measures with the same rod."""
    ours = [o for o in outcomes if phase == "holdback" or o.experiment == pointers.experiment]
    arms = {arm: {o.unit for o in ours if o.arm == arm} for arm in ("control", "canary")}
    trial = sorted((s for s in samples.values() if s.arm in {"control", "canary", "holdback"}), key=lambda s: s.at)
    judges = {s.task: s.score_by for s in reversed(trial) if s.score_by.startswith("judge:")}
    now = {t: judge_id(domain, domain.tasks[t].judge) for t in judges if t in domain.tasks}
    then, late = _models(trial)
    return Experiment(
        started_at=started,
        stage_started_at=stage_started,
        phase=phase,
        crossed=len(arms["control"] & arms["canary"]),
        judge_then=" ".join(judges[t] for t in sorted(now)),
        judge_now=" ".join(now[t] for t in sorted(now)),
        model_then=then,
        model_now=late,
    )


def _models(trial: Sequence[Sample]) -> tuple[str, str]:
    """Names of the upstream's models then and now; both empty while there is too little to compare."""
    half = len(trial) // 2
    if half < ENOUGH_TO_COMPARE:
        return "", ""
    early, late = [s.model for s in trial[:half]], [s.model for s in trial[half:]]
    fresh = sorted({m for m in late if late.count(m) >= LATE * len(late)} - set(early))
    known = " ".join(sorted(set(early)))
    return (known, " ".join(fresh)) if fresh else (known, known)
