"""Which prompts may run: words that a task cannot be described without."""

from __future__ import annotations

from optimizer.admission.admission import Admission
from optimizer.records import JudgeSpec, SearchTask


class Counting:
    """Stands where the ledger is."""

    def reject(self, kind: str) -> None:
        self.kind = kind


def admits(text: str, *judges: JudgeSpec) -> bool:
    tasks = [SearchTask(name=f"t{n}", user_prompt="How many stars?\n{question}", judge=j) for n, j in enumerate(judges)]
    return Admission(Counting(), tasks, "You help.").system_prompt(text)  # type: ignore[arg-type]


STARS = JudgeSpec(kind="choice", labels=("1", "2", "3", "4", "5"))
RUBRIC = JudgeSpec(kind="rubric", rubric=("It is polite.",))
WORDS = JudgeSpec(kind="choice", labels=("yes", "no"))


def test_tasks_that_ask_for_a_grade_may_be_described() -> None:
    text = "Read the whole review before you decide on the rating. A low score needs a reason in the text."
    assert admits(text, STARS, STARS)
    assert not admits(text, STARS, RUBRIC), "there is a judge model to speak to"
    assert not admits(text, WORDS)


def test_to_ask_for_a_good_mark_is_refused_there_too() -> None:
    assert not admits("Aim for the highest rating.", STARS)
    assert not admits("The grader gives a score to each answer.", STARS)
