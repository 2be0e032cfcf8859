"""Mathematics that is equal in other words, read without running anything a model wrote."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.judges import Judge, judge_for
from optimizer.judges.maths import equal, parse
from optimizer.records import Example, JudgeSpec


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "50%"),
        ("x = 5", "5"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"\sqrt[3]{8}", "2"),
        ("(x+1)^2", "x^2 + 2x + 1"),
        ("sin(x)^2 + cos(x)^2", "1"),
        ("1,000", "1000"),
        (r"\frac{\pi}{2}", "pi/2"),
        ("(1, 2)", "(1,2)"),
        (r"2^{10}", "1024"),
        ("$12$", "12"),
        ("90°", "90"),
        ("-x + 3", "3 - x"),
        ("2(3 + 4)", "14"),
        (r"\dfrac{3}{4}", "0.75"),
    ],
)
def test_equal(left: str, right: str) -> None:
    assert equal(parse(left), parse(right))


@pytest.mark.parametrize(
    ("left", "right"), [("1/2", "1/3"), ("x", "y"), ("x^2", "2x"), ("(1,2)", "(2,1)"), ("(1,2)", "1"), ("5", "-5")]
)
def test_not_equal(left: str, right: str) -> None:
    assert not equal(parse(left), parse(right))


@pytest.mark.parametrize(
    "text",
    [
        "9^9^9^9",
        "((((9^60)^60)^60)^60)^60",
        "2^100000",
        "exp(10^10)",
        "1/0",
        "(" * 300,
        "the answer",
        "__import__('os').system('true')",
        "lambda: 0",
        "x" * 1000,
        "",
    ],
)
def test_what_is_outside_the_grammar_or_too_large_is_unreadable_at_once(text: str) -> None:
    began = time.perf_counter()
    assert parse(text) is None
    assert time.perf_counter() - began < 2.0


@given(st.text(alphabet="0123456789xy+-*/^()[]{}.,=%|\\ frcsqt", max_size=60))
@settings(max_examples=200, deadline=5000)
def test_no_text_hangs_or_breaks_the_parser(text: str) -> None:
    value = parse(text)
    if value is not None:
        equal(value, value)


def test_the_judge_finds_boxed_and_last_lines() -> None:
    judge = judge_for(JudgeSpec(kind="math"))
    assert isinstance(judge, Judge)
    example = Example(id="1", question="?", answers=(r"\frac{1}{2}",))
    assert judge.verdict(example, r"First \boxed{3}, then \boxed{\frac{2}{4}}.").score == 1.0
    assert judge.verdict(example, "Let us see.\n0.5\n").score == 1.0
    assert judge.verdict(example, "<answer>0.25</answer>").score == 0.0
    assert judge.verdict(example, "<answer>who knows</answer>").malformed
