"""The catalogue of the paper's tasks: what is in it, how a task is added, where its rows come from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.errors import DataError
from optimizer.judges import judge_for
from optimizer.paper.catalogue import PAPER_DOMAINS, Origin, PaperTask, catalogue, domain_tasks, pick
from optimizer.paper.mapping import examples_of
from optimizer.paper.rows import from_library, load
from optimizer.records import SLOT
from tests.optimizer.paper.world import LABELS, write_rows, write_task

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def loaded(task: PaperTask, folder: Path, **more: Any) -> Any:
    return load(task, **{"data": folder / "data", "cache": folder / "cache", "train": 60, "test": 30} | more)


def test_the_catalogue_holds_the_papers_tasks() -> None:
    tasks = catalogue()
    of_paper = [task for name in PAPER_DOMAINS for task in domain_tasks(tasks, name)]
    assert sum(task.role == "source" for task in of_paper) == 20
    assert sum(task.role == "unseen" for task in of_paper) == 14
    assert {"gsm8k", "gsm8k_judged", "algebra", "algebra_judged", "banking77"} <= set(tasks)


@pytest.mark.parametrize("task", catalogue().values(), ids=lambda task: task.name)
def test_every_task_file_is_whole(task: PaperTask) -> None:
    assert task.licence
    assert task.initial_prompt.count(SLOT) == 1
    if task.metric in ("accuracy", "macro_f1"):
        assert len(set(task.labels)) == len(task.labels) > 1
    if task.dataset and task.dataset.map and task.labels:
        assert set(task.dataset.map.values()) <= set(task.labels)


def test_a_task_is_added_by_one_file(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", "shades", "source")
    write_rows(tmp_path / "data" / "colours" / "shades", "shades", train=60, test=30)
    task = catalogue(tmp_path / "tasks")["shades"]
    found = loaded(task, tmp_path)
    assert (found.name, found.role, len(found.train), len(found.holdout)) == ("shades", "source", 60, 30)
    assert found.user_prompt.startswith("Which colour has the thing of shades?")
    example = found.holdout[0]
    judge: Any = judge_for(found.judge)
    assert judge.verdict(example, f"<answer>{example.answers[0]}</answer>").score == 1.0


def test_an_unknown_task_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(DataError, match=r"'anatomi' is not in the catalogue.*'anatomy'"):
        pick(catalogue(), ["anatomi"])
    with pytest.raises(DataError, match=r"'medicals' is not in the catalogue.*'medical'"):
        domain_tasks(catalogue(), "medicals")


def test_a_task_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\nrole: sauce\n")
    with pytest.raises(DataError, match=r"bad\.yaml: no task file .*A role is source, unseen or extra"):
        catalogue(tmp_path)
    (tmp_path / "bad.yaml").write_text("name: bad\nrole: source\nmetrik: f1\n")
    with pytest.raises(DataError, match=r"unknown field `metrik`.*Did you mean 'metric'"):
        catalogue(tmp_path)
    (tmp_path / "bad.yaml").write_text("name: [bad")
    with pytest.raises(DataError, match=r"bad\.yaml: no task file .* Write it as YAML"):
        catalogue(tmp_path)
    write_task(tmp_path, "bad", "source")
    path = tmp_path / "bad.yaml"
    path.write_text(path.read_text().replace(SLOT, ""))
    with pytest.raises(DataError, match="`suffix` must hold the slot"):
        catalogue(tmp_path)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"metric": "acuracy"}, r"bad\.yaml: The metric 'acuracy' is not known\. Did you mean 'accuracy'.*acuracy\.py"),
        ({"judge": {"kind": "rubrik"}}, r"bad\.yaml: There is no judge of the kind 'rubrik'\. Did you mean 'rubric'"),
        ({"judge": {"kind": "etruscan"}}, r"bad\.yaml: There is no judge of the kind 'etruscan'\. .*choice"),
        ({"judge": {"rubrics": ["Is it?"]}}, r"bad\.yaml: `judge` has no key 'rubrics'\. Did you mean 'rubric'"),
        ({"judge": {"lenient": "maybe"}}, r"bad\.yaml: `judge`: Expected `bool`"),
        ({"metric": "macro_f1", "labels": []}, r"bad\.yaml: A macro_f1 judge needs `labels`"),
    ],
)
def test_a_metric_or_judge_that_does_not_exist_is_refused(told: dict[str, Any], why: str, tmp_path: Path) -> None:
    write_task(tmp_path, "bad", "source")
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **told}))
    with pytest.raises(DataError, match=why):
        catalogue(tmp_path)


NEW_METRIC = """
from optimizer.judges import answers, metric
from optimizer.records import Verdict

@metric({name!r})
class New:
    def __init__(self, spec):
        pass
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("made = 1 / 0", r"shade\.py: cannot be run \(ZeroDivisionError"),
        ("made = 1", r"""shade\.py: registers no metric 'shade': put @metric\("shade"\) above its class"""),
        (NEW_METRIC.format(name="shade"), r"shade\.py: the class of the metric 'shade' has no method verdict"),
        (NEW_METRIC.format(name="exact"), r"The metric name 'exact' is taken"),
    ],
)
def test_a_file_of_a_metric_that_is_wrong_is_named(text: str, why: str, tmp_path: Path) -> None:
    write_task(tmp_path, "bad", "source")
    path = tmp_path / "bad.yaml"
    path.write_text(path.read_text().replace("accuracy", "shade"))
    (tmp_path / "shade.py").write_text(text)
    with pytest.raises(DataError, match=why):
        catalogue(tmp_path)


