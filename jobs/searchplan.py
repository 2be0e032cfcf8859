"""What one run will search on: decided once, written on the run before anything is spent, and read again on resume.

A run is frozen by names: datasets by their hash, prompts by their text, tasks by their template. A resumed run
therefore asks the same questions in the same order, finds every answer in the journal, and pays only for what was
never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_type_hints

import msgspec

import optimizer
from jobs import convert, datasets, past
from jobs.curate import CuratedTask, Sizes, freeze
from jobs.errors import NoWork
from jobs.items import Split
from jobs.policy import LABELS
from jobs.work import Work
from registry import GLOBAL, Domain, JudgeSpec, NotFound, Run, Version

DEFAULT_PROMPT = "You are a helpful assistant."
"""What is improved where nothing was ever written."""
LOUD = 0.9
"""A key that brings this share of a task's examples speaks for it."""
GATES_OWN = frozenset({"min_tasks"})
"""Options of a search that a trigger may not set: they would loosen the gate."""
UNDERSIZED = "too few examples to be confirmed: watched, not searched on"


class TaskPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a run. ``datasets`` names its splits; ``origin`` is the domain the traffic came from."""

    name: str
    origin: str
    role: Literal["source", "unseen"]
    user_prompt: str
    judge: JudgeSpec
    datasets: dict[Split, str]
    rows: tuple[int, int, int]
    fallback_units: bool = False
    one_loud_key: bool = False


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a run does."""

    method: str
    seed_prompt: str
    incumbent: int | None
    incumbent_prompt: str
    tasks: tuple[TaskPlan, ...]
    budget_calls: int | None
    budget_usd: float | None
    options: dict[str, Any] = {}
    answer_tokens: int = 0
    """Room for an answer of the base model, as in the traffic; 0: the optimizer's default."""
    journal: str = ""
    """The run whose journal this one goes on with; empty: its own."""
    attempt: int | None = None
    """Number of this confirmation since the domain's last promotion; None: attempts are not counted."""
    judge_noise: tuple[float, float] | None = None
    """(flip rate of the judge's last calibration, the highest that its past allows)."""
    min_tasks: int = 2
    left_out: dict[str, str] = {}
    """Tasks that are not searched on, with the reason."""
    samples_left_out: dict[str, int] = {}

    @property
    def hashes(self) -> tuple[str, ...]:
        return tuple(sorted({h for t in self.tasks for h in t.datasets.values()}))


