"""Before spending: is the judge sane, does the incumbent fail at all, and do prompts matter here?

Three questions, in the order of their price. A judge that passes a wrong answer blocks the run. An incumbent without
failures leaves nothing to learn. When about ten diverse prompts score no differently than chance would have it, no
search over prompts can help ("coin flip", arXiv 2604.14585), and the run ends with that reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from optimizer.errors import RunBlocked
from optimizer.evaluation.evaluation import Evaluation
from optimizer.evaluation.scoring import macro_f1
from optimizer.judges.rubric import NO_REFERENCE
from optimizer.records import Example, SearchTask
from optimizer.steps.racing import Cell, Difference, Scoreboard

SANITY_EXAMPLES = 4
CEILING = 0.95
"""An incumbent above this on the search's own examples has no room that the gate could confirm."""
SAME = 0.50
"""Prompts differ when a test of equal means says so at this level; the check would rather search in vain than miss."""
ENOUGH = 800
"""Answers from which on silence means something: prompts that differ by five points would mostly have shown."""
ENOUGH_ALIKE = 100
"""Enough when not a single answer depends on the prompt."""
Table = npt.NDArray[np.float64]


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


def no_headroom(tables: Sequence[Table], best: Difference) -> str:
    """The reason to stop, or empty: so far prompts have made no difference that could have been seen.

    ``tables`` hold, race by race, the scores of all entrants on the cells that all of them answered, shape (prompts,
    cells). ``best`` is the best prompt against the incumbent. Stops only on evidence: enough answers, a best that is
    not clearly better, and a pooled test of equal means that sees nothing.
    """
    answers = sum(table.size for table in tables)
    if best.mean > max(0.02, 2 * best.se):
        return ""
    chance = equal_means(tables)
    if chance <= SAME or answers < (ENOUGH_ALIKE if chance == 1.0 else ENOUGH):
        return ""
    prompts = sum(len(table) - 1 for table in tables)
    return (
        f"No headroom: {prompts} diverse prompts on {answers} answers differ no more than chance (p = {chance:.2f}), "
        f"the best is {best.mean:+.3f} from the incumbent. Change the task, the model or the judge."
    )


def score_table(board: Scoreboard, prompts: Sequence[str], cells: Sequence[Cell]) -> Table:
    """Scores of ``prompts`` on those of ``cells`` that all of them have scored, shape (prompts, cells)."""
    rows = [[board.scores.get(prompt, {}).get(cell.key) for cell in cells] for prompt in prompts]
    table = np.array([[np.nan if s is None else s for s in row] for row in rows], dtype=np.float64)
    return table[:, np.isfinite(table).all(axis=0)]


def equal_means(tables: Sequence[Table]) -> float:
    """p-value that in every table all prompts have the same mean: two-way analysis of variance with cells as blocks,
    sums of squares pooled over the tables. 1.0 where all rows are alike."""
    from scipy.special import fdtrc

    between = within = 0.0
    df1 = df2 = 0
    for table in tables:
        rows, columns = table.shape
        if rows < 2 or columns < 2:
            continue
        by_prompt, by_cell, grand = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True), table.mean()
        between += columns * float(((by_prompt - grand) ** 2).sum())
        within += float(((table - by_prompt - by_cell + grand) ** 2).sum())
        df1 += rows - 1
        df2 += (rows - 1) * (columns - 1)
    if between < 1e-12:
        return 1.0
    if within < 1e-12:
        return 0.0
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
