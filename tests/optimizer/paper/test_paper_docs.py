"""The pages of the paper's protocol say what the code does and what the raw results hold."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from benchmarks import paper_page
from optimizer.paper.catalogue import catalogue, read_task_file
from optimizer.paper.protocol import EXAMPLE, load_protocol
from optimizer.paper.raw import read_prompts, read_raw
from optimizer.paper.run import Run
from tests.optimizer.paper.world import WORDS
from tests.optimizer.scripted import Scripted

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"


def test_the_page_of_results_is_made_from_the_raw_results() -> None:
    text = (DOCS / "results.md").read_text("utf-8")
    part, drawn = paper_page.made()
    assert paper_page.page(text, part) == text, "run: python benchmarks/paper_page.py"
    for name, svg in drawn.items():
        assert (DOCS / "figures" / name).read_text("utf-8") == svg, f"run: python benchmarks/paper_page.py ({name})"


def test_every_raw_row_has_its_prompt() -> None:
    rows, prompts = read_raw(DOCS / "results" / "raw.jsonl"), read_prompts(DOCS / "results" / "prompts.jsonl")
    known = {prompt.sha256 for prompt in prompts}
    assert all(row.prompt_sha256 in known for row in rows if row.method != "constant")


def test_the_task_of_the_page_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(name: tickets.*?)```", (DOCS / "paper.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "tickets.yaml").write_text(block)
    task = read_task_file(tmp_path / "tickets.yaml")
    assert task.name == "tickets" and task.dataset is not None and catalogue(tmp_path)["tickets"] == task


async def test_the_metric_of_the_page_runs(tmp_path: Path) -> None:
    """The page's class and task file, word for word, in a run with a model that knows its numerals."""
    text = (DOCS / "paper.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(name: numerals.*?)```", text, re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?class Roman.*?)```", text, re.DOTALL)
    tasks, rows = tmp_path / "tasks", tmp_path / "data" / "numerals"
    tasks.mkdir()
    rows.mkdir(parents=True)
    (tasks / "numerals.yaml").write_text(block)
    (tasks / "roman.py").write_text(code)
    (rows / "task.json").write_text(
        json.dumps({"task": "numerals", "metric": "roman", "initial_prompt": "Which? {question}"})
    )
    for split, first in (("train", 0), ("test", 10)):
        lines = [{"id": f"{split}{i}", "question": f"{WORDS[i % 7]} {first + i}?", "answer": "xiv"} for i in range(60)]
        (rows / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {"models": {"base": {"model": "b"}}, "data": "data", "tasks": "tasks", "methods": ["default"], "seeds": [1],
            "domains": {"numbers": {"source": ["numerals"]}}, "train_rows": 10, "test_rows": 10, "fewer": True,
            "home": str(tmp_path / "home")}  # fmt: skip
    (tmp_path / "paper.yaml").write_text(json.dumps(told))
    base = Scripted(lambda request: "<answer>XIV</answer>")
    run = Run(load_protocol(tmp_path / "paper.yaml", env={}), clock=time.time, say=print, backends={"base": base})
    (row,) = await run.all()
    assert (row.task, row.score, row.malformed) == ("numerals", 1.0, 0.0)


def test_the_example_of_init_is_a_protocol(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text(EXAMPLE)
    found = load_protocol(tmp_path / "paper.yaml", env={})
    assert sum(len(tasks) for tasks in found.domains.values()) == 34


@pytest.mark.parametrize("name", ["paper_reduced.yaml", "paper_evidence.yaml"])
def test_the_protocols_behind_the_results_are_whole(name: str) -> None:
    found = load_protocol(ROOT / "benchmarks" / name, env={})
    for tasks in found.domains.values():
        roles = [task.role for task in tasks]
        assert roles.count("source") >= 3 and roles.count("unseen") >= 2
    assert found.test_rows >= 60 and len(found.seeds) == 2
