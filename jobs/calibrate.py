"""Job ``calibrate``: how far the judge can be believed, and whether it agrees with itself.

People's labels (console, API) are compared with the judge's scores of the same answers: kappa, sensitivity,
specificity. Then up to 50 answers that it has judged are judged once more: the share of verdicts that change sides is
its own noise, a health metric. What was found stands in the domain's audit as ``calibration``; ``latest`` reads it
back.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from jobs import judge, judging
from jobs.agreement import Agreement, agreement, corrected_rate, flip_rate
from jobs.errors import NoWork
from jobs.work import Work
from registry import Domain, JudgeSpec, Registry, Sample

AGAIN = 50
KIND = "calibration"
LOOK_BACK = 500


async def run(work: Work) -> str:
    """Calibrate one domain's judge. Raises NoWork when there is no judge, or nothing labelled and nothing judged."""
    domain = await work.domain()
    judging.judge_model(work, domain)
    samples = [s for s in await work.registry.samples(domain.name, limit=5_000) if s.score_by.startswith("judge:")]
    current = [s for s in samples if s.score_by == judging.judge_id(domain, _spec(domain, s))]
    if not current:
        raise NoWork("nothing_judged", f"The present judge of {domain.name!r} has not judged anything yet.")
    found = agreement([(s.score, s.label) for s in current if s.score is not None and s.label is not None])
    flips = await judged_again(work, domain, current)
    scores = [s.score for s in current if s.score is not None]
    good = sum(s >= 0.5 for s in scores) / len(scores) if scores else 0.0
    corrected = corrected_rate(good, len(scores), found)
    detail = {
        "agreement": msgspec.to_builtins(found),
        "flip_rate": flips,
        "judges": judges(domain),
        "good": good,
        "corrected": corrected,
        "calibrated": found.calibrated,
    }
    why = in_words(found, flips)
    await work.registry.append_audit(
        domain.name, KIND, actor="jobs", why=why, detail=detail, request_id=f"calibration-{work.trigger.id}"
    )
    if found.kappa is not None:
        work.metrics.judge_kappa.labels(domain.name).set(found.kappa)
    if flips is not None:
        work.metrics.judge_flips.labels(domain.name).set(flips)
    return why


async def judged_again(work: Work, domain: Domain, samples: Sequence[Sample]) -> float | None:
    """Ask about some answers a second time; the share of verdicts that change sides. None when the budget has no
    room.
    """
    chosen = sorted(samples, key=lambda s: hashlib.sha256(f"{work.trigger.id}|{s.id}".encode()).digest())[:AGAIN]
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in chosen:
        by_task[sample.task].append(sample)
    before: list[float | None] = []
    after: list[float | None] = []
    for group in by_task.values():
        if not await judge.room_in_budget(work, domain.name, len(group)):
            continue
        found = await judging.ask(work, domain, _spec(domain, group[0]), group, round_=work.trigger.id)
        await judge.count_spending(work, domain.name, found.calls, found.usd)
        before += [s.score for s in group]
        after += [v.score if v is not None else None for v in found.verdicts]
    return flip_rate(before, after)


def _spec(domain: Domain, sample: Sample) -> JudgeSpec:
    task = domain.tasks.get(sample.task)
    return task.judge if task else JudgeSpec(kind="rubric")


def judges(domain: Domain) -> list[str]:
    """Identities of the judges of a domain's rubric tasks as they are now, and of the general rubric."""
    specs = [task.judge for task in domain.tasks.values() if task.judge.kind == "rubric"]
    return sorted({judging.judge_id(domain, spec) for spec in (*specs, JudgeSpec(kind="rubric"))})


async def latest(registry: Registry, domain: str) -> Agreement | None:
    """The last calibration of a domain's judge; None when there was none."""
    for entry in await registry.history(domain, limit=LOOK_BACK):
        if entry.kind == KIND:
            return msgspec.convert(entry.detail.get("agreement"), Agreement)
    return None


def in_words(found: Agreement, flips: float | None) -> str:
    """One sentence for people."""
    if found.kappa is None or found.kappa_low is None or found.kappa_high is None:
        told = f"{found.n} labels are too few or all of one kind to compare the judge with"
    else:
        verdict = "calibrated" if found.calibrated else "not calibrated"
        told = (
            f"kappa {found.kappa:.2f} ({found.kappa_low:.2f} to {found.kappa_high:.2f}) on {found.n} labels: {verdict}"
        )
    return told if flips is None else f"{told}; {flips:.0%} of verdicts change when judged again"
