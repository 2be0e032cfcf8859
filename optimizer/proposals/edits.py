"""The edit search's moves and its bandit: add, delete, swap and rephrase sentences, with UCB over components (SPRIG).

Pure: a move is a value, randomness is handed in. The arithmetic of the bandit is that of the SPRIG paper (reward of a
component = score of the prompt with it minus score of the prompt without it) with one addition, a prior: a component
that mends a type of failure seen often is tried earlier.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from optimizer.proposals.components import Component, Corpus, joined, sentences
from optimizer.records import Record

EditKind = Literal["add", "delete", "swap", "replace", "rephrase", "merge"]
EXPLORATION = 0.05
"""Weight of UCB's confidence term, in score units: rewards are differences of mean scores, mostly within +-0.2."""
PRIOR_PULLS = 1.0
_PROMISE = {"format": 0.4, "reasoning": 0.25, "any": 0.15, "knowledge": 0.1, "refusal": 0.1}
"""What a sentence of each kind is worth before anything is known. Models below a few billion parameters gain most
from a clear answer form (measured: one such sentence lifts a 0.5B model from .22 to .48 over six tasks)."""


class Edit(Record, frozen=True, kw_only=True):
    """One edited prompt. ``component`` is the arm whose reward it measures; ``sign`` -1 when the edit took it out."""

    prompt: str
    kind: EditKind
    component: str = ""
    sign: int = 1

    @property
    def label(self) -> str:
        """The edit in words, for people and for the history of a run."""
        return f"{self.kind}: {self.component}" if self.component else self.kind


class Bandit:
    """UCB over components. State is only what :meth:`learn` was told, so a replayed run rebuilds it exactly."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self._pulls: dict[str, int] = {}
        self._reward: dict[str, float] = {}

    def learn(self, edit: Edit, gain: float) -> None:
        """``gain`` = score of the edited prompt minus its parent's, on the same examples."""
        if not edit.component:
            return
        arm = self.corpus.source_of(edit.component)
        self._pulls[arm] = self._pulls.get(arm, 0) + 1
        self._reward[arm] = self._reward.get(arm, 0.0) + edit.sign * gain

    def ranked(self, failures: Mapping[str, float], rng: random.Random) -> list[Component]:
        """Components, best index first. ``failures``: share of each failure type; ties fall at random."""
        total = sum(self._pulls.values()) + 1
        noise = {c.text: rng.random() for c in self.corpus.components}

        def index(c: Component) -> float:
            pulls = self._pulls.get(c.text, 0) + PRIOR_PULLS
            prior = EXPLORATION * (_PROMISE[c.mends] + failures.get(c.mends, 0.0) + (0.5 if c.names_labels else 0.0))
            mean = (self._reward.get(c.text, 0.0) + PRIOR_PULLS * prior) / pulls
            return mean + EXPLORATION * math.sqrt(2 * math.log(total + 1) / pulls)

        return sorted(self.corpus.components, key=lambda c: (-index(c), noise[c.text]))


def varied(ranked: Sequence[Component], count: int) -> list[Component]:
    """The best ``count`` components, at most a third of them (rounded up) from one category while others have any
    left."""
    most = math.ceil(count / 3)
    taken: dict[str, int] = {}
    picked: list[Component] = []
    for component in ranked:
        if taken.get(component.category, 0) < most:
            taken[component.category] = taken.get(component.category, 0) + 1
            picked.append(component)
    return [*picked, *(c for c in ranked if c not in picked)][:count] if len(picked) < count else picked[:count]


def additions(parent: str, component: Component, rng: random.Random) -> list[Edit]:
    """The component put at the end or at the front of the parent, and alone in the place of one sentence."""
    parts = sentences(parent)
    if component.text in parts:
        return []
    edits = [
        Edit(prompt=joined((*parts, component.text)), kind="add", component=component.text),
        Edit(prompt=joined((component.text, *parts)), kind="add", component=component.text),
    ]
    rng.shuffle(edits)
    if parts:
        place = rng.randrange(len(parts))
        replaced = (*parts[:place], component.text, *parts[place + 1 :])
        edits.append(Edit(prompt=joined(replaced), kind="replace", component=component.text))
    return edits


def single_edits(parent: str, fresh: Sequence[Component], corpus: Corpus, rng: random.Random) -> list[Edit]:
    """Every kind of move on ``parent``: the fresh components first, then delete, swap and rephrase, in random order."""
    parts = sentences(parent)
    grown = [edit for component in fresh for edit in additions(parent, component, rng)]
    moved: list[Edit] = []
    for i, part in enumerate(parts):
        if len(parts) > 1:
            moved.append(Edit(prompt=joined((*parts[:i], *parts[i + 1 :])), kind="delete", component=part, sign=-1))
        moved.extend(
            Edit(prompt=joined((*parts[:i], way, *parts[i + 1 :])), kind="rephrase", component=part)
            for way in corpus.variants_of(part)
        )
        for j in range(i + 1, len(parts)):
            swapped = list(parts)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            moved.append(Edit(prompt=joined(swapped), kind="swap"))
    rng.shuffle(moved)
    return grown + moved


def merged(first: str, second: str) -> Edit:
    """The sentences of both prompts, each once: what helped apart may help together."""
    return Edit(prompt=joined(tuple(dict.fromkeys((*sentences(first), *sentences(second))))), kind="merge")


def distinct(edits: Iterable[Edit], seen: Iterable[str]) -> list[Edit]:
    """Edits whose prompt is new, the first of equal ones."""
    known = set(seen)
    kept: dict[str, Edit] = {}
    for edit in edits:
        if edit.prompt not in known:
            kept.setdefault(edit.prompt, edit)
    return list(kept.values())
