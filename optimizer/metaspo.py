"""The default search: the bilevel idea of MetaSPO (arXiv 2505.09666) at a fraction of its cost, and honest.

The inner loop improves each task's user prompts at the current system prompt; the outer loop improves the system
prompt over all tasks. What differs from the published loop (``methods/faithful.py``): failures come from one split and
races run on another, failures are typed and analysed per task before one synthesis names hypotheses, parents come from
a Pareto archive over tasks, every candidate is checked before it costs anything, and races drop losers early.

Read :func:`metaspo` from top to bottom; what it calls is small: ``steps/`` has its steps, ``proposals/`` makes new
prompts, ``admission/`` refuses bad ones, ``evaluation/`` asks the models, ``gate/`` has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optimizer.admission.admission import Admission
from optimizer.draws import stream
from optimizer.errors import BudgetSpent
from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.found import Found
from optimizer.proposals.components import corpus_for
from optimizer.proposals.editor import ComponentEditor
from optimizer.proposals.failures import Failures, collect, unheard
from optimizer.proposals.mixups import against_mix_ups
from optimizer.proposals.proposal import History, Parent, Proposal, Proposer, SystemAsk, combinations
from optimizer.records import Generation, Rollout, SearchSpec, SearchTask
from optimizer.steps import headroom, inner, preflight
from optimizer.steps.archive import Archive
from optimizer.steps.inner import UserPrompts
from optimizer.steps.plan import Plan, cost_of_rollout
from optimizer.steps.racing import (
    NO_DIFFERENCE,
    Cell,
    Difference,
    RaceResult,
    Rung,
    Scoreboard,
    answer,
    course,
    full_course,
    price,
    race,
    raced,
)
from optimizer.waves import together

WINDOWS = 3
"""How far the reflect window is widened while nothing fails, in windows."""


@dataclass
class Search:
    """The state of one search: what is known so far. Everything in it can be rebuilt from the journal."""

    spec: SearchSpec
    evaluation: Evaluation
    proposer: Proposer
    plan: Plan
    admission: Admission
    board: Scoreboard
    archive: Archive
    user_prompts: UserPrompts
    history: History = field(default_factory=History)
    generations: list[Generation] = field(default_factory=list)
    tables: list[headroom.Table] = field(default_factory=list)
    """Scores of very different prompts, then of every race's entrants on its first block: is there headroom?"""
    lead: Difference = NO_DIFFERENCE
    """How far the best is ahead of the incumbent, step by step from one best to the next."""
    headroom: bool = False
    """Prompts were seen to matter here, or the operator said so: nobody asks again."""
    idle: bool = False
    """The search ended before it asked the optimizer for anything."""
    helped: list[tuple[float, str]] = field(default_factory=list)
    """Changes of the last race that scored above their parent, with the gain."""

    @property
    def incumbent(self) -> str:
        """The prompt to beat."""
        return self.archive.members[0]

    async def respond(self, prompt: str, cells: Sequence[Cell]) -> list[Rollout]:
        """Answers of a race: ``cells`` under the system prompt ``prompt``."""
        return await answer(self.evaluation, prompt, cells)


async def metaspo(spec: SearchSpec, evaluation: Evaluation, proposer: Proposer, plan: Plan) -> Found:
    """Search for a better system prompt for ``spec.sources``. Spends at most the plan's search calls.

    Raises ``RunBlocked`` when the judge is not sane. A spent budget is no error: the best so far stands.
    """
    search = _begin(spec, evaluation, proposer, plan)
    reason = "All generations are done."
    try:
        await preflight.judge_sanity(evaluation, spec.sources)
        for number in range(1, plan.generations + 1):
            parents = await _parents_with_failures(search, number)
            if nothing_to_gain := await _nothing_to_gain(search, parents, number):
                reason = nothing_to_gain
                break
            held, seed = search.user_prompts, spec.seed
            await inner.improve(
                evaluation, proposer, search.admission, plan, parents[0], held, generation=number, seed=seed
            )
            proposals = await _proposals(search, parents, number)
            outcome = await _race(search, proposals, number)
            _learn(search, proposals, outcome, number)
            no_headroom = "" if search.headroom else headroom.no_headroom(search.tables, search.lead)
            if no_headroom and not await _ahead_after_all(search, number):
                reason = no_headroom  # the holdout is paid for anyway and has the last word on the best so far
                break
        else:
            await _final(search)
    except BudgetSpent as spent:
        reason = str(spent)
    if search.archive.best == search.incumbent:
        reason = f"Nothing beat the incumbent. {reason}"
    return _found(search, search.archive.best, reason)


