"""Takes personal data and secrets out of text before anything is stored.

``mail bob@example.com`` becomes ``mail <EMAIL_1>``; the same address anywhere in the same exchange becomes the same
placeholder, so that a task stays solvable. Whatever has a checksum is checked (cards: Luhn; IBANs: length of the
country and mod 97; addresses: `ipaddress`), so that order numbers survive. Nothing keeps the way back from a
placeholder to its value.

Three tiers: the patterns here; the key shapes of ``detect-secrets`` (`known_keys.py`, on first use); Presidio for
names and places when the extra is installed and asked for. Every pattern is bounded or anchored at a token's start, so
that hostile text costs linear time. No detector finds everything: docs/api.md says what is and is not promised.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from math import log2
from typing import Any, NamedTuple

from gateway.errors import StartFailed
from gateway.known_keys import known_keys

MAX_CHARS = 32_768
"""Longest text that is scrubbed and stored; the rest is cut off at a word's end, so that no half of a secret stays."""
ENTROPY_BITS = 4.5
"""Bits per character above which a long mixed token counts as random: detect-secrets' limit for base64."""


class Span(NamedTuple):
    """A stretch ``text[start:end]`` that must not be stored, and what it is."""

    start: int
    end: int
    kind: str


Detector = Callable[[str], Iterable[Span]]

_PLACEHOLDER = re.compile(r"<([A-Z]{2,12})_(\d{1,6})>")

_PEM = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY[A-Z ]{0,8}-----.*?(?:-----END [A-Z ]{0,60}-----|\Z)", re.DOTALL)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}(?:\.[\w-]*){2,4}", re.ASCII)
_EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_CARD = re.compile(r"(?<![\w.])[2-6]\d{3}(?:[ -]?\d{2,7}){2,4}(?!\d)", re.ASCII)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}", re.ASCII)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?::?(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])", re.ASCII
)
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])", re.ASCII)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"(?:\+|00)[1-9](?:[ ./()-]{0,2}\d){6,14}"  # international: +49 (0) 30 123456
    r"|\(\d{2,5}\)[ -]?\d{2,4}(?:[ -]?\d{2,4}){1,3}"  # area code in brackets
    r"|\d{3}[ .-]\d{3}[ .-]\d{4}"  # North American
    r"|0\d{1,4}(?:[ /-]\d{2,8}){1,4}"  # trunk zero with groups
    r")(?![\w-]|\.\d)",
    re.ASCII,
)
_PHONE_WORD = re.compile(
    r"\b(?:tel|phone|telephone|mobile|cell|fax|whatsapp|call|text|ring|handy)\b[^\d\n<>]{0,20}"
    r"(\d(?:[ .-]?\d){6,14})(?!\d)",
    re.IGNORECASE | re.ASCII,
)
_KEY_PREFIX = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|pk|rk|ak)[-_](?:[a-z0-9]{2,12}[-_]){0,3}[A-Za-z0-9][\w-]{15,300}"
    r"|(?:gh[opsur]|gsk|hf|npm|glpat|github_pat|dop_v1|shpat|whsec|xai|pplx|tvly|r8|msp)[-_][\w-]{16,300}"
    r"|(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}"
    r"|AIza[\w-]{35}|ya29\.[\w-]{20,300}|xox[abeoprs]-[\w-]{10,300}"
    r")",
    re.ASCII,
)
_URL_LOGIN = re.compile(r"(?<=://)[^\s:/@<>]{0,128}:[^\s/@<>]{1,256}(?=@)")
_BEARER = re.compile(r"\b(?:bearer|basic)\s{1,3}([\w.~+/-]{16,2048}=*)", re.IGNORECASE | re.ASCII)
_NAMED_SECRET = re.compile(
    r"(?:pass(?:word|wd|phrase|code)|pwd|secret|api[ _-]?key|access[ _-]?key|private[ _-]?key|account[ _-]?key"
    r"|[_-]token|(?:auth|access|refresh|api) ?token|credentials?)"
    r"[\"']?\s{0,3}(:=|=>|[:=]|\bis\b)\s{0,3}[\"']?([^\s\"'<>,;]{6,512})",
    re.IGNORECASE,
)
_SECRET_WORDS = ("pass", "pwd", "secret", "key", "token", "credential")
"""One of these is in whatever `_NAMED_SECRET` finds."""
_TOKEN = re.compile(r"(?<![\w+/=-])[\w+/-]{20,512}={0,2}(?![\w+/=-])", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}", re.ASCII)

