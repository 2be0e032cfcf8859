"""From an exchange to the record that is kept of it: read, judged for form, scrubbed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from gateway.exchange import Exchange
from gateway.feedback import record_id
from gateway.scrub import DETECTORS, Detector, Scrubber
from gateway.transcript import Answer, Conversation, read_answer, read_request
from registry import Message, Outcome, Sample, Task, unit_digest

MOST_NAME = 128
"""Characters of a task's or a model's name."""


def read_exchange(exchange: Exchange) -> tuple[Conversation, Answer]:
    """What was asked and what was answered. Raises `Unreadable`."""
    said = read_request(exchange.dialect, exchange.request)
    return said, read_answer(exchange.dialect, b"".join(exchange.reply), stream=exchange.stream)


def bad_format(said: Conversation, answer: Answer, task: Task | None) -> bool:
    """True when the answer cannot be what was asked for: no JSON where JSON was wanted, none of the labels, no
    number.
    """
    if answer.skipped or answer.refusal:
        return False
    kind = task.judge.kind if task is not None else ""
    if said.wants_json or kind == "json_schema":
        try:
            msgspec.json.decode(answer.text.encode())
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return True
        return False
    if task is not None and kind in {"choice", "macro_f1"} and task.judge.labels:
        folded = answer.text.casefold()
        return not any(label.casefold() in folded for label in task.judge.labels)
    return kind in {"number", "math"} and not any(char.isdigit() for char in answer.text)


def _name(text: str) -> str:
    """A name as it may stand in a key: printable, and not long."""
    return "".join(char for char in text[:MOST_NAME] if char.isprintable())


def make_sample(
    exchange: Exchange,
    domain: str,
    task: str,
    said: Conversation,
    answer: Answer,
    *,
    share: float,
    declared: Collection[str] = (),
    detectors: Sequence[Detector] = DETECTORS,
) -> Sample:
    """The scrubbed record of one exchange: one scrubber over all its texts, so that placeholders agree.

    Task and model are texts of the caller's too, unless the domain declares the task.
    """
    scrub = Scrubber(detectors)
    usage = exchange.usage
    return Sample(
        id=record_id(exchange),
        domain=domain,
        task=task if task in declared else scrub(_name(task)),
        at=exchange.started,
        key=exchange.key.id if exchange.key else "",
        unit=unit_digest(exchange.unit),
        unit_is_fallback=exchange.unit_is_fallback,
        arm=exchange.arm,
        version=exchange.version if exchange.served_domain == domain else None,
        model=scrub(_name(exchange.target.model if exchange.target else exchange.model)),
        messages=tuple(Message(role=message.role, content=scrub(message.content)) for message in said.messages),
        answer=scrub(answer.text),
        finish=answer.finish,
        status=exchange.status,
        latency=exchange.latency,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        answer_tokens=usage.answer_tokens if usage else 0,
        scaffold=said.scaffold,
        inclusion=share,
        skipped=said.skipped or answer.skipped,
    )


NOT_OUR_DOING = frozenset({401, 403, 404, 429})
"""Statuses that say nothing about the prompt that was served."""


def make_outcome(exchange: Exchange, identity: str, cost: float) -> Outcome:
    """The numbers of an exchange that was served a version; ``cost`` in US dollars."""
    assert exchange.version is not None
    usage = exchange.usage
    failed = exchange.status >= 400 and exchange.status not in NOT_OUR_DOING
    return Outcome(
        domain=exchange.served_domain,
        arm=exchange.arm,
        version=exchange.version,
        unit=unit_digest(exchange.unit),
        at=exchange.started,
        status=exchange.status,
        error=failed or bool(exchange.ending),
        latency=exchange.latency,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        answer_tokens=usage.answer_tokens if usage else 0,
        cost=cost,
        exchange=identity,
    )
