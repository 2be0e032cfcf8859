"""What a judge is: two pure halves, so that it can be tested without a model and resumed without paying twice.

Most judges decide from the text alone (``Judge.verdict``). A judge that needs a model says what to ask (``question``)
and reads the reply (``read``); the call itself is made by the evaluation, on the one path of all calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from optimizer.records import Completion, Example, Request, Verdict

Nonce = Callable[[str], str]
"""Gives a tag for some untrusted text: fresh per run and text, not to be guessed by the text's author, stable on
resume."""

_ADDRESSES_GRADER = re.compile(
    r"\b(?:graders?|evaluators?|judges?|assessors?)\b.{0,60}\b(?:score|grade|mark|answer|output|respond|verdict)\b"
    r"|\"(?:criteria|verdict|injection_suspected)\"\s*:"
    r"|\bignore (?:all |any )?(?:previous|above|prior) (?:instructions|criteria)\b",
    re.IGNORECASE | re.DOTALL,
)


@runtime_checkable
class Judge(Protocol):
    """Scores one answer by rule."""

    def verdict(self, example: Example, text: str) -> Verdict:
        """The verdict on ``text``. Never raises for what a model wrote."""
        ...


@runtime_checkable
class ModelJudge(Protocol):
    """Scores one answer by asking a model; ``attempt`` 0 is the first ask, 1 the one repair."""

    def question(self, example: Example, text: str, nonce: Nonce, attempt: int = 0) -> Request | Verdict:
        """What to ask about ``text``, or the verdict at once where a rule decides."""
        ...

    def read(self, reply: Completion) -> Verdict | None:
        """The verdict in the judge's reply; None when it cannot be read (then one repair is asked for)."""
        ...


def addresses_grader(text: str) -> bool:
    """Whether an answer speaks to whoever grades it: such an item is kept out of what the analyser learns from."""
    return bool(_ADDRESSES_GRADER.search(text))
