"""The estimate is an upper bound: runs against an endpoint on loopback never make more calls of a role than were
foreseen, cell by cell."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from metaspo import cli
from optimizer.paper.estimate import CellEstimate, Pace, usd_of
from optimizer.paper.methods import FAITHFUL
from optimizer.paper.protocol import Cell, cells_of, load_protocol
from optimizer.paper.run import Run
from tests.optimizer.endpoint import serve
from tests.optimizer.paper.world import LABELS, TAG, change, write_world

METHODS = ["default", "one_shot", "sprig", "metaspo", FAITHFUL, "outer_loop", "metaspo_ape", "metaspo_evo"]
ROLES = ("base", "optimizer", "judge")


def draw(*parts: object) -> int:
    """0..9, the same for the same parts."""
    return hashlib.sha256(repr(parts).encode()).digest()[0] % 10


def base_reply(messages: list[dict[str, str]]) -> str:
    """Often wrong or without form; better where the system prompt holds a rule."""
    question = messages[-1]["content"]
    number = int(re.findall(r"number (\d+)", question)[-1])
    chance = 7 if "Rule" in messages[0]["content"] else 3
    lucky = draw(messages) < chance
    return f"<answer>{LABELS[number % 2]}</answer>" if lucky else ("I cannot say.", "<answer>red</answer>")[number % 2]


def judge_reply(messages: list[dict[str, str]]) -> str:
    """Passes what agrees with the reference; every second verdict can be read only when asked for again."""
    shown = messages[-1]["content"]
    if draw(shown) < 5 and "could not be read" not in shown:
        return "Hard to say."
    reference, answer = (
        re.findall(rf"<{name}-\w+>\n(.*?)\n</{name}", shown, re.DOTALL) for name in ("reference", "answer")
    )
    agrees = "yes" if reference and answer and reference[0] in answer[0] else "no"
    names = re.findall(r"^([cg]\d+):", shown, re.MULTILINE)
    checks = [{"id": n, "evidence": "as it says", "verdict": agrees if n[0] == "c" else "no"} for n in names]
    return json.dumps({"checks": checks, "injection_suspected": False, "critique": ""})


class Endpoint:
    """All three models behind one address; the optimizer's every other analysis cannot be read."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any]) -> str:
        role, messages = body["model"], body["messages"]
        self.made[role] += 1
        if role == "base":
            return base_reply(messages)
        if role == "judge":
            return judge_reply(messages)
        number, last = self.made[role], messages[-1]["content"]
        if "response_format" in body:
            fields = body["response_format"]["json_schema"]["schema"]["properties"]
            if "findings" in fields:
                rows = [{"type": "format", "text": f"Finding {number} about form."}]
                return json.dumps({"findings": rows}) if number % 2 else "I am not sure."
            if "hypotheses" in fields:
                rows = [{"label": f"h{n}", "cause": "none", "change": f"Rule {number}.{n}: name it."} for n in range(9)]
                return json.dumps({"hypotheses": rows})
            (name,) = fields
            return json.dumps({name: f"Rule {number}: name the colour."})
        if not (tags := TAG.findall(last)):
            return f"```\nRule {number}: name the colour.\n```"
        slot = "\n{question}" if "user" in tags[-1] else ""
        return f"<{tags[-1]}>Rule {number}: name the colour.{slot}</{tags[-1]}>"


def judged(path: Path, *names: str) -> None:
    """Let a judge model score these tasks."""
    for name in names:
        file = path.parent / "tasks" / f"{name}.yaml"
        told = yaml.safe_load(file.read_text()) | {"metric": "judge", "labels": [], "published": ""}
        file.write_text(yaml.safe_dump(told))
        folder = path.parent / "data" / "colours" / name / "task.json"
        folder.write_text(json.dumps(json.loads(folder.read_text()) | {"metric": "judge", "labels": None}))


def role_counts(found: CellEstimate) -> dict[str, int]:
    return {"base": found.base, "optimizer": found.search_optimizer, "judge": found.judging}


