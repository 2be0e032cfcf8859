"""Which prompts may run: words that a task cannot be described without."""

from __future__ import annotations

import time
from pathlib import Path

from optimizer.admission.admission import Admission
from optimizer.evaluation.evaluation import Evaluation
from optimizer.records import JudgeSpec, SearchTask
from tests.optimizer.scripted import Scripted, spec_of


async def admits(home: Path, text: str, *judges: JudgeSpec) -> bool:
    tasks = tuple(
        SearchTask(name=f"t{n}", user_prompt="How many stars?\n{question}", judge=judge)
        for n, judge in enumerate(judges)
    )
    asked = Scripted(lambda _: "")
    spec = spec_of(home, tasks, resume=True)
    async with Evaluation.open(spec, clock=time.time, backends={"base": asked, "optimizer": asked}) as evaluation:
        return Admission(evaluation, tasks, "You help.").system_prompt(text)


STARS = JudgeSpec(kind="choice", labels=("1", "2", "3", "4", "5"))
RUBRIC = JudgeSpec(kind="rubric", rubric=("It is polite.",))
WORDS = JudgeSpec(kind="choice", labels=("yes", "no"))


async def test_tasks_that_ask_for_a_grade_may_be_described(tmp_path: Path) -> None:
    text = "Read the whole review before you decide on the rating. A low score needs a reason in the text."
    assert await admits(tmp_path, text, STARS, STARS)
    assert not await admits(tmp_path, text, STARS, RUBRIC), "there is a judge model to speak to"
    assert not await admits(tmp_path, text, WORDS)


async def test_to_ask_for_a_good_mark_is_refused_there_too(tmp_path: Path) -> None:
    assert not await admits(tmp_path, "Aim for the highest rating.", STARS)
    assert not await admits(tmp_path, "The grader gives a score to each answer.", STARS)
