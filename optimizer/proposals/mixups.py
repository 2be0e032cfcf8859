"""Mix-ups: a label that the model gives where another is right, counted over all tasks, and the sentence against it.

Models lean towards some labels (contextual calibration, arXiv 2102.09690, measures and corrects that lean). Here it is
read off the failures without asking anybody: where one mix-up of two labels makes up a third of all wrong labels,
several tasks share it and the reverse is rare, one candidate says which of the two to prefer. It is a candidate like
any other: the race and the gate judge it. What it can win is the prior of the labels, not skill; the constant baseline
beside every result shows how much that is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.proposals.components import joined, sentences
from optimizer.proposals.failures import Failures, spoken_for
from optimizer.proposals.proposal import Parent, Proposal

LEAST = 4
"""Wrong labels of one kind before they are a lean and not an accident."""
SHARE = 1 / 3
REVERSE = 1 / 3
"""A mix-up whose reverse is more frequent than this share of it is confusion, not a lean: no sentence settles it."""


@dataclass(frozen=True)
class MixUp:
    """``answered`` was given ``count`` times where ``right`` was right, the other way round ``reverse`` times."""

    answered: str
    right: str
    count: int
    reverse: int

    @property
    def sentence(self) -> str:
        """What a system prompt can say about it."""
        return f"If you hesitate between {self.answered} and {self.right}, answer {self.right}."


def mix_ups(parts: Sequence[Failures]) -> list[MixUp]:
    """The leans that the failures of all tasks show, the most frequent first.

    A pair counts where two tasks have it (or the only task with labels); of live traffic, only what an analyser may
    read.
    """
    labelled = [part for part in spoken_for(parts) if part.task.judge.labels]
    counts = {pair: sum(len(part.mixed_up.get(pair, ())) for part in labelled) for pair in _pairs(labelled)}
    total = sum(counts.values())
    found = []
    for pair, count in counts.items():
        having = sum(pair in part.mixed_up for part in labelled)
        reverse = counts.get((pair[1], pair[0]), 0)
        if count >= max(LEAST, SHARE * total) and reverse <= REVERSE * count and having >= min(2, len(labelled)):
            found.append(MixUp(*pair, count, reverse))
    return sorted(found, key=lambda mix_up: -mix_up.count)


def against_mix_ups(parent: Parent) -> list[Proposal]:
    """``parent`` with the sentence against each lean that its failures show and that it does not hold yet."""
    present = sentences(parent.prompt)
    return [
        Proposal(
            prompt=joined((*present, found.sentence)),
            parent=parent.prompt,
            hypothesis=f"leans to {found.answered}: {found.sentence}",
            change=found.sentence,
        )
        for found in mix_ups(parent.failures)
        if found.sentence not in present
    ]


def _pairs(parts: Sequence[Failures]) -> list[tuple[str, str]]:
    return sorted({pair for part in parts for pair in part.mixed_up})
