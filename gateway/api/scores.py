"""What the versions of a domain have earned: sums by version and arm, with the interval of the mean score."""

from __future__ import annotations

from math import sqrt

from gateway.api.answers import Score
from registry import Registry, Tally

Z95 = 1.959964


def interval(total: float, squares: float, count: int) -> tuple[float | None, float | None, float | None]:
    """Mean of scores in 0..1 and its 95 % interval (normal approximation, within 0..1); Nones without any."""
    if not count:
        return None, None, None
    mean = total / count
    if count < 2:
        return mean, 0.0, 1.0
    variance = max(0.0, (squares - count * mean * mean) / (count - 1))
    half = Z95 * sqrt(variance / count)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def as_score(tally: Tally) -> Score:
    """Sums as means."""
    mean, low, high = interval(tally.score, tally.score_sq, tally.scored)
    return Score(
        version=tally.version,
        arm=tally.arm,
        requests=tally.n,
        errors=tally.errors,
        refusals=tally.refusals,
        bad_formats=tally.bad_formats,
        prompt_tokens=tally.prompt_tokens,
        answer_tokens=tally.answer_tokens,
        cost=tally.cost,
        latency_mean=tally.latency / tally.n if tally.n else None,
        scored=tally.scored,
        score=mean,
        low=low,
        high=high,
        votes=tally.votes,
        vote=tally.vote / tally.votes if tally.votes else None,
    )


async def scores_of(registry: Registry, domain: str) -> list[Score]:
    """The sums of a domain's exchanges by version and arm, versions in order."""
    return [as_score(tally) for tally in await registry.outcome_totals(domain)]
