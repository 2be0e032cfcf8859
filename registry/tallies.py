"""Running sums over exchanges, as sixteen numbers: how an outcome, a score or a vote becomes them, and back."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from registry.errors import Corrupt
from registry.records import Arm, Outcome, Tally

FIELDS = (
    "n",
    "errors",
    "refusals",
    "bad_formats",
    "negatives",
    "latency",
    "latency_sq",
    "prompt_tokens",
    "answer_tokens",
    "cost",
    "scored",
    "score",
    "score_sq",
    "votes",
    "vote",
    "vote_sq",
)
"""The order in which they are stored; new ones may only be appended."""
_WHOLE = {"n", "errors", "refusals", "bad_formats", "negatives", "prompt_tokens", "answer_tokens", "scored", "votes"}


def of_outcome(outcome: Outcome) -> bytes:
    """One exchange."""
    score = outcome.score
    return _pack(
        1,
        int(outcome.error),
        int(outcome.refusal),
        int(outcome.bad_format),
        int(outcome.negative),
        outcome.latency,
        outcome.latency**2,
        outcome.prompt_tokens,
        outcome.answer_tokens,
        outcome.cost,
        int(score is not None),
        score or 0.0,
        (score or 0.0) ** 2,
        0,
        0.0,
        0.0,
    )


def of_score(old: float | None, new: float | None) -> bytes:
    """A judge's score that came, changed or went."""
    return _pack(*[0] * 10, *_change(old, new), 0, 0, 0)


def of_vote(old: float | None, new: float | None) -> bytes:
    """A caller's vote that came, changed or went."""
    return _pack(*[0] * 13, *_change(old, new))


def _change(old: float | None, new: float | None) -> tuple[float, float, float]:
    a, b = old or 0.0, new or 0.0
    return int(new is not None) - int(old is not None), b - a, b * b - a * a


def _pack(*numbers: float) -> bytes:
    return msgspec.msgpack.encode(numbers)


def total_name(version: int | None, arm: str) -> str:
    """Field of the totals."""
    return f"{'' if version is None else version}|{arm}"


def group_name(experiment: str, version: int | None, arm: str) -> str:
    """Name of a group of units: one experiment, version and arm."""
    return f"{experiment}|{total_name(version, arm)}"


def read_tally(name: str, packed: bytes, unit: str = "") -> Tally:
    """Sums under the name of a total or a group. Raises Corrupt."""
    try:
        numbers: Sequence[float] = msgspec.msgpack.decode(packed, type=list[float])
        experiment, version, arm = name.split("|") if name.count("|") == 2 else ("", *name.split("|"))
        values = {
            field: round(number) if field in _WHOLE else number for field, number in zip(FIELDS, numbers, strict=False)
        }
        return msgspec.convert(
            {
                **values,
                "experiment": experiment,
                "version": int(version) if version else None,
                "arm": _arm(arm),
                "unit": unit,
            },
            Tally,
        )
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Corrupt(f"The sums of {name} cannot be read: {error}.") from error


def _arm(text: str) -> Arm:
    return msgspec.convert(text, Arm)  # type: ignore[no-any-return]
