"""What the published algorithms share: nodes, train sets, and how their three kinds of writer make a new prompt.

A writer asks the optimizer model and returns a prompt or None. None means that a reply could not be read, and counts
as a reject; the published code would have evaluated a sentinel sentence as the prompt instead.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from optimizer.draws import stream
from optimizer.errors import RunBlocked
from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.found import Found
from optimizer.proposals import prompts, replies
from optimizer.proposals.analysis import put
from optimizer.proposals.prompts import SYSTEM_TAG, USER_TAG, Ask
from optimizer.records import SLOT, Example, Rollout, SearchSpec, SearchTask
from optimizer.waves import together

DEMONSTRATIONS_USER = 10
DEMONSTRATIONS_SYSTEM = 5


@dataclass(frozen=True)
class Node:
    """One (system prompt, user prompt, task) with its train score and the rollouts behind it."""

    task: SearchTask
    system: str
    user: str
    score: float
    rollouts: tuple[Rollout, ...] = ()


def train_set(spec: SearchSpec, task: SearchTask) -> tuple[Example, ...]:
    """The n training examples of a task: the published loop finds failures, ranks and accepts on the same ones."""
    rows = list(task.train)
    stream(spec.seed, "train", task.name).shuffle(rows)
    return tuple(rows[: spec.sizes.train_size])


def refuse_traffic(spec: SearchSpec) -> None:
    """Raise ``RunBlocked`` for examples from traffic: these methods show raw examples to a writer."""
    from_traffic = [task.name for task in spec.tasks if task.origin == "traffic"]
    if from_traffic:
        raise RunBlocked(
            f"Method {spec.method}{' --faithful' if spec.faithful else ''} shows raw examples to the model that writes "
            f"prompts, and {', '.join(from_traffic)} came from traffic. Use the default method instead."
        )


async def each_task_alone(
    spec: SearchSpec, adapt: Callable[[SearchTask], Coroutine[Any, Any, list[Node]]], reason: str
) -> Found:
    """Adapt every source task's user prompt for itself, under the frozen system prompt; ``adapt`` returns its beam,
    best first. Raises ``RunBlocked`` for examples from traffic."""
    refuse_traffic(spec)
    beams = await together(adapt(task) for task in spec.sources)
    return Found(
        winner=spec.seed_prompt,
        reason=f"{reason}; the system prompt stood still.",
        user_prompts={beam[0].task.name: tuple(node.user for node in beam) for beam in beams},
        proposer="rewrite",
        adapted=True,
    )


async def evaluated(evaluation: Evaluation, spec: SearchSpec, task: SearchTask, system: str, user: str) -> Node:
    """The node, measured on the task's train set."""
    examples = train_set(spec, task)
    rollouts = await evaluation.rollouts(system, task, user, examples)
    return Node(task, system, user, evaluation.score(task, examples, rollouts).interval.score, tuple(rollouts))


def wrong_examples(spec: SearchSpec, node: Node) -> list[str]:
    """Every wrong train example of a node, as the published analyser sees it."""
    shown = []
    for example, rollout in zip(train_set(spec, node.task), node.rollouts, strict=True):
        if rollout.score is not None and rollout.score < 1.0:
            shown.append(
                prompts.wrong_example(
                    system_prompt=node.system,
                    user_message=node.user.replace(SLOT, example.question),
                    reply=rollout.text,
                    prediction=rollout.answer or "nothing",
                    expected=", ".join(example.answers),
                )
            )
    return shown


def some(items: Sequence[str], most: int, rng: random.Random) -> list[str]:
    """At most ``most`` of ``items``, drawn without replacement."""
    return rng.sample(list(items), min(most, len(items)))


def suffix_of(user_prompt: str) -> str:
    """A user prompt without its first sentence: the answer form it demands, and the slot."""
    parts = re.split(r"(?<=[.!?])\s+", user_prompt, maxsplit=1)
    return parts[1] if len(parts) == 2 and SLOT in parts[1] else SLOT


class Writer(Protocol):
    """Makes one new prompt. ``draw`` names the proposal within the run, so that no two ask the same question."""

    async def user(self, beam: Sequence[Node], draw: int) -> str | None:
        """A new user prompt for the task of ``beam`` (best node first)."""
        ...

    async def system(self, best: Sequence[Node], pool: Sequence[str], draw: int) -> str | None:
        """A new system prompt; ``best`` holds each task's best node, ``pool`` the best system prompts so far."""
        ...


