"""A search's result as JSON values and as the page that a person reads."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from optimizer.estimate import Estimate
from optimizer.records import Interval, Ledger, Scores, SearchResult, SplitScores, TaskScore

_WIDTH, _NAME, _BOUND = 80, 24, 26
"""Columns of a terminal, of a rule's name and of its bound."""
_FORM = 0.02
"""A fall in the share of malformed answers from which on it is worth a sentence."""


def result_to_dict(result: SearchResult) -> dict[str, Any]:
    """The result as plain JSON values: what ``metaspo search --json`` ends with. Numbers that are not finite become
    null."""
    plain: dict[str, Any] = {
        "method": result.method,
        "prompt": result.winner,
        "incumbent": {"prompt": result.incumbent, **_scores(result.incumbent_scores)},
        "winner": {"prompt": result.winner, **_scores(result.winner_scores)},
        "baselines": {name: _scores(scores) for name, scores in result.baselines.items()},
        "constant_baseline": result.constant_baseline,
        "gate": result.gate.to_dict() if result.gate is not None else None,
        "calls": {role: row.paid for role, row in result.ledger.roles.items()},
        "usd": {role: row.usd for role, row in result.ledger.roles.items()},
        "ledger": msgspec.to_builtins(result.ledger),
        "user_prompts": {name: list(prompts) for name, prompts in result.user_prompts.items()},
        "proposer": result.proposer,
        "generations": msgspec.to_builtins(result.generations),
        "per_item": msgspec.to_builtins(result.per_item),
        "datasets": result.datasets,
        "wall_seconds": result.wall_seconds,
        "reason": result.reason,
        "cautions": cautions(result),
        "notes": list(result.notes),
    }
    cleaned: dict[str, Any] = _finite(plain)
    return cleaned


def result_page(result: SearchResult) -> str:
    """The result as text: what was found, how it scores beside the baselines, what the gate says, what it cost."""
    return "\n".join(_result_lines(result))


def estimate_page(estimate: Estimate) -> str:
    """An estimate as text."""
    lines = [
        f"{estimate.method}: {'exactly' if estimate.exact else 'at most'} {estimate.base_calls:,} base, "
        f"{estimate.optimizer_calls:,} optimizer and {'at most ' * bool(estimate.exact and estimate.judge_calls)}"
        f"{estimate.judge_calls:,} judge calls",
    ]
    if estimate.confirmation_calls:
        lines.append(f"confirmation on holdout and unseen tasks: {estimate.confirmation_calls:,} base calls more")
    lines += [
        f"all calls: {estimate.calls.low:,.0f} to {estimate.calls.high:,.0f}",
        f"tokens in: {estimate.tokens_in.low:,.0f} to {estimate.tokens_in.high:,.0f}, "
        f"out: {estimate.tokens_out.low:,.0f} to {estimate.tokens_out.high:,.0f}",
        f"price: {estimate.usd.low:,.2f} to {estimate.usd.high:,.2f} USD",
        *estimate.notes,
    ]
    return "\n".join(lines)


def gate_page(result: SearchResult) -> str:
    """The verdict on a prompt that was written by hand, with the gate's whole table, in 80 columns."""
    if result.gate is None:
        return "\n".join(["No verdict.", *result.notes])
    plain = result.gate.to_dict()
    score = [_mean(scores.holdout) for scores in (result.incumbent_scores, result.winner_scores)]
    lines = [f"Gate: {result.gate.outcome}", *textwrap.wrap(result.gate.reason, _WIDTH), ""]
    lines += _columns([("", "holdout"), ("in force", score[0]), ("new", score[1])])
    lines += ["", *gate_table(plain["table"]), ""]
    lines += [line for text in (*cautions(result), *result.notes) for line in textwrap.wrap(text, _WIDTH)]
    calls = sum(row.paid for row in result.ledger.roles.values())
    usd = sum(row.usd for row in result.ledger.roles.values())
    return "\n".join([*lines, f"{calls:,} calls paid, {usd:.4f} USD, {result.wall_seconds:.1f} s"])


def gate_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The gate's table as lines of at most 80 characters: rule, value, bound, whether it holds."""
    lines: list[str] = []
    for row in rows:
        name, value = str(row.get("name", "")), row.get("value")
        if len(name) > _NAME:
            lines += [f"  {part}" for part in textwrap.wrap(name, _WIDTH - 2)]
            name = ""
        bound, *more = textwrap.wrap(str(row.get("bound", "")), _BOUND) or [""]
        holds = {True: "ok", False: "FAILED", None: "not measured"}[row.get("passed")]
        figure = f"{value:.4g}" if isinstance(value, int | float) else ""
        lines.append(f"  {name:<{_NAME}} {figure:>9}  {bound:<{_BOUND}} {holds}".rstrip())
        lines += [f"{'':<{_NAME + 14}}{part}" for part in more]
    return lines


def cautions(result: SearchResult) -> list[str]:
    """What a reader must know before believing a gain: a constant answer does as well, or the gain is form alone."""
    told: list[str] = []
    for name, split in (("holdout", result.winner_scores.holdout), ("unseen tasks", result.winner_scores.unseen)):
        constant = _constants(result, split)
        if split.mean is not None and constant and split.mean.score <= _mean_of(constant):
            told.append(
                f"On the {name} the winner ({split.mean.score:.3f}) does no better than always giving the most "
                f"frequent answer ({_mean_of(constant):.3f})."
            )
    before, after = (
        [score.malformed for score in scores.holdout.tasks.values()]
        for scores in (result.incumbent_scores, result.winner_scores)
    )
    if before and after and _mean_of(before) - _mean_of(after) >= _FORM:
        told.append(
            f"Malformed answers fell from {_mean_of(before):.1%} to {_mean_of(after):.1%}: at least a part of any "
            "gain is form, not ability."
        )
    return told


