"""Error rates of the gate, by the very code that decides in production.

Scores of incumbent and candidates are drawn from a known truth, the production race chooses a finalist on the select
split, the production gate decides on the holdout; counted is how often something is promoted that is no better, and
how often something better is missed. Beside it, on the same draws, what others do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from optimizer.gate.decision import decide
from optimizer.gate.evidence import GateInputs, Paired, TaskEvidence
from optimizer.gate.paired import FloatArray, IntArray, t_quantile
from optimizer.records import Budget, Example, Models, ModelSpec, Rollout, SearchSpec, SearchTask
from optimizer.steps.plan import plan_for
from optimizer.steps.racing import Cell, Rung, Scoreboard, course, race

SEED = 20_261_120
POINTS = (4.0, 5.0, 8.0)
UNEVEN = {"five +8, one -12": -0.12, "five +8, one -20": -0.20}
_NORMAL = NormalDist()
_TOKEN_SPREAD, _TOKEN_NOISE = 0.4, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The sizes of a domain and what is assumed of its scores: pass rate ``base``, and the correlation of the latent
    scores of two prompts on one example. ``cluster`` examples each are near-duplicates that share their luck.
    """

    tasks: int = 6
    select: int = 60
    holdout: int = 100
    base: float = 0.75
    correlation: float = 0.6
    candidates: int = 9
    cluster: int = 1
    calls: int = 6_000


class Pipeline:
    """Race on the select split, then the gate on the holdout, for a domain of given sizes.

    The race takes its rungs from the plan that the default search makes for these sizes and ``calls``.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self._tasks = tuple(_stand_in(f"task-{t}", domain.select) for t in range(domain.tasks))
        prompts = {task.name: (task.user_prompt,) for task in self._tasks}
        spec = SearchSpec(
            seed_prompt="incumbent",
            tasks=self._tasks,
            models=Models(base=ModelSpec(model="world:")),
            budget=Budget(calls=domain.calls),
        )
        self._rungs: tuple[Rung, ...] = plan_for(spec).rungs
        length = max(rung.cells for rung in self._rungs)
        self._cells = course(self._tasks, prompts, start=0, seed=SEED, length=length)
        self._place = {cell.key: (int(cell.task.name[5:]), int(cell.example.id)) for cell in self._cells}
        self.incumbent = "prompt 00"
        self.entrants = (self.incumbent, *(f"prompt {c:02d}" for c in range(1, domain.candidates + 1)))

    async def finalist(self, scores: FloatArray) -> int:
        """Index of the winner of the race; ``scores`` has shape (entrants, tasks, select)."""

        async def respond(prompt: str, block: Sequence[Cell]) -> list[Rollout]:
            own = scores[int(prompt[7:])]
            return [
                Rollout(example_id=cell.example.id, text="", score=float(own[self._place[cell.key]])) for cell in block
            ]

        outcome = await race(respond, self.entrants, self._cells, self._rungs, Scoreboard())
        return int(outcome.winner[7:])

    async def promotes(self, draw: Draw) -> bool:
        """Would this be promoted?"""
        winner = await self.finalist(draw.select)
        return winner != 0 and decide(draw.inputs(winner)).outcome == "PASS"


@dataclass(frozen=True, slots=True)
class Draw:
    """Scores of one simulated run: (entrants, tasks, examples) per split, log answer lengths on the holdout,
    clusters.
    """

    select: FloatArray
    holdout: FloatArray
    log_tokens: FloatArray
    clusters: IntArray

    def inputs(self, finalist: int) -> GateInputs:
        """The gate's evidence for the finalist against the incumbent (entrant 0)."""
        tokens = np.exp(self.log_tokens)
        return GateInputs(
            tasks=[
                TaskEvidence(
                    name=f"task-{t}",
                    scores=Paired(self.holdout[0, t], self.holdout[finalist, t]),
                    clusters=self.clusters,
                    answer_tokens=Paired(tokens[0, t], tokens[finalist, t]),
                    valid_format=Paired(np.ones(self.holdout.shape[2]), np.ones(self.holdout.shape[2])),
                )
                for t in range(self.holdout.shape[1])
            ],
            prompt_tokens=(150, 150),
            lint_hits=0,
        )