_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("DJ", "FR", "GR", "IT", "MC", "MR", "SM", "BI"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}
"""Length of an IBAN by country (SWIFT's registry)."""


def luhn(digits: str) -> bool:
    """True when the check digit of a card number fits (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, figure in enumerate(reversed(digits)):
        value = int(figure) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban_valid(text: str) -> bool:
    """True for an IBAN without blanks whose country, length and remainder modulo 97 fit (ISO 13616)."""
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def _simple(pattern: re.Pattern[str], kind: str, group: int = 0) -> Detector:
    def find(text: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            yield Span(*match.span(group), kind)

    return find


def _cards(text: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits):
            yield Span(*match.span(), "CARD")


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        wanted = _IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        places = [place for place, char in enumerate(match[0]) if char.isalnum()]
        if wanted and len(places) >= wanted:  # what follows may be the next word: take the country's length
            end = places[wanted - 1] + 1
            if iban_valid(re.sub(r"[ -]", "", match[0][:end]).upper()):
                yield Span(match.start(), match.start() + end, "IBAN")


def _addresses(text: str) -> Iterator[Span]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            if len(match[0]) < 6 or not any(char.isdigit() for char in match[0]):
                continue  # a::b is code
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if not (address.is_loopback or address.is_unspecified):
                yield Span(*match.span(), "IP")


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        if 7 <= sum(char.isdigit() for char in match[0]) <= 15:
            yield Span(*match.span(), "PHONE")
    yield from _simple(_PHONE_WORD, "PHONE", 1)(text)


def _named_secrets(text: str) -> Iterator[Span]:
    folded = text.casefold()
    if not any(word in folded for word in _SECRET_WORDS):  # a hundred times faster than the pattern, and mostly so
        return
    for match in _NAMED_SECRET.finditer(text):
        sign, value = match[1], match[2].rstrip(".!?)")
        spoken = sign in {"is", "IS", "Is", ":"}  # "the password is required" hides nothing
        if len(value) >= 6 and (not spoken or any(not char.isalpha() for char in value)):
            yield Span(match.start(2), match.start(2) + len(value), "SECRET")


def entropy(token: str) -> float:
    """Shannon entropy of the token's characters, in bits per character."""
    counts = {char: token.count(char) for char in set(token)}
    return -sum(count / len(token) * log2(count / len(token)) for count in counts.values())


def _char_class(char: str) -> int:
    return 0 if char.islower() else 1 if char.isupper() else 2 if char.isdigit() else 3


def _random_tokens(text: str) -> Iterator[Span]:
    """Tokens that look drawn, not written: much entropy for their length, and letter classes that keep changing."""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if _HEX.fullmatch(token):
            if entropy(token) > 3.0:
                yield Span(*match.span(), "SECRET")
            continue
        classes = [_char_class(char) for char in token]
        kinds, least = set(classes), min(ENTROPY_BITS, 0.88 * log2(len(token)))
        if kinds == {0, 1}:
            least = ENTROPY_BITS  # letters alone may be a name in camel case, which repeats letters
        elif not {0, 1, 2} <= kinds:
            continue
        changes = sum(a != b for a, b in pairwise(classes)) / len(token)
        if changes >= 0.3 and entropy(token) >= least:
            yield Span(*match.span(), "SECRET")


def _provider_keys(text: str) -> Iterator[Span]:
    for pattern in known_keys():
        yield from _simple(pattern, "SECRET")(text)


DETECTORS: tuple[Detector, ...] = (
    _simple(_PEM, "SECRET"),
    _simple(_JWT, "JWT"),
    _simple(_KEY_PREFIX, "SECRET"),
    _provider_keys,
    _simple(_URL_LOGIN, "SECRET"),
    _simple(_BEARER, "SECRET", 1),
    _named_secrets,
    _simple(_EMAIL, "EMAIL"),
    _ibans,
    _cards,
    _simple(_SSN, "SSN"),
    _addresses,
    _phones,
    _random_tokens,
)
"""In order of trust: where two find the same stretch, the earlier one names it and all that either found is hidden."""


