"""The public originals: every task names plain files, and those files, in the shape of the originals, are read by the
``datasets`` library. Nothing is fetched: each test writes its own files."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from optimizer.errors import DataError
from optimizer.paper.catalogue import Origin, PaperTask, catalogue, read_task_file
from optimizer.paper.rows import from_library, how_to_load, load

TASKS = {name: task for name, task in catalogue().items() if task.dataset}
ROWS = 120


def a_row(name: str, origin: Origin, i: int) -> dict[str, Any]:
    """One row with the fields that the original has, as far as they were seen."""
    text = " ".join(hashlib.sha256(f"{i} {place}".encode()).hexdigest()[:7] for place in range(12))
    task = TASKS[name]
    label = (
        sorted(origin.map)[i % len(origin.map)] if origin.map else (task.labels or ["x"])[i % max(1, len(task.labels))]
    )
    match origin.id:
        case "openlifescienceai/medmcqa":
            subject = origin.where["subject_name"][0]
            return {"question": text, "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": i % 4,
                    "subject_name": subject}  # fmt: skip
        case "McAuley-Lab/Amazon-Reviews-2023":
            return {"rating": float(1 + i % 5), "title": "Fine", "text": text, "images": [], "asin": "B0",
                    "verified_purchase": True}  # fmt: skip
        case "suzgunmirac/BIG-Bench-Hard":
            answer = label if origin.map else f"({label})" if task.labels else str(i % 9)
            return {"input": text, "target": answer}
        case "tasksource/bigbench":
            return {"idx": i, "inputs": text, "targets": [label], "multiple_choice_targets": task.labels}
        case "intelligence-csd-auth-gr/Ethos-Hate-Speech-Dataset":
            return {"comment": text, "isHate": (0.0, 1.0, 0.16666666666666666, 0.8333333333333334)[i % 4]}
        case "tfs4/liar_dataset":
            told = dict.fromkeys(origin.options["column_names"], "0")
            return told | {"id": f"{i}.json", "label": label, "statement": f'{text} is "so"', "context": ""}
        case "tasksource/figlang2020-sarcasm":
            return {"label": label, "response": text, "context": ["One said.", "Another said."]}
        case "nelson-liu/lost-in-the-middle":
            return {"question": text, "answers": ["red", "blue"],
                    "ctxs": [{"title": "Colours", "text": text, "hasanswer": True}]}  # fmt: skip
        case "openai/grade-school-math":
            return {"question": text, "answer": f"It is 2*{i}=<<2*{i}={2 * i}>>{2 * i}.\n#### {2 * i}"}
        case "ucinlp/drop":
            return {"passage": text, "question": "How many?",
                    "answers_spans": {"spans": ["3"], "types": ["number"]}}  # fmt: skip
        case "hotpotqa/hotpot_qa":
            return {"context": {"title": ["A", "B"], "sentences": [["One. ", "Two."], [text]]}, "question": "Who?",
                    "answer": "Ada"}  # fmt: skip
        case "rajpurkar/squad":
            return {"context": text, "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [0]}}
        case "mandarjoshi/trivia_qa":
            return {"question": text, "answer": {"aliases": ["Ada", "Ada L."], "value": "Ada"}}
        case "stanfordnlp/web_questions":
            return {"url": "u", "question": text, "answers": ["Ada"]}
        case "deepmind/aqua_rat":
            return {"question": text, "options": ["A)1", "B)2"], "rationale": "So.", "correct": label}
        case "MU-NLPC/Calc-mawps":
            return {"id": str(i), "question": text, "result": str(i)}
        case "ChilleD/SVAMP":
            return {"Body": text, "Question": "How many?", "Answer": f"{i}.0"}
        case "math-ai/StackMathQA":
            return {"Q": f"{text} {next(iter(origin.contains['Q']))}", "A": f"It is {i}.", "meta": {"score": 1}}
        case "EleutherAI/hendrycks_math":
            return {"problem": text, "level": "1", "type": "Algebra", "solution": rf"So $\boxed{{{i}}}$."}
        case "Anthropic/hh-rlhf":
            return {"chosen": f"Human: {text} Assistant: no", "rejected": f"Human: {text} Assistant: yes"}
        case "Paul/hatecheck":
            return {"functionality": "f", "test_case": text, "label_gold": label}
        case "cardiffnlp/tweet_eval" | "fancyzhx/ag_news":
            return {"text": text, "label": int(label)}
        case "mteb/banking77":
            return {"text": text, "label": i % 77, "label_text": label}
        case "clinc/clinc_oos":
            return {"text": text, "intent": i % 3}
    raise AssertionError(f"no shape is known of {origin.id}")


def encoded(rows: list[dict[str, Any]], origin: Origin, path: str) -> bytes:
    """The rows as a file of the origin's format."""
    if origin.format == "parquet":
        import pyarrow
        import pyarrow.parquet
        from datasets import ClassLabel, Features, Value

        schema = None
        if origin.class_names:
            classes = ClassLabel(names=["yes", "no", "oos"])
            schema = Features({"text": Value("string"), origin.class_names: classes}).arrow_schema
        target = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), target)
        return target.getvalue()
    if origin.format == "csv":
        text = io.StringIO()
        columns = origin.options.get("column_names")
        quoting = {"quoting": csv.QUOTE_NONE, "quotechar": None} if "quoting" in origin.options else {}
        writer = csv.DictWriter(text, columns or list(rows[0]), delimiter=origin.options.get("sep", ","), **quoting)  # type: ignore[arg-type]
        if not columns:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    field = origin.options.get("field")
    lines = json.dumps({"canary": "c", field: rows}) if field else "".join(json.dumps(row) + "\n" for row in rows)
    return gzip.compress(lines.encode()) if path.endswith(".gz") else lines.encode()


