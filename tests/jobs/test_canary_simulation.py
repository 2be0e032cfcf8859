"""The published error rates of the canary, on 200 of their 1,000 experiments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.simulate import SEED, Harm, Plan, Traffic, run_canary, simulate, simulate_canary_runs

RUNS = 200
pytestmark = pytest.mark.timeout(600)  # ten seconds of work; a crowded machine may give it little of its time


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return simulate_canary_runs(runs=RUNS, seed=SEED, plan=Plan(), traffic=Traffic(), delays=40)


def test_innocent_canaries_are_rarely_stopped(report: dict[str, Any]) -> None:
    """All stop rules together; at a true rate of 6%, more than 20 of 200 would come up in one run of fifty."""
    assert report["false_alarms_count"] <= 20


def test_innocent_canaries_are_promoted(report: dict[str, Any]) -> None:
    assert report["ended"]["not_worse"] >= 0.9


def test_harm_is_found_in_time(report: dict[str, Any]) -> None:
    median = report["median_units"]
    assert median["0.80->0.60"] <= 350
    assert median["0.80->0.70"] <= 850
    assert median["errors 1%->5%"] <= 1300
    assert all(share >= 0.95 for share in report["caught"].values())


def test_clustered_requests_keep_the_level_per_unit_and_not_per_request(report: dict[str, Any]) -> None:
    clustered = report["clustered_requests"]
    assert clustered["false_alarms"] <= 0.12
    assert clustered["z-test on requests with peeking"] > 0.4


def test_peeking_alarms_where_we_do_not(report: dict[str, Any]) -> None:
    assert report["others"]["z-test with peeking"] > 4 * report["false_alarms"]
    assert report["others"]["random per-request split"]["units_that_see_both_prompts"] > 0.8


def test_a_run_depends_on_its_seed_alone() -> None:
    first, again = (run_canary(np.random.default_rng(3), Plan(), Traffic(), Harm(quality=-0.1)) for _ in range(2))
    assert (first.decision, first.units) == (again.decision, again.units)


def test_the_command_prints_what_the_contract_says() -> None:
    result = CliRunner().invoke(simulate, ["canary", "--runs", "2", "--n-final", "440", "--margin", "0.1", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["runs"] == 2
    assert set(told["median_units"]) == {"0.80->0.70", "0.80->0.60", "errors 1%->5%"}


@pytest.mark.parametrize("seed", [20_261_120, 20_261_121])
def test_published_figures_keep_the_promise(repository: Path, seed: int) -> None:
    told = json.loads((repository / "docs" / "results" / f"simulate_canary_{seed}.json").read_text("utf-8"))
    assert told["runs"] == 1000 and told["seed"] == seed
    assert told["false_alarms_count"] <= 60


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [20_261_120, 20_261_121])
def test_the_published_figures_come_out_again(repository: Path, seed: int) -> None:
    """All 1,000 experiments: what stands in the result file is what this code does."""
    told = json.loads((repository / "docs" / "results" / f"simulate_canary_{seed}.json").read_text("utf-8"))
    report = simulate_canary_runs(runs=1000, seed=seed, plan=Plan(), traffic=Traffic())
    for name in ("false_alarms_count", "ended", "median_units", "caught", "clustered_requests"):
        assert report[name] == told[name], name
