"""Job ``shadow``: what would a version have answered? For domains whose traffic is too thin for a canary.

Recent samples, newer than the version, are asked again under the stable prompt and under the version's; nobody is
served either answer. Pairs need about a third of the units that a live comparison needs (n = 6.18 sd^2 / margin^2), and
expose nobody. What was found stands in the audit as ``shadow``. A replay that somebody asked for moves no pointer; one
that a thin domain's automation began with (``thin.py``) may start the canary.
"""

from __future__ import annotations

import asyncio

import msgspec

import optimizer
from jobs import advance, convert, paired, searchplan, thin
from jobs.curate import CuratedTask, Sizes, curate
from jobs.datasets import MOST_SAMPLES, grouped
from jobs.errors import NoWork
from jobs.paired import Gain
from jobs.policy import Verdict
from jobs.replies import placed_backends, spent_today, within_daily_limits
from jobs.work import Work
from registry import Domain, Version

ROWS = 400
"""Most examples that are replayed; both prompts answer each."""
KIND = "shadow"
SCHEDULE = "schedule"
LEAST = 100
"""Fresh examples with which a replay that the schedule makes begins."""


async def run(work: Work) -> str:
    """Replay under the version named in the trigger's ``version``, else the canary, else the newest. The schedule
    replays what ``thin`` wants replayed, as soon as there are samples enough, and goes on as the policy allows.

    Raises NoWork when there is nothing to compare, or too little newer than the version to replay.
    """
    domain = await work.domain()
    wish = None
    if work.trigger.by == SCHEDULE:
        history = await work.registry.history(domain.name, limit=1_000)
        wish = thin.wanted(history, KIND, work.clock())
        if wish is None:
            raise NoWork("nothing_to_compare", f"No version of {domain.name!r} waits for a replay.")
    stable, challenger = await contenders(work, domain, wish["version"] if wish else work.args.get("version"))
    if challenger.blocked:
        raise NoWork("nothing_to_compare", f"Version {challenger.number} of {domain.name!r} is blocked.")
    tasks = await fresh_tasks(work, domain, since=challenger.created_at)
    fresh = sum(map(_referenced, tasks))
    if wish and fresh < LEAST:
        raise NoWork(
            "too_few_examples", f"{fresh} samples with references are newer than version {challenger.number};"
            f" the replay waits for {LEAST}.",
        )  # fmt: skip
    found = await replay(work, domain, tasks, stable, challenger)
    fine = found.not_worse(domain.canary.margin)
    verdict = "not worse" if fine else "not shown to be no worse"
    told = (
        f"version {challenger.number} against {stable.number}: {found.words()}; {verdict} by {domain.canary.margin:g}"
    )
    detail = {
        "version": challenger.number,
        "stable": stable.number,
        "not_worse": fine,
        **msgspec.to_builtins(found),
    }
    await work.registry.append_audit(
        domain.name, KIND, actor="jobs", why=told, detail=detail, request_id=f"shadow-{work.trigger.id}"
    )
    if wish and fine and wish["then"] == "canary":
        return f"{told}; {await go_on(work, domain, challenger, wish['run'], told)}"
    return told


async def go_on(work: Work, domain: Domain, challenger: Version, run_id: str, told: str) -> str:
    """After a replay that went well: the canary begins, so that harm is still looked for, and a person is asked whether
    the version may become stable on the replay's evidence, since the canary alone will not come to its last test.
    """
    said = await advance.start_canary(work, domain, challenger.number, run_id, f"Replayed: {told}")
    pointers = await work.registry.deployment(domain.name)
    if pointers.canary == challenger.number:
        why = Verdict("ask", (f"replayed, {told}", "the traffic is too thin for the canary's last test"))
        await advance.ask(work, domain.name, challenger.number, "promote", why, run_id, pointers.experiment)
    return said


async def contenders(work: Work, domain: Domain, number: int | None) -> tuple[Version, Version]:
    """(the stable version, the one that is tried). Raises NoWork when they are the same or one is missing."""
    pointers = await work.registry.deployment(domain.name)
    if pointers.stable is None:
        raise NoWork("nothing_stable", f"{domain.name!r} has no stable version to compare with.")
    versions = await work.registry.list_versions(domain.name)
    number = number or pointers.canary or versions[-1].number
    known = {v.number: v for v in versions}
    if number == pointers.stable or number not in known:
        raise NoWork("nothing_to_compare", f"Version {number} of {domain.name!r} is stable already or does not exist.")
    return known[pointers.stable], known[number]


async def fresh_tasks(work: Work, domain: Domain, *, since: float) -> list[CuratedTask]:
    """Tasks made of samples that no search for this version can have seen, with references from people."""
    samples = await work.registry.samples(domain.name, since=since, reservoir="representative", limit=MOST_SAMPLES)
    groups, _ = await grouped(work, domain, samples)
    found = await asyncio.to_thread(curate, domain, samples, sizes=Sizes(most=(ROWS, ROWS, ROWS)), groups=groups)
    tasks = [t for t in found.tasks if t.judge.kind != "rubric" and t.referenced > 0]
    if not tasks:
        raise NoWork("no_samples", f"No samples of {domain.name!r} with references are newer than the version.")
    return tasks


async def replay(work: Work, domain: Domain, tasks: list[CuratedTask], stable: Version, challenger: Version) -> Gain:
    """Both prompts on the same examples, spread evenly over the tasks."""
    each = max(1, ROWS // len(tasks))
    asked = [_search_task(domain, task, each) for task in tasks]
    spec = optimizer.SearchSpec(
        seed_prompt=stable.system_prompt,
        tasks=tuple(asked),
        models=convert.models(work.settings, domain, answer_tokens=max(t.answer_tokens for t in tasks)),
        budget=optimizer.Budget(calls=2 * sum(len(t.holdout) for t in asked), usd=domain.budget.usd),
        home=searchplan.home(work, f"shadow-{domain.name}"),
        resume=True,
    )
    rows: list[optimizer.Example] = []
    before: list[float | None] = []
    after: list[float | None] = []
    await within_daily_limits(work)
    try:
        async with (
            placed_backends(work, spec) as backends,
            optimizer.Evaluation.open(spec, clock=work.clock, backends=backends) as evaluation,
        ):
            for task in asked:
                for prompt, scores in ((stable.system_prompt, before), (challenger.system_prompt, after)):
                    answered = await evaluation.rollouts(prompt, task, task.user_prompt, task.holdout)
                    scores += [r.score for r in answered]
                rows += task.holdout
            evaluation.finished()
            await spent_today(work, {"calls": float(evaluation.ledger.calls), "usd": evaluation.ledger.usd})
    except optimizer.OptimizerError as error:
        raise NoWork("search_failed", str(error)) from error
    return paired.measure(rows, before, after)


def _referenced(task: CuratedTask) -> int:
    return sum(bool(e.answers) for e in (*task.reflect, *task.select, *task.holdout))


def _search_task(domain: Domain, task: CuratedTask, most: int) -> optimizer.SearchTask:
    """The task with the examples to replay as its holdout: which they are is the cluster hash's choice."""
    everything = sorted((e for e in (*task.reflect, *task.select, *task.holdout) if e.answers), key=lambda e: e.cluster)
    return optimizer.SearchTask(
        name=task.name,
        user_prompt=task.template.text,
        judge=convert.judge_spec(task.judge),
        domain=domain.name,
        role="unseen",
        holdout=tuple(map(convert.example, everything[:most])),
        origin="traffic",
    )
