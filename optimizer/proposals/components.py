"""The corpus of prompt components, and a system prompt seen as a list of sentences.

The corpus (``components.txt`` beside this file) is our own: about 300 plain sentences in nine categories, each marked
with the kind of failure it is meant to mend, and a small set of user-prompt edits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from optimizer.records import SLOT, Record, SearchTask

CATEGORIES = (
    "behavioral",
    "good_property",
    "role",
    "style",
    "cot",
    "emotion",
    "scenario",
    "safety",
    "cross_language",
)
LABELS = "{labels}"
BASE = "{base}"
MAX_LABELS = 8
"""A sentence that lists more labels than this is longer than it is helpful."""

_SECTION = re.compile(r"^\[(\w+) (\w+)\]$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Component(Record, frozen=True, kw_only=True):
    """One sentence: its category, the failure type it is meant to mend, and other ways to say it."""

    text: str
    category: str
    mends: str = "any"
    variants: tuple[str, ...] = ()
    names_labels: bool = False


class Corpus(Record, frozen=True, kw_only=True):
    """What the edit search may use: sentences for system prompts, templates for user prompts."""

    components: tuple[Component, ...]
    user_edits: tuple[str, ...] = ()

    def variants_of(self, sentence: str) -> tuple[str, ...]:
        """Other ways to say ``sentence``; empty when the corpus does not know it."""
        for component in self.components:
            ways = (component.text, *component.variants)
            if sentence in ways:
                return tuple(way for way in ways if way != sentence)
        return ()

    def source_of(self, sentence: str) -> str:
        """The component that ``sentence`` is a wording of (itself when it is none): the arm that its reward counts
        for."""
        return next((c.text for c in self.components if sentence in c.variants), sentence)


@cache
def whole_corpus() -> Corpus:
    """The corpus as written, ``{labels}`` still in place."""
    components: list[Component] = []
    user_edits: list[str] = []
    category = mends = ""
    for line in (Path(__file__).parent / "components.txt").read_text(encoding="utf-8").splitlines():
        section = _SECTION.match(line)
        if section:
            category, mends = section.groups()
        elif not line or line.startswith("#"):
            continue
        elif category == "user_prompts":
            user_edits.append(line.replace("\\n", "\n"))
        else:
            text, *variants = line.split(" | ")
            components.append(Component(text=text, category=category, mends=mends, variants=tuple(variants)))
    return Corpus(components=tuple(components), user_edits=tuple(user_edits))


def corpus_for(tasks: Sequence[SearchTask]) -> Corpus:
    """The corpus for a system prompt that ``tasks`` share: label sentences filled where all share a few labels."""
    label_sets = {task.judge.labels for task in tasks}
    labels = label_sets.pop() if len(label_sets) == 1 else ()
    named = _either(labels) if 0 < len(labels) <= MAX_LABELS else ""
    kept = [
        Component(
            text=c.text.replace(LABELS, named),
            category=c.category,
            mends=c.mends,
            variants=tuple(v.replace(LABELS, named) for v in c.variants),
            names_labels=LABELS in c.text,
        )
        for c in whole_corpus().components
        if named or LABELS not in c.text
    ]
    return Corpus(components=tuple(kept), user_edits=whole_corpus().user_edits)


def user_prompt_edits(task: SearchTask, base: str, corpus: Corpus) -> tuple[str, ...]:
    """Every template edit of ``base`` that fits the task, without duplicates and without ``base`` itself."""
    labels = task.judge.labels
    named = _either(labels) if 0 < len(labels) <= MAX_LABELS else ""
    edits = [
        edit.replace(BASE, base).replace(LABELS, named) for edit in corpus.user_edits if named or LABELS not in edit
    ]
    return tuple(dict.fromkeys(edit for edit in edits if edit != base and edit.count(SLOT) == 1))


def sentences(prompt: str) -> tuple[str, ...]:
    """A system prompt as its sentences, in order."""
    return tuple(part.strip() for part in _SENTENCE_END.split(prompt.strip()) if part.strip())


def joined(parts: Sequence[str]) -> str:
    """Sentences as one system prompt."""
    return " ".join(parts)


def _either(labels: Sequence[str]) -> str:
    """``a, b or c``"""
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} or {labels[-1]}"
