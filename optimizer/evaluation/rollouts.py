"""From an example to its rollout: what is sent, how the reply is judged, what kind of failure it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from optimizer.judges import judge_for
from optimizer.judges.judge import ModelJudge, Nonce, addresses_grader
from optimizer.records import SLOT, Completion, Example, Message, Request, Rollout, SearchTask, Verdict

ATTEMPTS = 2
"""How often a judge model is asked about one reply, at most: again when its verdict cannot be read."""
_JUDGE_FAILED = {"length": "judge truncated", "refusal": "judge refused", "filter": "judge filtered"}

Ask = Callable[[Sequence[tuple[str, Request]]], Awaitable[list[Completion]]]
"""Puts judge requests, each with the id of its example, to the judge model; the replies in order."""


def render(system: str, user_prompt: str, example: Example) -> tuple[Message, ...]:
    """The messages of one base call: the system prompt (left out when empty), earlier turns, the filled user prompt."""
    head: tuple[Message, ...] = (("system", system),) if system else ()
    return (*head, *example.history, ("user", user_prompt.replace(SLOT, example.question)))


async def verdicts(
    task: SearchTask, examples: Sequence[Example], replies: Sequence[Completion], *, nonce: Nonce, ask: Ask
) -> list[Verdict]:
    """One verdict per reply. A judge that needs a model is asked about all examples at once, then once more about those
    whose verdict could not be read; what stays unreadable is unscored, with the reason."""
    judge = judge_for(task.judge)
    if not isinstance(judge, ModelJudge):
        return [judge.verdict(example, reply.text) for example, reply in zip(examples, replies, strict=True)]
    found: dict[int, Verdict] = {}
    waiting: list[int] = list(range(len(replies)))
    for attempt in range(ATTEMPTS):
        asked: list[tuple[int, Request]] = []
        for index in waiting:
            plan = judge.question(examples[index], replies[index].text, nonce, attempt)
            if isinstance(plan, Verdict):
                found[index] = plan
            else:
                asked.append((index, plan))
        waiting = []
        answers = await ask([(examples[index].id, request) for index, request in asked])
        for (index, _), answer in zip(asked, answers, strict=True):
            verdict = judge.read(answer)
            if verdict is None:
                waiting.append(index)
                verdict = Verdict(score=None, unscored=_JUDGE_FAILED.get(answer.finish, "judge unreadable"))
            found[index] = verdict
    return [found[index] for index in range(len(replies))]


def rollout_of(example: Example, reply: Completion, verdict: Verdict, *, by_model: bool) -> Rollout:
    """The rollout, its failure typed. ``by_model``: a model judged it, so a text that addresses the judge is marked."""
    score, unscored, kind = verdict.score, verdict.unscored, ""
    if reply.finish == "filter":
        score, unscored = None, f"filtered: {reply.detail}" if reply.detail else "filtered"
    elif score is not None and score < 1.0:
        kind = _failure(reply, verdict)
    return Rollout(
        example_id=example.id,
        text=reply.text,
        score=score,
        unscored=unscored,
        error_kind=kind,
        answer=verdict.answer,
        malformed=verdict.malformed,
        critique=verdict.critique,
        suspicious=verdict.suspicious or (by_model and addresses_grader(reply.text)),
        finish=reply.finish,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
    )


def _failure(reply: Completion, verdict: Verdict) -> str:
    if reply.finish == "refusal":
        return "refusal"
    if verdict.malformed:
        return "truncated" if reply.finish == "length" else "format"
    return "wrong"
