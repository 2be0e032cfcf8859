"""Reading the optimizer's replies, strictly: the object or the tag that was asked for, or :class:`Unparsed`.

No default stands in for a reply that cannot be read. A reply that quotes user data (a run of more than eight words of
an example) is cut out here too, so that nothing verbatim travels from the analyser to the writer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from optimizer.proposals.prompts import FAILURE_TYPES, FINDING_CHARS, MAX_FINDINGS, PROMPT_CHARS, Hypothesis
from optimizer.records import SLOT

QUOTE_WORDS = 8
_WORD = re.compile(r"\w+")
_FENCED = re.compile(r"```(?:json)?\s*(\{.*?\})\s*```", re.DOTALL)


class Unparsed(ValueError):
    """A reply without the object or tag that was asked for; says what was missing, without the reply's text."""


def tagged(reply: str, tag: str) -> str:
    """The text of the first complete ``<tag>``; raises :class:`Unparsed` when it is absent or empty."""
    match = re.search(rf"<{tag}>(.*?)</{tag}>", reply, re.DOTALL | re.IGNORECASE)
    if match is None:
        raise Unparsed(f"the reply has no complete <{tag}> tag")
    text = match.group(1).strip()
    if not text:
        raise Unparsed(f"the <{tag}> tag is empty")
    return text


def analysed(reply: str, tag: str) -> str:
    """The analysis of a reply: what stands in ``<tag>``, from an unclosed ``<tag>`` to the end, else the whole reply.

    An analysis only informs the writer, so that a form which small models rarely keep costs no candidate; the published
    code goes on as well, but with a sentence that says "format wrong" in the analysis's place. Raises :class:`Unparsed`
    for an empty one.
    """
    try:
        return tagged(reply, tag)
    except Unparsed:
        opened = re.split(rf"<{tag}>", reply, maxsplit=1, flags=re.IGNORECASE)[-1]
        text = re.sub(rf"</?{tag}>", "", opened, flags=re.IGNORECASE).strip()
        if not text:
            raise
        return text


def one_object(reply: str) -> dict[str, Any]:
    """The one JSON object of a reply: the whole reply, or its only fenced block."""
    fenced = _FENCED.findall(reply)
    text = fenced[0] if len(fenced) == 1 else reply.strip()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Unparsed("the reply is not one JSON object") from error
    if not isinstance(value, dict):
        raise Unparsed("the reply is JSON, but not an object")
    return value


def text_field(reply: str, field: str, limit: int = PROMPT_CHARS) -> str:
    """A non-empty text field of the reply's object."""
    value = one_object(reply).get(field)
    if not isinstance(value, str) or not value.strip():
        raise Unparsed(f"the reply has no text in {field!r}")
    if len(value) > limit:
        raise Unparsed(f"{field!r} is longer than {limit} characters")
    return value.strip()


def system_prompt(reply: str) -> str:
    """The text in ``system_prompt``."""
    return text_field(reply, "system_prompt")


def user_prompt(reply: str) -> str:
    """The text in ``user_prompt``. As the request says, an instruction without the slot stands before the input.

    Raises :class:`Unparsed` when the slot is there more than once.
    """
    text = text_field(reply, "user_prompt")
    if text.count(SLOT) > 1:
        raise Unparsed(f"the user prompt holds {SLOT} more than once")
    return text if SLOT in text else f"{text}\n\n{SLOT}"


def findings(reply: str, sources: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``(type, text)`` rows of an analysis; rows that quote ``sources`` for more than eight words are dropped."""
    rows = one_object(reply).get("findings")
    if not isinstance(rows, list):
        raise Unparsed("the reply has no list 'findings'")
    runs = _runs(sources)
    kept: list[tuple[str, str]] = []
    for row in rows[:MAX_FINDINGS]:
        kind, text = (row.get("type"), row.get("text")) if isinstance(row, dict) else (None, None)
        if kind not in FAILURE_TYPES or not isinstance(text, str) or not text.strip():
            continue
        line = " ".join(text.split())[:FINDING_CHARS]
        if not _quotes(line, runs):
            kept.append((str(kind), line))
    if not kept:
        raise Unparsed("no finding has a known type and text of its own")
    return tuple(dict.fromkeys(kept))


def hypotheses(reply: str, count: int) -> tuple[Hypothesis, ...]:
    """The labelled hypotheses of a synthesis, at most ``count``, without repeated changes."""
    rows = one_object(reply).get("hypotheses")
    if not isinstance(rows, list):
        raise Unparsed("the reply has no list 'hypotheses'")
    kept: dict[str, Hypothesis] = {}
    for row in rows:
        if not isinstance(row, dict):
            continue
        label, cause, change = (row.get(key) for key in ("label", "cause", "change"))
        if not all(isinstance(value, str) and value.strip() for value in (label, change)):
            continue
        found = Hypothesis(
            _line(str(label), 40), _line(str(cause or ""), FINDING_CHARS), _line(str(change), FINDING_CHARS)
        )
        kept.setdefault(found.change.casefold(), found)
    if not kept:
        raise Unparsed("no hypothesis has a label and a change")
    return tuple(kept.values())[:count]


def _line(text: str, limit: int) -> str:
    return " ".join(text.split())[:limit]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(sources: Iterable[str]) -> set[tuple[str, ...]]:
    size = QUOTE_WORDS + 1
    return {tuple(words[i : i + size]) for words in map(_words, sources) for i in range(len(words) - size + 1)}


def _quotes(text: str, runs: set[tuple[str, ...]]) -> bool:
    words, size = _words(text), QUOTE_WORDS + 1
    return any(tuple(words[i : i + size]) in runs for i in range(len(words) - size + 1))
