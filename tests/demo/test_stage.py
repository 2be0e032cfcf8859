"""What the demo stands on: its data, its sizes, its config, its models."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml

from demo import stage
from demo.app import LABELS, USER_PROMPT, Exchange, Notebook, first_label, read_rows
from demo.stage import DATA, DOMAIN, SIZES, SOURCES, UNSEEN
from demo.story import rows_of
from jobs.curate import Sizes, curate
from optimizer import load_task
from processes import ProcessError
from registry import Domain, JudgeSpec, Message, Sample, Task, load_settings


@pytest.mark.parametrize("name", [*SOURCES, UNSEEN])
def test_data_has_its_origin_its_licence_and_labels(name: str) -> None:
    told = json.loads((DATA / name / "task.json").read_text("utf-8"))
    assert told["licence"] == "CC BY 4.0"
    assert told["origin"][0]["commit"]
    assert told["initial_prompt"] == USER_PROMPT
    rows = read_rows(DATA / name, "train", 1000) + read_rows(DATA / name, "test", 1000)
    assert {row.answer for row in rows} == set(LABELS)
    assert len({row.id for row in rows}) == len(rows) == told["rows"]["train"] + told["rows"]["test"]
    assert len({row.question for row in rows}) == len(rows)


@pytest.mark.parametrize("name", [*SOURCES, UNSEEN])
def test_data_is_a_search_task_too(name: str) -> None:
    task = load_task(DATA / name, "unseen" if name == UNSEEN else "source")
    assert task.judge.lenient
    assert len(task.holdout) > 70


def test_the_full_demo_has_enough_rows_for_every_rule_of_the_gate() -> None:
    """Splits are functions of the content, so what holds here holds in every run."""
    task = Task(user_prompt=USER_PROMPT, judge=JudgeSpec(kind="choice", labels=LABELS, lenient=True))
    domain = Domain(name=DOMAIN, tasks=dict.fromkeys((*SOURCES, UNSEEN), task))
    samples = [
        Sample(
            id=f"{place:04d}",
            domain=DOMAIN,
            task=row.task,
            at=float(place),
            key="app",
            unit=f"customer-{place // 4}",
            messages=(Message(role="user", content=USER_PROMPT.replace("{question}", row.question)),),
            answer="positive",
            reference=row.answer,
        )
        for place, row in enumerate(rows_of(SIZES["full"]))
    ]
    curated = curate(domain, samples)
    assert {name: curated.task(name).short_of(Sizes()) for name in SOURCES} == dict.fromkeys(SOURCES, "")  # type: ignore[union-attr]
    assert len(curated.task(UNSEEN).holdout) >= 20  # type: ignore[union-attr]


def model(path: Path, role: str = "base") -> stage.LocalModel:
    return stage.LocalModel(role, f"{role}-1", path.stem, path, 9, 4, 1024)


def test_the_config_is_one_that_the_product_reads(tmp_path: Path) -> None:
    keys = stage.keys_of(tmp_path)
    assert stage.keys_of(tmp_path) == keys, "drawn once per home"
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    models = [model(Path("small.gguf")), model(Path("large.gguf"), "optimizer")]
    path = stage.write_config(tmp_path, stage.config_of(models, SIZES["full"], "127.0.0.1:8080"))
    settings = load_settings(path, {})
    assert settings.domains[DOMAIN].optimizer_model == "large"
    assert set(settings.domains[DOMAIN].tasks) == {*SOURCES, UNSEEN}
    assert {key.name: key.key for key in settings.keys} == {
        "shop-app": keys.app,
        "search": keys.search,
        "operator": keys.operator,
    }
    assert not any(key in path.read_text() for key in (keys.app, keys.search, keys.operator))
    assert yaml.safe_load(path.read_text())["domains"][DOMAIN]["system_prompt"] == stage.FIRST_PROMPT


def test_a_folder_of_models_gives_the_largest_the_pen(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the embedded language model is not installed")
    for name, size in (("tiny", 1), ("middle", 2), ("big", 3)):
        (tmp_path / f"{name}.gguf").write_bytes(b"x" * size)
    chosen = stage.choose_models(None, tmp_path)
    assert [(one.role, one.name) for one in chosen] == [("base", "middle"), ("optimizer", "big")]


def test_a_folder_with_one_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the embedded language model is not installed")
    (tmp_path / "only.gguf").write_bytes(b"x")
    with pytest.raises(ProcessError, match="two GGUF files, a base model and a larger optimizer model; 1 found"):
        stage.choose_models(None, tmp_path)


def test_a_notebook_survives_a_line_that_was_not_finished(tmp_path: Path) -> None:
    book = Notebook(tmp_path / "exchanges.jsonl")
    exchange = Exchange("row", "task", "reply \u0085 here", "id", 1, "stable")
    book.add(exchange)
    with book.path.open("a") as file:
        file.write('{"row": "cut o')
    assert book.read() == [exchange]


@pytest.mark.parametrize(
    ("reply", "label"),
    [("It is negative, not positive.", "negative"), ("Positive!", "positive"), ("I cannot say.", None)],
)
def test_the_app_reads_the_first_label(reply: str, label: str | None) -> None:
    assert first_label(reply) == label