# --- the steps, in order of appearance -------------------------------------------------------------------------------


def _begin(spec: SearchSpec, evaluation: Evaluation, proposer: Proposer, plan: Plan) -> Search:
    incumbent = spec.incumbent if spec.incumbent is not None else spec.seed_prompt
    board = Scoreboard()
    corpus = corpus_for(spec.sources)
    own_words = [way for c in corpus.components for way in (c.text, *c.variants)]
    admission = Admission(evaluation, spec.sources, incumbent, allow=own_words)
    admission.remember(incumbent)
    for task in spec.sources:
        admission.remember(task.user_prompt, task=task)
    archive = Archive(board)
    archive.add(incumbent)
    evaluation.event("plan", "; ".join(plan.lines()), proposer=proposer.name)
    return Search(spec, evaluation, proposer, plan, admission, board, archive, UserPrompts(spec.sources))


async def _parents_with_failures(search: Search, number: int) -> list[Parent]:
    """Parents from the archive, with their typed failures on a part of the reflect split.

    Who rewrites reads every parent's failures; who edits needs only their types, so the best parent's will do.
    """
    prompts = search.archive.parents(search.plan.parents)
    read = len(prompts) if search.proposer.name == "rewrite" else 1
    parents = await together(_with_failures(search, prompt, number) for prompt in prompts[:read])
    parents += [Parent(prompt, parents[0].failures) for prompt in prompts[read:]]
    first = parents[0].failures
    counts = {failures.task.name: failures.counts for failures in first}
    asked, wrong = sum(failures.asked for failures in first), sum(failures.total for failures in first)
    form = sum(failures.counts["format"] for failures in first)
    text = f"generation {number}: {wrong} of {asked} examples fail under the best prompt, {form} of them in form"
    if number == 1:
        constant = {task.name: preflight.constant_baseline(task, task.select) for task in search.spec.sources}
        text += f"; a constant answer is right in {sum(constant.values()) / len(constant):.0%}"
    search.evaluation.event("failures", text, generation=number, counts=counts, asked=asked)
    return parents


async def _with_failures(search: Search, prompt: str, number: int) -> Parent:
    """``prompt`` with its failures in a window of each task's reflect split, that moves with the generation and is
    widened while nothing fails, or while no theme of live traffic is shared by enough units to be read."""

    async def of_task(task: SearchTask) -> Failures:
        rows = sorted(task.reflect, key=lambda example: example.id)
        stream(search.spec.seed, "reflect", task.name).shuffle(rows)
        size = min(len(rows), search.plan.reflect_per_task)
        first = (number - 1) * size % max(1, len(rows))
        some = (rows + rows)[first : first + min(len(rows), windows[task.name] * size)]
        rollouts = await search.evaluation.rollouts(prompt, task, task.user_prompt, some)
        rng = stream(search.spec.seed, "shown", number, task.name)
        return collect(task, some, rollouts, show=search.plan.shown_per_task, rng=rng)

    windows = dict.fromkeys((task.name for task in search.spec.sources), 1)
    while True:
        parts = tuple(await together(of_task(task) for task in search.spec.sources))
        deaf = search.proposer.name == "rewrite" and unheard(parts)
        narrow = [p.task.name for p in parts if (deaf or not p.total) and windows[p.task.name] < WINDOWS]
        if not narrow:
            return Parent(prompt, parts)
        windows |= {name: windows[name] + 1 for name in narrow}