@dataclass(frozen=True)
class AnalyseAndRewrite:
    """MetaSPO and ProTeGi: analyse wrong examples, then rewrite. Two calls a proposal, none where nothing is wrong."""

    spec: SearchSpec
    evaluation: Evaluation

    async def user(self, beam: Sequence[Node], draw: int) -> str | None:
        node = beam[0]
        rng = stream(self.spec.seed, "wrong", node.task.name, draw)
        shown = some(wrong_examples(self.spec, node), self.spec.sizes.user_failures, rng)
        if not shown:
            return None
        question = prompts.analyse_user(system_prompt=node.system, user_prompt=node.user, examples=shown)
        analysis = await self._analysed(question, draw)
        if analysis is None:
            return None
        rewrite = prompts.rewrite_user(
            system_prompt=node.system, user_prompt=node.user, examples=shown, analysis=analysis
        )
        return with_slot(self.evaluation, await self._tagged(rewrite, draw))

    async def system(self, best: Sequence[Node], pool: Sequence[str], draw: int) -> str | None:
        rng = stream(self.spec.seed, "wrong", "system", draw)
        groups = [some(wrong_examples(self.spec, node), self.spec.sizes.system_failures, rng) for node in best]
        rng.shuffle(groups)
        shown = [example for group in groups for example in group]
        if not shown:
            return None
        analysis = await self._analysed(prompts.analyse_system(system_prompt=pool[0], examples=shown), draw)
        if analysis is None:
            return None
        return await self._tagged(prompts.rewrite_system(system_prompt=pool[0], analysis=analysis), draw)

    async def _analysed(self, question: Ask, draw: int) -> str | None:
        return await put(self.evaluation, question, lambda reply: replies.analysed(reply, question.tag), n=draw)

    async def _tagged(self, question: Ask, draw: int) -> str | None:
        return await put(self.evaluation, question, lambda reply: replies.tagged(reply, question.tag), n=draw)


@dataclass(frozen=True)
class Induce:
    """APE: guess the instruction from input and output pairs. One call a proposal, no failure analysis."""

    spec: SearchSpec
    evaluation: Evaluation

    async def user(self, beam: Sequence[Node], draw: int) -> str | None:
        task = beam[-1].task
        rng = stream(self.spec.seed, "pairs", task.name, draw)
        pairs = self._pairs(task, DEMONSTRATIONS_USER, rng)
        question = prompts.induce(purpose="induce_user", tag=USER_TAG, demonstrations=pairs)
        text = await self._tagged(question, draw)
        if text is None:
            return None
        return with_slot(self.evaluation, f"{text.replace(SLOT, '').strip()}\n{suffix_of(task.user_prompt)}")

    async def system(self, best: Sequence[Node], pool: Sequence[str], draw: int) -> str | None:
        del pool  # every guess starts afresh
        rng = stream(self.spec.seed, "pairs", "system", draw)
        pairs = [pair for node in best for pair in self._pairs(node.task, DEMONSTRATIONS_SYSTEM, rng)]
        rng.shuffle(pairs)
        return await self._tagged(prompts.induce(purpose="induce_system", tag=SYSTEM_TAG, demonstrations=pairs), draw)

    async def rephrase(self, node: Node, draw: int) -> str | None:
        """Another wording of a node's user prompt (the second step of APE)."""
        question = prompts.paraphrase(purpose="paraphrase_user", tag=USER_TAG, prompt=node.user)
        return with_slot(self.evaluation, await self._tagged(question, draw))

    def _pairs(self, task: SearchTask, count: int, rng: random.Random) -> list[tuple[str, str]]:
        rows = [example for example in train_set(self.spec, task) if example.answers]
        return [(e.question, e.answers[0]) for e in rng.sample(rows, min(count, len(rows)))]

    async def _tagged(self, question: Ask, draw: int) -> str | None:
        return await put(self.evaluation, question, lambda reply: replies.tagged(reply, question.tag), n=draw)


@dataclass(frozen=True)
class Cross:
    """EVO: cross two good prompts and change the result a little. One call a proposal, no failure analysis."""

    spec: SearchSpec
    evaluation: Evaluation

    async def user(self, beam: Sequence[Node], draw: int) -> str | None:
        rng = stream(self.spec.seed, "cross", beam[0].task.name, draw)
        second = rng.choice(beam[1:]).user if len(beam) > 1 else beam[0].task.user_prompt
        question = prompts.cross(purpose="cross_user", tag=USER_TAG, first=beam[0].user, second=second)
        return with_slot(self.evaluation, await self._tagged(question, draw))

    async def system(self, best: Sequence[Node], pool: Sequence[str], draw: int) -> str | None:
        del best  # prompts are crossed, no failure is looked at
        rng = stream(self.spec.seed, "cross", "system", draw)
        second = rng.choice(pool[1:]) if len(pool) > 1 else self.spec.seed_prompt
        return await self._tagged(
            prompts.cross(purpose="cross_system", tag=SYSTEM_TAG, first=pool[0], second=second), draw
        )

    async def _tagged(self, question: Ask, draw: int) -> str | None:
        return await put(self.evaluation, question, lambda reply: replies.tagged(reply, question.tag), n=draw)


def with_slot(evaluation: Evaluation, text: str | None) -> str | None:
    """``text`` when it holds the question slot once; otherwise a reject."""
    if text is not None and text.count(SLOT) != 1:
        evaluation.reject("lost slot")
        return None
    return text


async def children(
    evaluation: Evaluation, spec: SearchSpec, writer: Writer, beam: Sequence[Node], draws: Sequence[int]
) -> list[Node]:
    """New user prompts from ``beam``, written at once and then measured at once; unreadable ones are left out."""
    written = await together(writer.user(beam, draw) for draw in draws)
    texts = [text for text in written if text is not None]
    node = beam[0]
    return list(await together(evaluated(evaluation, spec, node.task, node.system, text) for text in texts))


def top(nodes: Sequence[Node], keep: int) -> list[Node]:
    """The best ``keep`` nodes; among equals the earlier stays first (a stable sort, as published)."""
    return sorted(nodes, key=lambda node: -node.score)[:keep]


def light(node: Node) -> Node:
    """The node without its rollouts, for a record that lives long."""
    return replace(node, rollouts=())
