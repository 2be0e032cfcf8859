"""The judge on known pairs: a good one passes only what is right, a gullible one is found out."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from metaspo import cli
from optimizer.errors import RunBlocked
from optimizer.paper.known import known_pairs, rates_table
from optimizer.records import Example, JudgeSpec, Models, ModelSpec, Request, SearchTask
from tests.optimizer.paper.world import write_world
from tests.optimizer.scripted import Scripted


def judged(kind: str = "rubric") -> SearchTask:
    rows = tuple(
        Example(id=f"e{i}", question=f"What is {i} + {i}?", answers=(str(2 * i),), position=i) for i in range(1, 13)
    )
    settings: dict[str, Any] = {"rubric": ("The result agrees with the reference.",)} if kind == "rubric" else {}
    return SearchTask(name="sums", user_prompt="{question}", judge=JudgeSpec(kind=kind, **settings), holdout=rows)


def always_yes(request: Request) -> str:
    """A judge that finds every criterion met and no fault."""
    verdicts = {"c1": "yes", "g1": "no", "g2": "no", "g3": "no"}
    checks = [{"id": name, "evidence": "as it says", "verdict": verdict} for name, verdict in verdicts.items()]
    return json.dumps({"checks": checks, "injection_suspected": False, "critique": ""})


def comparing(taste: str) -> Scripted:
    """A judge that finds everything good, and of two answers takes the first, or the one that is the reference."""

    def reply(request: Request) -> str:
        if "better" not in (request.schema or {})["properties"]:
            return always_yes(request)
        shown = request.messages[-1][1]
        reference, first = (re.findall(rf"<{name}-\w+>\n(.*)\n", shown)[0] for name in ("reference", "first"))
        better = "first" if taste == "first" or first == reference else "second"
        return json.dumps({"reason": "as it says", "better": better})

    return Scripted(reply)


async def rates(task: SearchTask, home: Path, backends: Any = None) -> dict[str, float]:
    models = Models(base=ModelSpec(model="b"), judge=ModelSpec(model="j") if backends else None)
    given = {"base": Scripted(lambda _: ""), **(backends or {})}
    found = await known_pairs(models, [task], rows=12, home=home, clock=time.time, backends=given)
    assert len(rates_table(found).rows) == (6 if backends else 4)
    return {rate.kind: rate.share for rate in found}


async def test_a_judge_by_rule_passes_only_what_is_right(tmp_path: Path) -> None:
    found = await rates(judged("number"), tmp_path)
    assert found == {"right": 1.0, "wrong": 0.0, "swapped reference": 0.0, "attack": 0.0}


async def test_a_gullible_judge_is_found_out(tmp_path: Path) -> None:
    found = await rates(judged(), tmp_path, {"judge": comparing("first")})
    assert found["right"] == found["wrong"] == found["swapped reference"] == 1.0
    assert found["pair: right preferred"] == found["pair: same when swapped"] == 0.0


async def test_a_judge_of_pairs_must_prefer_what_is_right_from_both_places(tmp_path: Path) -> None:
    found = await rates(judged(), tmp_path, {"judge": comparing("right")})
    assert found["pair: right preferred"] == found["pair: same when swapped"] == 1.0


async def test_without_a_judge_model_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunBlocked, match="models: judge:"):
        await rates(judged(), tmp_path)


def test_the_command(tmp_path: Path) -> None:
    path = str(write_world(tmp_path))
    refused = CliRunner().invoke(cli, ["paper", "judge", path])
    assert refused.exit_code == 1 and "no task that a judge model scores" in refused.output
