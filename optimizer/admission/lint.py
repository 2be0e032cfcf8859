"""The candidate linter: what may never stand in a prompt that a machine wrote, found before a single base call is paid
for.

A candidate is rejected on any hit. Every class of the threat list has one function here; each is deterministic and
explains itself in a sentence. Text of operators is not linted: what the incumbent or the allow list says, a candidate
may say too, except for hidden characters, secrets, role markers and hijack phrases, which nobody needs.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from optimizer.admission import patterns
from optimizer.admission.overlap import MAX_CONTAINMENT, Corpus, mid_sentence_capitals, words_of

MAX_CHARACTERS = 3_200
"""About 800 tokens, the gate's limit."""
SLOT = "{question}"


@dataclass(frozen=True, slots=True)
class Hit:
    """One reason to reject: its class, and a sentence for the operator that quotes at most a few characters."""

    kind: str
    reason: str


def lint(
    candidate: str,
    *,
    incumbent: str = "",
    corpus_texts: Corpus | Iterable[str] = (),
    allow: Iterable[str] = (),
    locked: str = "",
    slot: bool = False,
    max_characters: int = MAX_CHARACTERS,
) -> list[Hit]:
    """All hits of ``candidate``; an empty list means that it may be tried.

    ``corpus_texts``: everything that users, models and judges wrote and that may have reached the analyser; hand in a
    ``Corpus`` when many candidates are asked. ``allow``: words, numbers or texts the operator permits (labels, product
    names, the tasks' user prompts). ``locked``: the operator's block that always stands first; a candidate may neither
    repeat nor unsay it. ``slot``: the text is a user prompt, which must hold ``{question}`` exactly once.
    """
    corpus = corpus_texts if isinstance(corpus_texts, Corpus) else Corpus(corpus_texts)
    known = (incumbent, *allow)
    plain = unicodedata.normalize("NFKC", candidate)
    body = plain.replace(SLOT, " ", 1) if slot else plain
    checks: Sequence[Iterator[Hit]] = (
        _length(candidate, max_characters),
        _invisible(candidate),
        _scripts(body, known),
        _secrets(body),
        _listed(body, patterns.PERSONAL, "personal", known),
        _listed(body, patterns.LINKS, "link", known),
        _listed(body, patterns.MARKUP, "markup", known),
        _listed(body, patterns.ROLE_MARKERS, "role_marker", ()),
        _listed(body, patterns.HIJACK, "hijack", ()),
        _forced_words(body, known),
        _listed(body, patterns.TRIGGERS, "trigger", known),
        _listed(body, patterns.JUDGE, "judge", known),
        _listed(body, patterns.IDENTITY, "identity", known),
        _listed(body, patterns.POLICY, "policy", known),
        _placeholders(plain, slot),
        _names(body, known, corpus),
        _numbers(body, known),
        _overlap(body, known, corpus),
        _locked(body, locked, incumbent),
    )
    return list(dict.fromkeys(hit for check in checks for hit in check))


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 40 else flat[:37] + "..."


def _is_known(text: str, known: Sequence[str]) -> bool:
    return any(text.casefold() in k.casefold() for k in known)


def _listed(text: str, table: patterns.Table, kind: str, known: Sequence[str]) -> Iterator[Hit]:
    for what, pattern in table:
        for match in pattern.finditer(text):
            if not _is_known(match.group(0), known):
                yield Hit(kind, f"{what}: {_short(match.group(0))!r}")
                break


def _forced_words(text: str, known: Sequence[str]) -> Iterator[Hit]:
    """Orders to put certain quoted words into the answers, where they are not the form of an answer."""
    permitted = {word for k in known for word in words_of(k)} | patterns.VOCABULARY | patterns.FUNCTION_WORDS
    for match in patterns.FORCED_WORDS.finditer(text):
        if not set(words_of(match.group("words"))) <= permitted:
            yield Hit("hijack", f"forced words: {_short(match.group('words'))!r}")
            return


def _length(text: str, most: int) -> Iterator[Hit]:
    if not text.strip():
        yield Hit("length", "the text is empty")
    elif len(text) > most:
        yield Hit("length", f"{len(text)} characters, at most {most} are allowed")


def _invisible(text: str) -> Iterator[Hit]:
    """Control, zero-width, bidirectional, tag and private characters, and variation selectors that can carry bytes."""
    for character in text:
        point = ord(character)
        hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"} and character not in "\n\t"
        if hidden or point in range(0xFE00, 0xFE10) or point in range(0xE0000, 0xE01F0):
            yield Hit("invisible", f"character U+{point:04X} cannot be seen")
            return


def _scripts(text: str, known: Sequence[str]) -> Iterator[Hit]:
    """A word that mixes alphabets (a look-alike), or an alphabet that neither incumbent nor allow list uses."""
    seen = {script for k in known for word in patterns.WORD.findall(k) for script in _alphabets(word)} | {"LATIN"}
    for word in patterns.WORD.findall(text):
        used = _alphabets(word)
        if len(used) > 1 and not used <= patterns.CJK:
            yield Hit("script", f"{_short(word)!r} mixes alphabets")
            return
        if not used <= seen | (patterns.CJK if seen & patterns.CJK else set()):
            yield Hit("script", f"{_short(word)!r} is written in an alphabet that the incumbent does not use")
            return