def test_rows_that_are_missing_are_one_sentence(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", "shades", "unseen")
    task = catalogue(tmp_path / "tasks")["shades"]
    with pytest.raises(DataError, match=r"data folder .* is missing: give one with `metaspo paper run --data DIR`"):
        loaded(task, tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"no folder of the task shades.*`skip: \[shades\]`"):
        loaded(task, tmp_path)
    write_rows(tmp_path / "data" / "shades", "shades", train=60, test=12)
    with pytest.raises(DataError, match=r"has 12 usable test rows .*: set `test_rows: 12`.*`fewer: true`.*skip"):
        loaded(task, tmp_path)
    assert len(loaded(task, tmp_path, fewer=True).holdout) == 12


def test_a_label_outside_its_set_is_named_with_its_line(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", "shades", "source")
    folder = tmp_path / "data" / "shades"
    write_rows(folder, "shades", train=60, test=30)
    path = folder / "test.jsonl"
    path.write_text(path.read_text().replace('"blue"', '"bleu"'))
    with pytest.raises(
        DataError, match=r"test\.jsonl:\d+: the answer 'bleu' is none of the task's labels .*Did you mean 'blue'"
    ):
        loaded(catalogue(tmp_path / "tasks")["shades"], tmp_path)


def test_without_the_library_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    origin = Origin(id="a/b", train="train", test="test", question="{q}", answer="a")
    with pytest.raises(DataError, match=r"pip install 'metaspo-gateway\[datasets\]'"):
        next(from_library(origin, "test"))


def public(origin: Origin, split: str) -> Iterator[Mapping[str, Any]]:
    """Rows as a public data set gives them."""
    for i in range(70 if split == "train" else 40):
        yield {"subject": "Paint", "thing": f"{split} thing {i} of {i * i}", "cop": i % 2, "options": ["red", "blue"]}
        yield {"subject": "Other", "thing": f"other {i}", "cop": 0, "options": []}


def test_public_rows_become_a_folder_in_the_documented_form(tmp_path: Path) -> None:
    origin = Origin(
        id="somebody/colours",
        train="train",
        test="validation",
        question="{thing}\n{options}",
        answer="cop",
        map={"0": "red", "1": "blue"},
        where={"subject": ["Paint"]},
    )
    task = PaperTask(name="paint", domain="colours", role="source", metric="accuracy", labels=list(LABELS),
                     prompt="Which colour?", suffix="{question}", licence="made up", dataset=origin)  # fmt: skip
    found = loaded(task, tmp_path, data=None, fetch=public)
    assert {example.answers[0] for example in found.holdout} == set(LABELS)
    assert all(example.question.endswith("red\nblue") for example in found.holdout)
    assert (tmp_path / "cache" / "colours" / "paint" / "train.jsonl").exists()

    def never(origin: Origin, split: str) -> Iterator[Mapping[str, Any]]:
        raise AssertionError("fetched twice")

    assert loaded(task, tmp_path, data=None, fetch=never) == found
    nameless = PaperTask(**{**{f: getattr(task, f) for f in task.__struct_fields__}, "name": "plain", "dataset": None})
    with pytest.raises(DataError, match="names no public data set"):
        loaded(nameless, tmp_path, data=None, fetch=public)


def rows_of(name: str, rows: list[dict[str, Any]], split: str = "test") -> list[dict[str, Any]]:
    origin = catalogue()[name].dataset
    assert origin is not None
    return list(examples_of(rows, origin, split))


def test_mappings_of_the_catalogue_read_the_fields_of_their_originals() -> None:
    exam = {"question": "Which?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 2}
    (row,) = rows_of("anatomy", [exam | {"subject_name": "Anatomy"}, exam | {"subject_name": "Dental"}])
    assert (row["question"], row["answer"]) == ("Which?\nA) a\nB) b\nC) c\nD) d", "C")
    (row,) = rows_of("gsm8k", [{"question": "How many?", "answer": "Six and six.\n#### 12"}])
    assert row["answer"] == "12"
    (row,) = rows_of("squad", [{"context": "Text.", "question": "Who?", "answers": {"text": ["Ada", "Ada L.", "Ada"]}}])
    assert row["answers"] == ["Ada", "Ada L."]
    (row,) = rows_of("hotpot_qa", [{"context": {"sentences": [["One. ", "Two."], ["Three."]]}, "question": "?",
                                    "answer": "yes"}])  # fmt: skip
    assert row["question"].startswith("One.  Two.\nThree.")
    pair = rows_of("antropic_harmless", [{"chosen": "Human: hi", "rejected": "Human: ho"}])
    assert [(row["question"], row["answer"]) for row in pair] == [("Human: hi", "no"), ("Human: ho", "yes")]
    (row,) = rows_of("algebra", [{"problem": "2x=1", "solution": r"So $\boxed{\frac{1}{2}}$."}])
    assert row["answer"] == r"\frac{1}{2}"


def test_one_split_is_shared_out_without_overlap() -> None:
    rows = [{"input": f"question {i}", "target": f"({'ABC'[i % 3]})"} for i in range(60)]
    train = {row["question"] for row in rows_of("logical_deduction", rows, "train")}
    test = {row["question"] for row in rows_of("logical_deduction", rows, "test")}
    assert train and test and not train & test and len(train | test) == 60


def test_fields_that_have_changed_are_named() -> None:
    with pytest.raises(DataError, match="has no field 'subject_name'"):
        rows_of("anatomy", [{"question": "Which?"}])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development rows are not beside this repository")
@pytest.mark.parametrize("name", ["dental", "liar", "squad", "gsm8k_judged", "banking77"])
def test_the_development_rows_fit_the_catalogue(name: str, tmp_path: Path) -> None:
    found = load(catalogue()[name], data=SHARED, cache=tmp_path, train=60, test=60)
    assert len(found.holdout) == 60
