"""Job ``adapt``: a better user prompt for one task, under the system prompt that its domain serves.

The search's inner loop proposes and races user prompts; then the best of them meets the task's own on the task's
holdout, under the stable system prompt. What is better for certain (two points, and a one-sided 97.5 % bound above
zero) is stored as the task's ``adapted_prompt``: applications fetch it, the gateway never changes a user's message by
itself.
"""

from __future__ import annotations

import msgspec

import optimizer
from jobs import convert, datasets, searchplan
from jobs.curate import CuratedTask, Sizes, freeze
from jobs.errors import NoWork
from jobs.paired import Gain, measure
from jobs.replies import shared_backends, within_daily_limits
from jobs.work import Work
from registry import Domain, Run, Task

LEAST_GAIN = 0.02
INNER_LOOP = {
    "generations": 1,
    "candidates": 2,
    "diverse": 0,
    "finalists": 1,
    "final_per_task": 0,
    "holdout_per_task": 0,
}
"""Sizes that leave the budget to user prompts."""


async def run(work: Work) -> str:
    """Adapt the task named in the trigger's ``task``. Raises NoWork when that cannot be, or nothing was better."""
    domain = await work.domain()
    name = str(work.args.get("task") or "")
    if not name:
        raise NoWork("no_task", "Say which task: `metaspo jobs run adapt --domain D --task T`.")
    found = (await datasets.prepare(work, domain)).task(name)
    if found is None:
        raise NoWork("no_samples", f"No samples of a task {name!r} of {domain.name!r} are kept.")
    task = as_search_task(domain, found)
    await within_daily_limits(work)
    prompt = await _served(work, domain)
    spec = _spec(work, domain, task, prompt, found.answer_tokens)
    kept = Run(id=f"{domain.name}-adapt{work.trigger.id.rpartition(':')[2][-24:]}", domain=domain.name, state="running")
    async with shared_backends(work, kept, spec) as backends:
        try:
            result = await optimizer.search(spec, clock=work.clock, backends=backends)
            best = next((p for p in result.user_prompts.get(name, ()) if p != task.user_prompt), None)
            if best is None:
                raise NoWork("nothing_better", f"No user prompt raced ahead of the task's own. {result.reason}")
            gain = await confirm(work, spec, task, best, backends)
        except optimizer.OptimizerError as error:
            raise NoWork("search_failed", str(error)) from error
    await work.registry.drop_paid(kept.id)
    told = gain.words()
    if not gain.certain(LEAST_GAIN):
        raise NoWork("nothing_better", f"The best user prompt tried is not better for certain: {told}.")
    await store(work, domain.name, found, best, told)
    return f"task {name}: {told}"


def as_search_task(domain: Domain, found: CuratedTask) -> optimizer.SearchTask:
    """Raises NoWork when the task is too small to be confirmed on, or has no references."""
    short = found.short_of(Sizes())
    if short:
        raise NoWork("too_few_examples", f"The task {found.name!r} has too few examples: {short}.")
    if found.judge.kind == "rubric" or found.referenced < 0.5:
        raise NoWork(
            "no_references", f"The task {found.name!r} has too few references from people to compare prompts on."
        )
    return optimizer.SearchTask(
        name=found.name,
        user_prompt=found.template.text,
        judge=convert.judge_spec(found.judge),
        domain=domain.name,
        reflect=tuple(map(convert.example, found.reflect)),
        select=tuple(map(convert.example, found.select)),
        holdout=tuple(map(convert.example, found.holdout)),
        origin="traffic",
    )


async def confirm(
    work: Work,
    spec: optimizer.SearchSpec,
    task: optimizer.SearchTask,
    best: str,
    backends: object,
) -> Gain:
    """Both user prompts on the holdout, under the served system prompt."""
    rows = task.holdout
    own = msgspec.structs.replace(spec, home=spec.home / "confirm")
    async with optimizer.Evaluation.open(own, clock=work.clock, backends=backends) as evaluation:  # type: ignore[arg-type]
        before = await evaluation.rollouts(spec.seed_prompt, task, task.user_prompt, rows)
        after = await evaluation.rollouts(spec.seed_prompt, task, best, rows)
    return measure(rows, [r.score for r in before], [r.score for r in after])


async def store(work: Work, name: str, found: CuratedTask, best: str, told: str) -> None:
    """Write the adapted prompt into the domain as it is now, and freeze what it was confirmed on."""
    domain = await work.registry.get_domain(name)
    old = domain.tasks.get(found.name) or Task(user_prompt=found.template.text, judge=found.judge)
    tasks = {**domain.tasks, found.name: msgspec.structs.replace(old, adapted_prompt=best)}
    await work.registry.put_domain(
        msgspec.structs.replace(domain, tasks=tasks),
        actor="jobs",
        why=f"adapted the user prompt of {found.name}: {told}",
    )
    for dataset in freeze(name, found, work.clock()).values():
        await work.registry.put_dataset(dataset)


async def _served(work: Work, domain: Domain) -> str:
    stable = (await work.registry.deployment(domain.name)).stable
    if stable is None:
        return searchplan.DEFAULT_PROMPT
    return (await work.registry.get_version(domain.name, stable)).system_prompt


def _spec(
    work: Work, domain: Domain, task: optimizer.SearchTask, prompt: str, answer_tokens: int
) -> optimizer.SearchSpec:
    calls = domain.budget.calls or 2_000
    return optimizer.SearchSpec(
        seed_prompt=prompt,
        tasks=(task,),
        models=convert.models(work.settings, domain, answer_tokens=answer_tokens),
        budget=optimizer.Budget(calls=max(200, calls // 4), usd=domain.budget.usd),
        home=searchplan.home(work, f"adapt-{domain.name}-{task.name}"),
        resume=True,
        options=INNER_LOOP,
    )