@lru_cache(maxsize=4096)
def _alphabet(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ", 1)[0] if character.isalpha() else ""


def _alphabets(word: str) -> set[str]:
    return {_alphabet(c) for c in word} - {"", "MODIFIER"}


def _secrets(text: str) -> Iterator[Hit]:
    for what, pattern in patterns.SECRETS:
        if pattern.search(text):
            yield Hit("secret", f"looks like {what}")
            return
    for token in re.findall(r"[A-Za-z0-9+/_=-]{20,}", text):
        if _entropy(token) > 3.5 and any(c.isdigit() for c in token) and any(c.isalpha() for c in token):
            yield Hit("secret", f"{_short(token[:6])}... has the entropy of a key")
            return
    for line in text.splitlines():
        for kind in _detected(line):
            yield Hit("secret", f"detect-secrets finds {kind}")
            return


def _entropy(token: str) -> float:
    counts = Counter(token)
    return -sum(n / len(token) * math.log2(n / len(token)) for n in counts.values())


def _detected(line: str) -> Iterator[str]:
    """What the detectors of detect-secrets with a fixed shape say; its entropy and keyword guesses stay out (own
    rules above).
    """
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    with transient_settings({"plugins_used": [{"name": name} for name in patterns.DETECTORS]}):
        for secret in scan_line(line):
            yield str(secret.type)


def _placeholders(text: str, slot: bool) -> Iterator[Hit]:
    if slot:
        count = text.count(SLOT)
        if count != 1:
            yield Hit("placeholder", f"the slot {SLOT} stands {count} times in a user prompt, it must stand once")
        text = text.replace(SLOT, " ", 1)
    for what, pattern in patterns.PLACEHOLDERS:
        match = pattern.search(text)
        if match:
            yield Hit("placeholder", f"{what}: {_short(match.group(0))!r}")
    for what, pattern in patterns.PARSER_FAILURES:
        match = pattern.search(text)
        if match:
            yield Hit("parser", f"{what}: {_short(match.group(0))!r}")


def _names(text: str, known: Sequence[str], corpus: Corpus) -> Iterator[Hit]:
    """Proper nouns that neither the incumbent nor the allow list has: facts about somebody do not belong in a shared
    prompt.
    """
    permitted = {word for k in known for word in words_of(k)}
    lower = {word for word in re.findall(r"\w+", text) if word.islower()}

    def strange(word: str) -> bool:
        plain = word.rstrip("'’").removesuffix("'s").removesuffix("’s").casefold()
        return plain not in permitted and plain not in lower and plain not in patterns.VOCABULARY

    inside = mid_sentence_capitals(_without_headings(text))
    everywhere = set(re.findall(r"\b[^\W\d_][\w'’]*", text))
    found = sorted(word for word in inside if strange(word)) or sorted(
        w for w in everywhere & corpus.names if strange(w)
    )
    if found:
        yield Hit("proper_noun", f"{_short(', '.join(found[:4]))!r} stands in neither the incumbent nor the allow list")


def _without_headings(text: str) -> str:
    """Lines that are titles (marked as such, or short and capitalised throughout) follow other rules of spelling."""
    lines = []
    for line in text.splitlines():
        words = re.findall(r"[^\W\d_]+", line)
        marked = line.lstrip().startswith("#") or line.rstrip().endswith(":") or line.strip().startswith("**")
        if marked and len(words) <= 6:
            continue
        lines.append(line)
    return "\n".join(lines)


def _numbers(text: str, known: Sequence[str]) -> Iterator[Hit]:
    """Numbers that look like facts: prices, dates, identifiers. Word counts, percents of ten and list numbers are
    style.
    """
    for match in patterns.NUMBER.finditer(text):
        digits = match.group("digits")
        value = digits.replace(",", "").replace(" ", "")
        style = value.isdigit() and (int(value) <= 20 or (int(value) <= 1000 and int(value) % 5 == 0))
        if (style and not match.group("unit")) or _is_known(digits, known):
            continue
        yield Hit("number", f"{_short(match.group(0))!r} stands in neither the incumbent nor the allow list")
        return


def _overlap(text: str, known: Sequence[str], corpus: Corpus) -> Iterator[Hit]:
    if not len(corpus):
        return
    run = corpus.copied_run(text, known)
    if run:
        yield Hit("overlap", f"repeats logged text: {_short(run)!r}")
    token = corpus.copied_token(text, known)
    if token:
        yield Hit("overlap", f"repeats a word that only a logged text has: {_short(token[:6])!r}...")
    share = corpus.containment(text, known)
    if share > MAX_CONTAINMENT:
        yield Hit("overlap", f"{share:.0%} of its phrases stand in one logged text, at most {MAX_CONTAINMENT:.0%} may")


def _locked(text: str, locked: str, incumbent: str) -> Iterator[Hit]:
    """The locked block is prepended when served. A candidate may not speak against it, nor lose it where the
    incumbent has it.
    """
    clauses = [c for c in (" ".join(words_of(part)) for part in re.split(r"[.!?\n]+", locked)) if c]
    if not clauses:
        return
    flat, before = " ".join(words_of(text)), " ".join(words_of(incumbent))
    lost = [clause for clause in clauses if clause in before and clause not in flat]
    if lost:
        yield Hit("locked", f"removes the locked clause {_short(lost[0])!r}")
    own = set(words_of(locked)) - patterns.VOCABULARY - patterns.FUNCTION_WORDS
    for match in patterns.UNSAYING.finditer(text):
        sentence = words_of(match.group(0))
        if " ".join(sentence) not in clauses and len(set(sentence) & own) >= 2:
            yield Hit("locked", f"speaks against the locked block: {_short(match.group(0))!r}")
            return
