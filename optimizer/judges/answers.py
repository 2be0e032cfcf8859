"""Reading an answer out of a reply. The last word counts: a reply that corrects itself means what it said last."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

_TAG = re.compile(r"<answer\s*>(.*?)</answer\s*>", re.IGNORECASE | re.DOTALL)
_OPEN_TAG = re.compile(r"<answer\s*>", re.IGNORECASE)
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?%?")
_FRACTION = re.compile(r"([-+−]?\d+)\s*/\s*(\d+)")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_WORDS)}
_OPTION = re.compile(r"^\(?([A-Za-z0-9]+)\)?(?:[.):\s].*)?$", re.DOTALL)


def tagged(text: str) -> str | None:
    """What stands between the last ``<answer>`` and ``</answer>``, stripped; None when the reply has no such pair."""
    last: str | None = None
    for match in _TAG.finditer(text):
        last = match.group(1)
    if last is None:
        return None
    inner = _OPEN_TAG.split(last)[-1]  # "<answer> ... <answer>x</answer>" means x
    return inner.strip()


def given(text: str, *, require_tags: bool = False) -> str | None:
    """The answer that a reply gives: its tagged part, else the whole of it, else (tags required or nothing there)
    None."""
    inner = tagged(text)
    if inner is None:
        inner = "" if require_tags else text.strip()
    return inner or None


def plain(text: str) -> str:
    """Lower case, normal width, one blank between words, no outer quotes or final punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" .!?,;:\"'`*_()[]")


def squad(text: str) -> str:
    """The normal form of extractive question answering: lower case, no punctuation, no articles, single blanks."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", folded).split())


def number(text: str) -> Decimal | None:
    """The last number in ``text`` (thousands commas, signs, percent, a simple fraction, one..twenty as words), or
    None."""
    fraction = next(iter(reversed(list(_FRACTION.finditer(text)))), None)
    numbers = [match for match in _NUMBER.finditer(text) if any(map(str.isdigit, match.group()))]
    last = numbers[-1] if numbers else None
    if last is None:
        words = [_NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.casefold()) if word in _NUMBER_WORDS]
        return Decimal(words[-1]) if words else None
    if fraction is not None and fraction.end() == last.end() and int(fraction.group(2)):
        return Decimal(fraction.group(1).replace("−", "-")) / Decimal(fraction.group(2))
    raw = last.group().replace(",", "").replace("−", "-").rstrip("%")
    try:
        return Decimal(raw)
    except InvalidOperation:
        return None


def whole_number(text: str) -> Decimal | None:
    """The number that ``text`` is, currency sign, unit-free percent and number words included; None when it is more
    than a number ("chapter 3" is text)."""
    bare = plain(text).lstrip("$€£ ")
    if bare in _NUMBER_WORDS:
        return Decimal(_NUMBER_WORDS[bare])
    return number(bare) if bare and (_NUMBER.fullmatch(bare) or _FRACTION.fullmatch(bare)) else None


def label(text: str, labels: Sequence[str]) -> str | None:
    """The label that ``text`` *is* (case, outer punctuation and an option's brackets aside), or None.

    ``(B)``, ``B.`` and ``B) the second`` all are option B; prose that merely mentions a label is none.
    """
    wanted = {plain(name): name for name in labels}
    found = wanted.get(plain(text))
    if found is not None:
        return found
    short = _OPTION.match(text.strip())
    if short and all(len(name) == 1 for name in labels) and _is_option_head(text.strip()):
        return wanted.get(short.group(1).casefold())
    return None


def first_named(text: str, labels: Sequence[str]) -> str | None:
    """The label that ``text`` names first as a whole word; of two that begin at one place the longer wins ("not spam"
    before "spam"). Single letters count only in capitals and bare, so that the article "a" is no option."""
    best: tuple[int, int, str] | None = None
    folded = text.casefold()
    for name in labels:
        haystack, needle = (text, name) if len(name) == 1 and name.isalpha() else (folded, name.casefold())
        pattern = rf"(?<![\w-]){re.escape(needle)}(?![\w-])"
        match = re.search(pattern, haystack)
        if match:
            place = (match.start(), -len(name), name)
            best = place if best is None or place < best else best
    if best is not None:
        return best[2]
    return None


def _is_option_head(text: str) -> bool:
    """Whether ``text`` opens like an option ("(B)", "B.", "B)", "B:"), not like a word that begins a sentence."""
    return bool(re.match(r"^(?:\([A-Za-z0-9]\)|[A-Za-z0-9][.):])(?:\s|$)", text))
