"""Who may run: every proposed prompt is checked here, once, before a single base call is spent on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from optimizer.admission.lint import lint
from optimizer.admission.overlap import Corpus as LoggedTexts
from optimizer.evaluation.evaluation import Evaluation
from optimizer.proposals.components import sentences
from optimizer.records import SearchTask

SIMILARITY = 0.95
"""Two prompts whose word sets agree to this share (Jaccard) are the same prompt."""
GRADING = ("rating", "ratings", "score", "scores")
"""Words that elsewhere speak to a judge. Tasks that ask for a grade cannot be described without them."""
_WORD = re.compile(r"\w+|[^\w\s]")


class Admission:
    """The door of one run. It remembers what was let in, so that near-duplicates are turned away.

    ``allow``: sentences of our own corpus, which need no suspicion.
    """

    def __init__(
        self, evaluation: Evaluation, tasks: Sequence[SearchTask], incumbent: str, *, allow: Iterable[str] = ()
    ) -> None:
        self._evaluation = evaluation
        self._incumbent = incumbent
        self._own_words = frozenset(allow)
        self._allow = (
            *(label for task in tasks for label in task.judge.labels),
            *(task.user_prompt for task in tasks),
            *(GRADING if _all_grade(tasks) else ()),
        )
        self._logged = LoggedTexts([example.question for task in tasks for example in (*task.reflect, *task.select)])
        self._known: dict[str, list[frozenset[str]]] = {}
        self.refused: list[tuple[str, str]] = []

    def system_prompt(self, text: str) -> bool:
        """True when the candidate may race. A refusal is counted by reason and kept with its sentence."""
        return self._admit("", text, slot=False, incumbent=self._incumbent)

    def user_prompt(self, task: SearchTask, text: str) -> bool:
        """True when the user prompt may be tried for ``task``."""
        return self._admit(task.name, text, slot=True, incumbent=task.user_prompt)

    def remember(self, text: str, *, task: SearchTask | None = None) -> None:
        """Count ``text`` as present without checking it: the incumbent, a task's own prompt."""
        self._known.setdefault(task.name if task else "", []).append(_words(text))

    def _admit(self, place: str, text: str, *, slot: bool, incumbent: str) -> bool:
        words = _words(text)
        if any(_alike(words, other) for other in self._known.get(place, ())):
            return self._refuse("near-duplicate", "it repeats an earlier prompt")
        ours = [sentence for sentence in sentences(text) if sentence in self._own_words]
        hits = lint(text, incumbent=incumbent, corpus_texts=self._logged, allow=(*self._allow, *ours), slot=slot)
        if hits:
            return self._refuse(f"lint: {hits[0].kind}", hits[0].reason)
        self._known.setdefault(place, []).append(words)
        return True

    def _refuse(self, kind: str, reason: str) -> bool:
        self._evaluation.reject(kind)
        self.refused.append((kind, reason))
        return False


def _all_grade(tasks: Sequence[SearchTask]) -> bool:
    """Whether every task's answer is one of several numbers, told by a rule: there is no judge model to speak to."""
    return all(len(t.judge.labels) > 1 and all(map(str.isdecimal, t.judge.labels)) for t in tasks)


def _words(text: str) -> frozenset[str]:
    """Words with their place among equals, so that order within a sentence does not matter but repetition does."""
    return frozenset(_WORD.findall(" ".join(text.casefold().split())))


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    union = len(first | second)
    return not union or len(first & second) / union >= SIMILARITY
