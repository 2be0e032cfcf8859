"""Task folders: how rows become splits, and one clear sentence for every way a file can be wrong."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.errors import DataError
from optimizer.records import Example, JudgeSpec
from optimizer.tasks.clusters import clusters_of, fraction
from optimizer.tasks.folders import TaskSettings, load_task, split_traffic
from optimizer.tasks.rows import LONGEST_LINE, read_rows

WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "music",
    "paper",
    "garden",
    "window",
    "silver",
    "forest",
    "market",
    "candle",
    "bridge",
    "winter",
    "summer",
]


def rows(n: int, prefix: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{prefix}-{i}", "question": f"{prefix} {WORDS[i % 15]} {WORDS[i // 15 % 15]} {i}", "answer": "yes"}
        for i in range(n)
    ]


def folder(
    path: Path,
    *,
    task: dict[str, Any] | None = None,
    train: list[Any] | None = None,
    test: list[Any] | None = None,
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    told = {
        "task": path.name,
        "domain": "toys",
        "role": "source",
        "metric": "accuracy",
        "labels": ["yes", "no"],
        "initial_prompt": "Yes or no? {question}",
        "origin": [{"repository": "x/y"}],
        **(task or {}),
    }
    (path / "task.json").write_text(json.dumps(told))
    splits = {"train": rows(80, "train") if train is None else train, "test": test or rows(60, "test")}
    for name, content in splits.items():
        lines = [row if isinstance(row, str) else json.dumps(row) for row in content]
        (path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_a_folder_becomes_a_task(tmp_path: Path) -> None:
    task = load_task(folder(tmp_path / "toy"))
    assert (task.name, task.domain, task.role) == ("toy", "toys", "source")
    assert task.judge.kind == "choice"
    assert len(task.reflect) + len(task.select) == 80
    assert 20 <= len(task.reflect) <= 44
    assert len(task.holdout) == 60
    assert task.gated
    assert [example.position for example in task.train] == list(range(1, 81))
    assert {e.cluster for e in task.reflect}.isdisjoint(e.cluster for e in task.select)


def test_a_split_is_a_function_of_the_content(tmp_path: Path) -> None:
    before = load_task(folder(tmp_path / "a"))
    shuffled = [{**row, "id": f"new-{i}"} for i, row in enumerate(reversed(rows(80, "train")))]
    after = load_task(folder(tmp_path / "b", train=shuffled))
    assert {e.question for e in before.reflect} == {e.question for e in after.reflect}


def test_near_duplicates_stay_together_and_do_not_cross_into_the_holdout(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog while the cat sleeps on the warm windowsill all day"
    other = "a committee of engineers met twice last week to discuss the cost of the new bridge over the river"
    train = [*rows(60, "train")]
    train += [{"id": f"fox-{i}", "question": f"{text} {i}", "answer": "no"} for i in range(6)]
    train += [{"id": "leak", "question": other.upper(), "answer": "no"}]
    task = load_task(
        folder(tmp_path / "toy", train=train, test=[*rows(50, "test"), {**rows(1, "z")[0], "question": other}])
    )
    foxes = [[e for e in part if e.id.startswith("fox")] for part in (task.reflect, task.select)]
    assert sorted(len(part) for part in foxes) == [0, 6]
    assert "leak" not in {e.id for e in task.train}
    assert task.notes == ("1 of 67 train rows nearly equal a test row and were left out.",)


def test_an_unseen_task_needs_no_train_rows(tmp_path: Path) -> None:
    path = folder(tmp_path / "toy")
    (path / "train.jsonl").unlink()
    task = load_task(path, "unseen")
    assert (task.role, task.reflect, len(task.holdout)) == ("unseen", (), 60)


def test_settings_go_before_the_file(tmp_path: Path) -> None:
    path = folder(tmp_path / "toy", task={"lenient": False})
    settings = TaskSettings(
        path=str(path),
        lenient=True,
        user_prompt="Well? {question}",
        editable_user_prompt=False,
        robustness_prompts=["So? {question}"],
        train=40,
        test=10,
    )
    task = load_task(path, settings=settings)
    assert task.judge.lenient
    assert task.user_prompt == "Well? {question}"
    assert task.robustness_prompts == ("So? {question}",)
    assert not task.editable_user_prompt
    assert (len(task.train), len(task.holdout)) == (40, 10)


@pytest.mark.parametrize(("labels", "kind"), [(["yes", "no"], "choice"), (None, "exact")])
def test_without_a_metric_labels_name_the_judge(tmp_path: Path, labels: list[str] | None, kind: str) -> None:
    place = folder(tmp_path / "toy", task={"labels": labels})
    told = json.loads((place / "task.json").read_text())
    del told["metric"]
    (place / "task.json").write_text(json.dumps(told))
    task = load_task(place)
    assert (task.judge.kind, task.judge.labels) == (kind, tuple(labels or ()))


@pytest.mark.parametrize(
    ("metric", "labels", "kind"),
    [
        ("accuracy", ["yes", "no"], "choice"),
        ("accuracy", None, "exact"),
        ("macro_f1", ["yes", "no"], "macro_f1"),
        ("exact_match", None, "exact"),
        ("judge", None, "rubric"),
        ("number", None, "number"),
    ],
)
def test_the_metric_names_the_judge(tmp_path: Path, metric: str, labels: list[str] | None, kind: str) -> None:
    test = [{**row, "answer": "yes" if kind != "number" else "4"} for row in rows(60, "test")]
    train = [{**row, "answer": "yes" if kind != "number" else "4"} for row in rows(60, "train")]
    task = load_task(folder(tmp_path / "toy", task={"metric": metric, "labels": labels}, train=train, test=test))
    assert task.judge.kind == kind


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"initial_prompt": "Yes or no?"}, r"slot \{question\} exactly once, it does 0 times"),
        ({"initial_prompt": "{question} {question}"}, "it does 2 times"),
        ({"initial_prompt": "  "}, "user prompt is empty"),
        ({"initial_prompt": 5}, r"Expected `str`, got `int` - at `\$.initial_prompt`"),
        ({"labels": ["yes", "YES"]}, "one label twice"),
        ({"labels": "yes"}, r"Expected `array \| null`, got `str`"),
        ({"metric": "vibes"}, "metric 'vibes' is not known"),
        ({"metric": "macro_f1", "labels": None}, "needs `labels`"),
        ({"judge": {"kinds": "exact"}}, "`judge` has no key 'kinds'"),
        ({"judge": {"kind": "magic"}}, "no judge of the kind 'magic'"),
        ({"task": " "}, "task's name"),
        ({"role": "hero"}, r"Invalid enum value 'hero'.* A role is source, unseen or extra\."),
        ({"metric": "mcro_f1"}, r"metric 'mcro_f1' is not known\. Did you mean 'macro_f1'"),
        ({"judge": {"kind": "choise"}}, r"kind 'choise'\. Did you mean 'choice'"),
    ],
)
def test_a_wrong_task_file(tmp_path: Path, task: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        load_task(folder(tmp_path / "toy", task=task))
    assert str(tmp_path / "toy" / "task.json") in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_ROWS: list[tuple[Any, str]] = [
    ({"id": "train-0", "question": "q", "answer": "yes"}, "'train-0' was used on line 1"),
    (
        {"id": "x", "question": "q", "answer": "maybe"},
        r"'maybe' is none of the task's labels \(yes, no\)\. Write it",
    ),
    (
        {"id": "x", "question": "q", "answer": "yess"},
        r"Did you mean 'yes'\? Write it as one .* or add it .*`labels`",
    ),
    ({"id": "x", "quesiton": "q", "answer": "yes"}, r"`question` must be .* missing\. Did you mean 'quesiton'"),
    ({"id": "x", "question": "   ", "answer": "yes"}, "`question` is empty"),
    ({"id": "x", "question": None, "answer": "yes"}, "`question` must be a text, it is missing"),
    ({"id": "x", "question": ["q"], "answer": "yes"}, "`question` must be a text, it is a list"),
    ({"id": "x", "question": "q"}, "no `answer`"),
    ({"id": "x", "question": "q", "answer": {"a": 1}}, "`answer` must be a text or a number, it is an object"),
    ({"id": "x", "question": "q", "answer": True}, "it is true or false"),
    ({"id": "x", "question": "q", "answers": "yes"}, "`answers` must be a list"),
    ({"question": "q", "answer": "yes"}, "has no `id`"),
    ({"id": "", "question": "q", "answer": "yes"}, "has no `id`"),
    (
        {"id": "x", "question": "q", "answer": "yes", "history": [{"role": "bot", "content": "x"}]},
        "each turn of `history`",
    ),
    ("[1, 2]", "must be a JSON object, this one is a list"),
    ('{"id": "x", "question": ', "not valid JSON"),
    ("[" * 100_000, "not valid JSON"),
]


@pytest.mark.parametrize(("row", "told"), BAD_ROWS)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, row: Any, told: str) -> None:
    path = folder(tmp_path / "toy", train=[*rows(60, "train"), row])
    with pytest.raises(DataError, match=told) as caught:
        load_task(path)
    assert str(caught.value).startswith(f"{path / 'train.jsonl'}:61: ")


@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)), max_size=6))
def test_no_bytes_break_the_reader(lines: list[bytes]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(lines))
        file.flush()
        try:
            read_rows(Path(file.name), JudgeSpec())
        except DataError as error:
            assert str(error).startswith(f"{file.name}:")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "question", "answer", "answers", "history", "unit"), JSON))
)
def test_no_row_breaks_the_reader(row: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write(json.dumps(row))
        file.flush()
        try:
            (example,) = read_rows(Path(file.name), JudgeSpec())
        except DataError as error:
            assert str(error).startswith(f"{file.name}:1: ")
        else:
            assert example.question.strip()
            assert example.answers


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = folder(tmp_path / "toy")
    with (path / "test.jsonl").open("ab") as file:
        file.write(b'{"id": "x", "question": "caf\xe9", "answer": "yes"}\n')
    with pytest.raises(DataError, match=r"test.jsonl:61: byte 29 is not UTF-8"):
        load_task(path)


def test_a_line_of_100_megabytes_is_not_read(tmp_path: Path) -> None:
    path = folder(tmp_path / "toy")
    with (path / "train.jsonl").open("ab") as file:
        file.truncate(file.tell() + 100 * 1024**2)  # sparse: a long line of zero bytes
    with pytest.raises(DataError, match=rf"train.jsonl:81: the line is longer than {LONGEST_LINE // 1024**2} MiB"):
        load_task(path)


def test_a_byte_order_mark_and_blank_lines_are_forgiven(tmp_path: Path) -> None:
    path = folder(tmp_path / "toy")
    text = (path / "train.jsonl").read_text()
    (path / "train.jsonl").write_text("\ufeff" + text + "\n\n", encoding="utf-8")
    assert len(load_task(path).train) == 80


@pytest.mark.parametrize("name", ["task.json", "train.jsonl", "test.jsonl"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "toy")
    (path / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        load_task(path)


def test_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 usable rows are too few"):
        load_task(folder(tmp_path / "toy", train=rows(1, "train")))
    path = folder(tmp_path / "other")
    (path / "test.jsonl").write_text("")
    with pytest.raises(DataError, match="there is no row"):
        load_task(path)
    small = load_task(folder(tmp_path / "small", train=rows(20, "train"), test=rows(10, "test")))
    assert not small.gated


def test_shared_ids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"share ids \(train-0\)"):
        load_task(folder(tmp_path / "toy", test=[*rows(3, "test"), {**rows(1, "train")[0], "question": "other"}]))


def test_traffic_splits_by_cluster_and_confirms_once() -> None:
    examples = [Example(id=str(i), question=f"{WORDS[i % 15]} {WORDS[i // 15 % 15]} {i}") for i in range(400)]
    reflect, select, holdout = split_traffic(examples)
    assert [round(len(part) / 400, 1) for part in (reflect, select, holdout)] == [0.2, 0.3, 0.5]
    used = {example.cluster for example in holdout[:50]}
    again = split_traffic(examples, used=used)
    assert len(again[0]) == len(reflect) + 50
    assert used.isdisjoint(example.cluster for example in again[2])


def test_clusters_do_not_depend_on_order() -> None:
    texts = [f"{word} is a word that stands in a sentence of its own here" for word in WORDS] * 2
    names = dict(zip(texts, clusters_of(texts), strict=True))
    assert dict(zip(texts[::-1], clusters_of(texts[::-1]), strict=True)) == names
    assert len(set(clusters_of(["one", "two", "one two three four"]))) == 3
    assert 0.0 <= fraction("x") < 1.0
