"""Whole searches in simulated worlds: what they find, what they claim to have found, and what it cost.

The search, the linter, the journal and the gate are those of production; only the model is a world of
``optimizer.worlds``. Truth is known, so gains are true gains on the population of examples, not scores.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optimizer.records import Budget, Models, ModelSpec, SearchSpec
from optimizer.search import search
from optimizer.worlds.world import SEED_PROMPT, World, WorldSettings, world_tasks

QUALITIES = (0.0, 0.05, 0.1, 0.3)
"""Hit rates of the analyser that the sweep compares."""
PROPOSERS = ("rewrite", "components", "random")


def model_name(settings: WorldSettings) -> str:
    """The model name that opens the world of these settings."""
    changed = {k: v for k, v in asdict(settings).items() if v != getattr(WorldSettings(), k)}
    return "world:" + ",".join(f"{k}={int(v) if isinstance(v, bool) else v}" for k, v in changed.items())


def world_spec(settings: WorldSettings, *, calls: int, home: Path, seed: int, proposer: str = "rewrite") -> SearchSpec:
    """A search in this world."""
    model = ModelSpec(model=model_name(settings), price_in=0.0, price_out=0.0)
    biased = settings.length_bias > 0
    return SearchSpec(
        seed_prompt=SEED_PROMPT,
        tasks=world_tasks(settings),
        models=Models(
            base=model, optimizer=model, judge=model if biased else None, audit_judge=model if biased else None
        ),
        budget=Budget(calls=calls),
        seed=seed,
        home=home,
        options={"proposer": "components"} if proposer == "components" else {},
    )


async def one_search(
    settings: WorldSettings, *, calls: int, proposer: str, clock: Callable[[], float]
) -> dict[str, Any]:
    """Search one world with one proposer and let the gate decide; what came out, in truth.

    ``random`` is the proposer to beat: the writer ignores the analysis and writes random sets of sentences.
    """
    settings = replace(settings, random=proposer == "random")
    world = World(settings)
    with tempfile.TemporaryDirectory() as folder:
        spec = world_spec(settings, calls=calls, home=Path(folder), seed=settings.seed, proposer=proposer)
        result = await search(spec, clock=clock)
    gate, winner = result.gate, result.winner
    return {
        "changed": winner != SEED_PROMPT,
        "gain_source": world.accuracy(winner) - world.accuracy(SEED_PROMPT),
        "gain_unseen": world.accuracy(winner, unseen=True) - world.accuracy(SEED_PROMPT, unseen=True),
        "oracle_unseen": world.accuracy(world.oracle(), unseen=True) - world.accuracy(SEED_PROMPT, unseen=True),
        "gate": gate.outcome if gate else "NONE",
        "reported": gate.effect if gate else 0.0,
        "calls": result.ledger.calls,
        "winner": winner,
        "reason": result.reason,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One line of the report: a kind of world and who proposes in it."""

    name: str
    settings: WorldSettings
    proposer: str


def kinds_of(usual: WorldSettings, qualities: Sequence[float], proposers: Sequence[str]) -> list[Kind]:
    """The sweep over the analyser's quality, the proposers that need no analyser, and the worlds where a search
    should not win.
    """
    kinds = [Kind(name=f"analyser q={q:g}", settings=replace(usual, q=q), proposer="rewrite") for q in qualities]
    misled = replace(usual, q=0.0, fp=max(0.3, usual.fp))
    kinds += [
        Kind(name="misleading analyser q=0 fp=0.3", settings=misled, proposer="rewrite"),
        Kind(name="no analyser", settings=usual, proposer="random"),
        Kind(name="no analyser", settings=usual, proposer="components"),
        Kind(name="one task conflicts", settings=replace(usual, conflict=True), proposer="rewrite"),
        Kind(name="no prompt matters", settings=replace(usual, null=True), proposer="rewrite"),
    ]
    return [kind for kind in kinds if kind.proposer in proposers]


async def sweep(
    kinds: Sequence[Kind],
    *,
    runs: int,
    seed: int,
    calls: int,
    clock: Callable[[], float],
    done: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Per kind of world and proposer, means over ``runs`` worlds: true gains, promotions, promotions that did harm,
    calls.

    The ``n``-th world of every kind has the same seed, so kinds differ in what they are said to differ in.
    """
    report: dict[str, dict[str, dict[str, float]]] = {}
    for kind in kinds:
        rows = []
        for run in range(runs):
            settings = replace(kind.settings, seed=seed + run)
            rows.append(await one_search(settings, calls=calls, proposer=kind.proposer, clock=clock))
            done()
        report.setdefault(kind.name, {})[kind.proposer] = _summary(rows)
    return report


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    def mean(name: str) -> float:
        return round(float(sum(row[name] for row in rows)) / len(rows), 4)

    promoted = [row for row in rows if row["gate"] == "PASS"]
    unseen = [row["gain_unseen"] for row in rows]
    spread = math.sqrt(
        sum((g - sum(unseen) / len(unseen)) ** 2 for g in unseen) / max(1, len(unseen) - 1) / len(unseen)
    )
    return {
        "runs": len(rows),
        "true_gain_source": mean("gain_source"),
        "true_gain_unseen": mean("gain_unseen"),
        "true_gain_unseen_se": round(spread, 4),
        "oracle_gain_unseen": mean("oracle_unseen"),
        "gain_reported_by_the_gate": mean("reported"),
        "changed": mean("changed"),
        "promoted": round(len(promoted) / len(rows), 4),
        "promoted_and_worse": round(sum(row["gain_source"] < -1e-9 for row in promoted) / len(rows), 4),
        "calls": mean("calls"),
    }