def served(task: PaperTask, folder: Path) -> PaperTask:
    """The task with its original as a local folder of the same layout."""
    origin = task.dataset
    assert origin is not None
    rows = [a_row(task.name, origin, i) for i in range(ROWS)]
    split_rows: Mapping[str, list[dict[str, Any]]] = {origin.test: rows[: ROWS // 2], origin.train: rows[ROWS // 2 :]}
    if origin.train == origin.test:
        split_rows = {origin.train: rows}
    names: dict[str, str | list[str]] = {}
    for split, some in split_rows.items():
        told = origin.files.get(split) or f"{origin.data_dir or origin.config or 'data'}/{split}.{ENDS[origin.format]}"
        paths = [
            path.rsplit("/", 1)[-1] if "://" in path else path for path in ([told] if isinstance(told, str) else told)
        ]
        names[split] = paths if origin.files else paths[0]
        for number, path in enumerate(paths):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(encoded(some[number :: len(paths)], origin, path))
    if origin.files:
        return replace(task, dataset=replace(origin, id=str(folder), files=names))
    return replace(
        task, dataset=replace(origin, id=str(folder), config=None, data_dir=origin.data_dir or origin.config)
    )


ENDS = {"parquet": "parquet", "csv": "csv", "json": "jsonl"}


@pytest.mark.parametrize("name", TASKS)
def test_every_original_is_plain_files(name: str) -> None:
    """What versions 4 and later of the library can read: no data set's own script."""
    origin = TASKS[name].dataset
    assert origin is not None and origin.format in ENDS and origin.checked
    reader, more = how_to_load(origin, origin.test)
    assert "trust_remote_code" not in more
    assert reader == (origin.format if origin.files else origin.id)
    for place in more.get("data_files", {}).get(origin.test, []):
        assert place.startswith(("hf://datasets/", "https://raw.githubusercontent.com/"))
        assert origin.revision is None or origin.revision in place


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", TASKS)
def test_rows_come_through_the_library(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    (tmp_path / "original").mkdir()
    task = served(TASKS[name], tmp_path / "original")
    found = load(task, data=None, cache=tmp_path / "cache", train=20, test=20)
    assert len(found.train) == len(found.holdout) == 20
    assert not {example.question for example in found.train} & {example.question for example in found.holdout}
    if task.labels and name != "clinc150":
        assert len({example.answers[0] for example in found.holdout}) > 1


def test_a_data_set_that_is_a_script_is_told_from_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def load_dataset(*told: Any, **more: Any) -> None:
            raise RuntimeError("Dataset scripts are no longer supported, but found reviews.py")

    monkeypatch.setitem(__import__("sys").modules, "datasets", Library)
    with pytest.raises(DataError, match=r"a/reviews .*It is made by a script.*name its plain files under `files`"):
        next(from_library(Origin(id="a/reviews", train="full", test="full", question="{text}", answer="x"), "full"))


def test_files_are_named_with_their_format_and_for_every_split(tmp_path: Path) -> None:
    told = """
name: mine
domain: own
role: source
metric: accuracy
prompt: Which?
suffix: '{question}'
licence: ours
dataset: {id: mine, train: train, test: test, question: '{q}', answer: a, files: {train: a.csv}%s}
"""
    path = tmp_path / "mine.yaml"
    path.write_text(told % "")
    with pytest.raises(DataError, match=r"mine\.yaml: `dataset` names files and not what they are: add `format: csv`"):
        read_task_file(path)
    path.write_text(told % ", format: csv")
    with pytest.raises(DataError, match=r"has no entry for the split 'test': add one"):
        read_task_file(path)
