"""The inner loop: better user prompts for each task, at the current system prompt.

A task keeps its own user prompt (production sends it today) and beside it the best of those tried. Where the user
prompt may not change, fixed further prompts are the robustness set, and this loop leaves them alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.admission.admission import Admission
from optimizer.evaluation.evaluation import Evaluation
from optimizer.proposals.proposal import Parent, Proposer, UserAsk
from optimizer.records import Rollout, SearchTask
from optimizer.steps.plan import Plan
from optimizer.steps.racing import Cell, Rung, Scoreboard, course, price, race
from optimizer.waves import together


class UserPrompts:
    """The user prompts of every task: first its own, then those kept, best first."""

    def __init__(self, tasks: Sequence[SearchTask]) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._fixed = {task.name: tuple(dict.fromkeys((task.user_prompt, *task.robustness_prompts))) for task in tasks}
        self._kept: dict[str, tuple[str, ...]] = {}

    def of(self, task: str) -> tuple[str, ...]:
        """Every kept user prompt of a task, its own first."""
        return (*self._fixed[task], *self._kept.get(task, ()))

    def racing(self) -> dict[str, tuple[str, ...]]:
        """What the race uses: fixed prompts and the best kept one. A cell has one of them, so they cost nothing
        extra."""
        return {task: (*self._fixed[task], *self._kept.get(task, ())[:1]) for task in self._fixed}

    def all(self) -> dict[str, tuple[str, ...]]:
        """What finalists are measured with."""
        return {task: self.of(task) for task in self._fixed}

    def ranked(self) -> dict[str, tuple[str, ...]]:
        """For the report: the best first. A kept prompt was better than the task's own when it was kept."""
        return {task: (*self._kept.get(task, ()), *self._fixed[task]) for task in self._fixed}

    def keep(self, task: str, prompts: Sequence[str]) -> None:
        """Replace the kept prompts of a task (the fixed ones stay)."""
        self._kept[task] = tuple(prompt for prompt in prompts if prompt not in self._fixed[task])


async def improve(
    evaluation: Evaluation,
    proposer: Proposer,
    admission: Admission,
    plan: Plan,
    parent: Parent,
    held: UserPrompts,
    *,
    generation: int,
    seed: int,
) -> int:
    """Try ``plan.user_candidates`` new user prompts per editable task and keep the best; returns how many were
    tried."""
    tasks = [f for f in parent.failures if f.task.editable_user_prompt and f.total and f.task.select]
    if not plan.user_candidates or not tasks:
        return 0
    proposed = await together(
        proposer.user_prompts(
            UserAsk(
                failures=f,
                system=parent.prompt,
                base=f.task.user_prompt,
                count=plan.user_candidates,
                generation=generation,
            )
        )
        for f in tasks
    )
    tried = 0
    for failures, texts in zip(tasks, proposed, strict=True):
        task = failures.task
        fresh = [text for text in texts if admission.user_prompt(task, text)]
        if not fresh:
            continue
        tried += len(fresh)

        async def respond(user_prompt: str, cells: Sequence[Cell], task: SearchTask = task) -> list[Rollout]:
            return await evaluation.rollouts(parent.prompt, task, user_prompt, [cell.example for cell in cells])

        board = Scoreboard()
        cells = course([task], {task.name: ("",)}, start=0, seed=seed, length=plan.user_cells)
        entrants = [*held.of(task.name), *fresh]
        await race(respond, entrants, cells, [Rung(cells=len(cells), keep=len(entrants))], board)
        own = board.mean(task.user_prompt)[0] - price(task.user_prompt)
        value = {text: board.mean(text)[0] - price(text) for text in entrants}
        better = sorted((text for text in entrants if value[text] > own), key=lambda text: -value[text])
        held.keep(task.name, better[: plan.user_keep - 1])
    return tried
