"""Racing: find the best of several system prompts for as few base calls as their differences allow.

Candidates answer the same cells (task, example, user prompt) in the same order, a stratified block at a time. After
each block a candidate goes when a one-sided paired t-test says that the leader is better (alpha .05, as in CAPO, but
against the leader and at a stricter level), and the field is cut to the size the plan can afford (sequential halving,
as in TRIPLE). Everything but :func:`race` is pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimizer.draws import stream
from optimizer.errors import BudgetSpent
from optimizer.evaluation.evaluation import Evaluation
from optimizer.gate.paired import t_quantile
from optimizer.proposals.proposal import Proposal
from optimizer.records import Candidate, Example, Record, Rollout, SearchTask
from optimizer.waves import together

ALPHA = 0.05
PRICE_PER_TOKEN = 5e-5
"""Score points that one token of system prompt costs: 100 tokens must earn half a point."""
CHARACTERS_PER_TOKEN = 4


Respond = Callable[[str, "Sequence[Cell]"], Coroutine[Any, Any, list[Rollout]]]
"""Answers cells under an entrant: a system prompt, or a user prompt at a fixed system prompt."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing every candidate must do: answer ``example`` of ``task`` under ``user_prompt``."""

    task: SearchTask
    example: Example
    user_prompt: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for equal cells."""
        return self.task.name, self.example.id, self.user_prompt


class Rung(Record, frozen=True, kw_only=True):
    """After ``cells`` cells in all, at most ``keep`` candidates go on."""

    cells: int
    keep: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean over tasks of the paired difference, its standard error and degrees of freedom."""

    mean: float
    se: float
    df: int

    def significant(self, alpha: float = ALPHA) -> bool:
        """True when the difference is above zero in a one-sided test."""
        return self.df > 0 and self.mean > t_quantile(1 - alpha, self.df) * self.se

    def then(self, step: Difference) -> Difference:
        """This difference and a further, independent one after it."""
        return Difference(self.mean + step.mean, math.hypot(self.se, step.se), self.df + step.df)


NO_DIFFERENCE = Difference(0.0, 0.0, 0)
"""Of a prompt to itself."""


@dataclass
class Scoreboard:
    """What is known of every prompt on the select split: score per cell. Unscored cells are kept as None."""

    scores: dict[str, dict[tuple[str, str, str], float | None]] = field(default_factory=dict)

    def put(self, prompt: str, cells: Sequence[Cell], rollouts: Sequence[Rollout]) -> None:
        """Note the scores of ``prompt`` on ``cells``."""
        known = self.scores.setdefault(prompt, {})
        known.update((cell.key, rollout.score) for cell, rollout in zip(cells, rollouts, strict=True))

    def compare(self, better: str, worse: str, cells: Sequence[Cell] | None = None) -> Difference:
        """``better`` minus ``worse`` on the cells that both have answered (within ``cells`` when given)."""
        first, second = self.scores.get(better, {}), self.scores.get(worse, {})
        keys = first.keys() & second.keys() if cells is None else {cell.key for cell in cells}
        by_task: dict[str, list[float]] = {}
        for key in sorted(keys):
            a, b = first.get(key), second.get(key)
            if a is not None and b is not None:
                by_task.setdefault(key[0], []).append(a - b)
        return difference(by_task)

    def by_task(self, prompt: str) -> dict[str, tuple[float, int]]:
        """Mean score and number of scored cells of ``prompt`` per task."""
        sums: dict[str, list[float]] = {}
        for key, score in self.scores.get(prompt, {}).items():
            if score is not None:
                sums.setdefault(key[0], []).append(score)
        return {task: (sum(values) / len(values), len(values)) for task, values in sorted(sums.items())}

    def mean(self, prompt: str, cells: Sequence[Cell] | None = None) -> tuple[float, int]:
        """Mean over tasks of the mean score, and the number of scored cells (within ``cells`` when given)."""
        if cells is None:
            per_task = self.by_task(prompt)
        else:
            known = self.scores.get(prompt, {})
            part = Scoreboard({prompt: {cell.key: known[cell.key] for cell in cells if cell.key in known}})
            per_task = part.by_task(prompt)
        if not per_task:
            return 0.0, 0
        return sum(m for m, _ in per_task.values()) / len(per_task), sum(n for _, n in per_task.values())


@dataclass(frozen=True)
class RaceResult:
    """Survivors best first, what became of every entrant, and the cells that the survivors share."""

    ranking: tuple[str, ...]
    fates: Mapping[str, str]
    cells: tuple[Cell, ...]

    @property
    def winner(self) -> str:
        """The best survivor."""
        return self.ranking[0]


def difference(by_task: Mapping[str, Sequence[float]]) -> Difference:
    """Macro mean of paired differences with a pooled within-task variance.

    A quarter of a discordant pair is added to the variance, so that a handful of equal differences proves nothing.
    """
    groups = [values for values in by_task.values() if values]
    if not groups:
        return Difference(0.0, math.inf, 0)
    n = sum(len(values) for values in groups)
    means = [sum(values) / len(values) for values in groups]
    squares = sum((v - m) ** 2 for values, m in zip(groups, means, strict=True) for v in values)
    df = n - len(groups)
    if df < 1:
        return Difference(sum(means) / len(means), math.inf, 0)
    variance = (squares + 0.25) / df
    se = math.sqrt(sum(variance / len(values) for values in groups)) / len(groups)
    return Difference(sum(means) / len(means), se, df)