class Wishes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may stand in a trigger's ``args``: it may narrow or enlarge a run, nothing of it loosens the gate.

    ``run`` was written by whoever asked; ``resume`` names an ended run to go on with. ``unseen`` tasks are kept out
    of the search and measured at its end; ``tasks`` restricts it to these; ``most`` caps the rows per split;
    ``budget`` stands for the domain's; ``options`` go to the search (loop sizes, proposer); ``lenient`` reads choices
    leniently.
    """

    run: str | None = None
    resume: str | None = None
    method: str = "metaspo"
    unseen: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    most: tuple[int, int, int] | None = None
    budget: dict[str, float | None] | None = None
    options: dict[str, Any] = {}
    lenient: bool | None = None


def read_wishes(args: dict[str, Any]) -> Wishes:
    """Raises NoWork for a wish that does not exist or has the wrong type."""
    try:
        wishes = msgspec.convert(args, Wishes, strict=False)
    except msgspec.ValidationError as error:
        raise NoWork("bad_request", f"This run cannot be asked for like that: {error}.") from error
    if loose := GATES_OWN & wishes.options.keys():
        raise NoWork("bad_request", f"What the gate asks for is no wish of a run: {', '.join(sorted(loose))}.")
    known = get_args(get_type_hints(optimizer.SearchSpec)["method"])
    if wishes.method not in known:
        raise NoWork("bad_request", f"There is no method {wishes.method!r}; known: {', '.join(known)}.")
    return wishes


async def decide(work: Work, domain: Domain, wishes: Wishes) -> RunPlan:
    """Curate, freeze, choose. Raises NoWork with the reason for which there is nothing to search on."""
    convert.models(work.settings, domain)
    seed, incumbent, text = await _prompts(work, domain)
    plans: list[TaskPlan] = []
    left_out: dict[str, str] = {}
    samples_left_out: dict[str, int] = {}
    samples = answer_tokens = 0
    for source in await _domains(work, domain):
        sizes = Sizes(most=wishes.most) if wishes.most else Sizes()
        found = await datasets.prepare(work, source, sizes)
        samples += found.samples
        left_out |= {f"{source.name}/{n}" if domain.name == GLOBAL else n: why for n, why in found.notes.items()}
        for reason, n in found.all_dropped().items():
            samples_left_out[reason] = samples_left_out.get(reason, 0) + n
        for task in found.tasks:
            name = f"{source.name}/{task.name}" if domain.name == GLOBAL else task.name
            if wishes.tasks is not None and name not in wishes.tasks:
                continue
            unseen = name in wishes.unseen
            reason = await _unfit(work, source, task, unseen, sizes)
            if reason:
                left_out[name] = reason
                continue
            answer_tokens = max(answer_tokens, task.answer_tokens)
            plans.append(await _freeze(work, domain, source, name, task, "unseen" if unseen else "source", wishes))
    if not samples:
        raise NoWork(
            "no_samples", f"No samples of {domain.name!r} are kept yet: send traffic through the gateway first."
        )
    least = work.settings.jobs.min_tasks
    _enough(domain, plans, left_out, least)
    calls, usd = _budget(domain, wishes)
    judged = any(p.judge.kind == "rubric" for p in plans)
    return RunPlan(
        method=wishes.method,
        seed_prompt=seed,
        incumbent=incumbent.number if incumbent else None,
        incumbent_prompt=text,
        tasks=tuple(plans),
        budget_calls=calls,
        budget_usd=usd,
        options=wishes.options,
        answer_tokens=answer_tokens,
        attempt=await past.attempt(work, domain.name) if work.settings.jobs.spend_alpha else None,
        judge_noise=await past.judge_noise(work.registry, domain) if judged else None,
        min_tasks=least,
        left_out=left_out,
        samples_left_out=samples_left_out,
    )


async def spec(work: Work, domain: Domain, run: Run, plan: RunPlan) -> optimizer.SearchSpec:
    """The search of a run, from its frozen plan. Raises NoWork when a dataset is gone or a model cannot be used."""
    tasks = []
    for task in plan.tasks:
        rows = await datasets.load(work.registry, task.datasets)
        tasks.append(
            optimizer.SearchTask(
                name=task.name,
                user_prompt=task.user_prompt,
                judge=convert.judge_spec(task.judge),
                domain=domain.name,
                role=task.role,
                reflect=convert.examples(rows.get("reflect")),
                select=convert.examples(rows.get("select")),
                holdout=convert.examples(rows.get("holdout")),
                origin="traffic",
            )
        )
    return optimizer.SearchSpec(
        seed_prompt=plan.seed_prompt,
        incumbent=plan.incumbent_prompt,
        tasks=tuple(tasks),
        models=convert.models(work.settings, domain, answer_tokens=plan.answer_tokens),
        method=cast(Any, plan.method),
        budget=optimizer.Budget(calls=plan.budget_calls, usd=plan.budget_usd),
        home=home(work, plan.journal or run.id),
        resume=True,
        standing=optimizer.Standing(
            attempt=plan.attempt, judge_noise=plan.judge_noise, live=True, min_tasks=plan.min_tasks
        ),
        options=plan.options,
    )


def home(work: Work, run_id: str) -> Path:
    """Where a run's journal lies on this machine."""
    return Path(work.settings.home) / "runs" / run_id


async def _domains(work: Work, domain: Domain) -> list[Domain]:
    """Whose traffic teaches this run: the domain's own, for ``global`` that of all who opted in."""
    if domain.name != GLOBAL:
        return [domain]
    chosen = [d for d in await work.registry.list_domains() if d.meta_learning and d.name != GLOBAL]
    if len(chosen) < 2:
        raise NoWork("too_few_domains", "The global prompt needs at least two domains with `meta_learning: true`.")
    return chosen


