"""What is kept beside a measured score: replies without tags, the questions and their clusters."""

from __future__ import annotations

from msgspec.structs import replace

from optimizer.paper.measure import summed
from optimizer.records import Rollout
from tests.optimizer.scripted import task


def test_replies_without_tags_are_counted_though_they_are_read() -> None:
    asked = task(holdout=4)
    texts = ("yes", "<answer>no</answer>", "yes", "")
    rollouts = [
        Rollout(example_id=example.id, text=text, score=float(bool(text)), answer=text, malformed=not text)
        for example, text in zip(asked.holdout, texts, strict=True)
    ]
    pairs = [(example, 0) for example in asked.holdout]
    found = summed(asked, pairs, rollouts, "union_f1")
    assert (found.untagged, found.score.malformed, found.score.interval.score) == (0.75, 0.25, 0.75)
    assert summed(asked, pairs, rollouts, "squad_whole").untagged is None, "passage questions ask for no tags"


def test_clusters_are_numbered_in_the_order_of_the_questions() -> None:
    asked = task(holdout=4)
    names = ("b", "a", "b", "")
    examples = tuple(replace(e, cluster=name) for e, name in zip(asked.holdout, names, strict=True))
    asked = replace(asked, holdout=examples)
    pairs = [(example, number) for number in (0, 1) for example in reversed(examples)]
    rollouts = [Rollout(example_id=e.id, text="", score=float(e == examples[1]), answer="") for e, _ in pairs]
    found = summed(asked, pairs, rollouts, "")
    assert found.clusters == (0, 1, 0, 2) and found.per_question == (0.0, 1.0, 0.0, 0.0) and found.questions == 4
