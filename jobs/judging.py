"""Asking the judge model about answers of live traffic, through the optimizer's one path of model calls."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

import optimizer
from jobs import convert, sentinels
from jobs.errors import BadModel, NoWork
from jobs.replies import placed_backends
from jobs.settings import find_endpoint
from jobs.work import Work
from registry import Domain, JudgeSpec, Sample

CALLS_PER_ANSWER = 2
"""At most: the question, and one repair."""


class Judged(msgspec.Struct, frozen=True):
    """What came of one batch. ``verdicts`` stand beside the samples; all are None when the batch is void."""

    verdicts: tuple[optimizer.Verdict | None, ...]
    calls: int
    usd: float
    void: bool


def example_of(sample: Sample) -> optimizer.Example:
    """The exchange as the judge sees it: what was asked and what came before, never the injected prompt or the arm."""
    return optimizer.Example(
        id=sample.id,
        question=sample.messages[-1].content if sample.messages else "",
        answers=(sample.reference,) if sample.reference else (),
        history=tuple((m.role, m.content) for m in sample.messages[:-1]),
        unit=sample.unit,
    )


def judge_id(domain: Domain, spec: JudgeSpec) -> str:
    """Names the measuring rod: scores of different ids are never compared. Model and criteria are in it."""
    decisive = msgspec.json.encode([domain.judge_model, spec], order="deterministic")
    return f"judge:{hashlib.sha256(decisive).hexdigest()[:12]}"


async def ask(work: Work, domain: Domain, spec: JudgeSpec, samples: Sequence[Sample], *, round_: str = "") -> Judged:
    """Judge a batch of answers to one task, sentinels among them. ``round_`` tells repeats of the same question apart.

    Raises NoWork (no judge model), OptimizerError (the endpoint is down or refuses).
    """
    examples = [example_of(s) for s in samples]
    batch = sentinels.plant(examples, [s.answer for s in samples])
    model = judge_model(work, domain)
    name = hashlib.sha256(msgspec.json.encode([round_, [s.id for s in samples]])).hexdigest()[:16]
    home = Path(work.settings.home) / "judging" / domain.name / name
    task = optimizer.SearchTask(
        name="live", user_prompt="{question}", judge=convert.judge_spec(spec), domain=domain.name, origin="traffic"
    )
    search = optimizer.SearchSpec(
        seed_prompt="",
        tasks=(task,),
        models=optimizer.Models(base=model, judge=model),
        home=home,
        resume=True,
    )
    async with (
        placed_backends(work, search) as backends,
        optimizer.Evaluation.open(search, clock=work.clock, backends=backends) as evaluation,
    ):
        verdicts = await evaluation.judge(task, [p.example for p in batch], [p.text for p in batch])
        ledger = evaluation.ledger
    shutil.rmtree(home, ignore_errors=True)
    by_place = {p.sample: v for p, v in zip(batch, verdicts, strict=True) if p.sample is not None}
    void = sentinels.void([v.score for p, v in zip(batch, verdicts, strict=True) if p.sample is None])
    found = tuple(None if void else by_place[i] for i in range(len(samples)))
    work.metrics.judge_calls.labels(domain.name).inc(ledger.calls)
    return Judged(found, ledger.calls, ledger.usd, void)


def judge_model(work: Work, domain: Domain) -> optimizer.ModelSpec:
    """Raises NoWork when the domain has no judge model that can be called."""
    if not domain.judge_model:
        raise NoWork("no_judge", f"The domain {domain.name!r} names no judge_model.")
    try:
        return convert.model_spec(find_endpoint(work.settings, domain.judge_model))
    except BadModel as error:
        raise NoWork("unknown_model", f"The judge model of {domain.name!r} cannot be used: {error}") from error
