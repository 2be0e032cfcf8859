"""APE (automatic prompt engineer) as a baseline: guess a task's instruction from examples, then say it differently.

Twice the iterations of the bilevel loop (6) guesses from ten pairs each, the best k kept, as many paraphrases of
each, and the best on the train set wins. No failure is analysed.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.found import Found
from optimizer.methods.published import Induce, Node, children, each_task_alone, evaluated, top
from optimizer.records import SearchSpec, SearchTask
from optimizer.waves import together


async def ape(spec: SearchSpec, evaluation: Evaluation) -> Found:
    """Find a user prompt for every source task, each for itself, under the frozen system prompt."""
    return await each_task_alone(
        spec, lambda task: _adapt(spec, evaluation, task), "User prompts were induced from examples"
    )


async def _adapt(spec: SearchSpec, evaluation: Evaluation, task: SearchTask) -> list[Node]:
    sizes, writer = spec.sizes, Induce(spec, evaluation)
    rounds = 2 * sizes.iterations
    own = await evaluated(evaluation, spec, task, spec.seed_prompt, task.user_prompt)
    guessed = top(await children(evaluation, spec, writer, [own], range(rounds)), sizes.user_keep)
    said = await together(
        (
            _paraphrases(spec, evaluation, writer, node, range(i * rounds, (i + 1) * rounds))
            for i, node in enumerate(guessed)
        )
    )
    beam = top([own, *guessed, *(node for nodes in said for node in nodes)], sizes.user_keep)
    evaluation.event("generation", f"{task.name}: train score {beam[0].score:.3f}", task=task.name)
    return beam


async def _paraphrases(
    spec: SearchSpec, evaluation: Evaluation, writer: Induce, node: Node, draws: Sequence[int]
) -> list[Node]:
    written = await together(writer.rephrase(node, draw) for draw in draws)
    texts = [text for text in written if text is not None]
    return list(await together(evaluated(evaluation, spec, node.task, node.system, text) for text in texts))
