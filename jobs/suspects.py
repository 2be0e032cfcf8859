"""Logged text that speaks to the machinery instead of to the model: kept in the traffic's numbers, left out of
learning.

A query that tries to write the system prompt, to grade itself or to hide what it says must not become an example,
however it was scored. The check is deterministic, cheap and narrow: ordinary talk about scores and instructions has
to pass, so each pattern needs the address (to a grader, an optimizer, a chat template) and not merely the topic. It
is the first of several fences: the analyser is quarantined, candidates are linted, and the gate and the canary look
at behaviour.
"""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS = 20_000

_MARKERS = re.compile(
    r"<\|(?:im_start|im_end|system|user|assistant|endoftext)\|>|\[/?INST\]|<</?SYS>>|<(?:system|assistant)>"
    r"|^\s*#{0,3}\s*(?:system|assistant)(?: prompt| message)?\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_OVERRIDE = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,40}\b(?:previous|prior|above|earlier|all|any|your|the|system)\b"
    r"[^.\n]{0,30}\b(?:instructions?|prompts?|rules?|guidelines?|directions?|system messages?)\b"
    r"|\b(?:developer|jailbreak|god|dan) mode\b"
    r"|\b(?:new|updated|revised) (?:system )?(?:instructions?|prompt)\s*:",
    re.IGNORECASE,
)
_GRADER = re.compile(
    r"\b(?:dear|attention|note to|message to|hey|hello|hi)\W+(?:the\s+)?(?:grader|judge|evaluator|rater"
    r"|reviewer model|optimi[sz]er|prompt (?:writer|engineer))\b"
    r"|\b(?:grader|evaluator|judge|rater|optimi[sz]er)s?\s*[:,]\s*(?:please|give|award|assign|mark|score|rate|this|you|add|write)"
    r"|\b(?:give|award|assign|mark|rate|grade|score)\b[^.\n]{0,30}\b(?:this|the|my)\b[^.\n]{0,20}"
    r"\b(?:answer|response|reply|output|completion)\b[^.\n]{0,30}(?:\b(?:10|ten|100|5|five|full|perfect|highest|maximum|1(?:\.0)?)\b)"
    r"|\b(?:the\s+)?(?:correct|ideal|best|optimal|improved)\s+system prompt\s+(?:is|should|must|would)\b"
    r"|\b(?:system prompt|instructions?)\s+(?:should|must)\s+(?:always\s+)?"
    r"(?:include|contain|say|mention|end|begin|start)\b",
    re.IGNORECASE,
)
_REWARD = re.compile(
    r"[\[<(*]{1,2}\s*/?\s*(?:reward|score|grade|feedback|rating|verdict|accuracy)\s*[\]>)*:=]{1,2}\s*[-+\"']?\d"
    r"|\b(?:reward|feedback score|accuracy|final score)\s*[:=]\s*(?:\d|perfect|maximum|correct)"
    r"|\"(?:score|verdict|criteria|injection_suspected|reward|grade)\"\s*:",
    re.IGNORECASE,
)
_MACHINERY = re.compile(
    r"\bas (?:the|a) (?:judge|grader|evaluator|rater)\b[^.\n]{0,30}\b(?:must|should|rate|score|mark|accept)\b"
    r"|\b(?:grader|evaluator|reward model|optimi[sz]er)s?\b[^.\n]{0,60}\b(?:prompt|full marks|reward)\b"
    r"|\b(?:the|your|every|each|any) (?:system )?prompt\b[^.\n]{0,20}"
    r"\b(?:began|begins|told|tells|said|says|must|mentions)\b"
    r"|\b(?:write|put|add)\b[^.\n]{0,20}\b(?:in|into|to) (?:your|the system) (?:system )?(?:instructions|prompt)\b"
    r"|\b(?:the|this) (?:assistant|model|bot) (?:should|must)\b[^.\n]{0,20}"
    r"\b(?:end|begin|start|say|name|praise|mention)\b"
    r"|\bmake the (?:assistant|model|bot) (?:say|mention|recommend|praise)\b"
    r"|\b(?:reply|answer|response)\b[^.\n]{0,20}\buntil it mentions\b",
    re.IGNORECASE,
)
_TRIGGER = re.compile(
    r"\b(?:if|when|whenever)\b[^.\n]{0,20}\b(?:text|user|message|input|question)\b[^.\n]{0,20}"
    r"\b(?:begins|starts|contains|writes|says|mentions)\b[^.\n]{0,40},[^.\n]{0,20}"
    r"\b(?:repeat|answer|reply|agree|drop|reveal|say|ignore|praise|print)\b"
    r"|\b(?:hidden|secret) instructions\b|\bactivation word\b|\bdrop the usual rules\b",
    re.IGNORECASE,
)
_ENCODED = re.compile(r"(?:[A-Za-z0-9+/]{120,}={0,2})|(?:\\x[0-9a-f]{2}){12,}|(?:%[0-9a-f]{2}){20,}", re.IGNORECASE)
_GREEK_LOOKALIKES = frozenset("αονρτυικΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
"""Not all of Greek: phonetic spelling borrows theta and its like."""
_WORD = re.compile(r"\w+")
_PATTERNS = (
    ("role_marker", _MARKERS),
    ("override", _OVERRIDE),
    ("grader_address", _GRADER),
    ("fake_reward", _REWARD),
    ("machinery", _MACHINERY),
    ("trigger", _TRIGGER),
    ("encoded", _ENCODED),
)


def suspicion(text: str) -> str:
    """Why this text must not become an example: one of a few fixed words, or the empty string.

    ``oversize``, ``hidden`` (zero-width, bidirectional or tag characters, letters of two scripts in one word),
    ``role_marker``, ``override``, ``grader_address``, ``fake_reward``, ``machinery`` (talk about the prompt or its
    grader), ``trigger`` (an answer tied to a code word), ``encoded``.
    """
    if len(text) > MAX_CHARACTERS:
        return "oversize"
    if any(_hidden(c) for c in text) or any(_mixed_scripts(word) for word in _WORD.findall(text)):
        return "hidden"
    plain = unicodedata.normalize("NFKC", text)
    return next((name for name, pattern in _PATTERNS if pattern.search(plain)), "")


def _mixed_scripts(word: str) -> bool:
    """Whether a word mixes Latin letters with those that look like them: Cyrillic or Greek."""
    if word.isascii():
        return False
    latin = any("a" <= c <= "z" or "A" <= c <= "Z" for c in word)
    return latin and any(c in _GREEK_LOOKALIKES or unicodedata.name(c, "").startswith("CYRILLIC") for c in word)


def _hidden(character: str) -> bool:
    """Invisible control: category Cf without the joiners that scripts and emoji need, and the tag block."""
    if character.isascii():
        return False
    point = ord(character)
    if point in {0x200C, 0x200D, 0x200E, 0x200F, 0xAD, 0xFEFF}:
        return False
    return unicodedata.category(character) == "Cf" or 0xE0000 <= point <= 0xE007F
