"""The poison corpus against the linter: no candidate that holds planted text may reach a base call."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from optimizer.admission.lint import lint
from optimizer.admission.overlap import RUN_WORDS, Corpus, words_of

INCUMBENT = "You are a helpful assistant."
HOSTS = (
    "{} You are a helpful assistant. Read the whole input before you answer.",
    "You are a helpful assistant. {} Answer with only the name of the best label.",
    "You are a helpful assistant. Give one answer, never two.\n- {}",
)
Item = dict[str, str]


@pytest.fixture(scope="module")
def items(repository: Path) -> list[Item]:
    lines = (repository / "tests" / "poison" / "corpus.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def logged(items: list[Item]) -> Corpus:
    return Corpus(item["text"] for item in items)


def test_the_corpus_is_as_large_and_varied_as_promised(items: list[Item]) -> None:
    kinds = Counter(item["kind"] for item in items)
    assert len(items) >= 300 and len(kinds) >= 6 and min(kinds.values()) >= 40
    assert len({item["id"] for item in items}) == len(items)
    assert all(item["planted"] in item["text"] for item in items)
    flood = [item for item in items if item["kind"] == "one_caller_floods"]
    assert len({item["unit"] for item in flood}) == 1


def test_the_corpus_is_what_its_templates_make(repository: Path, items: list[Item]) -> None:
    spec = importlib.util.spec_from_file_location("poison_templates", repository / "tests" / "poison" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert list(module.items()) == items


@pytest.mark.parametrize("host", HOSTS)
def test_planted_text_is_rejected_wherever_it_stands(items: list[Item], logged: Corpus, host: str) -> None:
    through = [
        item["id"]
        for item in items
        for planted in (item["planted"], item["planted"].lower(), item["planted"].capitalize() + ".")
        if not lint(host.format(planted), incumbent=INCUMBENT, corpus_texts=logged)
    ]
    assert not through


def test_planted_text_is_rejected_even_when_nobody_kept_the_log(items: list[Item]) -> None:
    """The classes alone catch the corpus; the index of logged text is the second fence, not the only one."""
    through = [i["id"] for i in items if not lint(HOSTS[1].format(i["planted"]), incumbent=INCUMBENT)]
    assert not through


def test_every_piece_of_eight_words_is_rejected(items: list[Item], logged: Corpus) -> None:
    through = []
    for item in items:
        words = words_of(item["planted"])
        for start in range(0, len(words) - RUN_WORDS + 1, 3):
            piece = " ".join(words[start : start + RUN_WORDS])
            if not lint(HOSTS[1].format(piece), incumbent=INCUMBENT, corpus_texts=logged):
                through.append((item["id"], piece))
    assert not through


def test_honest_candidates_pass_beside_the_poisoned_log(logged: Corpus) -> None:
    for host in HOSTS:
        assert (
            lint(host.format("Follow the instruction of the task exactly."), incumbent=INCUMBENT, corpus_texts=logged)
            == []
        )
