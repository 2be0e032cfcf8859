"""MetaSPO exactly as published (arXiv 2505.09666), and its three ablations: the yardstick for the default search.

Per iteration an inner loop (m new user prompts per task, the best k kept) and an outer loop (C new system prompts
from one incumbent, each measured with every kept user prompt of every task on the same n examples; a strictly better
mean replaces
it, ties keep the incumbent). With T tasks and k' = min(k, 1 + m):

    base calls, training   T n (1 + N (m + C k'))        18,200 with the published sizes and four tasks
    base calls, final test T k' n_test                    6,000
    optimizer calls        2 N (T m + C)                    126

Calls are counted as requested evaluations; cache hits and rejects are listed apart in the ledger. Unlike the published
code, an unreadable reply is dropped instead of being evaluated as a prompt, and where nothing is wrong nothing is
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optimizer.evaluation.evaluation import Evaluation
from optimizer.methods.found import Found
from optimizer.methods.published import (
    AnalyseAndRewrite,
    Cross,
    Induce,
    Node,
    Writer,
    children,
    evaluated,
    refuse_traffic,
    top,
    wrong_examples,
)
from optimizer.records import Candidate, Generation, SearchSpec
from optimizer.run.holdout import confirmation_examples
from optimizer.waves import together

POOL = 4
"""How many system prompts EVO may cross: the incumbent and the best tried."""


@dataclass
class Loop:
    """The state of the published loop: one system prompt, and per task its kept user prompts, best first."""

    spec: SearchSpec
    evaluation: Evaluation
    system: str
    nodes: list[list[Node]]
    pool: list[tuple[float, str]] = field(default_factory=list)
    snapshots: list[Generation] = field(default_factory=list)

    @property
    def best(self) -> list[Node]:
        """Each task's best node."""
        return [beam[0] for beam in self.nodes]


async def faithful(spec: SearchSpec, evaluation: Evaluation) -> Found:
    """The published bilevel search; ``metaspo_ape`` and ``metaspo_evo`` swap the writer, ``outer_loop`` drops the inner
    loop and doubles the iterations. Raises ``BudgetSpent`` when the budget does not reach, ``RunBlocked`` for
    traffic."""
    refuse_traffic(spec)
    writer = _writer(spec, evaluation)
    inner = spec.method != "outer_loop"
    sizes = spec.sizes
    iterations = sizes.iterations if inner else 2 * sizes.iterations

    start = await together(
        evaluated(evaluation, spec, task, spec.seed_prompt, task.user_prompt) for task in spec.sources
    )
    loop = Loop(spec, evaluation, spec.seed_prompt, [[node] for node in start])
    _snapshot(loop, "start")
    for iteration in range(iterations):
        if inner:
            await _inner(loop, writer, iteration)
            _snapshot(loop, f"inner loop {iteration + 1}")
        candidates = await _outer(loop, writer, iteration)
        _snapshot(loop, f"outer loop {iteration + 1}", candidates)
    await _test(loop)
    return Found(
        winner=loop.system,
        reason="All iterations are done, as published: no holdout confirms the choice, train scores are optimistic.",
        user_prompts={beam[0].task.name: tuple(node.user for node in beam) for beam in loop.nodes},
        proposer="rewrite",
        generations=tuple(loop.snapshots),
    )


def _writer(spec: SearchSpec, evaluation: Evaluation) -> Writer:
    if spec.method == "metaspo_ape":
        return Induce(spec, evaluation)
    if spec.method == "metaspo_evo":
        return Cross(spec, evaluation)
    return AnalyseAndRewrite(spec, evaluation)


async def _inner(loop: Loop, writer: Writer, iteration: int) -> None:
    """Every task: m new user prompts from its best one, the best k of old and new kept. Old scores are not measured
    again."""
    sizes = loop.spec.sizes
    draws = range(iteration * sizes.user_candidates, (iteration + 1) * sizes.user_candidates)
    made = await together(children(loop.evaluation, loop.spec, writer, beam, draws) for beam in loop.nodes)
    loop.nodes = [top([*beam, *new], sizes.user_keep) for beam, new in zip(loop.nodes, made, strict=True)]


