"""The edit search over prompt components (SPRIG): as a proposer that needs no optimizer model, and as a method.

The method follows the published search (a beam of prompts; every iteration all kinds of single edits, components
chosen by UCB; fresh questions each time), at sizes that a budget of thousands of calls allows instead of millions,
and elitist: a parent stays in the beam until something beats it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from optimizer import edits
from optimizer.admission import Admission
from optimizer.components import Corpus, corpus_for, joined, sentences, user_prompt_edits
from optimizer.draws import stream
from optimizer.edits import Bandit, Edit
from optimizer.errors import BudgetSpent
from optimizer.evaluation import Evaluation
from optimizer.found import Found
from optimizer.plan import Plan
from optimizer.proposals import History, Parent, Proposal, ProposerName, SystemAsk, UserAsk
from optimizer.racing import Cell, RaceResult, Rung, Scoreboard, answer, course, race
from optimizer.records import Candidate, Generation, Rollout, SearchSpec

Rephrase = Callable[[str, int], Coroutine[Any, Any, str | None]]
"""A sentence in other words (None when the reply could not be read); the number names the draw."""
BEAM = 4
CHILDREN = 3


class ComponentEditor:
    """Proposes edits with sentences of a corpus. Rephrasing takes the corpus' own variants; where ``rephrase`` is given
    (an optimizer model), it also words one sentence of the best prompt anew each time."""

    name: ProposerName = "components"

    def __init__(self, corpus: Corpus, *, seed: int, rephrase: Rephrase | None = None) -> None:
        self.corpus = corpus
        self._rephrase = rephrase
        self._seed = seed
        self._bandit = Bandit(corpus)
        self._made: dict[str, Edit] = {}
        self._seen: set[str] = set()
        self._user_seen: set[str] = set()

    async def system_prompts(self, ask: SystemAsk) -> list[Proposal]:
        """Edits of the parents in turn, and, once there are two, one merge of the first two."""
        parents, count = ask.parents, ask.count
        rng = stream(self._seed, "edits", ask.generation)
        self._seen.update(parent.prompt for parent in parents)
        queues: list[tuple[str, list[Edit]]] = []
        for parent in parents:
            fresh = edits.varied(self._bandit.ranked(parent.shares, rng), count)
            moves = edits.single_edits(parent.prompt, fresh, self.corpus, rng)
            queues.append((parent.prompt, _mixed(moves, count, rng)))
        if len(parents) > 1:
            queues.insert(0, (parents[0].prompt, [edits.merged(parents[0].prompt, parents[1].prompt)]))
        if self._rephrase is not None:
            queues.insert(0, (parents[0].prompt, await self._reworded(parents[0].prompt, ask.generation)))
        proposals: list[Proposal] = []
        while len(proposals) < count and any(moves for _, moves in queues):
            for parent_prompt, moves in queues:
                while moves:
                    move = moves.pop(0)
                    if move.prompt in self._seen:
                        continue
                    self._seen.add(move.prompt)
                    self._made[move.prompt] = move
                    change = move.component if move.kind in ("add", "replace") else ""
                    proposals.append(
                        Proposal(prompt=move.prompt, parent=parent_prompt, hypothesis=move.label, change=change)
                    )
                    break
        return proposals[:count]

    async def user_prompts(self, ask: UserAsk) -> list[str]:
        """Template edits of the task's user prompt that were not tried before, in random order."""
        name = ask.failures.task.name
        every = list(user_prompt_edits(ask.failures.task, ask.base, self.corpus))
        stream(self._seed, "user", name).shuffle(every)
        fresh = [edit for edit in every if f"{name}\0{edit}" not in self._user_seen][: ask.count]
        self._user_seen.update(f"{name}\0{edit}" for edit in fresh)
        return fresh

    async def _reworded(self, prompt: str, generation: int) -> list[Edit]:
        """One sentence of ``prompt`` in the optimizer model's words, if its reply can be read."""
        parts = list(sentences(prompt))
        if not parts or self._rephrase is None:
            return []
        place = stream(self._seed, "reword", generation).randrange(len(parts))
        text = await self._rephrase(parts[place], generation)
        if text is None:
            return []
        edited = joined((*parts[:place], text, *parts[place + 1 :]))
        return [Edit(prompt=edited, kind="rephrase", component=parts[place])]

    def learn(self, proposal: Proposal, gain: float) -> None:
        """Reward the component that the edit put in or took out."""
        if proposal.prompt in self._made:
            self._bandit.learn(self._made[proposal.prompt], gain)


def _mixed(moves: Sequence[Edit], count: int, rng: random.Random) -> list[Edit]:
    """One edit per component (put in somewhere, or instead of a sentence); every third place is for another move."""
    grown: dict[str, list[Edit]] = {}
    others: list[Edit] = []
    for move in moves:
        if move.kind in ("add", "replace"):
            grown.setdefault(move.component, []).append(move)
        else:
            others.append(move)
    first = [rng.choice(ways) for ways in grown.values()]
    chosen: list[Edit] = []
    while len(chosen) < 2 * count and (first or others):
        source = others if others and (len(chosen) % 3 == 2 or not first) else first
        chosen.append(source.pop(0))
    return chosen


async def sprig(spec: SearchSpec, evaluation: Evaluation, plan: Plan) -> Found:
    """The edit search as a method: a beam of prompts, fresh questions every iteration, components chosen by UCB."""
    incumbent = spec.seed_prompt if spec.incumbent is None else spec.incumbent
    corpus = corpus_for(spec.sources)
    editor, board = ComponentEditor(corpus, seed=spec.seed), Scoreboard()
    own_words = [way for component in corpus.components for way in (component.text, *component.variants)]
    admission = Admission(evaluation, spec.sources, incumbent, allow=own_words)
    admission.remember(incumbent)
    user_prompts = {task.name: (task.user_prompt,) for task in spec.sources}
    iterations, cells = _sizes(plan.search_calls, len(spec.sources))
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
            generations.append(_generation(number, admitted, outcome, board, score))
            evaluation.event(
                "generation", f"iteration {number}: {score:.3f}, {beam[0][:160]}", score=score, best=beam[0]
            )
    except BudgetSpent as spent:
        reason = str(spent)
    return Found(winner=beam[0], reason=reason, proposer="components", generations=tuple(generations))


def _sizes(calls: int, tasks: int) -> tuple[int, int]:
    """Iterations, and cells of each, for about ``calls`` calls in all."""
    entrants = BEAM + CHILDREN * BEAM
    iterations = max(1, min(25, round(math.sqrt(calls / (2 * entrants * tasks)))))
    return iterations, max(1, calls // (iterations * entrants * tasks)) * tasks


def _generation(
    number: int, proposals: Sequence[Proposal], outcome: RaceResult, board: Scoreboard, score: float
) -> Generation:
    candidates = []
    for i, proposal in enumerate(proposals, start=1):
        mean, n = board.mean(proposal.prompt)
        candidates.append(
            Candidate(
                id=f"e{number}.{i}",
                system_prompt=proposal.prompt,
                parent=proposal.parent,
                hypothesis=proposal.hypothesis,
                generation=number,
                score=mean if n else None,
                n=n,
                fate=outcome.fates.get(proposal.prompt, ""),
            )
        )
    return Generation(number=number, kept=outcome.winner, score=score, candidates=tuple(candidates))