def draw(domain: Domain, gains: FloatArray, rng: np.random.Generator) -> Draw:
    """One run's scores. ``gains`` (tasks,) is what every candidate truly adds to the pass rate of each task."""
    entrants = domain.candidates + 1
    rates = np.full((entrants, domain.tasks), domain.base)
    rates[1:] += gains
    limits = np.vectorize(_NORMAL.inv_cdf)(np.clip(rates, 1e-6, 1 - 1e-6))[:, :, None]
    clusters = np.arange(domain.holdout) // domain.cluster

    def scores(size: int, cluster: int) -> FloatArray:
        groups = -(-size // cluster)
        shared = np.repeat(rng.standard_normal((1, domain.tasks, groups)), cluster, axis=2)[:, :, :size]
        own = np.repeat(rng.standard_normal((entrants, domain.tasks, groups)), cluster, axis=2)[:, :, :size]
        if cluster > 1:  # near-duplicates share most of their luck, not all
            own = math.sqrt(0.8) * own + math.sqrt(0.2) * rng.standard_normal((entrants, domain.tasks, size))
        latent = math.sqrt(domain.correlation) * shared + math.sqrt(1 - domain.correlation) * own
        passed: FloatArray = (latent < limits).astype(np.float64)
        return passed

    shape = (entrants, domain.tasks, domain.holdout)
    lengths = 5 + _TOKEN_SPREAD * rng.standard_normal((1, *shape[1:])) + _TOKEN_NOISE * rng.standard_normal(shape)
    return Draw(scores(domain.select, domain.cluster), scores(domain.holdout, domain.cluster), lengths, clusters)


def draws(domain: Domain, gains: FloatArray, runs: int, seed: int, stream: int) -> Iterator[Draw]:
    """``runs`` independent draws; ``stream`` keeps experiments of one seed apart."""
    for run in range(runs):
        yield draw(domain, gains, np.random.default_rng([seed, stream, run]))


def others(drawn: Draw) -> dict[str, bool]:
    """What other tools would do with the same scores, by name."""
    means = drawn.select.mean(axis=(1, 2))
    best = 1 + int(np.argmax(means[1:]))
    paired = (drawn.select[best] - drawn.select[0]).ravel()
    n = len(paired)
    se = float(paired.std(ddof=1)) / math.sqrt(n)
    return {
        "best of the candidates on the selection data, any improvement": bool(means[best] > means[0]),
        "the same with a paired t-test (one-sided 5%)": bool(paired.mean() > t_quantile(0.95, n - 1) * se),
        "fresh holdout, any improvement": bool((drawn.holdout[best] - drawn.holdout[0]).mean() > 0),
    }


async def simulate_gate_runs(
    domain: Domain, *, runs: int, seed: int, points: Sequence[float], uneven: bool = True
) -> dict[str, Any]:
    """False promotions over ``runs`` A/A runs, power at gains of ``points`` percentage points, and the same for
    others.
    """
    pipeline = Pipeline(domain)
    false, phantom = 0, 0.0
    rivals: dict[str, int] = {}
    for drawn in draws(domain, np.zeros(domain.tasks), runs, seed, 0):
        false += await pipeline.promotes(drawn)
        for name, accepted in others(drawn).items():
            rivals[name] = rivals.get(name, 0) + accepted
        means = drawn.select.mean(axis=(1, 2))
        phantom += float(means[1:].max() - means[0])
    power = {
        f"{p:g}": await _share(pipeline, np.full(domain.tasks, p / 100), runs, seed, i + 1)
        for i, p in enumerate(points)
    }
    report: dict[str, Any] = {
        "runs": runs,
        "seed": seed,
        "false_promotions": false / runs,
        "false_promotions_count": false,
        "false_promotions_interval": _wilson(false, runs),
        "power": power,
        "domain": asdict(domain),
        "others": {
            "false_promotions": {name: count / runs for name, count in rivals.items()},
            "phantom_gain_of_the_best_candidate": phantom / runs,
        },
    }
    if uneven and domain.tasks > 1:
        report["one_task_hurt"] = {}
        for i, (name, loss) in enumerate(UNEVEN.items()):
            gains = np.full(domain.tasks, 0.08)
            gains[-1] = loss
            report["one_task_hurt"][name] = await _share(pipeline, gains, runs, seed, 100 + i)
    return report


async def _share(pipeline: Pipeline, gains: FloatArray, runs: int, seed: int, stream: int) -> float:
    passed = 0
    for drawn in draws(pipeline.domain, gains, runs, seed, stream):
        passed += await pipeline.promotes(drawn)
    return passed / runs


def _wilson(count: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    rate, denominator = count / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / denominator
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / denominator
    return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)


def _stand_in(name: str, select: int) -> SearchTask:
    rows = tuple(Example(id=f"{i}", question=f"{name} {i}") for i in range(select))
    return SearchTask(name=name, user_prompt="{question}", select=rows, holdout=rows)
