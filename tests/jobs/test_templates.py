"""The user prompt is found behind the messages, and replay is exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.templates import BARE, Template, group_by_runs, mine, parse, tokens

TOPICS = [
    f"the {a} {b}"
    for a in ("red", "slow", "odd", "late", "new")
    for b in ("bus", "shoe", "song", "lamp", "door", "cake")
]


def test_prefix_and_suffix_are_found() -> None:
    messages = [f"Which team should handle this ticket?\n\n{t} is broken\n\nAnswer with one word." for t in TOPICS]
    template = mine(messages)
    assert template.prefix.startswith("Which team should handle this ticket?\n\n")
    assert template.suffix.endswith("\n\nAnswer with one word.")
    assert all(template.text.replace("{question}", template.question(m) or "") == m for m in messages)


def test_a_few_odd_messages_do_not_hide_the_template() -> None:
    messages = [f"Is this review positive or negative?\n{t}" for t in TOPICS] + ["hello", "are you there", "hi!"]
    template = mine(messages)
    assert template.prefix == "Is this review positive or negative?\nthe "
    assert template.question("hello") is None


def test_too_few_messages_show_nothing() -> None:
    assert mine([f"Is this review positive or negative?\n{t}" for t in TOPICS[:19]]) == BARE


def test_two_shared_words_are_no_template() -> None:
    assert mine([f"What is {t} good for in {n} years" for n, t in enumerate(TOPICS)]) == BARE


def test_repeats_of_one_message_do_not_count() -> None:
    assert mine(["Tell me a joke about the sea, please."] * 500) == BARE


def test_question_is_never_empty() -> None:
    template = Template("Translate this text: ", " Thanks.")
    assert template.question("Translate this text:  Thanks.") is None
    assert template.question("Translate this text: Thanks.") is None, "prefix and suffix may not share a character"
    assert template.question("Translate this text: cat Thanks.") == "cat"


def test_a_configured_prompt_is_read() -> None:
    assert parse("Which team?\n{question}\nOne word.") == Template("Which team?\n", "\nOne word.")
    assert parse("no slot at all") == BARE


@given(st.text(max_size=300))
def test_tokens_lose_nothing(text: str) -> None:
    assert "".join(tokens(text)) == text


@given(
    prefix=st.text(alphabet="abc .:\n", max_size=60),
    suffix=st.text(alphabet="xyz .:\n", max_size=60),
    middles=st.lists(st.text(alphabet="mnop 0123\n", min_size=1, max_size=20), min_size=20, max_size=40, unique=True),
)
def test_what_a_mined_template_accepts_it_reproduces(prefix: str, suffix: str, middles: list[str]) -> None:
    messages = [prefix + m + suffix for m in middles]
    template = mine(messages)
    for message in messages:
        question = template.question(message)
        assert question is None or template.text.replace("{question}", question, 1) == message


def test_unnamed_messages_are_sorted_by_the_runs_they_share() -> None:
    reviews = [f"Please rate the following review: {t}" for t in TOPICS]
    tickets = [f"{t}. Which team is responsible here?" for t in TOPICS]
    groups = group_by_runs([*reviews, *tickets, "something else altogether"])
    assert len({groups[i] for i in range(30)}) == 1
    assert len({groups[i] for i in range(30, 60)}) == 1
    assert groups[0] != groups[30]
    assert 60 not in groups


@pytest.mark.parametrize("count", [0, 1, 19])
def test_small_groups_are_no_task(count: int) -> None:
    assert group_by_runs([f"Please rate the following review: {t}" for t in TOPICS[:count]]) == {}