async def _prompts(work: Work, domain: Domain) -> tuple[str, Version | None, str]:
    """(the prompt that the domain began with, its stable version, the text that must be beaten)."""
    stable = (await work.registry.deployment(domain.name)).stable
    if stable is None:
        return DEFAULT_PROMPT, None, DEFAULT_PROMPT
    version = await work.registry.get_version(domain.name, stable)
    try:
        first = (await work.registry.get_version(domain.name, 1)).system_prompt
    except NotFound:
        first = version.system_prompt
    return first, version, version.system_prompt


async def _unfit(work: Work, source: Domain, task: CuratedTask, unseen: bool, sizes: Sizes) -> str:
    """Why a task takes no part, else empty."""
    if unseen:
        return "" if task.holdout else "no examples to measure on"
    short = task.short_of(sizes)
    if short:
        return f"{UNDERSIZED} ({short})"
    if task.judge.kind == "rubric":
        return await _unjudged(work, source)
    return "" if task.referenced >= 0.5 else f"only {task.referenced:.0%} of its examples have a reference from people"


async def _unjudged(work: Work, source: Domain) -> str:
    from jobs.calibrate import latest

    if not source.judge_model:
        return "no references from people and no judge model"
    agreement = await latest(work.registry, source.name)
    if agreement is None or not agreement.calibrated:
        found = (
            f"kappa {agreement.kappa:.2f} on {agreement.n} labels"
            if agreement and agreement.kappa is not None
            else "no labels"
        )
        return f"no references from people, and the judge is not calibrated ({found}; label {LABELS} answers or more)"
    return ""


async def _freeze(
    work: Work,
    domain: Domain,
    source: Domain,
    name: str,
    task: CuratedTask,
    role: Literal["source", "unseen"],
    wishes: Wishes,
) -> TaskPlan:
    frozen = freeze(domain.name, msgspec.structs.replace(task, name=name), work.clock())
    if role == "unseen":
        frozen = {"holdout": frozen["holdout"]}
    hashes = {split: await work.registry.put_dataset(dataset) for split, dataset in frozen.items()}
    judge = task.judge if wishes.lenient is None else msgspec.structs.replace(task.judge, lenient=wishes.lenient)
    return TaskPlan(
        name=name,
        origin=source.name,
        role=role,
        user_prompt=task.template.text,
        judge=judge,
        datasets=hashes,
        rows=task.rows(),
        fallback_units=task.fallback_share > 0.5,
        one_loud_key=task.loudest_key > LOUD,
    )


def _enough(domain: Domain, plans: Sequence[TaskPlan], left_out: dict[str, str], least: int) -> None:
    """Raises NoWork when fewer than ``least`` tasks can teach: a prompt fitted to one is no system prompt of a domain,
    and the gate would not judge it."""
    sources = [p for p in plans if p.role == "source"]
    if len(sources) >= least:
        return
    why = "; ".join(f"{name}: {reason}" for name, reason in sorted(left_out.items()))
    told = f" Left out: {why}." if why else ""
    if any("judge" in reason for reason in left_out.values()):
        raise NoWork("no_references", f"The answers of {domain.name!r} cannot be scored.{told}")
    if len(sources) == 1:
        raise NoWork(
            "one_task",
            f"Only one task of {domain.name!r} ({sources[0].name}) can teach; a search needs {least}.{told}",
        )
    if sources:
        names = ", ".join(p.name for p in sources)
        raise NoWork(
            "too_few_tasks",
            f"Only {len(sources)} tasks of {domain.name!r} ({names}) can teach; a search needs {least}"
            f" (`jobs.min_tasks`).{told}",
        )
    if any(UNDERSIZED in reason for reason in left_out.values()):
        raise NoWork("too_few_examples", f"No task of {domain.name!r} has enough examples.{told}")
    raise NoWork("no_tasks", f"No task of {domain.name!r} can teach.{told or ' Its samples show no task.'}")


def _budget(domain: Domain, wishes: Wishes) -> tuple[int | None, float | None]:
    """What was asked for with the run, else the domain's budget. Zero and None are no limit of that kind."""
    asked = wishes.budget or {}
    calls = asked.get("calls", domain.budget.calls)
    return (int(calls) if calls else None), (asked.get("usd", domain.budget.usd) or None)
