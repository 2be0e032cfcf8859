"""``metaspo simulate gate`` and ``metaspo simulate search``: measured error rates of what decides in production."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import click

from optimizer.simulation.gate import POINTS, SEED, Domain, simulate_gate_runs
from optimizer.simulation.search import PROPOSERS, QUALITIES, kinds_of, sweep
from optimizer.worlds.world import WorldSettings


@click.group()
def simulate() -> None:
    """Measured error rates, power and delays on simulated worlds with known truth."""


@simulate.command("gate")
@click.option("--runs", default=1000, show_default=True, type=click.IntRange(1), help="Simulated runs per experiment.")
@click.option(
    "--effect", "effects", multiple=True, type=float, help="True gain in percentage points; may be repeated. [4, 5, 8]"
)
@click.option("--seed", default=SEED, show_default=True, help="Seed of all draws.")
@click.option("--tasks", default=6, show_default=True, type=click.IntRange(1), help="Source tasks.")
@click.option("--select", default=60, show_default=True, type=click.IntRange(1), help="Examples per task that race.")
@click.option(
    "--holdout", default=100, show_default=True, type=click.IntRange(1), help="Examples per task that confirm."
)
@click.option(
    "--base", default=0.75, show_default=True, type=click.FloatRange(0.01, 0.99), help="Incumbent's pass rate."
)
@click.option(
    "--correlation",
    default=0.6,
    show_default=True,
    type=click.FloatRange(0, 0.99),
    help="Of two prompts on one example.",
)
@click.option("--candidates", default=9, show_default=True, type=click.IntRange(1, 99), help="Candidates in the race.")
@click.option("--cluster", default=1, show_default=True, type=click.IntRange(1), help="Near-duplicates per cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def simulate_gate(runs: int, effects: tuple[float, ...], seed: int, as_json: bool, **sizes: Any) -> None:
    """How often the gate promotes what is no better, and misses what is better, at these sizes."""
    domain = Domain(**sizes)
    started = time.perf_counter()
    report = asyncio.run(simulate_gate_runs(domain, runs=runs, seed=seed, points=effects or POINTS))
    report["seconds"] = round(time.perf_counter() - started, 1)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    low, high = report["false_promotions_interval"]
    click.echo(
        f"{runs} runs, seed {seed}, {domain.tasks} tasks x {domain.holdout} holdout examples, base {domain.base}"
    )
    click.echo(
        f"no candidate is better:  {report['false_promotions']:.1%} promoted (95% interval {low:.1%} to {high:.1%})"
    )
    for point, share in report["power"].items():
        click.echo(f"every candidate {float(point):+g} points: {share:.1%} promoted")
    for attempt, told in report["attempts"].items():
        shares = ", ".join(f"{float(point):+g}: {share:.1%}" for point, share in told["power"].items())
        click.echo(f"at attempt {attempt} since a promotion: {told['false_promotions']:.1%} wrongly, {shares}")
    told = report["suites_that_vary"]
    shares = ", ".join(f"{float(point):+g}: {share:.1%}" for point, share in told["power"].items())
    click.echo(f"where safety replies vary by chance: {told['false_promotions']:.1%} wrongly, {shares}")
    for name, share in report.get("one_task_hurt", {}).items():
        click.echo(f"{name} points: {share:.1%} promoted")
    click.echo("what others would do when no candidate is better:")
    for name, share in report["others"]["false_promotions"].items():
        click.echo(f"  {name}: {share:.1%}")
    click.echo(
        f"  the best candidate looks {report['others']['phantom_gain_of_the_best_candidate']:+.1%} better",
        file=sys.stdout,
    )


@simulate.command("search")
@click.option("--runs", default=10, show_default=True, type=click.IntRange(1), help="Worlds per kind and proposer.")
@click.option("--effect", default=0.7, show_default=True, help="What a helpful sentence is worth, in logits.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of the first world.")
@click.option(
    "--q", "qualities", multiple=True, type=click.FloatRange(0, 1), help="Analyser's hit rate; may be repeated."
)
@click.option(
    "--fp", default=0.05, show_default=True, type=click.FloatRange(0, 1), help="Analyser's rate of false findings."
)
@click.option("--proposer", "proposers", multiple=True, type=click.Choice(PROPOSERS), help="May be repeated. [all]")
@click.option(
    "--budget-calls", default=6_000, show_default=True, type=click.IntRange(60), help="Model calls per search."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def simulate_search(
    runs: int,
    effect: float,
    seed: int,
    qualities: tuple[float, ...],
    fp: float,
    proposers: tuple[str, ...],
    budget_calls: int,
    as_json: bool,
) -> None:
    """Whole searches in worlds with known truth: true gains by the analyser's quality, one conflicting task, no
    effect at all.
    """
    kinds = kinds_of(WorldSettings(strength=effect, fp=fp), qualities or QUALITIES, proposers or PROPOSERS)
    started = time.perf_counter()
    length = runs * len(kinds)
    with click.progressbar(length=length, label="searches", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def done() -> None:
            bar.update(1)

        report = asyncio.run(sweep(kinds, runs=runs, seed=seed, calls=budget_calls, clock=time.time, done=done))
    if as_json:
        seconds = round(time.perf_counter() - started, 1)
        head = {"runs": runs, "seed": seed, "budget_calls": budget_calls, "fp": fp, "seconds": seconds}
        click.echo(json.dumps({**head, "worlds": report}, indent=2))
        return
    click.echo(
        f"{runs} worlds each, {budget_calls} calls per search; true gain on unseen tasks (standard error), promoted"
    )
    for kind, by_proposer in report.items():
        for proposer, row in by_proposer.items():
            gain = f"{row['true_gain_unseen']:+.3f} ({row['true_gain_unseen_se']:.3f})"
            worse = f"{row['promoted_and_worse']:.0%} promoted and worse"
            click.echo(
                f"{kind:31} {proposer:12} {gain:18} {row['promoted']:.0%} promoted, {worse}, {row['calls']:.0f} calls"
            )
