"""From messages to a user prompt with one ``{question}`` slot.

An application wraps what its users ask in fixed text: an instruction before it, a reminder after it. Given enough
distinct messages of one scaffold, the fixed text is what (nearly) all of them share at the start and at the end;
everything between is the question. One slot, and one law that the tests hold: for every message a template accepts,
``template.replace("{question}", question) == message``. Replay is therefore exact.

Mining is by majority, token by token, so a few odd messages do not hide the template of the rest. Messages are cut into
words, single signs and runs of white space; only words and signs count towards the length of a run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import msgspec

SLOT = "{question}"
MIN_MESSAGES = 20
"""Fewer distinct messages than this show no template."""
MIN_RUN = 4
"""A constant run counts from this many words and signs on: two sentences may well begin with the same two words."""
AGREEMENT = 0.8
"""The share of the messages that must show a run."""

_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")


class Template(msgspec.Struct, frozen=True):
    """Fixed text around one slot."""

    prefix: str = ""
    suffix: str = ""

    @property
    def text(self) -> str:
        return f"{self.prefix}{SLOT}{self.suffix}"

    @property
    def bare(self) -> bool:
        """True when nothing stands around the slot."""
        return not self.prefix and not self.suffix

    def question(self, message: str) -> str | None:
        """The part of ``message`` that fills the slot; None when the message was not made with this template."""
        fits = message.startswith(self.prefix) and message.endswith(self.suffix)
        if not fits or len(message) <= len(self.prefix) + len(self.suffix):
            return None
        question = message[len(self.prefix) : len(message) - len(self.suffix)]
        return question if question.strip() else None


BARE = Template()


def parse(user_prompt: str) -> Template:
    """Read a user prompt with one slot. One without any slot accepts bare questions."""
    prefix, slot, suffix = user_prompt.partition(SLOT)
    return Template(prefix, suffix) if slot else BARE


def tokens(text: str) -> list[str]:
    """Words, single signs and runs of white space; joined they are the text again."""
    return _TOKEN.findall(text)


def mine(messages: Sequence[str]) -> Template:
    """The template that most of these messages were made with; the bare one when there is none.

    Needs at least ``MIN_MESSAGES`` distinct messages. A prefix or suffix shorter than ``MIN_RUN`` words is no
    template, and the slot is never left empty in a message that is counted.
    """
    distinct = sorted(set(messages))
    if len(distinct) < MIN_MESSAGES:
        return BARE
    cut = [tokens(m) for m in distinct]
    needed = AGREEMENT * len(cut)
    prefix = _shared(cut, needed)
    suffix_reversed = _shared([c[::-1] for c in cut], needed)
    template = Template(_long_enough(prefix), _long_enough(suffix_reversed[::-1]))
    if template.bare:
        return BARE
    accepted = sum(template.question(m) is not None for m in distinct)
    return template if accepted >= needed else BARE


def _shared(cut: Sequence[Sequence[str]], needed: float) -> list[str]:
    """The longest run of tokens at the start that at least ``needed`` of the token lists begin with."""
    alive: Sequence[Sequence[str]] = cut
    run: list[str] = []
    while True:
        position = len(run)
        counted = Counter(c[position] for c in alive if len(c) > position)
        if not counted:
            return run
        token, count = min(counted.items(), key=lambda item: (-item[1], item[0]))
        if count < needed:
            return run
        run.append(token)
        alive = [c for c in alive if len(c) > position and c[position] == token]


def _long_enough(run: Sequence[str]) -> str:
    return "".join(run) if sum(not t.isspace() for t in run) >= MIN_RUN else ""


def group_by_runs(messages: Sequence[str], min_messages: int = MIN_MESSAGES) -> dict[int, str]:
    """Sort messages without any other sign of their task by the constant runs they share.

    Greedy: the run of ``MIN_RUN`` tokens that stands in most of the messages not sorted yet makes a group, when at
    least ``min_messages`` show it. Returns, for each sorted message's position, the name of its group (a hash of the
    run); messages without a group are absent.
    """
    grams = [_grams(m) for m in messages]
    left = set(range(len(messages)))
    groups: dict[int, str] = {}
    while left:
        counted = Counter(g for i in left for g in grams[i])
        if not counted:
            break
        gram, count = min(counted.items(), key=lambda item: (-item[1], item[0]))
        if count < min_messages:
            break
        name = "run-" + hashlib.sha256("\x1f".join(gram).encode()).hexdigest()[:10]
        members = {i for i in left if gram in grams[i]}
        groups |= dict.fromkeys(members, name)
        left -= members
    return groups


def _grams(message: str) -> frozenset[tuple[str, ...]]:
    words = [t.lower() for t in tokens(message) if not t.isspace()]
    return frozenset(tuple(words[i : i + MIN_RUN]) for i in range(len(words) - MIN_RUN + 1))
