"""The archive: every system prompt that survived a race, and which of them may become a parent.

A parent comes from the Pareto front over tasks (GEPA's idea at the grain of tasks): a prompt that is best on one task
stays alive even when another has the better mean. Among the front, one with fewer children goes first (ShinkaEvolve's
weight).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from optimizer.steps.racing import Scoreboard, price

SHRINKAGE = 12.0
"""A task's mean is drawn towards the prompt's own overall mean as if by so many further examples."""


@dataclass
class Archive:
    """Survivors in order of arrival; the first is the incumbent. Scores live on the board."""

    board: Scoreboard
    members: list[str] = field(default_factory=list)
    children: dict[str, int] = field(default_factory=dict)
    best: str = ""

    def add(self, prompt: str) -> None:
        """Admit a survivor once."""
        if prompt not in self.members:
            self.members.append(prompt)
            self.best = self.best or prompt

    def profile(self, prompt: str) -> dict[str, float]:
        """Estimated score per task, shrunk towards the prompt's mean, less the price of its length."""
        per_task = self.board.by_task(prompt)
        overall = self.board.mean(prompt)[0]
        return {
            task: (mean * n + overall * SHRINKAGE) / (n + SHRINKAGE) - price(prompt)
            for task, (mean, n) in per_task.items()
        }

    def front(self) -> list[str]:
        """Members that no other member beats on every task; the best first, then by how many tasks they lead."""
        profiles = {prompt: self.profile(prompt) for prompt in self.members}
        kept = [
            prompt
            for prompt in self.members
            if not any(_dominates(profiles[other], profiles[prompt]) for other in self.members if other != prompt)
        ]
        tasks = {task for profile in profiles.values() for task in profile}
        leads = dict.fromkeys(kept, 0)
        for task in tasks:
            leads[max(kept, key=lambda prompt: profiles[prompt].get(task, 0.0))] += 1
        return sorted(kept, key=lambda prompt: (prompt != self.best, -leads[prompt], self.members.index(prompt)))

    def parents(self, count: int) -> list[str]:
        """``count`` different parents: always the best, then front members with the fewest children."""
        front = self.front()
        others = sorted((p for p in front if p != self.best), key=lambda p: self.children.get(p, 0))
        chosen = [self.best, *others][:count]
        for prompt in chosen:
            self.children[prompt] = self.children.get(prompt, 0) + 1
        return chosen

    def finalists(self, count: int) -> list[str]:
        """The best and the next best by estimated mean."""

        def value(prompt: str) -> float:
            profile = self.profile(prompt)
            return sum(profile.values()) / len(profile) if profile else 0.0

        others = sorted((p for p in self.members if p != self.best), key=value, reverse=True)
        return [self.best, *others][:count]


def _dominates(first: dict[str, float], second: dict[str, float]) -> bool:
    return all(first.get(task, 0.0) >= value for task, value in second.items()) and any(
        first.get(task, 0.0) > value for task, value in second.items()
    )
