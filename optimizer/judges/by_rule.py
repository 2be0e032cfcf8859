"""Judges that compare text: exact, choice, number, contains, token F1. Macro-F1 judges each item as a choice."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from optimizer.judges import answers
from optimizer.judges.registry import metric
from optimizer.records import Example, JudgeSpec, Verdict

_RELATIVE = Decimal("1e-6")


@metric("exact", "choice", "macro_f1", "number", "contains", "f1")
class ByRule:
    """Scores the given answer against ``example.answers``: the best match of any reference counts."""

    def __init__(self, spec: JudgeSpec) -> None:
        self._spec = spec
        self._compare = {
            "exact": self._exact,
            "choice": self._choice,
            "macro_f1": self._choice,
            "number": self._number,
            "contains": self._contains,
            "f1": self._f1,
        }[spec.kind]

    def verdict(self, example: Example, text: str) -> Verdict:
        """1 or 0 (F1: between); an answer that does not have the demanded form scores 0 and is malformed."""
        answer = answers.given(text, require_tags=self._spec.require_tags)
        if answer is None and not (self._spec.lenient and text.strip()):
            return Verdict(score=0.0, malformed=True, critique="The reply holds no answer in the demanded form.")
        return self._compare(example, answer or text)

    def _exact(self, example: Example, answer: str) -> Verdict:
        right = any(_same_text(answer, reference) for reference in example.answers)
        return Verdict(score=float(right), answer=answer)

    def _choice(self, example: Example, answer: str) -> Verdict:
        labels = self._spec.labels
        chosen = answers.label(answer, labels)
        if chosen is None and self._spec.lenient:
            chosen = answers.first_named(answer, labels)
        if chosen is None:
            return Verdict(
                score=0.0, answer=answer, malformed=True, critique=f"The answer is none of: {', '.join(labels)}."
            )
        right = any(chosen.casefold() == reference.casefold() for reference in example.answers)
        return Verdict(score=float(right), answer=chosen)

    def _number(self, example: Example, answer: str) -> Verdict:
        value = answers.number(answer)
        if value is None:
            return Verdict(score=0.0, answer=answer, malformed=True, critique="The answer holds no number.")
        right = any(
            (wanted := answers.number(reference)) is not None and _same_number(value, wanted)
            for reference in example.answers
        )
        return Verdict(score=float(right), answer=str(value))

    def _contains(self, example: Example, answer: str) -> Verdict:
        padded = f" {answers.squad(answer)} "
        right = any(
            (wanted := answers.squad(reference)) != "" and f" {wanted} " in padded for reference in example.answers
        )
        return Verdict(score=float(right), answer=answer)

    def _f1(self, example: Example, answer: str) -> Verdict:
        score = max((_token_f1(answer, reference) for reference in example.answers), default=0.0)
        return Verdict(score=score, answer=answer)


def _same_text(answer: str, reference: str) -> bool:
    """Equal after normalising; references that are numbers compare as numbers."""
    if answers.plain(answer) == answers.plain(reference):
        return True
    left, right = answers.squad(answer), answers.squad(reference)
    if left and left == right:
        return True
    wanted = answers.whole_number(reference)
    value = answers.whole_number(answer)
    return wanted is not None and value is not None and _same_number(value, wanted)


def _same_number(value: Decimal, wanted: Decimal) -> bool:
    return abs(value - wanted) <= _RELATIVE * max(abs(wanted), Decimal(1) if wanted == 0 else Decimal(0))


def _token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of token precision and recall, as SQuAD counts it."""
    left, right = answers.squad(answer).split(), answers.squad(reference).split()
    if not left or not right:
        return float(left == right)
    shared = sum((Counter(left) & Counter(right)).values())
    return 2 * shared / (len(left) + len(right))
