"""A judge for replies that must be JSON of a given schema, and have given values where the example names them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from optimizer.errors import DataError
from optimizer.judges import answers
from optimizer.judges.registry import metric
from optimizer.records import Example, JudgeSpec, Verdict

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)


@metric("json_schema")
class SchemaJudge:
    """Valid JSON of the schema scores 1. Where an example's answer is itself a JSON object, the score is the share of
    its members that the reply has with the same value."""

    def __init__(self, spec: JudgeSpec) -> None:
        if spec.schema is None:
            raise DataError("A json_schema judge needs a schema: add it as `schema`.")
        try:
            Draft202012Validator.check_schema(spec.schema)
        except SchemaError as error:
            raise DataError(f"The judge's JSON schema is not valid: {error.message}.") from error
        self._validator = Draft202012Validator(spec.schema)
        self._require_tags = spec.require_tags

    def verdict(self, example: Example, text: str) -> Verdict:
        """Malformed when no JSON can be read or it breaks the schema; the critique names the first breach."""
        answer = answers.given(text, require_tags=self._require_tags)
        value = last_json(answer) if answer else None
        if value is None:
            return Verdict(score=0.0, answer=answer or "", malformed=True, critique="The reply is not JSON.")
        error = next(iter(self._validator.iter_errors(value)), None)
        shown = msgspec.json.encode(value).decode()
        if error is not None:
            place = error.json_path.removeprefix("$.")
            return Verdict(score=0.0, answer=shown, malformed=True, critique=f"{place}: {error.message}"[:300])
        wanted = [read for reference in example.answers if isinstance(read := last_json(reference), dict | list)]
        if not wanted:
            return Verdict(score=1.0, answer=shown)
        return Verdict(score=max(_agreement(value, reference) for reference in wanted), answer=shown)


def last_json(text: str) -> Any | None:
    """The last complete JSON object or array in ``text`` (code fences looked into), or None."""
    for candidate in (text, *reversed(_FENCE.findall(text))):
        stripped = candidate.strip()
        if stripped[:1] in ("{", "["):
            try:
                return msgspec.json.decode(stripped)
            except (msgspec.DecodeError, RecursionError):
                continue
    return next(iter(reversed(_embedded(text))), None)


def _embedded(text: str, most: int = 64) -> list[Any]:
    """The outermost JSON objects inside prose, in order, at most ``most`` starts tried (hostile text has many
    braces)."""
    import json

    decoder = json.JSONDecoder()
    found: list[Any] = []
    starts = [match.start() for match in re.finditer(r"[{\[]", text)]
    tried, end = 0, 0
    for start in starts if len(starts) <= most else [*starts[: most // 2], *starts[-most // 2 :]]:
        if start < end:
            continue
        tried += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) or (isinstance(value, list) and value):
            found.append(value)
    return found


def _agreement(value: Any, wanted: Any) -> float:
    if isinstance(wanted, dict) and isinstance(value, dict):
        if not wanted:
            return 1.0
        same = sum(key in value and _same(value[key], expected) for key, expected in wanted.items())
        return same / len(wanted)
    return float(_same(value, wanted))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return answers.plain(left) == answers.plain(right)
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)