def detectors(*, presidio: bool = False) -> tuple[Detector, ...]:
    """The detectors of this gateway. Raises `StartFailed` when Presidio is asked for and not there."""
    return (*DETECTORS, presidio_detector()) if presidio else DETECTORS


def presidio_detector(language: str = "en", score: float = 0.5) -> Detector:
    """Finds names, places and more, by Presidio: an extra, with a spaCy model. Raises `StartFailed`."""
    try:
        engine: Any = import_module("presidio_analyzer").AnalyzerEngine()
    except (ImportError, OSError, SystemExit) as error:
        raise StartFailed(
            "gateway.presidio is set, but Presidio or its spaCy model is not there: run `pip install presidio-analyzer`"
            " and `python -m spacy download en_core_web_lg`, or set gateway.presidio to false."
        ) from error

    def find(text: str) -> Iterator[Span]:
        for hit in engine.analyze(text=text, language=language, score_threshold=score):
            yield Span(hit.start, hit.end, re.sub(r"[^A-Z]", "", hit.entity_type)[:12] or "PII")

    return find


def clip(text: str, limit: int = MAX_CHARS) -> str:
    """The first ``limit`` characters; the token that the cut would halve goes too."""
    if len(text) <= limit:
        return text
    cut = max(text.rfind(blank, limit - 512, limit) for blank in " \n\t")
    return text[: cut if cut >= 0 else limit - 512]


def _without(span: Span, standing: Sequence[tuple[int, int]]) -> Iterator[Span]:
    """The parts of a span that lie between placeholders."""
    start = span.start
    for left, right in standing:
        if left < span.end and start < right:
            if start < left:
                yield Span(start, left, span.kind)
            start = right
    if start < span.end:
        yield Span(start, span.end, span.kind)


class Scrubber:
    """The placeholders of one exchange. Make a new one for each; call it for each text, in order."""

    def __init__(self, detectors: Sequence[Detector] = DETECTORS) -> None:
        self._detectors = detectors
        self._placeholders: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}

    def __call__(self, text: str) -> str:
        """The text without what the detectors find. Idempotent: scrubbed text passes unchanged."""
        text = clip(text)
        for kind, number in _PLACEHOLDER.findall(text):  # placeholders that the text brings keep their numbers
            self._last[kind] = max(self._last.get(kind, 0), int(number))
        for _ in range(4):  # hiding one value can free the next one's edge
            spans = self._spans(text)
            if not spans:
                break
            text = self._replace(text, spans)
        return text

    def _spans(self, text: str) -> list[Span]:
        standing = [match.span() for match in _PLACEHOLDER.finditer(text)]
        found = [
            (rank, piece)
            for rank, detector in enumerate(self._detectors)
            for span in detector(text)
            for piece in _without(span, standing)
        ]
        found.sort(key=lambda item: item[1].start)
        merged: list[tuple[int, Span]] = []
        for rank, span in found:
            if merged and span.start < merged[-1][1].end:
                best, last = merged[-1]
                kind = last.kind if best <= rank else span.kind
                merged[-1] = (min(best, rank), Span(last.start, max(last.end, span.end), kind))
            else:
                merged.append((rank, span))
        return [span for _, span in merged]

    def _replace(self, text: str, spans: Sequence[Span]) -> str:
        pieces: list[str] = []
        at = 0
        for start, end, kind in spans:
            pieces += [text[at:start], self._placeholder(kind, text[start:end])]
            at = end
        return "".join([*pieces, text[at:]])

    def _placeholder(self, kind: str, value: str) -> str:
        value = value.casefold() if kind == "EMAIL" else value
        value = re.sub(r"[\s./()-]", "", value).upper() if kind in {"CARD", "IBAN", "PHONE", "SSN"} else value
        known = self._placeholders.get((kind, value))
        if known is None:
            self._last[kind] = number = self._last.get(kind, 0) + 1
            known = self._placeholders[kind, value] = f"<{kind}_{number}>"
        return known
