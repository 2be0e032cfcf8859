"""The proposer that needs no optimizer model: edits of a prompt's sentences, chosen by a bandit over the corpus."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from optimizer.draws import stream
from optimizer.proposals import edits
from optimizer.proposals.components import Corpus, joined, sentences, user_prompt_edits
from optimizer.proposals.edits import Bandit, Edit
from optimizer.proposals.proposal import Proposal, ProposerName, SystemAsk, UserAsk

Rephrase = Callable[[str, int], Coroutine[Any, Any, str | None]]
"""A sentence in other words (None when the reply could not be read); the number names the draw."""


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