async def _nothing_to_gain(search: Search, parents: Sequence[Parent], number: int) -> str:
    """The reason to end, or empty: all is right already, or, asked once and first, prompts make no difference here."""
    reason = ""
    if not any(parent.shares for parent in parents) and await _perfect(search):
        reason = "Nothing left to mend: the best prompt answers every example of the search rightly."
    elif number == 1:
        reason = await _no_headroom_at_all(search, parents[0])
    search.idle = number == 1 and bool(reason)
    return reason


async def _perfect(search: Search) -> bool:
    """Whether the best prompt is right on the select split too: all it was raced on, or the first race's cells."""
    best = search.archive.best
    if not search.board.scores.get(best):
        size = search.plan.first_rungs[0].cells
        cells = course(search.spec.sources, search.user_prompts.racing(), start=0, seed=search.spec.seed, length=size)
        search.board.put(best, cells, await search.respond(best, cells))
    return search.board.mean(best)[0] >= 1.0


async def _no_headroom_at_all(search: Search, first: Parent) -> str:
    """The reason to end before the optimizer is asked for anything, or empty: very different prompts, on the examples
    that the first race will ask too."""
    bound, sources, seed = search.plan.headroom_cells, search.spec.sources, search.spec.seed
    search.headroom = search.spec.options.get("headroom_cells") == 0
    form = sum(failures.counts["format"] for failures in first.failures)
    if not bound or form >= headroom.FORM * sum(failures.asked for failures in first.failures):
        return ""
    before = search.evaluation.ledger.calls
    leans = [proposal.prompt for proposal in against_mix_ups(first)]
    prompts = headroom.diverse(search.incumbent, corpus_for(sources), seed, leans)
    cells = course(sources, search.user_prompts.racing(), start=0, seed=seed, length=bound + bound // 2)
    found = await headroom.ask(search.respond, prompts, cells, bound)
    calls = search.evaluation.ledger.calls - before
    search.evaluation.asked_for_headroom(calls)
    search.evaluation.event("headroom", found.text, generation=0, ahead=found.outcome == "seen", calls=calls)
    search.tables += found.tables[:1]
    return found.text if found.outcome == "none" else ""


async def _proposals(search: Search, parents: Sequence[Parent], number: int) -> list[Proposal]:
    """Candidates that passed the door: the proposer's, against leans, and at first diverse fixed sentences."""
    plan = search.plan
    ask = SystemAsk(
        parents=tuple(parent for parent in parents if parent.shares) or tuple(parents),
        count=plan.candidates,
        history=search.history,
        generation=number,
    )
    proposed = await search.proposer.system_prompts(ask)
    if number == 1 and plan.diverse:
        editor = ComponentEditor(corpus_for(search.spec.sources), seed=search.spec.seed + 1)
        fixed = SystemAsk(parents=ask.parents[:1], count=plan.diverse, history=search.history, generation=0)
        proposed += await editor.system_prompts(fixed)
    proposed += [*against_mix_ups(parents[0]), *combinations(search.archive.best, search.helped)]
    admitted = [proposal for proposal in proposed if search.admission.system_prompt(proposal.prompt)]
    refused = len(proposed) - len(admitted)
    text = f"generation {number}: {len(admitted)} candidates" + (f", {refused} refused unseen" if refused else "")
    search.evaluation.event(
        "candidates", text, generation=number, refused=search.admission.refused[-refused:] if refused else []
    )
    return admitted


async def _race(search: Search, proposals: Sequence[Proposal], number: int) -> RaceResult:
    """The best prompt so far, the incumbent (first generation) and the candidates, on fresh cells of the select
    split."""
    rungs = search.plan.first_rungs if number == 1 else search.plan.rungs
    length = max(rung.cells for rung in rungs)
    cells = course(
        search.spec.sources,
        search.user_prompts.racing(),
        start=(number - 1) * length,
        seed=search.spec.seed,
        length=length,
    )
    entrants = [search.archive.best, *(proposal.prompt for proposal in proposals)]
    left = search.evaluation.calls_left
    if left is not None:  # late in a small budget: fewer entrants rather than no race
        affordable = int(left / cost_of_rollout(search.spec) / min(rungs[0].cells, len(cells)))
        entrants = entrants[: max(2, affordable)]
    outcome = await race(search.respond, entrants, cells, rungs, search.board)
    search.tables.append(headroom.score_table(search.board, entrants, outcome.cells[: rungs[0].cells]))
    return outcome


def _learn(search: Search, proposals: Sequence[Proposal], outcome: RaceResult, number: int) -> None:
    """Rewards for the proposer, survivors into the archive, a new best when the race says so, and the record of it."""
    before, search.helped = search.archive.best, []
    for proposal in proposals:
        if search.board.mean(proposal.prompt)[1]:
            reference = proposal.parent if search.board.compare(proposal.prompt, proposal.parent).df else before
            gain = search.board.compare(proposal.prompt, reference).mean
            search.proposer.learn(proposal, gain)
            search.history.note(proposal.hypothesis, gain)
            if proposal.change and gain > 0:
                search.helped.append((gain, proposal.change))
    for prompt in outcome.ranking:
        search.archive.add(prompt)
    if _better(search, outcome.winner, before):
        search.archive.best = outcome.winner
        search.lead = search.lead.then(search.board.compare(outcome.winner, before))
    best = search.archive.best
    score = search.board.mean(best, outcome.cells)[0]
    search.generations.append(
        Generation(
            number=number,
            kept=best,
            score=score,
            candidates=raced(proposals, outcome, search.board, generation=number, letter="g"),
            user_prompts=search.user_prompts.ranked(),
        )
    )
    verb = "kept the best" if best == before else "found a better one"
    text = f"generation {number}: {verb}, {score:.3f} on {len(outcome.cells)} cells: {best[:160]}"
    search.evaluation.event(
        "generation", text, generation=number, score=score, best=best, calls=search.evaluation.ledger.calls
    )


async def _ahead_after_all(search: Search, number: int) -> bool:
    """Whether the best leads the incumbent by more than its standard error on fresh cells, those of the next race: the
    lead that it has was the largest of many and says little."""
    best, incumbent, left = search.archive.best, search.incumbent, search.evaluation.calls_left
    start = number * max(rung.cells for rung in search.plan.rungs)
    length, seed = headroom.PROBE, search.spec.seed
    cells = course(search.spec.sources, search.user_prompts.racing(), start=start, seed=seed, length=length)
    if best == incumbent or (left is not None and left < 4 * length):
        return False
    lead = await headroom.fresh_lead(search.respond, search.board, best, incumbent, cells)
    search.headroom = lead.mean > lead.se
    text = f"headroom: on fresh cells the best is {lead.mean:+.3f} from the incumbent (se {lead.se:.3f})"
    search.evaluation.event("headroom", text, generation=number, ahead=search.headroom)
    return search.headroom


def _better(search: Search, challenger: str, best: str) -> bool:
    """On everything both have answered, the challenger's gain exceeds what its length costs."""
    gain = search.board.compare(challenger, best).mean
    return challenger != best and gain > price(challenger) - price(best)


async def _final(search: Search) -> None:
    """The finalists once more, on all kept user prompts: more examples for the choice that the holdout will judge."""
    finalists = search.archive.finalists(search.plan.finalists)
    if len(finalists) < 2 or not search.plan.final_per_task:
        return
    cells = full_course(search.spec.sources, search.user_prompts.all(), search.plan.final_per_task)
    half = Rung(cells=len(cells) // 2, keep=2)
    stream(search.spec.seed, "final").shuffle(cells)
    outcome = await race(search.respond, finalists, cells, [half, Rung(cells=len(cells), keep=2)], search.board)
    if _better(search, outcome.winner, search.archive.best):
        search.archive.best = outcome.winner
    text = f"final: {len(finalists)} finalists on {len(outcome.cells)} cells, best: {search.archive.best[:160]}"
    search.evaluation.event("final", text, best=search.archive.best)


def _found(search: Search, winner: str, reason: str) -> Found:
    return Found(
        winner=winner,
        reason=reason,
        user_prompts=search.user_prompts.ranked(),
        proposer=search.proposer.name,
        generations=tuple(search.generations),
        idle=search.idle,
    )
