"""From a row of a public data set to a row of ours, by the mapping in the task's file. Pure."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optimizer.errors import DataError
from optimizer.paper.catalogue import Origin

_TEST_SHARE = 0.5
"""Of a data set with one split: the share of questions that are test."""


def examples_of(rows: Iterable[Mapping[str, Any]], origin: Origin, split: str) -> Iterator[dict[str, Any]]:
    """Rows as ``{id, question, answer[, answers]}``; those without an answer and repeated questions are left out.

    Where train and test are one split, ``split`` gets the questions whose hash says so.
    """
    shared = origin.train == origin.test
    seen: set[str] = set()
    for place, row in enumerate(rows):
        for found in _converted(row, origin):
            question = found["question"]
            if question in seen or (shared and (_is_test(question) != (split == "test"))):
                continue
            seen.add(question)
            yield {"id": f"{split}-{place}-{len(seen)}", **found}


def _converted(row: Mapping[str, Any], origin: Origin) -> Iterator[dict[str, Any]]:
    if not _wanted(row, origin):
        return
    if origin.pairs:
        for field, answer in origin.pairs.items():
            question = _fill(origin.question, {**row, "text": row[field]}, origin).strip()
            yield {"question": question, "answer": answer}
        return
    answers = _answers(row, origin)
    question = _fill(origin.question, row, origin).strip()
    if answers and origin.solution:
        told = origin.solution
        answers += [str(_fill(told, row, origin) if "{" in told else _reach(row, told, origin)).strip()]
    if question and answers:
        yield {"question": question, "answer": answers[0], **({"answers": answers} if len(answers) > 1 else {})}


def _wanted(row: Mapping[str, Any], origin: Origin) -> bool:
    for field, values in origin.where.items():
        if str(_reach(row, field, origin)) not in values:
            return False
    for field, words in origin.contains.items():
        text = str(_reach(row, field, origin)).casefold()
        if not any(word.casefold() in text for word in words):
            return False
    return True


def _answers(row: Mapping[str, Any], origin: Origin) -> list[str]:
    """The references in order; a value that ``map`` does not name is dropped when there is a map."""
    value = _fill(origin.answer, row, origin) if "{" in origin.answer else _reach(row, origin.answer, origin)
    values = value if isinstance(value, list | tuple) else [value]
    texts = [str(item).strip() for item in values if item is not None]
    if origin.pick:
        found = [list(re.finditer(origin.pick, text, re.DOTALL)) for text in texts]
        texts = [matches[-1].group(1).strip() for matches in found if matches]
    if origin.map:
        texts = [origin.map[text] for text in texts if text in origin.map]
    return list(dict.fromkeys(text for text in texts if text))


def _reach(row: Mapping[str, Any], path: str, origin: Origin) -> Any:
    """The value at a dotted path. Raises ``DataError`` for a field that the data set does not have."""
    value: Any = row
    for name in path.split("."):
        try:
            value = value[name]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"The data set {origin.id} has no field {path!r}: mend `dataset` in the task's file (it has "
                f"{', '.join(map(str, row))})."
            ) from error
    return value


def _fill(template: str, row: Mapping[str, Any], origin: Origin) -> str:
    try:
        return _Template().vformat(template, (), row)
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"The data set {origin.id} has no field {error} that the template {template[:60]!r} names: mend `dataset` "
            f"in the task's file (it has {', '.join(map(str, row))})."
        ) from error


def _is_test(question: str) -> bool:
    return hashlib.sha256(question.encode()).digest()[0] / 256 < _TEST_SHARE


class _Template(string.Formatter):
    """``str.format`` that writes a list one item a line, and a list of lists one inner list a line."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return ""
        if isinstance(value, list | tuple):
            return "\n".join(
                " ".join(map(str, item)) if isinstance(item, list | tuple) else str(item) for item in value
            )
        return str(super().format_field(value, format_spec))
