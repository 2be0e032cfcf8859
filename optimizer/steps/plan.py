"""One dial: the sizes of all loops of the default search, derived from the number of calls it may make.

The holdout is set aside first, since a winner that cannot be confirmed is worth nothing. What remains is shared out
over generations; in each, failures take about a tenth, user prompts a fifth, the race the rest. An eighth of the budget
at most asks whether prompts matter at all; it comes out of what races leave by ending early. The sizes are printed
before anything is spent.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from optimizer.gate.safety import SUITES
from optimizer.records import Record, SearchSpec
from optimizer.steps.headroom import PROMPTS, cells_for, most_calls
from optimizer.steps.racing import Rung

DEFAULT_CALLS = 6000
LEAST_CALLS = 60
BASELINE_SHARE = 0.08
_BASELINES = 5
GENERATIONS = ((12_000, 10), (7_000, 8), (2_200, 6), (1_000, 5), (500, 3), (150, 2))
"""From so many search calls on, so many generations: enough to build on what was found, few enough to measure it."""
SUITE_ITEMS = 100
SAFETY_FROM_CALLS = 2_000
"""A smaller budget cannot bear the safety suite; the gate's table then says that it was not measured."""
GATE_EXAMPLES = 52
"""Two more than the gate's 50 examples per task, so that an unscored answer or two does not spoil the verdict."""


class Plan(Record, frozen=True, kw_only=True):
    """Loop sizes. Counts are per generation unless the name says otherwise; ``*_per_task`` are examples."""

    calls: int
    search_calls: int
    generations: int
    parents: int
    candidates: int
    diverse: int
    """Fixed sentences of the corpus that join the first race."""
    first_rungs: tuple[Rung, ...]
    rungs: tuple[Rung, ...]
    reflect_per_task: int
    shown_per_task: int
    user_candidates: int
    user_keep: int
    user_cells: int
    finalists: int
    final_per_task: int
    holdout_per_task: int
    unseen_per_task: int
    baseline_per_task: int
    confirmation_calls: int
    headroom_cells: int = 0
    """Examples that the headroom check asks ten very different prompts at most; it stops as soon as they differ."""
    safety_per_suite: int = 0
    """Items of each safety suite that incumbent and winner are asked: all 100 where the prompt would meet live
    traffic.
    """

    def lines(self) -> list[str]:
        """The sizes in words."""
        rungs = ", ".join(f"{r.cells} cells then keep {r.keep}" for r in self.rungs)
        first = ", ".join(f"{r.cells} then {r.keep}" for r in self.first_rungs)
        return [
            f"{self.calls} calls: up to {self.search_calls} to search, the rest to confirm",
            f"{self.generations} generations, {self.candidates} candidates from {self.parents} parents each",
            f"headroom: {PROMPTS} prompts on {self.headroom_cells} examples, at most "
            f"{most_calls(self.headroom_cells)} answers"
            if self.headroom_cells
            else "headroom: not asked beforehand",
            f"first race: {self.candidates} candidates and {self.diverse} fixed prompts, {first}",
            f"later races: {rungs}",
            f"failures: {self.reflect_per_task} examples per task and parent, {self.shown_per_task} shown",
            f"user prompts: {self.user_candidates} tried per task on {self.user_cells} examples, {self.user_keep} kept",
            f"finalists: {self.finalists} on {self.final_per_task} examples per task and kept user prompt",
            f"holdout: {self.holdout_per_task} examples per task, unseen tasks {self.unseen_per_task}, "
            f"baselines {self.baseline_per_task}, {self.safety_per_suite} items of each safety suite",
        ]


