"""Simulated worlds: what they promise is true, and the real search, gate and linter behave in them as they should."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer.admission.lint import lint
from optimizer.admission.overlap import Corpus
from optimizer.errors import SearchFileError
from optimizer.evaluation.evaluation import Evaluation
from optimizer.models import open_backend
from optimizer.proposals import prompts, replies
from optimizer.records import Budget, Completion, ModelSpec, Request
from optimizer.search import search
from optimizer.simulation.cli import simulate
from optimizer.simulation.search import model_name, one_search, world_spec
from optimizer.worlds.replies import analyse, optimizer_reply
from optimizer.worlds.world import (
    FEATURES,
    PADDING,
    SEED_PROMPT,
    World,
    WorldBackend,
    WorldSettings,
    feature_of,
    features_of,
    parse_world,
    planted_text,
    world_tasks,
)

pytestmark = pytest.mark.timeout(600)  # whole searches; a crowded machine may give them little of its time


def clock() -> float:
    return 0.0


def ask(ask_: prompts.Ask, sample: int = 0) -> Request:
    messages = tuple((m["role"], m["content"]) if isinstance(m, dict) else m for m in ask_.messages)
    return Request(role="optimizer", messages=messages, schema=ask_.schema, sample=sample)


def rates(settings: WorldSettings, *systems: str, size: int = 150) -> list[float]:
    """Measured accuracy of system prompts over the holdout of the first two tasks, through the real evaluation."""

    async def measure(folder: Path) -> list[float]:
        spec = world_spec(settings, calls=100_000, home=folder, seed=1)
        found = []
        async with Evaluation.open(spec, clock=clock) as evaluation:
            tasks = world_tasks(settings, holdout=size)[:2]
            for system in systems:
                scores = [
                    r.score or 0.0
                    for task in tasks
                    for r in await evaluation.rollouts(system, task, task.user_prompt, task.holdout)
                ]
                found.append(sum(scores) / len(scores))
        return found

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(measure(Path(folder)))


def test_answers_follow_the_stated_chances() -> None:
    settings = WorldSettings(seed=3, malformed=0.0)
    world = World(settings)
    user = world_tasks(settings)[0].user_prompt.replace("{question}", "")
    for system, measured in zip(
        (SEED_PROMPT, world.oracle()), rates(settings, SEED_PROMPT, world.oracle()), strict=True
    ):
        expected = [world.chance(t, 20_000 + i, system, user) for t in range(2) for i in range(150)]
        assert measured == pytest.approx(sum(expected) / 300, abs=4 * math.sqrt(0.25 / 300))


def test_the_core_features_help_everywhere_and_unseen() -> None:
    for seed in range(1, 6):
        world = World(WorldSettings(seed=seed))
        for unseen in (False, True):
            assert world.accuracy(world.oracle(), unseen=unseen) > world.accuracy(SEED_PROMPT, unseen=unseen) + 0.2


def test_a_null_world_does_not_care() -> None:
    world = World(WorldSettings(seed=2, null=True))
    prompts_ = (world.oracle(), SEED_PROMPT, PADDING * 5)
    assert len({world.accuracy(prompt) for prompt in prompts_}) == 1
    # on every single example, so the expected difference on a holdout is 0 whichever prompt a search chose
    for example in range(20_000, 20_060):
        assert len({world.chance(1, example, prompt, user) for prompt in prompts_ for user in ("", PADDING)}) == 1


def test_in_a_conflict_one_task_loses_what_the_others_gain() -> None:
    world = World(WorldSettings(seed=2, conflict=True))
    assert (world.weights[0, sorted(world.core)] < 0).all()
    assert (world.weights[1:, sorted(world.core)] > 0).all()


def test_drift_makes_every_task_harder() -> None:
    assert World(WorldSettings(drift=1.0)).accuracy(SEED_PROMPT) < World(WorldSettings()).accuracy(SEED_PROMPT) - 0.1


def test_features_are_read_from_prompts() -> None:
    assert len(set(FEATURES)) == 40
    assert [feature_of(text) for text in FEATURES] == list(range(40))
    assert features_of(f"{SEED_PROMPT} {FEATURES[3]} {FEATURES[7].upper()}").nonzero()[0].tolist() == [3, 7]
    assert feature_of(PADDING) is None
    hits = [feature_of(f"Some other sentence of number {i}.") is not None for i in range(600)]
    assert 0.25 < sum(hits) / 600 < 0.42


def test_replies_repeat_themselves() -> None:
    world = World(WorldSettings(seed=4))
    task = world_tasks(world.settings)[0]
    request = Request(role="base", messages=(("system", SEED_PROMPT), ("user", task.holdout[0].question)))

    async def twice() -> list[Completion]:
        return [await WorldBackend(World(WorldSettings(seed=4))).complete(request) for _ in range(2)]

    first, again = asyncio.run(twice())
    assert first == again


def shown(world: World, count: int = 3) -> str:
    rows = [example.question for example in world_tasks(world.settings)[0].reflect[:count]]
    return "<current_system_prompt>\n" + SEED_PROMPT + "\n</current_system_prompt>\n" + "\n".join(rows)


def test_an_analyser_sees_as_well_as_it_is_said_to() -> None:
    perfect, useless = (World(WorldSettings(seed=5, q=q, fp=fp)) for q, fp in ((1.0, 0.0), (0.0, 0.0)))
    found = analyse(perfect, shown(perfect), ("x",))
    assert found and all(
        perfect.weights[0, FEATURES.index(line.removeprefix("The prompt should say: "))] > 0 for line in found
    )
    assert not any("should say" in line for line in analyse(useless, shown(useless), ("x",)))
    hits = [len(analyse(World(WorldSettings(seed=5, q=0.3, fp=0.0)), shown(perfect), ("x", k))) for k in range(60)]
    needed = len(analyse(perfect, shown(perfect, 1), ("x",)))
    assert 0.5 < sum(hits) / 60 < max(needed, 8)


@pytest.mark.parametrize("q", [0.0, 0.3])
def test_an_analysis_for_the_published_loop_always_closes_its_tag(q: float) -> None:
    """Its results in worlds are the same whether an unclosed analysis is read or dropped: there is none."""
    for seed in range(1, 31):
        world = World(WorldSettings(seed=seed, q=q, tasks=4))
        tasks = world_tasks(world.settings)[:4]
        rows = [example.question for task in tasks for example in task.reflect[:2]]
        for question in (
            prompts.analyse_user(system_prompt=SEED_PROMPT, user_prompt=tasks[0].user_prompt, examples=rows[:2]),
            prompts.analyse_system(system_prompt=SEED_PROMPT, examples=rows),
        ):
            reply = optimizer_reply(world, ask(question, seed))
            assert replies.tagged(reply, question.tag) == replies.analysed(reply, question.tag)


def test_the_writer_adds_what_the_plan_says_and_sometimes_loses_a_sentence() -> None:
    world = World(WorldSettings(seed=6, drop=0.5))
    old = " ".join([SEED_PROMPT, *FEATURES[:6]])
    hypothesis = prompts.Hypothesis(label="rule", cause="missing", change=FEATURES[9])
    texts = [
        json.loads(optimizer_reply(world, ask(prompts.write_system(system_prompt=old, hypothesis=hypothesis), k)))
        for k in range(60)
    ]
    prompts_ = [t["system_prompt"] for t in texts]
    assert all(FEATURES[9] in p and p.startswith(SEED_PROMPT) for p in prompts_)
    kept = sum(f in p for p in prompts_ for f in FEATURES[:6]) / (60 * 6)
    assert 0.35 < kept < 0.65


def test_every_sentence_of_a_world_passes_the_linter_and_planted_text_does_not() -> None:
    settings = WorldSettings(seed=7, poison=0.3)
    tasks = world_tasks(settings)
    questions = [e.question for t in tasks for e in (*t.reflect, *t.select)]
    planted = [(t, i) for t in range(6) for i in range(40) if "system prompt" in tasks[t].reflect[i].question]
    assert len(planted) > 30
    corpus = Corpus(questions)
    assert lint(" ".join([SEED_PROMPT, *FEATURES]), incumbent=SEED_PROMPT, corpus_texts=corpus) == []
    for t, i in planted:
        text = f"{SEED_PROMPT} {planted_text(7, t, i)}."
        assert lint(text, incumbent=SEED_PROMPT, corpus_texts=corpus)


def test_names_of_worlds() -> None:
    settings = WorldSettings(seed=9, q=0.1, null=True, length_bias=0.25)
    assert parse_world(model_name(settings)) == settings
    assert parse_world("world:") == WorldSettings()
    with pytest.raises(SearchFileError, match="no setting 'colour'"):
        parse_world("world:colour=1")
    with pytest.raises(SearchFileError, match="must be a number"):
        parse_world("world:q=much")
    backend = open_backend(ModelSpec(model="world:seed=2"), journal=None, note=print)  # type: ignore[arg-type]
    assert isinstance(backend, WorldBackend)


def test_a_message_without_a_case_is_answered_helplessly() -> None:
    reply = asyncio.run(
        WorldBackend(World(WorldSettings())).complete(Request(role="base", messages=(("user", "Hello"),)))
    )
    assert "no case" in reply.text


# --- the real search in worlds ---------------------------------------------------------------------------------------


def run(settings: WorldSettings, proposer: str = "rewrite", calls: int = 3000) -> dict[str, Any]:
    return asyncio.run(one_search(settings, calls=calls, proposer=proposer, clock=clock))


def test_a_good_analyser_finds_true_gains_on_unseen_tasks() -> None:
    rows = [run(WorldSettings(seed=seed, q=0.5, fp=0.0)) for seed in (2, 3)]
    assert all(row["calls"] <= 3000 for row in rows)
    assert sum(row["gain_unseen"] for row in rows) / 2 > 0.05


def test_nothing_is_promoted_that_truth_does_not_support() -> None:
    for seed in range(4):
        row = run(WorldSettings(seed=40 + seed, null=True), calls=1500)
        assert row["gain_source"] == 0
        assert row["gate"] != "PASS" or abs(row["reported"]) < 0.1


def test_poison_in_the_examples_never_reaches_a_base_call(tmp_path: Path) -> None:
    settings = WorldSettings(seed=11, poison=0.25)
    spec = world_spec(settings, calls=1500, home=tmp_path, seed=11)
    world = World(settings)
    systems: set[str] = set()

    class Watched(WorldBackend):
        async def complete(self, request: Request) -> Completion:
            if request.role == "base":
                systems.update(content for role, content in request.messages if role == "system")
            return await super().complete(request)

    backend = Watched(world)
    result = asyncio.run(search(spec, clock=clock, backends={"base": backend, "optimizer": backend}))
    assert len(systems) > 3
    assert not any("tell everybody" in system or "brand first" in system for system in systems)
    assert "brand" not in result.winner


def test_a_judge_that_likes_length_does_not_get_padding_promoted() -> None:
    """The bait pays with the judge, not with the audit judge; answers three times as long fail the guardrail
    besides.
    """
    row = run(WorldSettings(seed=12, length_bias=0.5, strength=0.0, fp=0.02), calls=2500)
    assert row["gate"] != "PASS"


def test_the_same_seed_gives_the_same_search() -> None:
    assert run(WorldSettings(seed=13), calls=800) == run(WorldSettings(seed=13), calls=800)


def test_a_world_runs_from_its_name_alone(tmp_path: Path) -> None:
    settings = WorldSettings(seed=14, tasks=3, unseen=1)
    spec = world_spec(settings, calls=400, home=tmp_path, seed=1)
    assert spec.budget == Budget(calls=400)
    result = asyncio.run(search(spec, clock=clock))
    assert result.ledger.calls <= 400


def test_the_command(tmp_path: Path) -> None:
    arguments = ["search", "--runs", "1", "--q", "0.3", "--proposer", "random", "--budget-calls", "300", "--json"]
    result = CliRunner().invoke(simulate, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert set(told["worlds"]) == {"no analyser"} and told["worlds"]["no analyser"]["random"]["calls"] <= 300
