"""The analyse-and-rewrite proposer: one analysis per task, one synthesis across tasks, one candidate per hypothesis.

The writer never sees an example. What reaches it went through two schema-limited replies (at most ten findings of 200
characters, then labelled hypotheses), and findings that quote an example are dropped on the way. Of live traffic the
analyser reads only failures of a type that five distinct units ran into (``failures.spoken_for``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from optimizer.evaluation.evaluation import Evaluation
from optimizer.proposals import prompts, replies
from optimizer.proposals.components import joined, sentences
from optimizer.proposals.failures import Failures, answer_form, spoken_for
from optimizer.proposals.prompts import Ask, Hypothesis
from optimizer.proposals.proposal import History, Parent, Proposal, ProposerName, SystemAsk, UserAsk, combined
from optimizer.proposals.replies import Unparsed
from optimizer.waves import together

Parsed = TypeVar("Parsed")
DRAWS = 2
"""How often the same question is asked when the reply cannot be read."""

Findings = tuple[tuple[str, str], ...]


async def put(
    evaluation: Evaluation, question: Ask, read: Callable[[str], Parsed], *, n: int = 0, draws: int = 1
) -> Parsed | None:
    """Ask the optimizer model and read the reply strictly; None (and a counted reject) when no draw could be read."""
    for draw in range(draws):
        reply = await evaluation.optimize_call(
            question.messages, purpose=question.purpose, n=n * DRAWS + draw, schema=question.schema
        )
        if reply.finish != "stop":
            evaluation.reject(f"{question.purpose}: {reply.finish}")
            continue
        try:
            return read(reply.text)
        except Unparsed:
            evaluation.reject(f"{question.purpose}: unreadable")
    return None


class Rewriter:
    """Analyses failures and writes prompts with the optimizer model."""

    name: ProposerName = "rewrite"

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    async def system_prompts(self, ask: SystemAsk) -> list[Proposal]:
        """One candidate per hypothesis and parent; the number of hypotheses is ``count`` shared out over the
        parents."""
        parents = len(ask.parents)
        shares = [ask.count // parents + (i < ask.count % parents) for i in range(parents)]
        made = await together(
            (
                self._improve(parent, share, ask.history, ask.generation)
                for parent, share in zip(ask.parents, shares, strict=True)
                if share
            )
        )
        return [proposal for some in made for proposal in some]

    async def user_prompts(self, ask: UserAsk) -> list[str]:
        """``count`` draws of the writer from one analysis of the task."""
        task = ask.failures.task
        (failures,) = spoken_for([ask.failures])
        findings = await self.findings(failures, ask.system, ask.base, ask.generation)
        if findings is None:
            return []
        question = prompts.write_user(
            task=task.name,
            answer_form=answer_form(task),
            system_prompt=ask.system,
            user_prompt=ask.base,
            findings=findings,
        )
        draws = range(ask.generation * ask.count, (ask.generation + 1) * ask.count)
        written = await together(put(self._evaluation, question, replies.user_prompt, n=n) for n in draws)
        return list(dict.fromkeys(text for text in written if text is not None))

    def learn(self, proposal: Proposal, gain: float) -> None:
        """Nothing to do: the optimizer model reads the history of edits instead."""

    async def findings(self, failures: Failures, system: str, user_prompt: str, generation: int) -> Findings | None:
        """The analysis of one task's failures; None when there are none or the reply could not be read."""
        if not failures.shown:
            return None
        question = prompts.analyse_task(
            task=failures.task.name,
            answer_form=answer_form(failures.task),
            system_prompt=system,
            user_prompt=user_prompt,
            counts=failures.counts,
            shown=failures.shown,
        )
        return await put(
            self._evaluation,
            question,
            lambda reply: replies.findings(reply, failures.sources),
            n=generation,
            draws=DRAWS,
        )

    async def _improve(self, parent: Parent, count: int, history: History, generation: int) -> list[Proposal]:
        analysed = await together(
            self.findings(f, parent.prompt, f.task.user_prompt, generation) for f in spoken_for(parent.failures)
        )
        by_task = {f.task.name: rows for f, rows in zip(parent.failures, analysed, strict=True) if rows}
        if not by_task:
            return []
        tried = history.lines()
        hypotheses = await put(
            self._evaluation,
            prompts.synthesise(system_prompt=parent.prompt, findings=by_task, history=tried, count=count),
            lambda reply: replies.hypotheses(reply, count),
            n=generation,
            draws=DRAWS,
        )
        if not hypotheses:
            return []
        written = await together(self._write(parent.prompt, h, generation) for h in hypotheses)
        proposals = [
            Proposal(prompt=text, parent=parent.prompt, hypothesis=f"{h.label}: {h.change}", change=_sentence(h.change))
            for h, text in zip(hypotheses, written, strict=True)
        ]
        return [*proposals, *combined(parent.prompt, [proposal.change for proposal in proposals])]

    async def _write(self, parent: str, hypothesis: Hypothesis, generation: int) -> str:
        """The writer's prompt; when its reply cannot be read, the parent with the hypothesis' own sentence added."""
        question = prompts.write_system(system_prompt=parent, hypothesis=hypothesis)
        text = await put(self._evaluation, question, replies.system_prompt, n=generation)
        return text if text is not None else joined((*sentences(parent), _sentence(hypothesis.change)))


async def reworded(evaluation: Evaluation, sentence: str, n: int) -> str | None:
    """``sentence`` in the optimizer model's words; None when the reply could not be read."""
    return await put(evaluation, prompts.rephrase(sentence), lambda reply: replies.text_field(reply, "text", 400), n=n)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
