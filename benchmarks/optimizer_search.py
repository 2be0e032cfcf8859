"""The search in figures: simulated worlds with known truth, and runs where no prompt matters.

    python benchmarks/optimizer_search.py worlds --worlds 60        # same gain for a quarter of the calls?
    python benchmarks/optimizer_search.py null --worlds 200         # phantom gain where no prompt matters
    python benchmarks/optimizer_search.py headroom --worlds 200     # the check before a search: right how often
    python benchmarks/optimizer_search.py headroom --first 201      # the same in worlds that no threshold was chosen on
    python benchmarks/optimizer_search.py told --out FILE ...       # the summary of the runs in these files, no new one

Every run is one line in ``--out`` and is not made again; the summary is printed as JSON. Worlds prove code, not
merit: how good a search looks in them is set by the analyser's quality q, so the sweep over q is printed, and so is the
world with a task that conflicts with the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from optimizer.proposals.components import corpus_for
from optimizer.records import (
    SLOT,
    Budget,
    LedgerRow,
    LoopSizes,
    Models,
    ModelSpec,
    Request,
    Rollout,
    SearchResult,
    SearchSpec,
)
from optimizer.search import search
from optimizer.steps.headroom import CELLS, ask, diverse
from optimizer.steps.racing import Cell, course
from optimizer.worlds.world import SEED_PROMPT, World, WorldBackend, WorldSettings, world_tasks

TRAINING_CALLS = 18_200
QUARTER = TRAINING_CALLS // 4
HOLDOUT, UNSEEN = 60, 30
SEED = 20_261_120
WORLDS: dict[str, WorldSettings] = {
    "q=0": WorldSettings(tasks=4, q=0.0),
    "q=0.05": WorldSettings(tasks=4, q=0.05),
    "q=0.1": WorldSettings(tasks=4, q=0.1),
    "q=0.2": WorldSettings(tasks=4, q=0.2),
    "q=0.3": WorldSettings(tasks=4, q=0.3),
    "q=0.5": WorldSettings(tasks=4, q=0.5),
    "q=0.3, no false findings": WorldSettings(tasks=4, q=0.3, fp=0.0),
    "q=0.1, one task conflicts": WorldSettings(tasks=4, q=0.1, conflict=True),
}
SEEN = 200
"""Figures of the headroom check and of worlds without an effect were looked at in worlds up to this one, and thresholds
chosen on some of them; later worlds are fresh."""
METHODS = ("metaspo", "faithful", "components")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("worlds", "null", "headroom", "told"))
    parser.add_argument("--worlds", type=int, default=60, help="how many worlds of each kind")
    parser.add_argument("--first", type=int, default=1, help="the number of the first world")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="which methods")
    parser.add_argument("--kinds", nargs="*", default=list(WORLDS), help="which kinds of world")
    parser.add_argument("--out", type=Path, nargs="+", default=[Path("optimizer_search.jsonl")])
    chosen = parser.parse_args()
    done = Done(chosen.out[0])
    seeds = range(chosen.first, chosen.first + chosen.worlds)
    if chosen.part == "told":
        summary = told(chosen.out)
    elif chosen.part == "headroom":
        summary = headroom(done, seeds)
    elif chosen.part == "worlds":
        summary = worlds(done, chosen.kinds, chosen.methods, seeds)
    else:
        summary = null(done, [method for method in chosen.methods if method != "components"], seeds)
    print(json.dumps(summary, indent=1))
    return 0


class Done:
    """Runs made so far, one JSON object a line; a run that is there is not made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                row = json.loads(line)
                self.rows[row["key"]] = row

    def get(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.rows:
            row = {"key": key, **make()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.rows[key] = row
        return self.rows[key]


# --- worlds ----------------------------------------------------------------------------------------------------------


def worlds(done: Done, kinds: list[str], methods: list[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Per kind of world and method: true gains (points) on source and unseen tasks, and calls."""
    summary: dict[str, Any] = {}
    for kind in kinds:
        rows = {
            method: [
                done.get(f"world|{kind}|{method}|{seed}", lambda m=method, k=kind, s=seed: in_world(WORLDS[k], s, m))
                for seed in seeds
            ]
            for method in methods
        }
        summary[kind] = _of_kind({method: dict(enumerate(some)) for method, some in rows.items()})
    return summary


def _of_kind(rows: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Runs in one kind of world, by method and seed. What the default search loses is paired over common seeds."""
    summary: dict[str, Any] = {method: _gains(list(some.values())) for method, some in rows.items()}
    both = sorted(rows.get("metaspo", {}).keys() & rows.get("faithful", {}).keys())
    if both:
        summary["paired_worlds"] = len(both)
        for where in ("source", "unseen"):
            loss = [100 * (rows["faithful"][seed][where] - rows["metaspo"][seed][where]) for seed in both]
            summary[f"loss_on_{where}_points"] = _mean(loss)
    return summary


def told(files: list[Path]) -> dict[str, Any]:
    """The summary of all runs in ``files``, however far each kind has come."""
    rows = {key: row for file in files for key, row in Done(file).rows.items()}
    kinds: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    checks = sorted({int(key.rpartition("|")[2]) for key in rows if key.startswith("headroom|")})
    for key, row in rows.items():
        if key.startswith("headroom|"):
            continue
        part, *kind, method, seed = key.split("|")
        kinds.setdefault(kind[0] if part == "world" else "no prompt matters", {}).setdefault(method, {})[int(seed)] = (
            row
        )
    null_runs = kinds.pop("no prompt matters", {})
    summary = {kind: _of_kind(kinds[kind]) for kind in WORLDS if kind in kinds}
    for name, fresh in (("no prompt matters", False), ("no prompt matters, fresh worlds", True)):
        by_method = {
            method: [row for seed, row in some.items() if (seed > SEEN) == fresh] for method, some in null_runs.items()
        }
        if any(by_method.values()):
            summary[name] = {method: _phantom(method, some) for method, some in by_method.items() if some}
    made = Done(files[0])
    made.rows = rows
    for name, some in (
        ("headroom check", [seed for seed in checks if seed <= SEEN]),
        ("headroom check, fresh worlds", [seed for seed in checks if seed > SEEN]),
    ):
        if some:
            summary[name] = headroom(made, some)
    return summary


def in_world(kind: WorldSettings, seed: int, method: str) -> dict[str, Any]:
    """One search in one world. The default method may make a quarter of the published training calls."""
    world = replace(kind, seed=seed)
    truth = World(world)
    faithful = method == "faithful"
    model = ModelSpec(model="world:")
    confirmation = 2 * HOLDOUT * world.tasks + 2 * UNSEEN * world.unseen
    with tempfile.TemporaryDirectory() as home:
        spec = SearchSpec(
            seed_prompt=SEED_PROMPT,
            tasks=world_tasks(world, holdout=HOLDOUT),
            models=Models(base=model, optimizer=None if method == "components" else model),
            faithful=faithful,
            budget=Budget() if faithful else Budget(calls=QUARTER + confirmation),
            seed=SEED + seed,
            home=Path(home),
            sizes=LoopSizes(test_size=0) if faithful else LoopSizes(),
            options={"holdout_per_task": HOLDOUT, "unseen_per_task": UNSEEN, "baseline_per_task": 0},
        )
        backend = WorldBackend(truth)
        result = asyncio.run(
            search(spec, clock=time.time, backends={"base": backend} if method == "components" else _roles(backend))
        )
    base = result.ledger.roles["base"]
    return {
        "world": asdict(world),
        "source": truth.accuracy(result.winner) - truth.accuracy(SEED_PROMPT),
        "unseen": truth.accuracy(result.winner, unseen=True) - truth.accuracy(SEED_PROMPT, unseen=True),
        "training_requested": base.requested - (0 if faithful else _confirmed(result)),
        "training_paid": base.paid - (0 if faithful else _confirmed(result)),
        "optimizer_calls": result.ledger.roles.get("optimizer", LedgerRow()).paid,
        "gate": result.gate.outcome if result.gate else "none",
        "effect": result.gate.effect if result.gate else 0.0,
        "train_effect": _train_effect(result) if faithful else 0.0,
        "reason": result.reason,
    }


def _roles(backend: WorldBackend) -> dict[Any, WorldBackend]:
    return {"base": backend, "optimizer": backend}


def _confirmed(result: SearchResult) -> int:
    arms = (result.incumbent_scores, result.winner_scores)
    means = [split.mean for arm in arms for split in (arm.holdout, arm.unseen)]
    rows = sum(mean.n for mean in means if mean)
    return rows if result.winner != result.incumbent else rows // 2


def _train_effect(result: SearchResult) -> float:
    first, last = result.generations[0].score, result.generations[-1].score
    return (last or 0.0) - (first or 0.0)


def _gains(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "worlds": len(rows),
        "gain_source_points": _mean([100 * row["source"] for row in rows]),
        "gain_unseen_points": _mean([100 * row["unseen"] for row in rows]),
        "training_calls": round(statistics.mean(row["training_paid"] for row in rows)),
        "most_training_calls": max(row["training_paid"] for row in rows),
        "optimizer_calls": round(statistics.mean(row["optimizer_calls"] for row in rows)),
        "passed_the_gate": sum(row["gate"] == "PASS" for row in rows),
        "no_headroom": sum("No headroom" in row["reason"] for row in rows),
    }


def _mean(values: list[float]) -> dict[str, float]:
    """Mean with its 95 % interval over worlds."""
    mean = statistics.mean(values)
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return {"mean": round(mean, 2), "low": round(mean - half, 2), "high": round(mean + half, 2)}


# --- no prompt matters -----------------------------------------------------------------------------------------------


def null(done: Done, methods: list[str], seeds: Sequence[int]) -> dict[str, Any]:
    """What is reported where all prompts are equally good: by the published loop on its train set, by ours on the
    holdout (nothing where the run ended without a challenger)."""
    kind = WorldSettings(tasks=4, unseen=2, null=True)
    summary: dict[str, Any] = {}
    for method in methods:
        rows = [done.get(f"null|{method}|{seed}", lambda m=method, s=seed: in_world(kind, s, m)) for seed in seeds]
        summary[method] = _phantom(method, rows)
    return summary


def _phantom(method: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    reported = [100 * (row["train_effect"] if method == "faithful" else row["effect"]) for row in rows]
    measured = [gain for gain, row in zip(reported, rows, strict=True) if method == "faithful" or row["gate"] != "none"]
    return {
        "worlds": len(rows),
        "reported_gain_points": _mean(reported),
        "with_a_challenger": len(measured),
        "reported_gain_of_challengers_points": _mean(measured) if measured else None,
        "reported_a_gain": sum(gain > 0 for gain in reported),
        "passed_the_gate": sum(row["gate"] == "PASS" for row in rows),
        "no_headroom": sum("No headroom" in row["reason"] for row in rows),
        "training_calls": round(statistics.mean(row["training_paid"] for row in rows)),
    }


# --- is there anything to gain? --------------------------------------------------------------------------------------


HEADROOM_WORLDS: dict[str, WorldSettings] = {
    "no prompt matters": WorldSettings(tasks=4, null=True),
    "sentences worth half": WorldSettings(tasks=4, strength=0.35),
    "as in the other worlds": WorldSettings(tasks=4),
}


def headroom(done: Done, seeds: Sequence[int]) -> dict[str, Any]:
    """What the check that comes before a search says in worlds with and without an effect, and for how many answers."""
    summary: dict[str, Any] = {}
    for name, kind in HEADROOM_WORLDS.items():
        rows = [done.get(f"headroom|{name}|check|{seed}", lambda k=kind, s=seed: _checked(k, s)) for seed in seeds]
        outcomes = Counter(row["outcome"] for row in rows)
        summary[name] = {
            "worlds": len(rows),
            "says there is none": outcomes["none"],
            "sees it": outcomes["seen"],
            "leaves it open": outcomes["open"],
            "answers": round(statistics.mean(row["answers"] for row in rows)),
            "most answers": max(row["answers"] for row in rows),
        }
    return summary


def _checked(kind: WorldSettings, seed: int) -> dict[str, Any]:
    world = replace(kind, seed=seed)
    backend = WorldBackend(World(world))
    tasks = tuple(task for task in world_tasks(world) if task.role == "source")
    cells = course(tasks, {task.name: (task.user_prompt,) for task in tasks}, start=0, seed=seed, length=2 * CELLS)

    async def respond(prompt: str, block: Sequence[Cell]) -> list[Rollout]:
        found = []
        for cell in block:
            user = cell.user_prompt.replace(SLOT, cell.example.question)
            answer = backend.answer(Request(role="base", messages=(("system", prompt), ("user", user))))
            score = float(answer == cell.example.answers[0])
            found.append(Rollout(example_id=cell.example.id, text=answer, score=score))
        return found

    found = asyncio.run(ask(respond, diverse(SEED_PROMPT, corpus_for(tasks), seed), cells, CELLS))
    return {"outcome": found.outcome, "answers": found.answers}


if __name__ == "__main__":
    sys.exit(main())
