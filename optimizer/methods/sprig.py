"""The edit search over prompt components (SPRIG) as a method.

The method follows the published search (a beam of prompts; every iteration all kinds of single edits, components
chosen by UCB; fresh questions each time), at sizes that a budget of thousands of calls allows instead of millions,
and elitist: a parent stays in the beam until something beats it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from optimizer.admission.admission import Admission
from optimizer.errors import BudgetSpent
from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.found import Found
from optimizer.proposals.components import corpus_for
from optimizer.proposals.editor import ComponentEditor
from optimizer.proposals.proposal import History, Parent, SystemAsk
from optimizer.records import Generation, Rollout, SearchSpec
from optimizer.steps.plan import Plan
from optimizer.steps.racing import Cell, Rung, Scoreboard, answer, course, race, raced

BEAM = 4
CHILDREN = 3


async def sprig(spec: SearchSpec, evaluation: Evaluation, plan: Plan) -> Found:
    """The edit search as a method: a beam of prompts, fresh questions every iteration, components chosen by UCB."""
    incumbent = spec.seed_prompt if spec.incumbent is None else spec.incumbent
    corpus = corpus_for(spec.sources)
    editor, board = ComponentEditor(corpus, seed=spec.seed), Scoreboard()
    own_words = [way for component in corpus.components for way in (component.text, *component.variants)]
    admission = Admission(evaluation, spec.sources, incumbent, allow=own_words)
    admission.remember(incumbent)
    user_prompts = {task.name: (task.user_prompt,) for task in spec.sources}
    iterations, cells, _ = sizes_of(plan.search_calls, len(spec.sources))
    beam, generations = [incumbent], []
    reason = "All iterations are done."

    async def respond(prompt: str, block: Sequence[Cell]) -> list[Rollout]:
        return await answer(evaluation, prompt, block)

    try:
        for number in range(1, iterations + 1):
            parents = tuple(Parent(prompt, ()) for prompt in beam)
            proposed = await editor.system_prompts(SystemAsk(parents, CHILDREN * BEAM, History(), number))
            admitted = [proposal for proposal in proposed if admission.system_prompt(proposal.prompt)]
            fresh = course(spec.sources, user_prompts, start=(number - 1) * cells, seed=spec.seed, length=cells)
            entrants = [*beam, *(proposal.prompt for proposal in admitted)]
            outcome = await race(respond, entrants, fresh, [Rung(cells=len(fresh), keep=BEAM)], board, alpha=0.0)
            for proposal in admitted:
                editor.learn(proposal, board.compare(proposal.prompt, proposal.parent, fresh).mean)
            beam = list(outcome.ranking)
            score = board.mean(beam[0], fresh)[0]
            candidates = raced(admitted, outcome, board, generation=number, letter="e")
            generations.append(Generation(number=number, kept=outcome.winner, score=score, candidates=candidates))
            evaluation.event(
                "generation", f"iteration {number}: {score:.3f}, {beam[0][:160]}", score=score, best=beam[0]
            )
    except BudgetSpent as spent:
        reason = str(spent)
    return Found(winner=beam[0], reason=reason, proposer="components", generations=tuple(generations))


def sizes_of(calls: int, tasks: int) -> tuple[int, int, int]:
    """Iterations, cells of each, and prompts that answer them at most, for about ``calls`` calls in all."""
    entrants = BEAM + CHILDREN * BEAM
    iterations = max(1, min(25, round(math.sqrt(calls / (2 * entrants * tasks)))))
    return iterations, max(1, calls // (iterations * entrants * tasks)) * tasks, entrants
