"""The corpus, the edits made with it, and the strict reading of replies."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.admission.lint import lint
from optimizer.proposals.components import (
    CATEGORIES,
    Component,
    Corpus,
    corpus_for,
    joined,
    sentences,
    user_prompt_edits,
    whole_corpus,
)
from optimizer.proposals.edits import Bandit, Edit, distinct, merged, single_edits, varied
from optimizer.proposals.prompts import Hypothesis, fence
from optimizer.proposals.replies import (
    Unparsed,
    analysed,
    findings,
    hypotheses,
    one_object,
    tagged,
    text_field,
    user_prompt,
)
from optimizer.records import JudgeSpec
from tests.optimizer.scripted import task


def test_about_three_hundred_components_in_nine_categories() -> None:
    components = whole_corpus().components
    assert 290 <= len(components) <= 330
    assert {c.category for c in components} == set(CATEGORIES) and len(CATEGORIES) == 9
    texts = [way for c in components for way in (c.text, *c.variants)]
    assert len(texts) == len(set(texts))
    assert all(text.endswith(".") and len(text) <= 110 for text in texts)
    assert {c.mends for c in components} == {"any", "format", "knowledge", "reasoning", "refusal"}


def test_every_component_passes_the_linter() -> None:
    corpus = corpus_for([task("a"), task("b")])
    bad = {}
    for component in corpus.components:
        for way in (component.text, *component.variants):
            hits = lint(way, allow=["yes", "no", way])
            if hits:
                bad[way] = hits[0].reason
    assert bad == {}


def test_label_sentences_need_labels_that_all_tasks_share() -> None:
    same = corpus_for([task("a"), task("b")])
    other = task("b").__class__(name="b", user_prompt="{question}", judge=JudgeSpec(kind="number"))
    mixed = corpus_for([task("a"), other])
    assert any("yes or no" in c.text for c in same.components)
    assert not any("{labels}" in c.text for c in (*same.components, *mixed.components))
    assert len(mixed.components) < len(same.components)
    assert any(c.names_labels for c in same.components) and not any(c.names_labels for c in mixed.components)


def test_user_prompt_edits_keep_the_slot() -> None:
    edits = user_prompt_edits(task(), task().user_prompt, whole_corpus())
    assert len(edits) >= 10
    assert all(edit.count("{question}") == 1 and "{base}" not in edit and "{labels}" not in edit for edit in edits)


@given(st.lists(st.sampled_from([c.text for c in whole_corpus().components if "{" not in c.text]), max_size=6))
def test_a_prompt_is_its_sentences(parts: list[str]) -> None:
    assert sentences(joined(parts)) == tuple(parts)


CORPUS = Corpus(
    components=(
        Component(text="Be brief.", category="style", mends="format", variants=("Keep it short.",)),
        Component(text="Think first.", category="cot", mends="reasoning"),
        Component(text="You are a judge.", category="role"),
    )
)


def test_all_kinds_of_moves() -> None:
    made = single_edits("Be brief. Answer now.", CORPUS.components, CORPUS, random.Random(1))
    kinds = {edit.kind for edit in made}
    assert kinds == {"add", "replace", "delete", "swap", "rephrase"}
    prompts = {edit.prompt for edit in made}
    assert {"Answer now. Be brief.", "Keep it short. Answer now.", "Be brief.", "Answer now."} <= prompts
    assert not [edit for edit in made if edit.kind == "add" and edit.component == "Be brief."]
    assert merged("A b. C d.", "C d. E f.").prompt == "A b. C d. E f."
    assert [e.prompt for e in distinct([Edit(prompt="x", kind="add"), Edit(prompt="x", kind="swap")], [])] == ["x"]


def test_the_bandit_prefers_what_paid_and_counts_variants_as_their_source() -> None:
    bandit = Bandit(CORPUS)
    for _ in range(5):
        bandit.learn(Edit(prompt="", kind="add", component="Think first."), 0.2)
        bandit.learn(Edit(prompt="", kind="delete", component="Keep it short.", sign=-1), 0.2)
        bandit.learn(Edit(prompt="", kind="add", component="You are a judge."), -0.1)
    assert [c.text for c in bandit.ranked({}, random.Random(1))] == ["Think first.", "You are a judge.", "Be brief."]


def test_failures_decide_what_is_tried_first() -> None:
    fresh = Bandit(CORPUS)
    assert fresh.ranked({"format": 1.0}, random.Random(1))[0].text == "Be brief."
    assert fresh.ranked({"reasoning": 1.0}, random.Random(1))[0].text == "Think first."


def test_variety_over_categories() -> None:
    ranked = Bandit(whole_corpus()).ranked({}, random.Random(2))
    picked = varied(ranked, 9)
    assert len(picked) == 9
    assert max([c.category for c in picked].count(name) for name in CATEGORIES) <= 3


# --- replies ---------------------------------------------------------------------------------------------------------


def test_a_tag_must_be_complete_and_filled() -> None:
    assert tagged("so <analysis> it is </analysis> <analysis>no</analysis>", "analysis") == "it is"
    for reply in ("", "<analysis>open", "<analysis> </analysis>", "analysis"):
        with pytest.raises(Unparsed):
            tagged(reply, "analysis")


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("so <analysis> it is </analysis> <analysis>no</analysis>", "it is"),
        ("well: <Analysis>\nit has no labels", "it has no labels"),
        ("It has no labels.", "It has no labels."),
    ],
)
def test_an_analysis_is_read_without_its_tags_too(reply: str, read: str) -> None:
    assert analysed(reply, "analysis") == read


@pytest.mark.parametrize("reply", ["", "  ", "<analysis> </analysis>  <analysis>"])
def test_an_empty_analysis_is_none(reply: str) -> None:
    with pytest.raises(Unparsed):
        analysed(reply, "analysis")


def test_an_object_is_the_whole_reply_or_its_only_fence() -> None:
    assert one_object('{"a": 1}') == {"a": 1}
    assert one_object('Here:\n```json\n{"a": 1}\n```') == {"a": 1}
    for reply in ("a {} b", "[]", "```json\n{}\n```\n```json\n{}\n```", '{"a": 1} {"b": 2}', "null"):
        with pytest.raises(Unparsed):
            one_object(reply)


@given(st.text(max_size=300))
def test_no_text_crashes_the_readers(reply: str) -> None:
    for read in (one_object, user_prompt, lambda r: findings(r, ["x"]), lambda r: hypotheses(r, 3)):
        with pytest.raises(Unparsed):
            read("?" + reply)


def test_findings_are_cut_typed_and_never_quote() -> None:
    source = "the parcel that I ordered last week arrived broken and wet again"
    rows = [
        {"type": "format", "text": "x" * 500},
        {"type": "reasoning", "text": "It said: the parcel that I ordered last week arrived broken and wet"},
        {"type": "reasoning", "text": "It reads arrived broken and wet again wrongly"},
        {"type": "mood", "text": "unknown type"},
        "not an object",
    ]
    import json

    kept = findings(json.dumps({"findings": rows}), [source])
    assert kept == (("format", "x" * 200), ("reasoning", "It reads arrived broken and wet again wrongly"))
    with pytest.raises(Unparsed):
        findings(json.dumps({"findings": rows[1:2]}), [source])


def test_hypotheses_need_a_label_and_a_change_and_differ() -> None:
    reply = (
        '{"hypotheses": [{"label": "a", "cause": "c", "change": "Do x."}, {"label": "b", "cause": "c", '
        '"change": "do X."}, {"label": "", "cause": "", "change": "y"}, {"label": "n", "cause": null, "change": "z"}]}'
    )
    assert hypotheses(reply, 5) == (Hypothesis("a", "c", "Do x."), Hypothesis("n", "", "z"))
    assert len(hypotheses(reply, 1)) == 1


def test_a_user_prompt_has_its_slot_once() -> None:
    assert user_prompt('{"user_prompt": "Label {question} now"}') == "Label {question} now"
    assert user_prompt('{"user_prompt": "Name the label."}') == "Name the label.\n\n{question}"
    with pytest.raises(Unparsed):
        user_prompt('{"user_prompt": "{question} {question}"}')
    with pytest.raises(Unparsed):
        text_field('{"user_prompt": "' + "x" * 4000 + '"}', "user_prompt")


def test_fenced_text_cannot_close_its_block() -> None:
    wrapped = fence("example", "a </example-1234> b")
    opening, closing = wrapped.splitlines()[0], wrapped.splitlines()[-1]
    assert opening.strip("<>") == closing.strip("</>")
    assert "</" not in "".join(wrapped.splitlines()[1:-1])
    assert fence("example", "a") != fence("example", "b")
