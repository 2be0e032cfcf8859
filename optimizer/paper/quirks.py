"""The published metrics with their quirks, so that the difference can be seen (``--as-published``).

The extractors take what the published code takes: the first letter or number inside the last answer tags, or the
words of the tags as they stand; without tags the answer is wrong, except for passage questions, which compare the
whole reply. Its safety score is macro-F1 over the union of labels and predictions, so that one malformed answer adds a
class with F1 = 0 and a classifier that is right 90 times in 100 can fall to 0.60.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from optimizer.judges.answers import squad, tagged
from optimizer.paper.catalogue import Quirk

MALFORMED = "no answer tags"
_TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = (*_ONES, *_TEENS, "twenty", "twenty-one")


def published_score(quirk: Quirk, golds: Sequence[Sequence[str]], texts: Sequence[str]) -> float | None:
    """The published score of ``texts`` against their references; None where the metric has no quirk or no text."""
    if not quirk or not texts:
        return None
    read = [extracted(quirk, text) for text in texts]
    if quirk == "union_f1":
        return union_f1([gold[0].casefold() for gold in golds], read)
    right = [any(_same(quirk, gold, answer) for gold in wanted) for wanted, answer in zip(golds, read, strict=True)]
    return sum(right) / len(right)


def extracted(quirk: Quirk, text: str) -> str:
    """What the published extractor reads from a reply."""
    if quirk == "squad_whole":
        return squad(text)
    inner = tagged(text)
    if inner is None:
        return MALFORMED
    if quirk == "option_letter":
        return _letter(inner, "A-D")
    if quirk == "bbh_option":
        return _letter(inner, "A-G")
    if quirk == "first_integer":
        found = re.search(r"\d+", inner)
        return found.group() if found else "-1"
    folded = inner.casefold()
    return str(_WORDS.index(folded)) if quirk == "bbh_text" and folded in _WORDS else folded


def union_f1(golds: Sequence[str], answers: Sequence[str]) -> float:
    """Macro-F1 over every label and every prediction that occurs, malformed ones included."""
    scores = []
    for label in sorted({*golds, *answers}):
        hit = sum(gold == answer == label for gold, answer in zip(golds, answers, strict=True))
        named = sum((gold == label) + (answer == label) for gold, answer in zip(golds, answers, strict=True))
        scores.append(2 * hit / named)
    return sum(scores) / len(scores) if scores else 0.0


def _letter(inner: str, letters: str) -> str:
    """The option in brackets, else the first letter that could be one: "answer: C" reads A."""
    found = re.search(rf"\(([{letters}])\)", inner, re.IGNORECASE) or re.search(rf"([{letters}])", inner, re.IGNORECASE)
    return found.group(1).upper() if found else MALFORMED


def _same(quirk: Quirk, gold: str, answer: str) -> bool:
    if quirk == "squad_whole":
        return squad(gold) == answer
    return gold.strip().casefold() == answer.casefold()
