"""Reading one JSONL file of examples, line by line, with an error that names file and line for every way it can be
wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from optimizer.errors import DataError
from optimizer.names import nearest
from optimizer.records import Example, JudgeSpec

LONGEST_LINE = 4 * 1024 * 1024
"""Bytes. A longer line is a mistake (a whole file on one line), and reading it would take the memory of the run."""

_TURNS = ("system", "user", "assistant")


def read_rows(path: Path, judge: JudgeSpec, *, most: int | None = None) -> list[Example]:
    """The examples of a JSONL file in order, at most ``most``. Raises ``DataError``."""
    seen: dict[str, int] = {}
    examples: list[Example] = []
    for number, line in _lines(path):
        if most is not None and len(examples) >= most:
            break
        example = _example(line, number, judge, where=f"{path}:{number}")
        if example.id in seen:
            raise DataError(
                f"{path}:{number}: the id {example.id!r} was used on line {seen[example.id]}. Make ids unique."
            )
        seen[example.id] = number
        examples.append(example)
    return examples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(raw) > LONGEST_LINE:
                    raise DataError(
                        f"{path}:{number}: the line is longer than {LONGEST_LINE // 1024**2} MiB. "
                        "Put one example on each line."
                    )
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: byte {error.start + 1} is not UTF-8. Save the file as UTF-8."
                    ) from error
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}). A task folder holds train.jsonl (unless its role is "
            "unseen) and test.jsonl."
        ) from error


def _example(line: str, number: int, judge: JudgeSpec, *, where: str) -> Example:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}). Put one JSON object on each line.") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: a row must be a JSON object, this one is {_kind(row)}. Write it as "
            '{"id": "1", "question": "...", "answer": "..."}.'
        )
    name = row.get("id")
    if name is None or (isinstance(name, str) and not name.strip()):
        raise DataError(f"{where}: the row has no `id`. Give every row a stable name.")
    question = row.get("question")
    if not isinstance(question, str):
        close = nearest("question", row) if question is None and row else ""
        hint = close if "mean" in close else " Put there what is asked."
        raise DataError(f"{where}: `question` must be a text, it is {_kind(question)}.{hint}")
    if not question.strip():
        raise DataError(f"{where}: `question` is empty. Put there what is asked, or take the row out.")
    return Example(
        id=_text(name, "id", where),
        question=question,
        answers=_answers(row, judge, where),
        history=_history(row.get("history"), where),
        unit=_text(row.get("unit", ""), "unit", where),
        position=number,
    )


def _answers(row: dict[str, Any], judge: JudgeSpec, where: str) -> tuple[str, ...]:
    """The references, `answer` first. Checked against the labels and against being empty, where the judge needs
    them."""
    given = [row["answer"]] if row.get("answer") is not None else []
    more = row.get("answers")
    if more is not None and not isinstance(more, list):
        raise DataError(
            f"{where}: `answers` must be a list of texts, it is {_kind(more)}. Put one reference into `answer`."
        )
    texts = tuple(dict.fromkeys(_text(value, "answer", where) for value in [*given, *(more or [])]))
    needed = judge.kind not in ("rubric", "json_schema")
    if needed and not texts:
        raise DataError(
            f"{where}: the row has no `answer`, and a judge of kind {judge.kind} needs one. Add it, take the row out, "
            "or let a judge model score the task (metric: judge)."
        )
    if needed and not all(text.strip() for text in texts):
        raise DataError(f"{where}: `answer` is empty. Put the reference there, or take the row out.")
    if judge.kind in ("choice", "macro_f1"):
        labels = {label.casefold() for label in judge.labels}
        for text in texts:
            if text.casefold() not in labels:
                shown = ", ".join(judge.labels[:12]) + (", ..." if len(judge.labels) > 12 else "")
                close = nearest(text, judge.labels, cutoff=0.6)
                raise DataError(
                    f"{where}: the answer {text[:80]!r} is none of the task's labels ({shown})."
                    f"{close if 'mean' in close else ''} Write it as one of them, or add it to the task's `labels`."
                )
    return texts


def _history(turns: object, where: str) -> tuple[tuple[str, str], ...]:
    if turns is None:
        return ()
    if not isinstance(turns, list):
        raise DataError(
            f"{where}: `history` must be a list of turns, it is {_kind(turns)}. Write each turn as "
            '{"role": "user", "content": "..."}.'
        )
    read: list[tuple[str, str]] = []
    for turn in turns:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in _TURNS or not isinstance(content, str):
            raise DataError(
                f"{where}: each turn of `history` needs a `role` ({', '.join(_TURNS)}) and a text `content`."
            )
        read.append((str(role), content))
    return tuple(read)


def _text(value: object, name: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: `{name}` must be a text or a number, it is {_kind(value)}. Write it as one.")
    return str(value)


def _kind(value: object) -> str:
    return {
        type(None): "missing",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }.get(type(value), type(value).__name__)