async def _outer(loop: Loop, writer: Writer, iteration: int) -> list[Candidate]:
    """C new system prompts from the incumbent; the first with the strictly best mean over all nodes takes its place."""
    sizes = loop.spec.sizes
    draws = range(iteration * sizes.system_candidates, (iteration + 1) * sizes.system_candidates)
    if isinstance(writer, AnalyseAndRewrite) and not any(wrong_examples(loop.spec, node) for node in loop.best):
        return []
    pool = [
        loop.system,
        *(text for _, text in sorted(loop.pool, key=lambda row: -row[0])[:POOL] if text != loop.system),
    ]
    written = await together(writer.system(loop.best, pool, draw) for draw in draws)
    texts = [text for text in written if text is not None]
    measured = await together(_with_system(loop, text) for text in texts)
    best_score, candidates = meta_score(loop.nodes), []
    accepted = loop.nodes
    for number, (text, nodes) in enumerate(zip(texts, measured, strict=True), start=1):
        score = meta_score(nodes)
        loop.pool.append((score, text))
        better = score > best_score
        if better:
            best_score, accepted, loop.system = score, nodes, text
        candidates.append(
            Candidate(
                id=f"s{iteration + 1}.{number}",
                system_prompt=text,
                parent=pool[0],
                generation=iteration + 1,
                score=score,
                n=sum(len(node.rollouts) for beam in nodes for node in beam),
                fate="better than all before it" if better else "not better",
            )
        )
    loop.nodes = accepted
    return candidates


async def _with_system(loop: Loop, system: str) -> list[list[Node]]:
    """All kept user prompts of all tasks under ``system``, measured, best first."""

    async def beam_of(beam: Sequence[Node]) -> list[Node]:
        nodes = await together(evaluated(loop.evaluation, loop.spec, node.task, system, node.user) for node in beam)
        return top(nodes, len(nodes))

    return list(await together(beam_of(beam) for beam in loop.nodes))


async def _test(loop: Loop) -> None:
    """Every node of the last snapshot on the test split; the scores go to the record of the last snapshot."""
    examples = confirmation_examples(loop.spec, loop.spec.sizes.test_size, 0)

    async def tested(node: Node) -> Candidate:
        rows = examples[node.task.name]
        rollouts = await loop.evaluation.rollouts(node.system, node.task, node.user, rows)
        score = loop.evaluation.score(node.task, rows, rollouts).interval
        return Candidate(
            id=f"test {node.task.name}",
            system_prompt=node.system,
            hypothesis=node.user,
            score=score.score,
            n=score.n,
            fate="tested",
        )

    pairs = await together(tested(node) for beam in loop.nodes for node in beam)
    last = loop.snapshots[-1]
    loop.snapshots[-1] = Generation(
        number=last.number,
        kept=last.kept,
        score=last.score,
        candidates=(*last.candidates, *pairs),
        user_prompts=last.user_prompts,
    )


def meta_score(nodes: Sequence[Sequence[Node]]) -> float:
    """Plain mean of the train scores of all nodes of all tasks."""
    scores = [node.score for beam in nodes for node in beam]
    return sum(scores) / len(scores)


def _snapshot(loop: Loop, name: str, candidates: Sequence[Candidate] = ()) -> None:
    score = meta_score(loop.nodes)
    loop.snapshots.append(
        Generation(
            number=len(loop.snapshots),
            kept=loop.system,
            score=score,
            candidates=tuple(candidates),
            user_prompts={beam[0].task.name: tuple(node.user for node in beam) for beam in loop.nodes},
        )
    )
    loop.evaluation.event(
        "generation",
        f"{name}: train score {score:.3f}",
        score=score,
        best=loop.system,
        calls=loop.evaluation.ledger.calls,
    )
