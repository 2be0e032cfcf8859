"""ProTeGi as the MetaSPO authors ran it: test-time adaptation of a task's user prompt under a frozen system prompt.

A beam of k user prompts; every member gets m children by analyse-and-rewrite; the best k of parents and children
stay. One first expansion of the task's own prompt, then twice the iterations of the bilevel loop (6). Per task n (1 +
m + 6 k m) base calls (2,900 with the published sizes) and 2 (m + 6 k m) optimizer calls (114).
"""

from __future__ import annotations

from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.found import Found
from optimizer.methods.published import AnalyseAndRewrite, Node, children, each_task_alone, evaluated, top
from optimizer.records import SearchSpec, SearchTask
from optimizer.waves import together


async def protegi(spec: SearchSpec, evaluation: Evaluation) -> Found:
    """Adapt the user prompt of every source task, each for itself."""
    return await each_task_alone(spec, lambda task: _adapt(spec, evaluation, task), "User prompts were adapted")


async def _adapt(spec: SearchSpec, evaluation: Evaluation, task: SearchTask) -> list[Node]:
    sizes, writer = spec.sizes, AnalyseAndRewrite(spec, evaluation)
    beam = [await evaluated(evaluation, spec, task, spec.seed_prompt, task.user_prompt)]
    first = 0
    for round_number in range(1 + 2 * sizes.iterations):
        made = []
        for node in beam:
            made.append(children(evaluation, spec, writer, [node], range(first, first + sizes.user_candidates)))
            first += sizes.user_candidates
        new = [node for nodes in await together(made) for node in nodes]
        beam = top([*beam, *new], sizes.user_keep)
        evaluation.event(
            "generation",
            f"{task.name}, round {round_number}: train score {beam[0].score:.3f}",
            task=task.name,
            score=beam[0].score,
            best=beam[0].user,
            calls=evaluation.ledger.calls,
        )
    return beam
