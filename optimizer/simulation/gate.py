"""Error rates of the gate, by the very code that decides in production.

Scores of incumbent and candidates are drawn from a known truth, the production race chooses a finalist on the select
split, the production gate decides on the holdout, under the policy of live traffic: safety suites, format, lengths and
the comparison with the first prompt are all measured, and attempts spend the level. Counted is how often something is
promoted that is no better, and how often something better is missed. Beside it, on the same draws, what others do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from optimizer.gate.decision import decide
from optimizer.gate.evidence import GateInputs, Paired, SuiteEvidence, TaskEvidence
from optimizer.gate.paired import FloatArray, IntArray, t_quantile
from optimizer.records import Budget, Example, Models, ModelSpec, Rollout, SearchSpec, SearchTask, Standing
from optimizer.steps.confirm import policy_for
from optimizer.steps.plan import plan_for
from optimizer.steps.racing import Cell, Rung, Scoreboard, course, race

SEED = 20_261_120
POINTS = (4.0, 5.0, 8.0)
UNEVEN = {"five +8, one -12": -0.12, "five +8, one -20": -0.20}
ATTEMPTS = (2, 4)
"""Later attempts whose figures are reported beside those of the first."""
SUITE_ITEMS = 100
SUITE_RATES = {"unsafe": 0.01, "over_refusal": 0.01, "injection": 0.05}
"""How often a reply fails in the suites of a world whose models answer by chance."""
SUITE_CORRELATION = 0.95
"""Of the latent tendency to fail of two equally safe prompts on one item of a suite."""
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
            standing=Standing(attempt=1, live=True),
            options={"headroom_cells": 0},  # drawn scores have no model that could be asked beforehand
        )
        self._policy = policy_for(spec, measured_safety=True)
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
        """Would this be promoted at the first attempt?"""
        winner = await self.finalist(draw.select)
        return winner != 0 and self._passes(draw.inputs(winner))

    async def promotes_when(self, draw: Draw) -> dict[str, bool]:
        """Would this be promoted at the first attempt, at later ones, and where the safety suites' replies vary by
        chance? What is stricter is only asked about what the first attempt lets pass.
        """
        names = ["1", *map(str, ATTEMPTS), "suites"]
        winner = await self.finalist(draw.select)
        inputs = draw.inputs(winner)
        if winner == 0 or not self._passes(inputs):
            return dict.fromkeys(names, False)
        later = {str(n): self._passes(replace(inputs, attempt=n)) for n in ATTEMPTS}
        return {"1": True, **later, "suites": self._passes(replace(inputs, **draw.suites))}

    def _passes(self, inputs: GateInputs) -> bool:
        return decide(inputs, self._policy).outcome == "PASS"


@dataclass(frozen=True, slots=True)
class Draw:
    """Scores of one simulated run: (entrants, tasks, examples) per split, log answer lengths on the holdout,
    clusters.
    """

    select: FloatArray
    holdout: FloatArray
    log_tokens: FloatArray
    clusters: IntArray
    suites: dict[str, Any]
    """Replies of equally safe prompts to the safety suites, each by a chance of its own."""

    def inputs(self, finalist: int) -> GateInputs:
        """The gate's evidence for the finalist against the incumbent (entrant 0), which is the domain's first prompt.

        Both answer the safety suites alike, without a failure.
        """
        tokens = np.exp(self.log_tokens)
        alike = SuiteEvidence(Paired(np.zeros(SUITE_ITEMS), np.zeros(SUITE_ITEMS)))
        return GateInputs(
            tasks=[
                TaskEvidence(
                    name=f"task-{t}",
                    scores=Paired(self.holdout[0, t], self.holdout[finalist, t]),
                    clusters=self.clusters,
                    seed_scores=self.holdout[0, t],
                    answer_tokens=Paired(tokens[0, t], tokens[finalist, t]),
                    valid_format=Paired(np.ones(self.holdout.shape[2]), np.ones(self.holdout.shape[2])),
                )
                for t in range(self.holdout.shape[1])
            ],
            unsafe=alike,
            over_refusal=alike,
            injection=alike,
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
    select, holdout = scores(domain.select, domain.cluster), scores(domain.holdout, domain.cluster)
    return Draw(select, holdout, lengths, clusters, {name: _suite(rate, rng) for name, rate in SUITE_RATES.items()})


def _suite(rate: float, rng: np.random.Generator) -> SuiteEvidence:
    shared = rng.standard_normal(SUITE_ITEMS)
    own = rng.standard_normal((2, SUITE_ITEMS))
    latent = math.sqrt(SUITE_CORRELATION) * shared + math.sqrt(1 - SUITE_CORRELATION) * own
    before, after = (latent < _NORMAL.inv_cdf(rate)).astype(np.float64)
    return SuiteEvidence(Paired(before, after))


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
    wrong: Counter[str] = Counter()
    phantom = 0.0
    rivals: dict[str, int] = {}
    for drawn in draws(domain, np.zeros(domain.tasks), runs, seed, 0):
        wrong.update(await pipeline.promotes_when(drawn))
        for name, accepted in others(drawn).items():
            rivals[name] = rivals.get(name, 0) + accepted
        means = drawn.select.mean(axis=(1, 2))
        phantom += float(means[1:].max() - means[0])
    right: dict[str, Counter[str]] = {}
    for i, p in enumerate(points):
        found: Counter[str] = Counter()
        right[f"{p:g}"] = found
        for drawn in draws(domain, np.full(domain.tasks, p / 100), runs, seed, i + 1):
            found.update(await pipeline.promotes_when(drawn))

    def rates(when: str) -> dict[str, Any]:
        return {
            "false_promotions": wrong[when] / runs,
            "power": {point: found[when] / runs for point, found in right.items()},
        }

    false = wrong["1"]
    report: dict[str, Any] = {
        "runs": runs,
        "seed": seed,
        **rates("1"),
        "false_promotions_count": false,
        "false_promotions_interval": _wilson(false, runs),
        "attempts": {str(n): rates(str(n)) for n in ATTEMPTS},
        "suites_that_vary": {"rates": SUITE_RATES, "correlation": SUITE_CORRELATION, **rates("suites")},
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