def _result_lines(result: SearchResult) -> Iterator[str]:
    yield from textwrap.wrap(f"Method {result.method}: {result.reason}", _WIDTH)
    yield ""
    yield (
        "The winner is the incumbent." if result.winner == result.incumbent else f"Winner:\n{_indented(result.winner)}"
    )
    yield ""
    yield from _columns(_overview(result))
    yield ""
    for table in (_scores_by_task(result), _faults_by_task(result)):
        if len(table) > 1:
            yield from _columns(table)
            yield ""
    for caution in cautions(result):
        yield from textwrap.wrap(caution, _WIDTH)
    if result.gate is not None:
        yield from textwrap.wrap(f"Gate: {result.gate.outcome}. {result.gate.reason}", _WIDTH)
    else:
        yield "Gate: nothing to decide, no challenger was found."
    yield from _spent(result.ledger)
    yield f"Wall time: {result.wall_seconds:.1f} s"
    for note in result.notes:
        yield from textwrap.wrap(note, _WIDTH)


def _overview(result: SearchResult) -> list[tuple[str, ...]]:
    """Incumbent, winner and baselines on the holdout and on unseen tasks."""
    rows = [("incumbent", result.incumbent_scores), ("winner", result.winner_scores), *result.baselines.items()]
    table: list[tuple[str, ...]] = [("", "holdout", "unseen")]
    table += [(name, _mean(scores.holdout), _mean(scores.unseen)) for name, scores in rows]
    if result.constant_baseline:
        splits = (result.incumbent_scores.holdout, result.incumbent_scores.unseen)
        values = [_constants(result, split) for split in splits]
        table.append(("constant answer", *(f"{_mean_of(some):.3f}" if some else "-" for some in values)))
    return table


def _by_task(result: SearchResult) -> Iterator[tuple[str, TaskScore, TaskScore]]:
    """Each task with the scores of the incumbent and of the winner."""
    for before, after in (
        (result.incumbent_scores.holdout, result.winner_scores.holdout),
        (result.incumbent_scores.unseen, result.winner_scores.unseen),
    ):
        for name, score in before.tasks.items():
            yield name, score, after.tasks.get(name, score)


def _scores_by_task(result: SearchResult) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("task", "incumbent", "winner")]
    table += [(name, _interval(first.interval), _interval(then.interval)) for name, first, then in _by_task(result)]
    return table


def _faults_by_task(result: SearchResult) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("task", "constant answer", "malformed", "unscored")]
    for name, _, then in _by_task(result):
        constant = result.constant_baseline.get(name)
        share = "" if constant is None else f"{constant:.3f}"
        table.append((name, share, f"{then.malformed:.1%}", f"{then.unscored:.1%}"))
    return table


def _constants(result: SearchResult, split: SplitScores) -> list[float]:
    return [result.constant_baseline[name] for name in split.tasks if name in result.constant_baseline]


def _mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spent(ledger: Ledger) -> Iterator[str]:
    table = [("role", "requested", "paid", "cached", "replayed", "tokens in", "out", "USD")]
    table += [
        (
            role,
            f"{row.requested:,}",
            f"{row.paid:,}",
            f"{row.cache_hits:,}",
            f"{row.replayed:,}",
            f"{row.tokens_in:,}",
            f"{row.tokens_out:,}",
            f"{row.usd:.4f}",
        )
        for role, row in ledger.roles.items()
    ]
    yield from _columns(table)
    if ledger.headroom:
        yield f"Asked first whether prompts matter at all: {ledger.headroom:,} of these calls."
    if ledger.rejects:
        yield "Refused before any base call: " + ", ".join(f"{count} {why}" for why, count in ledger.rejects.items())


def _scores(scores: Scores) -> dict[str, Any]:
    return {"holdout": _split(scores.holdout), "unseen": _split(scores.unseen)}


def _split(split: SplitScores) -> dict[str, Any]:
    """The mean's interval beside the tasks'."""
    mean = msgspec.to_builtins(split.mean) if split.mean else {"score": None, "low": None, "high": None, "n": 0}
    return {**mean, "tasks": {name: _flat(msgspec.to_builtins(score)) for name, score in split.tasks.items()}}


def _flat(score: dict[str, Any]) -> dict[str, Any]:
    interval = score.pop("interval")
    return {**interval, **score}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _mean(split: SplitScores) -> str:
    return _interval(split.mean) if split.mean is not None else "-"


def _interval(interval: Interval) -> str:
    return f"{interval.score:.3f} ({interval.low:.3f} to {interval.high:.3f}, n={interval.n})" if interval.n else "-"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()) or "  (the empty prompt)"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines of at most 80 characters. A name that leaves no room for the rest stands on a line of its own."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = min(widths[0], max(2, _WIDTH - sum(2 + width for width in widths[1:])))
    for name, *cells in rows:
        if len(name) > widths[0]:
            yield name
        shown = (name if len(name) <= widths[0] else "", *cells)
        yield "  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip()
