"""Before spending: is the judge sane, and what does answering the same every time score?

A judge that passes a wrong answer, or that cannot be read, blocks the run. Whether prompts matter here at all is asked
in ``headroom.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from optimizer.errors import RunBlocked
from optimizer.evaluation.evaluation import Evaluation
from optimizer.evaluation.scoring import macro_f1
from optimizer.judges.rubric import NO_REFERENCE, NOT_ASSESSED
from optimizer.records import Example, SearchTask

SANITY_EXAMPLES = 4


async def judge_sanity(evaluation: Evaluation, tasks: Sequence[SearchTask]) -> None:
    """Known right answers must score 1, known wrong ones must not. Raises :class:`RunBlocked` naming task and
    answer."""
    for task in tasks:
        answered = (e for e in task.reflect if e.answers and e.answers[0] != NO_REFERENCE)
        known = list(islice(answered, SANITY_EXAMPLES))
        form = "<answer>{}</answer>" if task.judge.require_tags else "{}"
        right = [form.format(example.answers[0]) for example in known]
        some = known or list(task.reflect[:SANITY_EXAMPLES])  # without references, wrong answers are still known
        wrong = [form.format(_wrong_answer(task, example)) for example in some]
        for examples, texts, want_right in ((known, right, True), (some, wrong, False)):
            verdicts = await evaluation.judge(task, examples, texts)
            scored = [verdict.score for verdict in verdicts if verdict.score is not None]
            lost = [v.unscored for v in verdicts if v.score is None and v.unscored != NOT_ASSESSED]
            if task.by_model and 2 * len(lost) > len(verdicts):
                raise RunBlocked(
                    f"The judge of task {task.name} gives no verdict that can be read on {len(lost)} of {len(verdicts)}"
                    f" known answers ({lost[0]}): look at its model before searching."
                )
            if want_right and scored and sum(s >= 0.5 for s in scored) * 2 <= len(scored):
                raise RunBlocked(
                    f"The judge of task {task.name} fails known right answers, for example {right[0][:40]!r}: "
                    "mend its labels, rubric or model before searching."
                )
            if not want_right and any(s >= 1.0 for s in scored):
                shown = next(t for t, v in zip(texts, verdicts, strict=True) if v.score is not None and v.score >= 1.0)
                raise RunBlocked(
                    f"The judge of task {task.name} passes a known wrong answer ({shown[:40]!r}): "
                    "mend its rubric or model before searching."
                )


def constant_baseline(task: SearchTask, examples: Sequence[Example]) -> float:
    """What answering every one of ``examples`` with their most frequent reference scores, by the task's own metric."""
    golds = [example.answers[0].casefold() for example in examples if example.answers]
    if not golds or task.by_model:
        return 0.0
    constant, count = Counter(golds).most_common(1)[0]
    if task.judge.kind == "macro_f1":
        return macro_f1([(gold, constant) for gold in golds], task.judge.labels)
    return count / len(examples)


def _wrong_answer(task: SearchTask, example: Example) -> str:
    """An answer that is certainly wrong: another label, another number, or words that answer nothing."""
    own = {answer.casefold() for answer in example.answers}
    for label in task.judge.labels:
        if label.casefold() not in own:
            return label
    if task.judge.kind in ("number", "math"):
        return "-98765.4321"
    return "qzx vvk jwq"