def price(prompt: str) -> float:
    """What the prompt's length costs, in score points."""
    return PRICE_PER_TOKEN * len(prompt) / CHARACTERS_PER_TOKEN


def course(
    tasks: Sequence[SearchTask], user_prompts: Mapping[str, Sequence[str]], *, start: int, seed: int, length: int
) -> list[Cell]:
    """``length`` cells of the select split in turn over the tasks, from the ``start``-th on, each example once.

    One user prompt per cell: the examples of a task go round its user prompts, so several prompts cost no more than
    one.
    """
    queues: list[list[Cell]] = []
    for task in tasks:
        examples = sorted(task.select, key=lambda example: example.id)
        stream(seed, "course", task.name).shuffle(examples)
        prompts = user_prompts[task.name]
        cells = [Cell(task, example, prompts[i % len(prompts)]) for i, example in enumerate(examples)]
        first = start // len(tasks) % len(cells) if cells else 0
        queues.append((cells[first:] + cells[:first])[::-1])
    made: list[Cell] = []
    while len(made) < length and any(queues):
        for queue in queues:
            if queue and len(made) < length:
                made.append(queue.pop())
    return made


def full_course(tasks: Sequence[SearchTask], user_prompts: Mapping[str, Sequence[str]], per_task: int) -> list[Cell]:
    """Finalists: the first ``per_task`` select examples of every task under every kept user prompt."""
    return [
        Cell(task, example, prompt)
        for task in tasks
        for prompt in user_prompts[task.name]
        for example in task.select[:per_task]
    ]


async def answer(evaluation: Evaluation, system: str, cells: Sequence[Cell]) -> list[Rollout]:
    """The rollouts of the system prompt on ``cells``, in order."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault((cell.task.name, cell.user_prompt), []).append(i)
    found: list[Rollout | None] = [None] * len(cells)
    blocks = await together(
        (
            evaluation.rollouts(system, cells[block[0]].task, user_prompt, [cells[i].example for i in block])
            for (_, user_prompt), block in groups.items()
        )
    )
    for block, rollouts in zip(groups.values(), blocks, strict=True):
        for i, rollout in zip(block, rollouts, strict=True):
            found[i] = rollout
    return [rollout for rollout in found if rollout is not None]


async def race(
    respond: Respond,
    entrants: Sequence[str],
    cells: Sequence[Cell],
    rungs: Sequence[Rung],
    board: Scoreboard,
    *,
    alpha: float = ALPHA,
) -> RaceResult:
    """Race distinct ``entrants`` over ``cells``; ``respond`` answers cells under one of them. Ties keep the earlier
    entrant.

    A budget that ends during the race ends it with the ranking of the last whole block; ``BudgetSpent`` is raised when
    there is none.
    """
    alive = list(dict.fromkeys(entrants))
    order = {prompt: i for i, prompt in enumerate(alive)}
    fates: dict[str, str] = {}
    done = 0
    for rung in rungs:
        end = min(rung.cells, len(cells))
        block = cells[done:end]
        if block:
            try:
                answers = await together(respond(prompt, block) for prompt in alive)
            except BudgetSpent:
                if not done:
                    raise
                break
            for prompt, rollouts in zip(alive, answers, strict=True):
                board.put(prompt, block, rollouts)
            done = end
        run = cells[:done]
        value = {prompt: board.mean(prompt, run)[0] - price(prompt) for prompt in alive}
        alive.sort(key=lambda prompt: (-value[prompt], order[prompt]))
        leader = alive[0]
        for prompt in alive[1:]:
            if board.compare(leader, prompt, run).significant(alpha):
                fates[prompt] = f"lost to the leader after {done} cells"
        alive = [prompt for prompt in alive if prompt not in fates]
        for prompt in alive[rung.keep :]:
            fates[prompt] = f"cut after {done} cells"
        alive = alive[: rung.keep]
        if len(alive) == 1 or done >= len(cells):
            break
    for place, prompt in enumerate(alive):
        fates[prompt] = "won the race" if place == 0 else f"finished as number {place + 1}"
    return RaceResult(tuple(alive), fates, tuple(cells[:done]))


def raced(
    proposals: Sequence[Proposal], outcome: RaceResult, board: Scoreboard, *, generation: int, letter: str
) -> tuple[Candidate, ...]:
    """The proposals of a generation with their scores and what became of them in the race, for the record."""
    means = [board.mean(proposal.prompt) for proposal in proposals]
    return tuple(
        Candidate(
            id=f"{letter}{generation}.{number}",
            system_prompt=proposal.prompt,
            parent=proposal.parent,
            hypothesis=proposal.hypothesis,
            generation=generation,
            score=mean if n else None,
            n=n,
            fate=outcome.fates.get(proposal.prompt, "not raced: the budget did not reach"),
        )
        for number, (proposal, (mean, n)) in enumerate(zip(proposals, means, strict=True), start=1)
    )
