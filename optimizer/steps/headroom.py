"""Headroom: do prompts matter here at all? Asked before the optimizer model is paid for anything.

The incumbent and nine very different prompts, eighteen sentences of the corpus each, answer the same examples in
blocks. As soon as they differ the search goes on; when, at the end of a bounded share of the budget, they still differ
no more than chance, the two that looked best and the two that looked worst answer fresh examples, and without a
difference there the run ends with that reason (arXiv 2604.14585: where a headroom test sees nothing, optimizing
prompts is a coin flip).

Where a fifth of the answers fails in form there is headroom, and nothing is asked: form is what prompts mend best.
While the question is open, the races go on adding evidence (:func:`no_headroom`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from optimizer.draws import stream
from optimizer.proposals.components import CATEGORIES, Corpus, joined
from optimizer.steps.racing import NO_DIFFERENCE, Cell, Difference, Respond, Scoreboard
from optimizer.waves import together

CEILING = 0.95
"""A start prompt above this on the search's own examples has no room that the gate could confirm."""
SHARE = 0.12
"""Of the budget's calls, at most."""
PROMPTS = 10
EXTREMES = 2
"""So many that looked best, and as many that looked worst, are asked again on half as many fresh examples."""
LEAD = 0.5
"""Standard errors by which the best must then lead for the question to stay open: in doubt the search goes on."""
CELLS = 48
"""Examples per prompt from which on "no difference" means something: see docs/optimizer.md."""
FORM = 0.2
"""Share of answers malformed under the start prompt from which on there is headroom for sure."""
SEEN = 0.05
SAME = 0.50
"""Prompts differ when a test of equal means says so at this level; the check would rather search in vain than miss."""
ENOUGH = 800
"""Answers of races from which on silence means something: five points would mostly have shown."""
ENOUGH_ALIKE = 100
"""Enough when not a single answer depends on the prompt."""
PROBE = 160
"""Fresh cells on which the best must lead the incumbent before a search without visible headroom goes on."""
_BLOCK = 8
_PER_CATEGORY = 2
_WAY_OUT = "Change the task, the model or the judge; `options: {headroom_cells: 0}` searches all the same."
Table = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Headroom:
    """What the check found: prompts differ (``seen``), they do not (``none``, with the reason), or it cannot tell."""

    outcome: Literal["seen", "none", "open"]
    answers: int
    text: str
    tables: tuple[Table, ...]


def cells_for(calls: float, tasks: int, available: int) -> int:
    """Examples per prompt that a share of ``calls`` pays for, in turn over the tasks; 0 where it pays for no answer."""
    whole = -(-CELLS // tasks) * tasks
    if most_calls(whole) <= SHARE * calls and whole + whole // 2 <= available:
        return whole
    few = -(-ENOUGH_ALIKE // PROMPTS)  # cannot say that prompts do not differ, only that no answer depends on them
    return few if most_calls(few) <= SHARE * calls and few <= available else 0


def most_calls(cells: int) -> int:
    """Rollouts that a check of ``cells`` examples per prompt makes at most."""
    return cells * PROMPTS + (cells // 2 * 2 * EXTREMES if cells >= CELLS else 0)


def diverse(incumbent: str, corpus: Corpus, seed: int, also: Sequence[str] = ()) -> list[str]:
    """The incumbent, ``also``, and prompts that have little in common, ten in all: each adds two sentences of every
    category."""
    prompts = [incumbent, *also]
    for number in range(len(prompts), PROMPTS):
        rng = stream(seed, "headroom", number)
        added = []
        for category in CATEGORIES:
            texts = [component.text for component in corpus.components if component.category == category]
            added += rng.sample(texts, min(_PER_CATEGORY, len(texts)))
        prompts.append(joined([incumbent, *added] if incumbent else added))
    return prompts


async def ask(respond: Respond, prompts: Sequence[str], cells: Sequence[Cell], bound: int) -> Headroom:
    """Whether ``prompts`` differ on ``cells``; at most ``bound`` of them, and half as many fresh ones, are used."""
    board = Scoreboard()

    async def answered(some: Sequence[str], block: Sequence[Cell]) -> None:
        found = await together(respond(prompt, block) for prompt in some)
        for prompt, rollouts in zip(some, found, strict=True):
            board.put(prompt, block, rollouts)

    table, chance, used = np.ones((1, 0)), 1.0, 0
    while used < min(bound, len(cells)):
        block = cells[used : min(bound, used + _BLOCK)]
        await answered(prompts, block)
        used += len(block)
        table = score_table(board, prompts, cells[:used])
        chance = equal_means([table])
        if chance < SEEN and used >= 2 * _BLOCK:
            return Headroom("seen", table.size, f"headroom: prompts differ (p = {chance:.3f})", (table,))
        if chance < 1.0 and bound < CELLS:
            break
    said = f"{len(prompts)} very different prompts on {table.size} answers"
    if chance == 1.0 and table.size >= ENOUGH_ALIKE and table.any():  # all wrong may yet be a matter of form
        text = f"No headroom: {said} score alike on every example. {_WAY_OUT}"
        return Headroom("none", table.size, text, (table,))
    fresh = cells[used : used + used // 2]
    if chance <= SAME or used < CELLS or len(fresh) < _BLOCK:
        return Headroom("open", table.size, f"headroom: {said} leave it open (p = {chance:.2f})", (table,))
    ranked = [prompts[place] for place in np.argsort(table.mean(axis=1), kind="stable")]
    low, high = ranked[:EXTREMES], ranked[-EXTREMES:]
    await answered([*low, *high], fresh)
    again = score_table(board, [*low, *high], fresh)
    answers, gap = table.size + again.size, _gap(again)
    if gap.mean > LEAD * gap.se:
        text = f"headroom: on fresh examples the best are ahead of the worst by {gap.mean:.3f} (se {gap.se:.3f})"
        return Headroom("open", answers, text, (table, again))
    text = (
        f"No headroom: {said} differ no more than chance (p = {chance:.2f}), and on {again.shape[1]} fresh examples "
        f"the best of them are {gap.mean:+.3f} (se {gap.se:.3f}) from the worst. {_WAY_OUT}"
    )
    return Headroom("none", answers, text, (table, again))


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
        f"the best is {best.mean:+.3f} from the incumbent. {_WAY_OUT}"
    )


async def fresh_lead(
    respond: Respond, board: Scoreboard, best: str, incumbent: str, cells: Sequence[Cell]
) -> Difference:
    """The lead of ``best`` on those of ``cells`` that neither has answered; none where too few of them are fresh."""
    known = board.scores.get(best, {}).keys() | board.scores.get(incumbent, {}).keys()
    fresh = [cell for cell in cells if cell.key not in known]
    if len(fresh) < PROBE // 2:
        return NO_DIFFERENCE
    for prompt in (incumbent, best):
        board.put(prompt, fresh, await respond(prompt, fresh))
    return board.compare(best, incumbent, fresh)


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


def _gap(table: Table) -> Difference:
    """The upper half of the rows minus the lower half, over the columns."""
    each = table[EXTREMES:].mean(axis=0) - table[:EXTREMES].mean(axis=0)
    n = len(each)
    if n < 2:
        return Difference(0.0, float("inf"), 0)
    return Difference(float(each.mean()), float(np.sqrt((each.var(ddof=1) + 0.25 / n) / n)), n - 1)
