"""The commands as a user types them: against a real registry, with the right exit codes and sentences."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from jobs import cli
from registry import Registry, Run
from tests.jobs.conftest import NOW, with_shop

Run_ = Callable[..., Result]


@pytest.fixture
def config(redis_server: str, prefix: str, tmp_path: Path) -> Path:
    path = tmp_path / "metaspo.yaml"
    settings = {"home": str(tmp_path / "home"), "redis_url": redis_server, "redis_prefix": prefix}
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def call(config: Path) -> Run_:
    def run(group: Any, *words: str) -> Result:
        return CliRunner().invoke(group, list(words), obj={"config": config})

    return run


@pytest.fixture
def before(redis_server: str, prefix: str) -> Callable[[Callable[[Registry], Awaitable[Any]]], Any]:
    """Does something with the registry before or after a command."""

    def act(what: Callable[[Registry], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            registry = await Registry.connect(redis_server, prefix=prefix, clock=lambda: NOW)
            try:
                return await what(registry)
            finally:
                await registry.close()

        return asyncio.run(main())

    return act


def test_list_says_what_runs_when(call: Run_, before: Any) -> None:
    before(with_shop)
    shown = call(cli.jobs, "list")
    assert shown.exit_code == 0, shown.output
    assert "the domain's schedule" in shown.output and "none is running" in shown.output
    found = json.loads(call(cli.jobs, "list", "--json").output)
    assert {j["name"] for j in found["jobs"]} >= {"optimize", "canary", "judge"}


def test_run_writes_a_trigger(call: Run_, before: Any) -> None:
    before(with_shop)
    shown = call(cli.jobs, "run", "drift", "--domain", "shop")
    assert shown.exit_code == 0 and "no scheduler is running" in shown.output
    (trigger,) = before(lambda registry: registry.open_triggers())
    assert (trigger.job, trigger.domain) == ("drift", "shop") and trigger.by.startswith("cli:")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "drfit", "--domain", "shop"), "did you mean 'drift'"),
        (("run", "drift"), "add --domain"),
        (("run", "drift", "--domain", "nowhere"), "no domain 'nowhere'"),
        (("run", "drift", "--domain", "shop", "--here"), "judged users"),
        (("report", "--domain", "shop"), "No report"),
    ],
)
def test_what_cannot_be_is_one_sentence(call: Run_, before: Any, words: tuple[str, ...], sentence: str) -> None:
    before(with_shop)
    shown = call(cli.jobs, *words)
    assert shown.exit_code == 1
    assert sentence in shown.output and "Traceback" not in shown.output


def test_optimize_asks_and_prints_the_id(call: Run_, before: Any) -> None:
    before(with_shop)
    shown = call(cli.optimize, "shop", "--no-follow", "--unseen", "movies", "--budget-calls", "500", "--why", "now")
    assert shown.exit_code == 0, shown.output
    run_id = shown.output.splitlines()[0]
    (trigger,) = before(lambda registry: registry.open_triggers())
    assert trigger.args["run"] == run_id and trigger.args["unseen"] == ["movies"]
    run = before(lambda registry: registry.get_run(run_id))
    assert run.budget.calls == 500 and run.why == "now"
    again = call(cli.optimize, "shop", "--no-follow")
    assert again.exit_code == 1 and run_id in again.output


async def _ended(registry: Registry) -> Run:
    await with_shop(registry)
    run = await registry.create_run("shop", request_id="one")
    plan = {"left_out": {"tiny": "too few examples"}}
    gate = {"outcome": "FAIL", "table": [{"name": "effect", "value": 0.01, "bound": ">= 0.02", "passed": False}]}
    done = msgspec.structs.replace(
        run, state="failed", reason="The endpoint was down.", calls={"base": 12}, gate=gate,
        result={"plan": plan, "winner": "Be brief.", "generations": [{"number": 1, "score": 0.5}]},
    )  # fmt: skip
    return await registry.update_run(done)


def test_runs_are_shown(call: Run_, before: Any) -> None:
    assert call(cli.runs, "list").output.strip() == "No runs."
    run = before(_ended)
    listed = call(cli.runs, "list")
    assert run.id in listed.output and "12 calls" in listed.output
    shown = call(cli.runs, "show", run.id)
    for part in ("The endpoint was down.", "left out: task tiny", "generation 1: 0.500", "FAILED", "Be brief."):
        assert part in shown.output
    assert json.loads(call(cli.runs, "show", run.id, "--json").output)["calls"] == {"base": 12}
    assert json.loads(call(cli.runs, "list", "--domain", "shop", "--json").output)[0]["id"] == run.id
    assert call(cli.runs, "show", "shop-none").exit_code == 1


def test_a_failed_run_is_resumed_as_a_new_one(call: Run_, before: Any) -> None:
    run = before(_ended)
    shown = call(cli.runs, "resume", run.id, "--no-follow")
    assert shown.exit_code == 0, shown.output
    (trigger,) = before(lambda registry: registry.open_triggers())
    assert trigger.args["resume"] == run.id and trigger.args["run"] != run.id
    live = call(cli.runs, "resume", trigger.args["run"], "--no-follow")
    assert live.exit_code == 1 and "nothing to resume" in live.output


def test_following_ends_with_the_run(call: Run_, before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import following

    run = before(_ended)
    before(lambda registry: registry.append_run_event(run.id, {"kind": "plan", "message": "Searching on two tasks."}))
    found = before(lambda registry: following.follow(registry, run, quiet=True))
    assert found.state == "failed"


def test_why_a_followed_run_failed_is_said_once(call: Run_, before: Any) -> None:
    async def fails(registry: Registry) -> None:
        while not (runs := await registry.list_runs("shop")):
            await asyncio.sleep(0.05)
        reason = "The endpoint was down."
        await registry.append_run_event(runs[0].id, {"kind": "plan", "message": "Searching on two tasks."})
        await registry.append_run_event(runs[0].id, {"kind": "end", "message": reason})
        await registry.update_run(msgspec.structs.replace(runs[0], state="failed", reason=reason))

    before(with_shop)
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(before, fails)
        shown = call(cli.optimize, "shop")
        failing.result()
    assert shown.exit_code == 1
    assert shown.output.splitlines()[1:] == ["plan: Searching on two tasks.", "failed: The endpoint was down."]


def test_calibrate_needs_a_judge(call: Run_, before: Any) -> None:
    before(with_shop)
    shown = call(cli.judge, "calibrate", "shop")
    assert shown.exit_code == 1 and "no judge_model" in shown.output


def test_simulate_canary_is_there(call: Run_) -> None:
    shown = call(cli.simulate, "canary", "--help")
    assert shown.exit_code == 0 and "--runs" in shown.output


def test_metrics_need_an_address(call: Run_) -> None:
    shown = call(cli.jobs, "worker", "--metrics", "nonsense")
    assert shown.exit_code == 1 and "HOST:PORT" in shown.output


def test_without_redis_it_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "metaspo.yaml"
    path.write_text(yaml.safe_dump({"home": str(tmp_path / "home")}))
    shown = CliRunner().invoke(cli.runs, ["list"], obj={"config": path})
    assert shown.exit_code == 1 and "metaspo up" in shown.output
