"""Fixed and trivial system prompts, measured beside every search: a method that does not beat them has found nothing.

``default``, ``cot``, ``service`` and ``empty`` are fixed texts, ``one_shot`` is one rewrite by the optimizer model,
``repeat`` sends each user prompt twice in a row (arXiv 2512.14982), ``constant`` is the most frequent answer and
needs no model.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

from optimizer.errors import BudgetSpent, RunBlocked
from optimizer.evaluation.evaluation import Evaluation
from optimizer.evaluation.scoring import split_scores
from optimizer.methods.found import Found
from optimizer.records import Example, Message, Scores, SearchSpec, SearchTask, TaskScore

PROMPTS: Mapping[str, str] = {
    "default": "You are a helpful assistant.",
    "cot": "Let's think step by step.",
    "service": (
        "You are the assistant of a software company that serves many kinds of customers. Your knowledge ends "
        "some time before today, so say when something may have changed. Answer simple questions in a sentence or two "
        "and give involved ones the room they need. Where people hold differing views, set out the main ones fairly. "
        "Never speak of a group of people as if all of its members were alike. Use markdown for code and nothing else. "
        "If you cannot help, say so at once and name what you can do instead."
    ),
    "empty": "",
}
NAMES = (*PROMPTS, "repeat", "one_shot", "constant")
FIXED_METHODS = frozenset(NAMES) - {"one_shot"}
"""Nothing is searched for and nothing written: their scores choose no prompt."""
_TAG = re.compile(r"<system_prompt>(.*?)</system_prompt>", re.DOTALL)
_LONGEST_PROMPT = 4000


async def find(spec: SearchSpec, evaluation: Evaluation) -> Found:
    """The method ``spec.method`` as a search that looks no further. Raises ``RunBlocked`` when it needs a missing
    model."""
    if spec.method in PROMPTS:
        return Found(
            winner=PROMPTS[spec.method], reason=f"The fixed prompt {spec.method!r} was measured, nothing searched."
        )
    incumbent = spec.seed_prompt if spec.incumbent is None else spec.incumbent
    if spec.method == "one_shot":
        if not evaluation.has("optimizer"):
            raise RunBlocked("one_shot lets the optimizer model rewrite the prompt once: add `models: optimizer:`.")
        prompt = await one_shot(spec, evaluation)
        if prompt is None:
            return Found(winner=incumbent, reason="The optimizer's one rewrite could not be read; the incumbent stays.")
        return Found(winner=prompt, reason="One rewrite by the optimizer model, nothing searched.", proposer="rewrite")
    if spec.method == "repeat":
        doubled: dict[str, tuple[str, ...]] = {task.name: (repeated(task.user_prompt),) for task in spec.tasks}
        return Found(
            winner=incumbent, user_prompts=doubled, reason="Each user prompt twice: see `repeat` under baselines."
        )
    return Found(winner=incumbent, reason="The most frequent answer needs no model: see `constant_baseline`.")


async def beside(
    spec: SearchSpec, evaluation: Evaluation, examples: Mapping[str, Sequence[Example]], *, rewrite: bool = True
) -> tuple[dict[str, Scores], tuple[str, ...]]:
    """Scores of the baselines on the confirmation ``examples`` (by task name), and notes on those the budget left out.

    Cheap because shared: a baseline equal to the incumbent or the winner is answered from the cache. Without
    ``rewrite`` the optimizer is asked for nothing, and there is no one_shot.
    """
    arms: list[tuple[str, str, bool]] = [(name, prompt, False) for name, prompt in PROMPTS.items()]
    arms.append(("repeat", spec.seed_prompt if spec.incumbent is None else spec.incumbent, True))
    scores: dict[str, Scores] = {}
    notes: list[str] = []
    try:
        if not rewrite:
            notes.append(
                "The baseline one_shot was left out: where nothing is to be gained, the optimizer is not asked."
            )
        elif evaluation.has("optimizer") and (prompt := await one_shot(spec, evaluation)) is not None:
            arms.append(("one_shot", prompt, False))
    except BudgetSpent:
        notes.append("The baseline one_shot was left out: the budget is spent.")
    for name, prompt, twice in arms:
        try:
            scores[name] = await _measure(spec, evaluation, prompt, examples, twice=twice)
        except BudgetSpent:
            notes.append(f"The baseline {name} was left out: the budget is spent.")
    return scores, tuple(notes)


async def one_shot(spec: SearchSpec, evaluation: Evaluation) -> str | None:
    """One rewrite of the seed prompt from the task descriptions alone; None when the reply has no readable prompt."""
    reply = await evaluation.optimize_call(_ask(spec), purpose="one_shot")
    found = _TAG.findall(reply.text)
    prompt = found[-1].strip() if found else ""
    if not prompt or len(prompt) > _LONGEST_PROMPT or reply.finish != "stop":
        evaluation.reject("unparsed")
        return None
    return prompt


def repeated(user_prompt: str) -> str:
    """The user prompt twice, question and all."""
    return f"{user_prompt}\n\n{user_prompt}"


def _ask(spec: SearchSpec) -> tuple[Message, ...]:
    tasks = "\n\n".join(f"<task>\n{task.user_prompt}\n</task>" for task in spec.sources)
    return (
        (
            "system",
            "You write system prompts: short, general instructions that help a language model with a family of tasks. "
            "Put the new system prompt between <system_prompt> and </system_prompt>.",
        ),
        (
            "user",
            f"The current system prompt is:\n<current>\n{spec.seed_prompt}\n</current>\n\n"
            f"These are the user prompts that it must serve; {{question}} stands for the user's input:\n\n{tasks}\n\n"
            "Write a better system prompt for all of them and for similar tasks. Name no single task.",
        ),
    )


async def _measure(
    spec: SearchSpec,
    evaluation: Evaluation,
    prompt: str,
    examples: Mapping[str, Sequence[Example]],
    *,
    twice: bool,
) -> Scores:
    tasks = [task for task in spec.tasks if examples.get(task.name)]

    async def one(task: SearchTask) -> tuple[str, TaskScore]:
        user = repeated(task.user_prompt) if twice else task.user_prompt
        rows = examples[task.name]
        return task.name, evaluation.score(task, rows, await evaluation.rollouts(prompt, task, user, rows))

    measured = dict(await asyncio.gather(*(one(task) for task in tasks)))
    parts = [
        split_scores({task.name: measured[task.name] for task in tasks if task.role == role})
        for role in ("source", "unseen")
    ]
    return Scores(holdout=parts[0], unseen=parts[1])
