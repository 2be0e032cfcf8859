"""The judge on known pairs: a good one passes only what is right, a gullible one is found out."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from metaspo import cli
from optimizer.errors import RunBlocked
from optimizer.paper.known import Rate, changed_step, known_pairs, pairs_of, rates_table, right_answer
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
    assert found["right: bare reference"] == found["wrong"] == found["swapped reference"] == 1.0
    assert found["pair: right preferred"] == found["pair: same when swapped"] == 0.0


async def test_a_judge_of_pairs_must_prefer_what_is_right_from_both_places(tmp_path: Path) -> None:
    found = await rates(judged(), tmp_path, {"judge": comparing("right")})
    assert found["pair: right preferred"] == found["pair: same when swapped"] == 1.0


def worked(i: int = 3, result: str = "") -> Example:
    """A row as the public original gives it: the bare result, and the solution with its marks."""
    result = result or str(7 * i)
    text = (
        f"She buys {i} times 7 = <<{i}*7={result}>>{result} apples.\nSo she has ${result} worth of apples.\n"
        f"#### {result}"
    )
    return Example(id=f"w{i}", question=f"What are {i} times 7 apples?", answers=(result, text), position=i)


def with_rows(*rows: Example) -> SearchTask:
    return SearchTask(name="apples", user_prompt="{question}", judge=JudgeSpec(kind="rubric"), holdout=rows)


def test_a_right_answer_is_the_worked_solution_and_a_wrong_one_has_its_form() -> None:
    task, row = with_rows(), worked(3)
    assert right_answer(task, row) == (
        "She buys 3 times 7 = 21 apples.\nSo she has $21 worth of apples.\nThe result is 21."
    )
    wrong = changed_step(task, row)
    assert wrong is not None and wrong == changed_step(task, row) and "21" not in wrong
    changed = set(re.findall(r"\d+", wrong)) - {"3", "7"}
    assert len(changed) == 1 and len(re.findall(changed.pop(), wrong)) == 3
    assert wrong.startswith("She buys 3 times 7 = ")


@pytest.mark.parametrize(("result", "places"), [("1,200", 0), ("3.50", 2), ("9", 0), ("0.25", 2)])
def test_a_changed_result_keeps_its_form(result: str, places: int) -> None:
    wrong = changed_step(with_rows(), worked(3, result))
    assert wrong is not None
    last = re.findall(r"[\d.]*\d", wrong)[-1]
    assert last != result.replace(",", "") and len(last.partition(".")[2]) == places


def test_what_is_known_is_sorted_by_its_form() -> None:
    bare = Example(id="b", question="What is 2 + 2?", answers=("4",), position=9)
    long = Example(id="l", question="Why?", answers=("Because every step of the proof " + "follows " * 9,), position=10)
    rows = [worked(3), worked(4), bare, long]
    kinds = pairs_of(with_rows(*rows), rows)
    assert [example.id for example in kinds["right: worked solution"][0]] == ["w3", "w4", "l"]
    assert kinds["right: bare reference"] == ([bare], ["4"])
    assert [example.id for example in kinds["wrong: changed step"][0]] == ["w3", "w4"]
    assert kinds["wrong"][1][0] == right_answer(with_rows(), rows[1])
    assert changed_step(with_rows(), long) is None


async def test_an_answer_without_a_verdict_has_not_failed(tmp_path: Path) -> None:
    """A judge that assesses steps only where there are some, and then takes no wrong number for a right one."""

    def reply(request: Request) -> str:
        if "better" in (request.schema or {})["properties"]:
            return json.dumps({"reason": "as it says", "better": "equal"})
        shown = request.messages[-1][1]
        answer = re.findall(r"<answer-\w+>\n(.*?)\n</answer", shown, re.DOTALL)[0]
        reference = re.findall(r"<reference-\w+>\n(.*?)\n</reference", shown, re.DOTALL)[0]
        right = "yes" if f"The result is {reference}." in answer else "no"
        verdict = right if "=" in answer or "grader" in answer else "cannot_assess"
        names = [*(f"c{i}" for i in range(1, 6)), "g1", "g2", "g3"]
        checks = [{"id": n, "evidence": "", "verdict": verdict if n[0] == "c" else "no"} for n in names]
        return json.dumps({"checks": checks, "injection_suspected": False, "critique": ""})

    bare = tuple(Example(id=f"b{i}", question=f"{i}?", answers=(str(90 + i),), position=i) for i in range(3))
    task = with_rows(*(worked(i) for i in range(2, 8)), *bare)
    models = Models(base=ModelSpec(model="b"), judge=ModelSpec(model="j"))
    given: Any = {"base": Scripted(lambda _: ""), "judge": Scripted(reply)}
    found = await known_pairs(models, [task], rows=12, home=tmp_path, clock=time.time, backends=given)
    counts = {rate.kind: (rate.passed, rate.failed, rate.unscored) for rate in found}
    assert counts["right: worked solution"] == (6, 0, 0)
    assert counts["right: bare reference"] == (0, 0, 3)
    assert counts["wrong: changed step"] == (0, 6, 0)
    (bare_rate,) = (rate for rate in found if rate.kind == "right: bare reference")
    assert bare_rate.reasons == {"judge could not assess enough": 3} and bare_rate.n == 0
    shown = {row[1]: row[2:] for row in rates_table(found).rows}
    assert shown["right: bare reference"] == (None, "0", "0", "3")


def test_published_rates_and_those_of_earlier_runs_are_read() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "results" / "judge_known_pairs.json").read_bytes()
    published = msgspec.json.decode(text, type=list[Rate])
    assert {rate.passed + rate.failed + rate.unscored for rate in published} == {12}
    earlier = b'{"task": "t", "kind": "right", "share": 0.5, "low": 0.1, "high": 0.9, "n": 4, "unscored": 1}'
    assert msgspec.json.decode(earlier, type=Rate).unscored == 1


async def test_without_a_judge_model_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunBlocked, match="models: judge:"):
        await rates(judged(), tmp_path)


def test_the_command(tmp_path: Path) -> None:
    path = str(write_world(tmp_path))
    refused = CliRunner().invoke(cli, ["paper", "judge", path])
    assert refused.exit_code == 1 and "no task that a judge model scores" in refused.output
