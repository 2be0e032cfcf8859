"""GEPA (arXiv 2507.19457) through the ``gepa`` library, an extra: the same tasks, budget, cache, holdout and report.

The library's engine runs in a thread of its own and asks for evaluations; they go through the one evaluation path.
Train is the reflect split, validation a part of the select split (the library advises a budget of 15 to 30 times its
size).
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimizer.draws import stream
from optimizer.errors import BudgetSpent, OptimizerError, RunBlocked
from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.found import Found
from optimizer.methods.published import refuse_traffic
from optimizer.records import SLOT, Candidate, Generation, Rollout, SearchSpec
from optimizer.steps.plan import Plan
from optimizer.steps.racing import Cell, answer

COMPONENT = "system_prompt"
CALLS_PER_VALIDATION_ITEM = 20
MINIBATCH = 3
"""Examples that a candidate and its child answer before and after a reflection."""


async def gepa_search(spec: SearchSpec, evaluation: Evaluation, plan: Plan) -> Found:
    """Evolve the system prompt with GEPA. Raises ``RunBlocked`` without the library, an optimizer model, or for
    traffic."""
    refuse_traffic(spec)
    try:
        import gepa
    except ImportError as error:
        raise RunBlocked("Method gepa needs the extra: pip install 'metaspo-gateway[gepa]'.") from error
    if not evaluation.has("optimizer"):
        raise RunBlocked("Method gepa rewrites prompts: add `models: optimizer:` to the search file.")
    seed_prompt = spec.seed_prompt if spec.incumbent is None else spec.incumbent
    bridge = Bridge(evaluation, asyncio.get_running_loop())
    train = [Cell(task, example, task.user_prompt) for task in spec.sources for example in task.reflect]
    per_task = _validation_per_task(spec, plan)
    validation = []
    for task in spec.sources:
        rows = list(task.select)
        stream(spec.seed, "gepa", task.name).shuffle(rows)
        validation += [Cell(task, example, task.user_prompt) for example in rows[:per_task]]

    def engine() -> Any:
        return gepa.optimize(
            seed_candidate={COMPONENT: seed_prompt},
            trainset=train,
            valset=validation,
            adapter=bridge,
            reflection_lm=bridge.reflect,
            reflection_minibatch_size=MINIBATCH,
            max_metric_calls=plan.search_calls,
            stop_callbacks=lambda _state: bridge.stopped is not None,
            logger=bridge,
            seed=spec.seed,
            raise_on_exception=True,
        )

    result = await asyncio.to_thread(engine)
    if bridge.stopped is not None and not isinstance(bridge.stopped, BudgetSpent):
        raise bridge.stopped
    best = str(result.best_candidate[COMPONENT])
    candidates = tuple(
        Candidate(id=f"gepa.{i}", system_prompt=str(c[COMPONENT]), score=float(score), n=len(validation))
        for i, (c, score) in enumerate(zip(result.candidates, result.val_aggregate_scores, strict=True))
    )
    generation = Generation(
        number=1, kept=best, score=float(result.val_aggregate_scores[result.best_idx]), candidates=candidates
    )
    reason = str(bridge.stopped) if bridge.stopped else "The library's budget of metric calls is used up."
    return Found(winner=best, reason=reason, proposer="rewrite", generations=(generation,))


def most_evaluations(spec: SearchSpec, plan: Plan) -> int:
    """Evaluations that the library asks for at most: it finishes the round that it has begun, and a round is a
    minibatch before, one after, and the validation set."""
    return max(plan.search_calls, 1) - 1 + 2 * MINIBATCH + _validation(spec, plan)


def most_reflections(spec: SearchSpec, plan: Plan) -> int:
    """Calls of the reflection model at most: each stands between two minibatches, after the validation set."""
    return max(0, math.ceil((plan.search_calls - _validation(spec, plan)) / (2 * MINIBATCH)))


def _validation(spec: SearchSpec, plan: Plan) -> int:
    return sum(min(len(task.select), _validation_per_task(spec, plan)) for task in spec.sources)


def _validation_per_task(spec: SearchSpec, plan: Plan) -> int:
    return max(4, math.ceil(plan.search_calls / CALLS_PER_VALIDATION_ITEM / len(spec.sources)))


@dataclass
class Batch:
    """What GEPA expects back from an evaluation (its ``EvaluationBatch``, without importing the library)."""

    outputs: list[str]
    scores: list[float]
    trajectories: list[dict[str, str]] | None = None
    objective_scores: list[dict[str, float]] | None = None
    num_metric_calls: int | None = None


@dataclass
class Bridge:
    """The library's adapter, reflection model and logger, all on our evaluation path. Called from the engine's thread.

    An error of ours stops the engine at its next step and is raised afterwards; the batch it hit scores zero.
    """

    evaluation: Evaluation
    loop: asyncio.AbstractEventLoop
    stopped: OptimizerError | None = None
    propose_new_texts: None = None
    _reflections: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def evaluate(self, batch: list[Cell], candidate: dict[str, str], capture_traces: bool = False) -> Batch:
        """Rollouts of ``batch`` under the candidate; an unscored rollout counts 0, as the library has no word for
        it."""
        try:
            rollouts = self._wait(answer(self.evaluation, candidate[COMPONENT], batch))
        except OptimizerError as error:
            self.stopped = self.stopped or error
            return Batch([""] * len(batch), [0.0] * len(batch), [{} for _ in batch] if capture_traces else None)
        traces = (
            [_trace(cell, rollout) for cell, rollout in zip(batch, rollouts, strict=True)] if capture_traces else None
        )
        return Batch([r.text for r in rollouts], [r.score or 0.0 for r in rollouts], traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Batch, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What the reflection model is shown for each component: inputs, outputs and what was right."""
        del candidate
        return {component: eval_batch.trajectories or [] for component in components_to_update}

    def reflect(self, prompt: str | list[dict[str, Any]]) -> str:
        """One reply of the optimizer model. The same prompt asked again is another draw."""
        text = prompt if isinstance(prompt, str) else "\n\n".join(str(message["content"]) for message in prompt)
        with self._lock:
            draw = self._reflections.get(text, 0)
            self._reflections[text] = draw + 1
        try:
            call = self.evaluation.optimize_call((("user", text),), purpose="gepa reflection", n=draw)
            return str(self._wait(call).text)
        except OptimizerError as error:
            self.stopped = self.stopped or error
            return ""

    def log(self, message: str) -> None:
        """The library's log is not ours: the journal has every call."""

    def _wait(self, call: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()


def _trace(cell: Cell, rollout: Rollout) -> dict[str, str]:
    right = " or ".join(cell.example.answers)
    verdict = "right" if rollout.score == 1.0 else f"wrong, the right answer is: {right}" if right else "wrong"
    return {
        "Inputs": cell.user_prompt.replace(SLOT, cell.example.question),
        "Generated Outputs": rollout.text,
        "Feedback": f"{verdict}. {rollout.critique}".strip(),
    }
