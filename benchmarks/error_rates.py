"""Figures of docs/gate.md and docs/canary.md: power by size, what peeking costs, what clustered requests cost.

    python -m benchmarks.error_rates [--runs 300] [--draw-only]

Writes docs/results/error_rates.json and docs/figures/*.svg. Everything is drawn from seed 20261120; a run takes a few
minutes.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from jobs import statistics
from optimizer.simulation.gate import SEED, Domain, Pipeline, draws

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZES = (50, 100, 200)
POINTS = (0, 2, 3, 4, 5, 6, 8, 10)
COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#6d597a")


def power_curves(runs: int) -> dict[str, dict[str, float]]:
    """Share of promotions by holdout examples per task and true gain in points."""
    found: dict[str, dict[str, float]] = {}
    for size in SIZES:
        domain = Domain(holdout=size, select=min(60, size))
        pipeline = Pipeline(domain)
        found[str(size)] = {}
        for point in POINTS:
            passed = 0
            for drawn in draws(domain, np.full(domain.tasks, point / 100), runs, SEED, 1000 + point):
                passed += asyncio.run(pipeline.promotes(drawn))
            found[str(size)][str(point)] = passed / runs
    return found


def peeking(runs: int, horizon: int = 10_000, step: int = 100) -> dict[str, Any]:
    """Share of A/A experiments that have alarmed by so many units: z-test, always-valid bound, both one-sided at 5%."""
    looks = np.arange(200, horizon + 1, step)
    z_alarms, cs_alarms = np.zeros(len(looks)), np.zeros(len(looks))
    for run in range(runs):
        rng = np.random.default_rng([SEED, 2000, run])
        a, b = ((rng.random(horizon // 2) < 0.8).astype(float) for _ in range(2))
        z_seen = cs_seen = False
        for i, n in enumerate(looks):
            d = statistics.difference(a[: n // 2], b[: n // 2])
            z_seen = z_seen or d.effect / d.se < -1.6449
            cs_seen = cs_seen or statistics.upper_bound(d, alpha=0.05, n_star=2000) < 0
            z_alarms[i] += z_seen
            cs_alarms[i] += cs_seen
    return {"units": looks.tolist(), "z-test": (z_alarms / runs).tolist(), "ours": (cs_alarms / runs).tolist()}


def clustering(runs: int, units: int = 400, requests: float = 10.0) -> dict[str, dict[str, float]]:
    """False alarms of one look at a one-sided 5% test, requests counted one by one or averaged per unit, by the
    correlation of requests within a unit.
    """
    found = {}
    for icc in (0.0, 0.05, 0.2, 0.4):
        wrong = {"per request": 0, "per unit": 0}
        for run in range(runs):
            rng = np.random.default_rng([SEED, 3000, int(100 * icc), run])
            arms = []
            for _ in range(2):
                n = 1 + rng.poisson(requests - 1, units)
                p = rng.beta(0.8 * (1 / icc - 1), 0.2 * (1 / icc - 1), units) if icc else np.full(units, 0.8)
                arms.append((n, rng.binomial(n, p)))
            (n0, k0), (n1, k1) = arms
            p0, p1 = k0.sum() / n0.sum(), k1.sum() / n1.sum()
            se = math.sqrt(p0 * (1 - p0) / n0.sum() + p1 * (1 - p1) / n1.sum())
            wrong["per request"] += (p1 - p0) / se < -1.6449
            d = statistics.difference(k0 / n0, k1 / n1)
            wrong["per unit"] += d.effect / d.se < -1.6449
        found[f"{icc:g}"] = {name: count / runs for name, count in wrong.items()}
    return found


# --- drawing ---------------------------------------------------------------------------------------------------------


def chart(title: str, x_name: str, y_name: str, series: dict[str, Sequence[tuple[float, float]]], y_top: float) -> str:
    """A plain line chart as SVG text; y is a share."""
    width, height, left, top, right, bottom = 640, 360, 60, 44, 20, 52
    xs = [x for points in series.values() for x, _ in points]
    low, high = min(xs), max(xs)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - low) / (high - low) * (width - left - right),
            top + (1 - y / y_top) * (height - top - bottom),
        )

    font = 'font-family="sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {font}>',
        f'<title>{title}</title><rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="22" font-size="15" font-weight="bold" fill="#222">{title}</text>',
    ]
    for k in range(6):
        share = y_top * k / 5
        _, y = at(low, share)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{share:.0%}</text>')
    for k in range(6):
        value = low + (high - low) * k / 5
        x, _ = at(value, 0)
        shown = f"{value:,.0f}" if high >= 10 else f"{value:.2f}"
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle" fill="#444">{shown}</text>')
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle" fill="#444">{x_name}</text>'
    )
    turned = f"translate(16 {(top + height - bottom) / 2}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle" fill="#444">{y_name}</text>')
    for colour, (name, points), row in zip(COLOURS, series.items(), range(9), strict=False):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<rect x="{left + 14}" y="{top + 8 + 20 * row}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 34}" y="{top + 14 + 20 * row}" fill="#222">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


@click.command()
@click.option("--runs", default=300, show_default=True, help="Simulated runs per point.")
@click.option("--draw-only", is_flag=True, help="Draw the figures from the file that is there.")
def main(runs: int, draw_only: bool) -> None:
    """Compute, write and draw."""
    path = DOCS / "results" / "error_rates.json"
    if not draw_only:
        computed = {
            "runs": runs,
            "seed": SEED,
            "power": power_curves(runs),
            "peeking": peeking(runs),
            "clustering": clustering(max(runs, 1000)),
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(computed, indent=1) + "\n", "utf-8")
    told: dict[str, Any] = json.loads(path.read_text("utf-8"))
    figures = DOCS / "figures"
    figures.mkdir(exist_ok=True)
    power = {
        f"{n} holdout examples per task": [(float(p), s) for p, s in row.items()] for n, row in told["power"].items()
    }
    text = chart(
        "The gate: how often a true gain is promoted (6 tasks)", "true gain, percentage points", "promoted", power, 1.0
    )
    (figures / "gate_power.svg").write_text(text, "utf-8")
    seen = told["peeking"]
    lines = {
        "z-test at 5%, looked at every 100 units": list(zip(seen["units"], seen["z-test"], strict=True)),
        "always-valid bound at 5%, same looks": list(zip(seen["units"], seen["ours"], strict=True)),
    }
    text = chart("Innocent candidates stopped, by how long one looks", "units seen", "stopped so far", lines, 0.4)
    (figures / "canary_peeking.svg").write_text(text, "utf-8")
    cluster = {
        name: [(float(icc), row[name]) for icc, row in told["clustering"].items()]
        for name in ("per request", "per unit")
    }
    text = chart(
        "False alarms of a 5% test when users send 10 requests",
        "correlation within a user",
        "false alarms",
        cluster,
        0.3,
    )
    (figures / "canary_clustering.svg").write_text(text, "utf-8")
    click.echo(f"written: {path.name} and three figures")


if __name__ == "__main__":
    main()
