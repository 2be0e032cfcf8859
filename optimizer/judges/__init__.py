"""Judges: from a reply to a score in 0..1, or to ``unscored`` with a reason. A judge never raises for what a model
wrote."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from optimizer.errors import DataError
from optimizer.judges.by_rule import ByRule
from optimizer.judges.judge import Judge, ModelJudge
from optimizer.records import JudgeSpec

__all__ = ["Judge", "ModelJudge", "judge_for"]

_encode = msgspec.json.Encoder(order="deterministic").encode


def judge_for(spec: JudgeSpec) -> Judge | ModelJudge:
    """The judge that ``spec`` describes. Raises ``DataError`` for a description that no judge can follow."""
    return _built(_encode(spec))


@lru_cache(maxsize=256)
def _built(encoded: bytes) -> Judge | ModelJudge:
    spec = msgspec.json.decode(encoded, type=JudgeSpec)
    if spec.kind in ("choice", "macro_f1") and not spec.labels:
        raise DataError(f"A {spec.kind} judge needs labels: add the list of allowed answers as `labels`.")
    match spec.kind:
        case "math":
            from optimizer.judges.maths import MathsJudge

            return MathsJudge(spec)
        case "json_schema":
            from optimizer.judges.structured import SchemaJudge

            return SchemaJudge(spec)
        case "rubric":
            from optimizer.judges.rubric import RubricJudge

            return RubricJudge(spec)
        case _:
            return ByRule(spec)
