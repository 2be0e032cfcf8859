"""How a system prompt does over many user prompts of tasks that no search saw: the paper's claim is that most do better
than under Default. A user prompt's score is its mean over seeds; tasks weigh alike."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from optimizer.evaluation.scoring import mean_interval
from optimizer.paper.raw import RawRow
from optimizer.paper.scales import name_of, told
from optimizer.paper.shown import Shown, Table, Value, methods_of, over_tasks, unique


def robustness(rows: Sequence[RawRow]) -> Table | None:
    """Worst, mean and best user prompt per method, and the share of them that do better than under Default."""
    with_scores = [row for row in rows if row.user_prompt_scores]
    measured = [{row.task for row in group} for _, group in methods_of(with_scores)]
    tasks = set.intersection(*measured) if measured else set()
    chosen = [row for row in with_scores if row.task in tasks]
    lines: list[tuple[Value, ...]] = []
    for label, group in methods_of(chosen):
        scores = [by_user_prompt([row for row in group if row.task == task]) for task in sorted(tasks)]
        flat = [score for of_task in scores for score in of_task]
        share = better_share(group, chosen) if group[0].method != "default" else None
        lines.append((label, len(flat), min(flat), fmean(map(fmean, scores)), max(flat), share))
    columns = ("method", "user prompts", "worst", name_of(chosen, "mean"), "best", "better than under Default")
    note = f"Percent, on {', '.join(sorted(tasks))}: the tasks that every row of this table was measured on, each the "
    note += "mean over its seeds. " + told(chosen)
    n = [row.answers // len(row.user_prompt_scores) for row in chosen]
    if n:
        asked = f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}"
        note += f" Each user prompt answered {asked} questions of its task; one that scores the same is not better."
        note += " Interval over user prompts, n counts them."
    title = "Robustness over user prompts of the unseen tasks"
    return Table(name="robustness", title=title, columns=columns, rows=tuple(lines), note=note)


def better_share(group: Sequence[RawRow], rows: Sequence[RawRow]) -> Shown | None:
    """The share of user prompts that score higher under one method (``group``) than under Default (in ``rows``), with
    its interval over user prompts. None when a task of ``group`` has no Default under the same user prompts."""
    cells: list[Shown] = []
    for task in unique(row.task for row in group):
        start = [row for row in rows if row.method == "default" and row.task == task and row.user_prompt_scores]
        default = by_user_prompt(start)
        of_task = [row for row in group if row.task == task and _alike(row, start)]
        if not of_task:
            return None
        better = [[float(a > b) for a, b in zip(row.user_prompt_scores, default, strict=True)] for row in of_task]
        found = mean_interval([fmean(of_prompt) for of_prompt in zip(*better, strict=True)])
        cells.append(Shown(score=found.score, low=found.low, high=found.high, n=found.n, seeds=len(of_task)))
    return over_tasks(cells)


def by_user_prompt(rows: Sequence[RawRow]) -> list[float]:
    """The score of each user prompt of one task, a mean over the seeds that had the same user prompts as the first."""
    alike = [row.user_prompt_scores for row in rows if _alike(row, rows)]
    return [fmean(scores) for scores in zip(*alike, strict=True)]


def _alike(row: RawRow, others: Sequence[RawRow]) -> bool:
    """Whether ``row`` was measured under the same user prompts as the first of ``others``."""
    return bool(others) and (row.user_prompts_sha256, len(row.user_prompt_scores)) == (
        others[0].user_prompts_sha256,
        len(others[0].user_prompt_scores),
    )
