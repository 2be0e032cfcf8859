"""The candidate that needs no optimizer model: a lean towards a label, counted, and the sentence against it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from optimizer.proposals.failures import Failures, collect
from optimizer.proposals.mixups import LEAST, against_mix_ups, mix_ups
from optimizer.proposals.proposal import Parent
from optimizer.records import Example, JudgeSpec, Rollout, SearchTask

STARS = ("1", "2", "3", "4", "5")


def failures(
    pairs: Sequence[tuple[str, str]], *, name: str = "beauty", labels: tuple[str, ...] = STARS, **more: str
) -> Failures:
    """Examples answered with the first where the second of each pair was right."""
    task = SearchTask(name=name, user_prompt="{question}", judge=JudgeSpec(kind="choice", labels=labels), **more)  # type: ignore[arg-type]
    examples = [Example(id=f"{name}{n}", question="q", answers=(right,)) for n, (_, right) in enumerate(pairs)]
    rollouts = [
        Rollout(
            example_id=example.id, text=said, score=float(said == right), answer=said,
            malformed=said not in labels, error_kind="" if said == right else "wrong",
        )
        for example, (said, right) in zip(examples, pairs, strict=True)
    ]  # fmt: skip
    return collect(task, examples, rollouts, show=4, rng=random.Random(0))


def test_a_lean_that_two_tasks_share_becomes_one_candidate() -> None:
    parts = (failures([("4", "5")] * 3 + [("5", "5")]), failures([("4", "5")] * 2 + [("3", "1")], name="game"))
    (candidate,) = against_mix_ups(Parent("You help.", parts))
    assert candidate.prompt == "You help. If you hesitate between 4 and 5, answer 5."
    assert candidate.parent == "You help." and candidate.change in candidate.prompt
    assert against_mix_ups(Parent(candidate.prompt, parts)) == [], "said already"


def test_what_one_of_several_tasks_mixes_up_is_not_said_to_all() -> None:
    assert not mix_ups([failures([("4", "5")] * 6), failures([("4", "4")], name="game")])
    assert mix_ups([failures([("4", "5")] * 6)]), "the only task with labels"


def test_confusion_in_both_directions_is_no_lean() -> None:
    both = [("4", "5")] * 5 + [("5", "4")] * 2
    assert not mix_ups([failures(both)]) and mix_ups([failures(both[:-1])])


def test_accidents_and_unreadable_answers_are_not_counted() -> None:
    assert not mix_ups([failures([("4", "5")] * (LEAST - 1))])
    assert not mix_ups([failures([("four", "5")] * 9)])
    assert failures([("4", "5")], labels=("4",)).mixed_up == {}, "the right answer is no label"


def test_live_traffic_needs_five_units() -> None:
    assert not mix_ups([failures([("4", "5")] * 4, origin="traffic")])
    assert mix_ups([failures([("4", "5")] * 5, origin="traffic")])


def test_labels_are_said_as_the_task_spells_them() -> None:
    (found,) = mix_ups([failures([("yes", "NO")] * 4, labels=("Yes", "No"))])
    assert found.sentence == "If you hesitate between Yes and No, answer No."


@given(st.lists(st.tuples(st.sampled_from(STARS), st.sampled_from(STARS)), max_size=40))
def test_every_lean_is_frequent_and_one_sided(pairs: list[tuple[str, str]]) -> None:
    found = mix_ups([failures(pairs)])
    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    assert len(found) <= 3
    for lean in found:
        assert lean.count == wrong.count((lean.answered, lean.right)) >= len(wrong) / 3
        assert 3 * lean.reverse <= lean.count and lean.reverse == wrong.count((lean.right, lean.answered))


def test_too_few_live_units_neither_count_nor_veto_what_files_show() -> None:
    files = [failures([("4", "5")] * 3), failures([("4", "5")] * 2, name="game")]
    (found,) = mix_ups([*files, failures([("4", "5")] * 4, name="live", origin="traffic")])
    assert found.count == 5
