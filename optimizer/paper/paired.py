"""Paired differences between methods on the same test questions, with the statistics of the gate.

A question's score is its mean over user prompts and seeds; macro-F1 has no score of one question, so that there the
difference is one of the share of right answers. Questions that nearly repeat each other count as one cluster where the
rows keep their clusters. Intervals are for the prompts as they were found: that another seed finds another prompt is in
the tables over seeds, not here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from optimizer.gate.paired import FloatArray, TaskEffect, cluster_codes, macro_effect, task_effect
from optimizer.paper.methods import FAITHFUL, order_of
from optimizer.paper.raw import RawRow
from optimizer.paper.scales import MACRO_F1, SIGNS, scales_of
from optimizer.paper.shown import Shown, Table, Value, label_of, unique

OURS = "metaspo"
_RIVALS = ("constant", "one_shot", "sprig", "gepa", FAITHFUL)
Key = tuple[str, str]
"""Method and scope."""


def paired(rows: Sequence[RawRow], role: str = "unseen") -> Table:
    """Every method against Default, then ours against the others, task by task; no row where nothing is paired."""
    chosen = [row for row in rows if row.role == role and row.plain and row.per_question]
    by_method: dict[Key, list[RawRow]] = defaultdict(list)
    for row in chosen:
        by_method[row.method, row.scope].append(row)
    keys = sorted(by_method, key=lambda key: order_of(*key))
    against = [(key, ("default", "domain")) for key in keys if key[0] != "default"]
    against += [(key, other) for key in keys if key[0] == OURS for other in keys if other[0] in _RIVALS]
    tasks = unique(row.task for row in chosen)
    lines = [_line(by_method[key], by_method.get(other, []), tasks) for key, other in against]
    title = f"Paired differences on the same questions, {role} tasks"
    note = "Points of right answers, 95 % interval over questions (mean: over the tasks that both were measured on). "
    if any(row.clusters for row in chosen):
        every = all(row.clusters for row in chosen)
        note += f"Near-duplicate questions count as one{'' if every else ' where a row of either method tells them'}."
    else:
        note += "These rows do not tell near-duplicate questions: each question counts for itself."
    others = scales_of(chosen).get(MACRO_F1)
    if others:
        note += f" The tables of scores show macro-F1 for {', '.join(others)}. {SIGNS}"
    made = tuple(line for line in lines if line)
    return Table(name=f"paired_{role}", title=title, columns=("methods", *tasks, "mean"), rows=made, note=note)


def _line(group: Sequence[RawRow], other: Sequence[RawRow], tasks: Sequence[str]) -> tuple[Value, ...] | None:
    effects = {task: _effect(group, other, task) for task in tasks}
    known = [effect for effect in effects.values() if effect is not None]
    if not known:
        return None
    first, second = (label_of(rows[0].method, rows[0].scope) for rows in (group, other))
    cells = [_shown([effect]) if effect else None for effect in effects.values()]
    return (f"{first} − {second}", *cells, _shown(known))


def difference(group: Sequence[RawRow], other: Sequence[RawRow]) -> Shown | None:
    """The mean over tasks of ``group`` less ``other``, question by question; None unless every task of both is paired
    and both have the same tasks."""
    tasks = unique(row.task for row in (*group, *other))
    effects = [_effect(group, other, task) for task in tasks]
    known = [effect for effect in effects if effect is not None]
    return _shown(known) if known and len(known) == len(effects) else None


def _effect(group: Sequence[RawRow], other: Sequence[RawRow], task: str) -> TaskEffect | None:
    """The differences on one task; None where one of them was not measured on the same questions."""
    rows = [row for row in (*group, *other) if row.task == task]
    clusterings = {row.clusters for row in rows if row.clusters}
    first, second = (_scores([row for row in of if row.task == task]) for of in (group, other))
    if first is None or second is None or len(first) != len(second) or len(clusterings) > 1:
        return None
    clusters = next(iter(clusterings), None)
    if clusters is not None and len(clusters) != len(first):
        return None
    effect = task_effect(task, first - second, cluster_codes(clusters, len(first)))
    return effect if effect.n else None


def _scores(rows: Sequence[RawRow]) -> FloatArray | None:
    if not rows or not rows[0].per_question or len({len(row.per_question) for row in rows}) > 1:
        return None
    scores: FloatArray = np.array([row.per_question for row in rows], dtype=np.float64).mean(axis=0)
    return scores


def _shown(effects: Sequence[TaskEffect]) -> Shown:
    whole = macro_effect(effects)
    n = sum(effect.n for effect in effects)
    low, high = whole.interval(0.05)
    if not math.isfinite(low):
        return Shown(score=whole.mean, n=n)  # a single cluster: nothing is known of the noise
    return Shown(score=whole.mean, low=low, high=high, n=n)
