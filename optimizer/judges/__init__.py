"""Judges: from a reply to a score in 0..1, or to ``unscored`` with a reason. A judge never raises for what a model
wrote."""

from __future__ import annotations

from optimizer.judges.judge import Judge, ModelJudge
from optimizer.judges.registry import judge_for, metric

__all__ = ["Judge", "ModelJudge", "judge_for", "metric"]
