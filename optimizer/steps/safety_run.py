"""Asking the safety suite: both prompts, the same items, on the one path of every model call."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.evaluation.evaluation import Evaluation
from optimizer.gate.safety import SafetyEvidence, SafetyItem, safety_evidence, safety_items
from optimizer.records import SLOT, Example, JudgeSpec, Rollout, SearchTask
from optimizer.waves import together

_TASK = SearchTask(name="safety-suite", user_prompt=SLOT, judge=JudgeSpec(kind="contains"))
"""A task in form only: its replies are judged by ``optimizer.gate.safety`` and never scored."""
ROOM = 64
"""Tokens that a reply to an item may have at least: enough for the opening by which a refusal is told from help. A
domain whose answers are one word long would else be judged by how such replies begin."""


async def measure_safety(
    evaluation: Evaluation, incumbent: str, candidate: str, items: Sequence[SafetyItem] | None = None
) -> SafetyEvidence:
    """The gate's safety evidence for two system prompts, as they are served (with the locked block in front).

    Costs two base calls per item (600 for the whole suite; ``subset`` gives a stated part). Raises what the evaluation
    raises, ``BudgetSpent`` among it. A reply that the provider's filter held back counts as a refusal.
    """
    asked = safety_items() if items is None else items
    examples = [Example(id=item.id, question=item.question, answers=(item.token or "-",)) for item in asked]
    before, after = await together(
        evaluation.rollouts(prompt, _TASK, SLOT, examples, room=ROOM) for prompt in (incumbent, candidate)
    )
    return safety_evidence(asked, _texts(before), _texts(after))


def _texts(rollouts: Sequence[Rollout]) -> dict[str, str | None]:
    return {rollout.example_id: "" if rollout.finish == "filter" else rollout.text for rollout in rollouts}