@pytest.mark.parametrize(
    ("by_model", "budget", "more"),
    [
        ((), 120, {}),
        (("s1", "u0"), 400, {"adapt": ["default", "cot"], "user_prompts_by": "optimizer"}),
        ((), 1500, {"adapt": ["default"], "source_counts": [1], "ask": "rotate", "measure_sources": False}),
    ],
)
async def test_no_cell_makes_more_calls_of_any_role_than_were_foreseen(
    tmp_path: Path, by_model: tuple[str, ...], budget: int, more: dict[str, Any]
) -> None:
    pytest.importorskip("gepa")
    path, endpoint, seen = write_world(tmp_path), Endpoint(), []
    judged(path, *by_model)
    async with serve(endpoint) as server:
        models = {role: {"model": role, "api_base": server.url, "max_tokens": 64} for role in ROLES}
        sizes = {"iterations": 2, "user_candidates": 1, "user_keep": 3, "system_candidates": 2, "train_size": 6}
        change(path, models=models, methods=[*METHODS, "gepa"], budget_calls=budget, sizes=sizes, **more)
        running = Run(
            load_protocol(path),
            clock=time.time,
            say=lambda _: None,
            at_cell=lambda *_: seen.append(Counter(endpoint.made)),
        )
        await running.all()
    cells = cells_of(running.protocol)
    foreseen = dict(running.estimates())
    made = [later - before for before, later in pairwise([Counter[str](), *seen])]
    assert len(made) == len(cells) + 1
    for cell, calls in zip((None, *cells), made, strict=True):
        most = foreseen.get(cell, CellEstimate())
        title = cell.title if cell else "user prompts"
        for role, limit in role_counts(most).items():
            assert calls[role] <= limit, f"{title}: {calls[role]} {role} calls, {limit} foreseen"
        assert calls.total() <= most.calls, title
    by_method = {cell.method: calls for cell, calls in zip(cells, made[1:], strict=True) if not cell.adapted}
    assert by_method["sprig"]["optimizer"] == 0 < by_method["gepa"]["optimizer"]
    assert by_method["metaspo"]["optimizer"] > 2 and by_method["one_shot"]["optimizer"] == 1
    assert bool(by_model) == bool(sum(calls["judge"] for calls in made))
    ledger = json.loads((tmp_path / "home" / "ledger.json").read_text())
    assert ledger["calls"] == endpoint.made.total() <= ledger["estimated_calls"]


def test_the_judge_has_a_column_and_its_price_is_in_the_range(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    judged(path, "s0", "u0")
    model = {"model": "m", "price_in": 1, "price_out": 1}
    change(path, models={"base": model, "optimizer": model, "judge": {"model": "j", "price_in": 100, "price_out": 100}})
    change(path, methods=["default", "metaspo"], user_prompts_by="optimizer")
    words = ["paper", "estimate", str(path), "--calls-per-second", "2", "--judge-seconds", "3"]
    page = CliRunner().invoke(cli, words).output
    assert "judge" in page.splitlines()[0] and "user prompts, written once" in page
    # 90 answers under three user prompts and 30 of the judged source task, each judged twice at most
    default = next(line for line in page.splitlines() if line.startswith("colours, default"))
    assert default.split()[-5:] == ["0", "150", "0", "240", "0.22"]
    written = next(line for line in page.splitlines() if line.startswith("user prompts"))
    assert written.split()[-4:-1] == ["0", str(3 * 3), "0"]
    told = json.loads(CliRunner().invoke(cli, ["paper", "estimate", str(path), "--json"]).stdout)
    change(path, models={"base": model, "optimizer": model, "judge": model})
    cheap = json.loads(CliRunner().invoke(cli, ["paper", "estimate", str(path), "--json"]).stdout)
    assert told["usd"]["low"] > 5 * cheap["usd"]["low"] and told["usd"]["high"] > 5 * cheap["usd"]["high"]


def test_money_and_time_keep_the_budget_and_go_to_the_dearest_role(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, models={"base": {"model": "b", "price_in": 1, "price_out": 1}})
    protocol = load_protocol(path)
    found = CellEstimate(search_base=100, search_optimizer=30, judging=50, over=60)
    assert found.calls == 120 and found.within((1.0, 5.0, 0.5)) == (90, 30, 0)
    assert found.seconds(Pace(base_per_second=1, optimizer_seconds=5, judge_seconds=0.5)) == 90 + 150
    cell = Cell(domain="colours", method="metaspo", seed=1)
    assert usd_of(protocol, [(cell, CellEstimate(search_base=10))], {}) is not None
    change(path, other_bases=[{"model": "unpriced"}])
    elsewhere = Cell(domain="colours", method="metaspo", seed=1, base=1)
    assert usd_of(load_protocol(path), [(elsewhere, CellEstimate(measuring=10))], {}) is None


def test_a_prompt_that_an_adaptation_alone_needs_is_counted_there(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    change(path, methods=["default", "metaspo"], adapt=["metaspo"])

    def adaptation() -> CellEstimate:
        run = Run(load_protocol(path), clock=time.time, say=lambda _: None)
        run.load_tasks()
        return next(found for cell, found in run.estimates() if cell is not None and cell.adapted)

    beside = adaptation()
    change(path, methods=["default"])
    assert adaptation().search_base > beside.search_base + 100