def plan_for(spec: SearchSpec, *, calls: int | None = None) -> Plan:
    """The plan for ``spec``; ``calls`` stands in where the budget names no number of calls.

    Options of the spec with the name of a size (``generations``, ``holdout_per_task``, ...) replace the derived value.
    """
    total = spec.budget.calls or calls or DEFAULT_CALLS
    tasks = max(1, len(spec.sources))
    safety = _safety(spec, total)
    usable = (total - 2 * len(SUITES) * safety) / cost_of_rollout(spec)
    chosen = {name: spec.options[name] for name in Plan.__struct_fields__ if isinstance(spec.options.get(name), int)}
    holdout, unseen = _confirmation(spec, usable)
    holdout, unseen = chosen.get("holdout_per_task", holdout), chosen.get("unseen_per_task", unseen)
    confirm = _prompts(spec) * holdout * tasks + 2 * unseen * len(spec.unseen)
    beside = _BASELINES * len(spec.tasks)
    baseline = int(BASELINE_SHARE * usable / beside) if BASELINE_SHARE * usable >= 10 * beside else 0
    search = max(0.0, usable - confirm - baseline * beside)
    available = sum(len(task.select) for task in spec.sources)
    headroom = chosen.get("headroom_cells", cells_for(usable, tasks, available))
    if spec.models.optimizer is not None:
        search *= 0.96  # the optimizer's own calls come out of the same budget
    generations = next((count for least, count in GENERATIONS if search >= least), 1)
    final = 0.12 * search if search >= 600 else 0.0
    unit = (search - final) / (generations + 0.6)
    editable = any(task.editable_user_prompt for task in spec.sources) and unit >= 40
    reflect = max(3, min(16, int(0.12 * unit / tasks)))
    user_cells = max(4, min(20, int(0.2 * unit / (3 * tasks))))
    user_candidates = min(3, max(1, int(0.2 * unit / (tasks * user_cells)))) if editable else 0
    user_cost = user_candidates * user_cells * tasks
    race = max(12.0, unit - reflect * tasks - user_cost)
    candidates, rungs = _race_sizes(race, tasks)
    first, first_rungs = _race_sizes(1.6 * unit - reflect * tasks, tasks)
    diverse = max(2, min(8, first - candidates)) if first > 3 else 0
    keep = min(3, 1 + user_candidates)
    derived = Plan(
        calls=total,
        search_calls=math.floor(search),
        generations=generations,
        parents=1 if candidates < 4 else 2,
        candidates=candidates,
        diverse=diverse,
        first_rungs=first_rungs,
        rungs=rungs,
        reflect_per_task=reflect,
        shown_per_task=min(4, reflect),
        user_candidates=user_candidates,
        user_keep=keep if editable else 1,
        user_cells=user_cells,
        finalists=3 if final else 1,
        final_per_task=max(8, int(final / (2.2 * tasks * keep))) if final else 0,
        holdout_per_task=holdout,
        unseen_per_task=unseen,
        baseline_per_task=baseline,
        confirmation_calls=math.ceil((confirm + baseline * beside) * cost_of_rollout(spec)) + 2 * len(SUITES) * safety,
        headroom_cells=headroom,
        safety_per_suite=safety,
    )
    return replace(derived, **chosen) if chosen else derived


def cost_of_rollout(spec: SearchSpec) -> float:
    """Calls per rollout: one, and one more for the share of tasks whose judge is a model."""
    judged = sum(task.by_model for task in spec.sources)
    return 1.0 + judged / max(1, len(spec.sources))


def _safety(spec: SearchSpec, total: int) -> int:
    """Items per safety suite. Prompts made from traffic meet traffic: they are asked the whole suite wherever the
    budget can bear its 600 calls. Files are asked it by ``options: {safety_per_suite: N}``.
    """
    asked = spec.options.get("safety_per_suite")
    if isinstance(asked, int):
        return max(0, min(SUITE_ITEMS, asked))
    live = any(task.origin == "traffic" for task in spec.sources)
    return min(SUITE_ITEMS, total // 60) if live and total >= SAFETY_FROM_CALLS else 0


def _confirmation(spec: SearchSpec, usable: float) -> tuple[int, int]:
    """Holdout examples per source task and examples per unseen task, for each prompt that the gate compares."""
    most = max((len(task.holdout) for task in spec.sources), default=0)
    most_unseen = max((len(task.holdout) for task in spec.unseen), default=0)
    weight = _prompts(spec) * len(spec.sources) + len(spec.unseen)
    holdout = int(0.4 * usable / weight) if weight else 0
    if usable >= 2 * GATE_EXAMPLES * weight:
        holdout = max(holdout, GATE_EXAMPLES)
    holdout = min(most, holdout)
    return holdout, min(most_unseen, max(1, holdout // 2) if holdout else 0)


def _prompts(spec: SearchSpec) -> int:
    """Prompts that the gate compares on the holdout: incumbent, winner, and the seed where that is a third one."""
    return 3 if spec.seed_is_measured else 2


def _race_sizes(calls: float, tasks: int) -> tuple[int, tuple[Rung, ...]]:
    """How many candidates race for about ``calls`` calls, and on which rungs (cells are a multiple of the tasks).

    With E entrants and first block b, rungs b, 2b, 4b that keep E/3, 2 and 1 cost at most b (E + E/3 + 4).
    Beside the candidates there are the best so far and, mostly, one combination of changes.
    """
    block = min(60.0, max(8.0, math.sqrt(max(calls, 1.0))))
    block = max(1, round(block / tasks)) * tasks
    entrants = max(3, min(14, int(0.75 * (calls / block - 4))))
    keep = max(2, math.ceil(entrants / 3))
    return entrants - 2, (
        Rung(cells=block, keep=keep),
        Rung(cells=2 * block, keep=2),
        Rung(cells=4 * block, keep=1),
    )
