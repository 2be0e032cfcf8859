"""What a proposer is: it turns parents and their failures into new prompts. Two kinds exist, and a search has one of
them.

``rewrite`` (``analysis.py``) asks the optimizer model to analyse and to write. ``components``
(``editor.py``) edits with sentences of the corpus and needs no model. Proposals are texts only: whether they
may run is decided at admission.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from optimizer.proposals.components import joined, sentences
from optimizer.proposals.failures import Failures
from optimizer.records import Record

ProposerName = Literal["rewrite", "components"]
HISTORY_SHOWN = 12


class Proposal(Record, frozen=True, kw_only=True):
    """A new prompt, the prompt it came from, and the hypothesis or edit that made it.

    ``change`` holds the sentences that it wants added, where it can be said so; changes that helped are combined later.
    """

    prompt: str
    parent: str
    hypothesis: str
    change: str = ""


def combined(prompt: str, changes: Sequence[str]) -> list[Proposal]:
    """``prompt`` with all ``changes`` added, if they are at least two: many small helps may only show together."""
    present = sentences(prompt)
    added = [part for change in changes for part in sentences(change) if part not in present]
    added = list(dict.fromkeys(added))
    if len(changes) < 2 or not added:
        return []
    return [Proposal(prompt=joined((*present, *added)), parent=prompt, hypothesis=f"{len(changes)} changes together")]


def combinations(best: str, helped: Sequence[tuple[float, str]]) -> list[Proposal]:
    """``best`` with the changes that helped in the last race (gain, text) and are not in it: the two best, and all."""
    changes = [change for _, change in sorted(helped, key=lambda row: -row[0])]
    fresh = [change for change in dict.fromkeys(changes) if change not in best]
    return [*combined(best, fresh[:2]), *(combined(best, fresh) if len(fresh) > 2 else [])]


@dataclass(frozen=True)
class Parent:
    """A system prompt to improve, with its failures per source task (tasks without failures included)."""

    prompt: str
    failures: tuple[Failures, ...]

    @property
    def shares(self) -> dict[str, float]:
        """Share of each failure type over all tasks."""
        total = sum(f.total for f in self.failures)
        kinds = {kind for f in self.failures for kind in f.counts}
        return {kind: sum(f.counts[kind] for f in self.failures) / total for kind in sorted(kinds)} if total else {}


@dataclass
class History:
    """Edits already tried with the change of score that was measured, on the same examples as their parent."""

    rows: list[tuple[float, str]] = field(default_factory=list)

    def note(self, hypothesis: str, gain: float) -> None:
        """Remember what an edit did."""
        self.rows.append((gain, hypothesis))

    def lines(self) -> list[str]:
        """The latest edits, worst first (OPRO: ascending order works best)."""
        return [f"{gain:+.3f} {what}" for gain, what in sorted(self.rows[-HISTORY_SHOWN:])]


@dataclass(frozen=True)
class SystemAsk:
    """Wanted: about ``count`` new system prompts from these parents."""

    parents: tuple[Parent, ...]
    count: int
    history: History
    generation: int


@dataclass(frozen=True)
class UserAsk:
    """Wanted: at most ``count`` new user prompts for one task, made from ``base``, at the system prompt ``system``."""

    failures: Failures
    system: str
    base: str
    count: int
    generation: int


class Proposer(Protocol):
    """A source of new prompts."""

    @property
    def name(self) -> ProposerName:
        """Which kind it is, as the result reports it."""
        ...

    async def system_prompts(self, ask: SystemAsk) -> list[Proposal]:
        """One candidate per hypothesis and parent. Fewer than asked for when replies could not be read."""
        ...

    async def user_prompts(self, ask: UserAsk) -> list[str]:
        """New user prompts; fewer than asked for when replies could not be read."""
        ...

    def learn(self, proposal: Proposal, gain: float) -> None:
        """What the race said: the score of the proposal minus its parent's on the same examples."""
        ...
