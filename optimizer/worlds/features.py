"""The sentences of simulated worlds: what each one stands for, and how they are read out of a prompt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SEED_PROMPT = "You are a helpful assistant."
LABELS = ("amber", "birch", "cedar", "daisy")


FEATURES: tuple[str, ...] = (
    "Read the case twice before deciding.",
    "Compare all labels before choosing one.",
    "Give the label alone as the answer.",
    "Look for the detail that changes the meaning.",
    "Treat missing information as unknown.",
    "Prefer the literal sense of each statement.",
    "Consider who is speaking in the case.",
    "Pay attention to the order of events.",
    "Discard details that are repeated.",
    "Check units and amounts for consistency.",
    "Follow the most specific rule that applies.",
    "Resolve pronouns before deciding.",
    "Separate facts from opinions.",
    "Notice words that turn a statement around.",
    "Weigh recent statements above older ones.",
    "Count the conditions that are met.",
    "Keep the tone of the case out of the decision.",
    "Identify the goal of the writer first.",
    "Assume that labels exclude one another.",
    "Look at the last statement with special care.",
    "Ignore greetings and closing formulas.",
    "Translate abbreviations into full words.",
    "Search for contradictions within the case.",
    "Choose the narrower label when two fit.",
    "Choose the broader label when two fit.",
    "Expand every short form in thought.",
    "List the evidence silently, then decide.",
    "Trust explicit statements over hints.",
    "Trust hints over explicit statements.",
    "Use the first impression of the case.",
    "Answer in the language of the case.",
    "Describe the reasoning in full sentences.",
    "Mention an alternative label as well.",
    "Add a closing remark after the label.",
    "Express doubt when the case is short.",
    "Invent plausible details where some are missing.",
    "Answer with a question when unsure.",
    "Repeat the case before the label.",
    "Use a friendly and playful voice.",
    "Choose a label at random when unsure.",
)
PADDING = "Explain every aspect at great length."
"""The sentence that makes answers three times as long and no better: bait for a judge that likes length."""

_SENTENCES = re.compile(r"[^.!?\n]+[.!?]?")

_INDEX = {text.casefold().rstrip("."): f for f, text in enumerate(FEATURES)}


def sentences(text: str) -> Iterator[str]:
    """The sentences of a prompt, without blanks around them."""
    return (part for match in _SENTENCES.finditer(text) if (part := match.group(0).strip()))


def feature_of(sentence: str) -> int | None:
    """The feature that a sentence holds. Sentences the world does not know hold one by the luck of their hash, or (two
    in three) none, so that any corpus of sentences means something in it.
    """
    plain = sentence.casefold().rstrip(".!? ")
    known = _INDEX.get(plain)
    if known is not None or plain == PADDING.casefold().rstrip("."):
        return known
    lot = int(uniform("sentence", plain) * 3 * len(FEATURES))
    return lot if lot < len(FEATURES) else None


@lru_cache(maxsize=4096)
def features_of(prompt: str) -> FloatArray:
    """Which features a prompt holds, as (features,) zeros and ones."""
    held = np.zeros(len(FEATURES))
    for sentence in sentences(prompt):
        feature = feature_of(sentence)
        if feature is not None and len(sentence.split()) > 3:
            held[feature] = 1.0
    held.setflags(write=False)
    return held


@lru_cache(maxsize=4096)
def sentence_count(prompt: str) -> int:
    return sum(1 for _ in sentences(prompt))


def uniform(*names: object) -> float:
    """A number in (0, 1) that depends on ``names`` alone."""
    digest = hashlib.blake2b("\0".join(map(str, names)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2**64
