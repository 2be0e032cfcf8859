"""A small world for the paper's protocol: task files and rows on disk, models that a test writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from optimizer.paper.raw import RawRow
from optimizer.records import Request
from tests.optimizer.scripted import Scripted

LABELS = ("red", "blue")
MODELS = {"base": {"model": "scripted-base"}, "optimizer": {"model": "scripted-optimizer"}}
TAG = re.compile(r"between <(\w+)> and </\1>")


def row(method: str = "default", name: str = "anatomy", score: float = 0.4, **more: Any) -> RawRow:
    """A raw row of the table tests: Default on ``anatomy`` with one seed, unless told otherwise."""
    settings: dict[str, Any] = {
        "domain": "medical",
        "role": "unseen",
        "seed": 1,
        "n": 60,
        "low": max(0.0, score - 0.1),
        "high": min(1.0, score + 0.1),
        "base_model": "small",
        "optimizer_model": "large",
        "base_calls": 100,
        "optimizer_calls": 4,
        "prompt_tokens": 7,
    } | more
    return RawRow(method=method, task=name, score=score, **settings)


def write_world(folder: Path, *, source: int = 2, unseen: int = 1, train: int = 60, test: int = 30) -> Path:
    """Task files and rows of a domain ``colours``; the paper file that runs them."""
    names = [("source", f"s{i}") for i in range(source)] + [("unseen", f"u{i}") for i in range(unseen)]
    for role, name in names:
        write_task(folder / "tasks", name, role)
        write_rows(folder / "data" / "colours" / name, name, train=train, test=test)
    told = {
        "models": MODELS,
        "data": "data",
        "tasks": "tasks",
        "domains": ["colours"],
        "methods": ["default", "cot", "constant"],
        "seeds": [1],
        "train_rows": train,
        "test_rows": test,
        "user_prompts": 3,
        "home": str(folder / "home"),
        "budget_calls": 120,
        "sizes": {"iterations": 1, "user_candidates": 1, "user_keep": 1, "system_candidates": 2, "train_size": 8},
    }
    path = folder / "paper.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def change(path: Path, **changes: Any) -> None:
    """Change keys of a paper file."""
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def write_task(folder: Path, name: str, role: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "name": name,
        "domain": "colours",
        "role": role,
        "metric": "accuracy",
        "labels": list(LABELS),
        "prompt": f"Which colour has the thing of {name}?",
        "suffix": "{question}\n\nPut the colour between <answer> and </answer>.",
        "licence": "made for this test",
        "published": "bbh_text",
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(told))


def write_rows(folder: Path, name: str, *, train: int, test: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    described = {"task": name, "domain": "colours", "metric": "accuracy", "labels": list(LABELS),
                 "initial_prompt": "unused {question}"}  # fmt: skip
    (folder / "task.json").write_text(json.dumps(described))
    for split, size, first in (("train", train, 0), ("test", test, 10_000)):
        rows = [
            {"id": f"{name}-{split}-{i}", "question": f"{name} {WORDS[i % 7]} thing number {first + i}",
             "answer": LABELS[(first + i) % 2]}
            for i in range(size)
        ]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


WORDS = ("round", "old", "small", "heavy", "loud", "soft", "strange")


def right(request: Request) -> str:
    """The true colour, in tags."""
    number = int(re.findall(r"number (\d+)", request.messages[-1][1])[-1])
    return f"<answer>{LABELS[number % 2]}</answer>"


def needs_rule(request: Request) -> str:
    """Right only when the system prompt holds a rule; otherwise an answer without a colour."""
    held = any(role == "system" and "Rule" in text for role, text in request.messages)
    return right(request) if held else "I cannot say."


def writes_rules() -> Callable[[Request], str]:
    """An optimizer whose every reply has the tag that was asked for."""
    asked = iter(range(1, 1_000_000))

    def reply(request: Request) -> str:
        tags = TAG.findall(request.messages[-1][1])
        tag = tags[-1] if tags else "system_prompt"
        slot = "\n{question}" if "user" in tag else ""
        return f"<{tag}>Rule {next(asked)}: name the colour.{slot}</{tag}>"

    return reply


def backends(base: Callable[[Request], str] = right) -> dict[Any, Any]:
    """Scripted models for both roles."""
    return {"base": Scripted(base, "scripted-base"), "optimizer": Scripted(writes_rules(), "scripted-optimizer")}
