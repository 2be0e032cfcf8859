"""Before spending: is the judge sane, does the incumbent fail at all, and do prompts matter here?

Three questions, in the order of their price. A judge that passes a wrong answer blocks the run. An incumbent without
failures leaves nothing to learn. When about ten diverse prompts score no differently than chance would have it, no
search over prompts can help ("coin flip", arXiv 2604.14585), and the run ends with that reason.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np

from optimizer.errors import RunBlocked
from optimizer.evaluation import Evaluation
from optimizer.judges.rubric import NO_REFERENCE
from optimizer.racing import Cell, Scoreboard
from optimizer.records import Example, SearchTask
from optimizer.scoring import macro_f1

SANITY_EXAMPLES = 4
CEILING = 0.95
"""An incumbent above this on the search's own examples has no room that the gate could confirm."""
SAME = 0.20
"""Prompts differ when a test of equal means says so at this level; the check would rather search in vain than miss."""
SHARP = 0.05
"""Standard error of a paired difference from which on silence means something: 10 points would have been seen."""


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
    if not golds or task.judge.kind == "rubric":
        return 0.0
    constant, count = Counter(golds).most_common(1)[0]
    if task.judge.kind == "macro_f1":
        return macro_f1([(gold, constant) for gold in golds], task.judge.labels)
    return count / len(examples)


def no_headroom(board: Scoreboard, incumbent: str, prompts: Sequence[str], cells: Sequence[Cell]) -> str:
    """The reason to stop after the first race, or empty: prompts make no difference that ``cells`` could show.

    Stops only on evidence: the differences are measured sharply enough, none of the ``prompts`` is better than the
    incumbent by two standard errors, and a test of equal means (two-way analysis of variance, cells as blocks) sees
    nothing.
    """
    others = [prompt for prompt in prompts if prompt != incumbent]
    differences = [board.compare(prompt, incumbent, cells) for prompt in others]
    if len(differences) < 2:
        return ""
    best = max(differences, key=lambda d: d.mean)
    if max(best.se, statistics.median(d.se for d in differences)) > SHARP or best.mean > max(0.02, 2 * best.se):
        return ""
    rows = [[board.scores[prompt].get(cell.key) for cell in cells] for prompt in (incumbent, *others)]
    table = np.array([[np.nan if s is None else s for s in row] for row in rows], dtype=float)
    table = table[:, np.isfinite(table).all(axis=0)]
    if equal_means(table) <= SAME:
        return ""
    return (
        f"No headroom: the best of {len(others)} diverse prompts is {best.mean:+.3f} (standard error {best.se:.3f}) "
        "from the incumbent, and all of them together differ no more than chance. "
        "Change the task, the model or the judge."
    )


def equal_means(table: np.ndarray) -> float:
    """p-value that all rows of a (prompts, cells) table have the same mean, cells as blocks; 1.0 for identical rows."""
    from scipy.special import fdtrc

    rows, columns = table.shape
    if rows < 2 or columns < 2:
        return 1.0
    grand = table.mean()
    between = columns * float(((table.mean(axis=1) - grand) ** 2).sum())
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + grand
    within = float((rest**2).sum())
    if between < 1e-12:
        return 1.0
    if within < 1e-12:
        return 0.0
    df1, df2 = rows - 1, (rows - 1) * (columns - 1)
    return float(fdtrc(df1, df2, (between / df1) / (within / df2)))


def _wrong_answer(task: SearchTask, example: Example) -> str:
    """An answer that is certainly wrong: another label, another number, or words that answer nothing."""
    own = {answer.casefold() for answer in example.answers}
    for label in task.judge.labels:
        if label.casefold() not in own:
            return label
    if task.judge.kind in ("number", "math"):
        return "-98765.4321"
    return "qzx vvk jwq"
