"""The most calls that a search can make of each role before its winner is confirmed, read off what the methods do.

The loops as published follow closed formulas; with T tasks of n training examples, N iterations, m new and k kept user
prompts, C system prompts and k(i) = min(k, 1 + i m) user prompts kept after i iterations:

- MetaSPO: base T n (1 + N m + C sum k(i)) + T k(N) n_test, optimizer 2 N (T m + C); with APE or EVO half of these
- outer loop alone (N doubled, one user prompt): base T n (1 + 2 N C) + T n_test, optimizer 4 N C
- ProTeGi: base n (1 + new) per task, optimizer 2 new, where a beam of b prompts makes b m new ones and keeps
  min(k, b + b m), 1 + 2 N times

The default search and the edit search follow their plan; GEPA is bounded by the evaluations that it may ask for and by
the size of its minibatch. A budget of calls bounds the sum of all roles. Repeats that the cache answers are counted, so
these are bounds and seldom reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from optimizer.evaluation.rollouts import ATTEMPTS
from optimizer.metaspo import WINDOWS
from optimizer.methods.baselines import NAMES
from optimizer.methods.gepa import most_evaluations, most_reflections
from optimizer.methods.sprig import sizes_of
from optimizer.proposals.analysis import DRAWS
from optimizer.proposals.mixups import SHARE
from optimizer.records import LoopSizes, Record, SearchSpec, SearchTask
from optimizer.steps.headroom import PROBE, most_calls
from optimizer.steps.plan import Plan
from optimizer.steps.preflight import SANITY_EXAMPLES
from optimizer.steps.racing import Rung

_MIX_UPS = int(1 / SHARE)
"""Each takes at least this share of all wrong labels."""
_COMBINATIONS = 2


class Most(Record, frozen=True, kw_only=True):
    """Calls of each role, at most. ``calls`` is the most of all roles together: a budget may be below their sum."""

    base: int = 0
    optimizer: int = 0
    judge: int = 0
    limit: int | None = None

    @property
    def calls(self) -> int:
        """All roles together, at most."""
        every = self.base + self.optimizer + self.judge
        return every if self.limit is None else min(every, self.limit)


def most(spec: SearchSpec, plan: Plan) -> Most:
    """The most that the search of ``spec`` makes by ``plan``, its confirmation on the holdout left out."""
    base, optimizer, judged = _asked(spec, plan)
    limit, sane = spec.budget.calls, 0
    if spec.method == "metaspo" and not spec.faithful:
        sane = sum(task.by_model for task in spec.sources) * 2 * SANITY_EXAMPLES * ATTEMPTS
    judge = ATTEMPTS * judged + sane
    if limit is not None:
        judge = min(judge, (ATTEMPTS * limit + sane) // (1 + ATTEMPTS))  # no verdict without the reply it is about
    cut = limit if limit is not None else base + optimizer
    return Most(base=min(base, cut), optimizer=min(optimizer, cut), judge=judge, limit=limit)


def evaluations_asked(spec: SearchSpec, plan: Plan) -> int:
    """Base evaluations that the default search asks for at most, those that the cache answers among them."""
    sources, live = spec.sources, any(task.origin == "traffic" for task in spec.sources)
    select = sum(len(task.select) for task in sources)
    # windows of one, two and three are asked in turn; themes of live traffic may widen one task at a time
    widths = WINDOWS * (1 + (WINDOWS - 1) * len(sources)) if live else WINDOWS * (WINDOWS + 1) // 2
    window = sum(min(widths * plan.reflect_per_task, widths * len(task.reflect)) for task in sources)
    read = 1 + (plan.generations - 1) * (plan.parents if _rewrites(spec) else 1)
    inner = sum(
        (1 + len(task.robustness_prompts) + plan.user_keep - 1 + plan.user_candidates)
        * min(plan.user_cells, len(task.select))
        for task in sources
        if task.editable_user_prompt
    )
    more = plan.candidates + _MIX_UPS + _COMBINATIONS + (plan.parents if _rewrites(spec) else 0)
    races = _raced(1 + more + plan.diverse, plan.first_rungs, select)
    races += (plan.generations - 1) * _raced(1 + more, plan.rungs, select)
    perfect = min(plan.first_rungs[0].cells, select)
    asked = most_calls(plan.headroom_cells) + 2 * min(PROBE, select)
    return (
        read * window
        + (plan.generations * inner if plan.user_candidates else 0)
        + races
        + perfect
        + asked
        + _final(sources, plan)
    )


def _asked(spec: SearchSpec, plan: Plan) -> tuple[int, int, int]:
    """Calls of the base model, of the optimizer model, and base replies that a judge model scores."""
    method, sizes = spec.method, spec.sizes
    if method in NAMES:
        return 0, int(method == "one_shot"), 0
    if method == "metaspo" and not spec.faithful:
        base, optimizer = evaluations_asked(spec, plan), _written(spec, plan)
    elif method == "sprig":
        base, optimizer = _edited(spec, plan), 0
    elif method == "gepa":
        base, optimizer = most_evaluations(spec, plan), most_reflections(spec, plan)
    else:
        rows = {task.name: min(sizes.train_size, len(task.train)) for task in spec.sources}
        each, tested, optimizer = _published(method, sizes, len(spec.sources))
        per_task = {
            task.name: rows[task.name] * each + tested * min(sizes.test_size, len(task.holdout))
            for task in spec.sources
        }
        judged = sum(per_task[task.name] for task in spec.sources if task.by_model)
        return sum(per_task.values()), optimizer, judged
    return base, optimizer, base if any(task.by_model for task in spec.sources) else 0


def _published(method: str, sizes: LoopSizes, tasks: int) -> tuple[int, int, int]:
    """How often a task's training rows are asked, how often its test rows, and the optimizer's calls for all tasks."""
    rounds, new, systems = sizes.iterations, sizes.user_candidates, sizes.system_candidates
    if method == "outer_loop":
        return 1 + 2 * rounds * systems, 1, 4 * rounds * systems
    if method in ("protegi", "ape"):
        made = adapted(sizes) if method == "protegi" else 2 * rounds * (1 + min(sizes.user_keep, 2 * rounds))
        return 1 + made, 0, (2 if method == "protegi" else 1) * made * tasks
    kept = [min(sizes.user_keep, 1 + number * new) for number in range(1, rounds + 1)]
    each = 1 if method in ("metaspo_ape", "metaspo_evo") else 2
    return 1 + rounds * new + systems * sum(kept), kept[-1], each * rounds * (tasks * new + systems)


def adapted(sizes: LoopSizes) -> int:
    """New user prompts of one ProTeGi adaptation, at most."""
    beam, made = 1, 0
    for _ in range(1 + 2 * sizes.iterations):
        made += beam * sizes.user_candidates
        beam = min(sizes.user_keep, beam * (1 + sizes.user_candidates))
    return made


def _written(spec: SearchSpec, plan: Plan) -> int:
    """Calls of the optimizer model in the default search. An analysis or a synthesis that cannot be read is asked for
    ``DRAWS`` times; the analyses of the first parent serve user and system prompts, but of live traffic each loop may
    read its own."""
    if not _rewrites(spec):
        return plan.generations if spec.models.optimizer is not None else 0  # one sentence in other words
    tasks = len(spec.sources)
    editable = [task for task in spec.sources if task.editable_user_prompt] if plan.user_candidates else []
    own = DRAWS * sum(task.origin == "traffic" for task in editable)
    parents = 1 + (plan.generations - 1) * plan.parents  # the archive begins with the incumbent alone
    once = plan.candidates + plan.user_candidates * len(editable) + own
    return parents * DRAWS * (tasks + 1) + plan.generations * once


def _rewrites(spec: SearchSpec) -> bool:
    wanted = spec.options.get("proposer", "")
    return wanted == "rewrite" or (not wanted and spec.models.optimizer is not None)


def _raced(entrants: int, rungs: Sequence[Rung], cells: int) -> int:
    """Answers of one race in which nobody is beaten before a rung's end."""
    ends = [0, *(min(rung.cells, cells) for rung in rungs)]
    alive = [entrants, *(min(entrants, rung.keep) for rung in rungs)]
    return sum(width * (end - start) for width, (start, end) in zip(alive, pairwise(ends), strict=False))


def _final(sources: Sequence[SearchTask], plan: Plan) -> int:
    kept = max(0, plan.user_keep - 1)
    cells = sum(
        (1 + len(task.robustness_prompts) + kept) * min(plan.final_per_task, len(task.select)) for task in sources
    )
    rungs = (Rung(cells=cells // 2, keep=2), Rung(cells=cells, keep=2))
    return _raced(plan.finalists, rungs, cells) if plan.finalists > 1 else 0


def _edited(spec: SearchSpec, plan: Plan) -> int:
    """Answers of the edit search: every iteration all entrants answer the same fresh cells."""
    iterations, cells, entrants = sizes_of(plan.search_calls, len(spec.sources))
    return iterations * entrants * min(cells, sum(len(task.select) for task in spec.sources))
