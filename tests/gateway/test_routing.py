"""Choosing a target: several deployments, ejection, probing, fallbacks, and the one more try over real sockets."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rig import DONE, HELLO, Request, Wires, completion, delta, door, settings_for, upstream

from gateway.errors import RequestRefused
from gateway.routing import MOST_TARGETS, Router
from gateway.settings import House, house_of
from registry import Settings


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def house(models: list[dict[str, Any]], **more: Any) -> House:
    names = dict.fromkeys(model["upstream"] for model in models) or {"a": None}
    upstreams = [{"name": name, "base_url": f"http://{name}/v1", **more.get(name, {})} for name in names]
    return house_of(Settings(upstreams=upstreams, models=models, gateway={"eject_after": 3, "eject_for": 10}))


TWO = [{"name": "m", "upstream": "a"}, {"name": "m", "upstream": "b"}]


def router(models: list[dict[str, Any]], time: Time | None = None, **more: Any) -> Router:
    return Router(house(models, **more), time or Time(), Random(1))


def test_names_stars_and_models_there() -> None:
    route = router(
        [
            {"name": "gpt", "upstream": "a", "model": "gpt-2026"},
            {"name": "org/*", "upstream": "b"},
            {"name": "org/special-*", "upstream": "c", "model": "own/*"},
            {"name": "fixed-*", "upstream": "d", "model": "one"},
        ]
    )
    for asked, upstream_name, model in [
        ("gpt", "a", "gpt-2026"),
        ("org/x", "b", "org/x"),
        ("org/special-x", "c", "own/x"),
        ("fixed-anything", "d", "one"),
    ]:
        pick = route.choose(asked, "openai")
        assert (pick.target.upstream, pick.target.model) == (upstream_name, model)
    with pytest.raises(RequestRefused) as refused:
        route.choose("unknown", "openai")
    assert refused.value.refusal.status == 404


def test_without_models_any_name_goes_to_the_first_upstream_of_the_dialect() -> None:
    settings = Settings(
        upstreams=[
            {"name": "a", "dialect": "openai", "base_url": "http://a"},
            {"name": "c", "dialect": "anthropic", "base_url": "http://c"},
        ]
    )
    route = Router(house_of(settings), Time(), Random(1))
    assert route.choose("x", "openai").target.upstream == "a"
    assert route.choose("x", "anthropic").target.upstream == "c"
    with pytest.raises(RequestRefused) as refused:
        Router(house_of(Settings()), Time(), Random(1)).choose("x", "openai")
    assert refused.value.refusal.code == "no_upstream"


def test_traffic_goes_to_the_one_that_answers_sooner() -> None:
    time = Time()
    route = router(TWO, time)
    took = {"a": 0.1, "b": 0.4}
    counts: Counter[str] = Counter()
    flying: list[tuple[float, Any]] = []
    for step in range(4000):
        time.now = 100 + step * 0.02
        for until, pick in [entry for entry in flying if entry[0] <= time.now]:
            flying.remove((until, pick))
            pick.done("good", first_byte_at=until)
        pick = route.choose("m", "openai")
        counts[pick.target.upstream] += 1
        flying.append((time.now + took[pick.target.upstream], pick))
    assert counts["a"] > 2 * counts["b"] > 0


def test_weights_count() -> None:
    route = router([{"name": "m", "upstream": "a", "weight": 3}, {"name": "m", "upstream": "b"}])
    counts = Counter(route.choose("m", "openai").target.upstream for _ in range(400))
    assert 250 < counts["a"] < 350


def test_ejection_half_open_probe_and_return() -> None:
    time = Time()
    route = router(TWO, time)
    bad = {"a"}

    def ask() -> str:
        pick = route.choose("m", "openai")
        name = pick.target.upstream
        pick.done("failed" if name in bad else "good", first_byte_at=time.now + 0.01)
        return name

    for _ in range(50):
        ask()
    assert Counter(ask() for _ in range(50)) == {"b": 50}  # ejected
    time.now += 11
    probes = [route.choose("m", "openai") for _ in range(20)]
    assert [pick.target.upstream for pick in probes].count("a") <= 1  # half-open: one probe at a time
    for pick in probes:
        pick.done("failed" if pick.target.upstream == "a" else "good")
    time.now += 11
    assert Counter(ask() for _ in range(30)) == {"b": 30}  # a failed probe ejects for longer
    time.now += 30
    bad.clear()
    assert Counter(ask() for _ in range(50))["a"] > 5


def test_a_single_target_is_asked_even_when_it_is_ejected() -> None:
    route = router([{"name": "m", "upstream": "a"}])
    for _ in range(10):
        route.choose("m", "openai").done("failed")
    assert route.choose("m", "openai").target.upstream == "a"


def test_fallbacks_in_order() -> None:
    models = [
        {"name": "m", "upstream": "a", "fallbacks": ["n", "o"]},
        {"name": "n", "upstream": "b"},
        {"name": "o", "upstream": "c", "model": "other"},
    ]
    time = Time()
    route = router(models, time)
    first = route.choose("m", "openai")
    second = route.another(first, "m", "openai")
    assert (first.target.upstream, second and second.target.upstream) == ("a", "b")
    for _ in range(5):
        route.choose("n", "openai").done("failed")
    third = route.another(first, "m", "openai")
    assert third is not None
    assert (third.target.upstream, third.target.model) == ("c", "other")
    for _ in range(5):
        pick = route.choose("m", "openai")
        if pick.target.upstream == "a":
            pick.done("failed")
    assert route.choose("m", "openai").target.upstream == "c"  # a and b are ejected


def test_limits_of_upstreams() -> None:
    route = router(TWO, a={"max_in_flight": 1}, b={"max_in_flight": 2})
    picks = [route.choose("m", "openai") for _ in range(3)]
    assert Counter(pick.target.upstream for pick in picks) == {"a": 1, "b": 2}
    with pytest.raises(RequestRefused) as refused:
        route.choose("m", "openai")
    assert (refused.value.refusal.status, refused.value.refusal.retry_after) == (503, 1.0)
    picks[0].done("unknown")
    route.choose("m", "openai")


def test_a_busy_one_rests_for_as_long_as_it_asks() -> None:
    time = Time()
    route = router(TWO, time)
    pick = route.choose("m", "openai")
    pick.done("busy", retry_after=5.0)
    other = "b" if pick.target.upstream == "a" else "a"
    assert {route.choose("m", "openai").target.upstream for _ in range(20)} == {other}
    time.now += 6
    assert {route.choose("m", "openai").target.upstream for _ in range(50)} == {"a", "b"}


def test_health_survives_a_reload() -> None:
    old = router(TWO)
    for _ in range(20):
        pick = old.choose("m", "openai")
        pick.done("failed" if pick.target.upstream == "a" else "good")
    new = Router(house(TWO), Time(), Random(2), known=old)
    assert {new.choose("m", "openai").target.upstream for _ in range(20)} == {"b"}


# --- over real sockets -----------------------------------------------------------------------------------------------


def fails(status: int) -> Any:
    async def behave(request: Request, wires: Wires) -> None:
        await wires.reply({"error": {"message": "no"}}, status)

    return behave


async def cuts(request: Request, wires: Wires) -> None:
    wires.cut()


MODELS = [
    {"name": "m", "upstream": "up0", "fallbacks": ["spare"]},
    {"name": "spare", "upstream": "up1", "model": "there"},
]


@pytest.mark.parametrize("broken", [fails(500), fails(503), fails(429), fails(529), cuts])
async def test_another_target_is_asked_once(tmp_path: Path, broken: Any) -> None:
    async with (
        upstream(broken) as first,
        upstream() as second,
        door(settings_for(tmp_path, first, second, models=MODELS)) as gate,
    ):
        status, _, reply = await gate.ask()
        assert (status, reply["object"]) == (200, "chat.completion")
        assert (len(first.requests), len(second.requests)) == (1, 1)
        assert second.last.body == b'{"model":"there","messages":[{"role":"user","content":"hi"}]}'


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
async def test_what_is_the_callers_fault_is_not_tried_elsewhere(tmp_path: Path, status: int) -> None:
    async with (
        upstream(fails(status)) as first,
        upstream() as second,
        door(settings_for(tmp_path, first, second, models=MODELS)) as gate,
    ):
        assert (await gate.ask())[0] == status
        assert second.requests == []


async def test_when_both_fail_the_second_answer_counts(tmp_path: Path) -> None:
    async with (
        upstream(fails(500)) as first,
        upstream(fails(503)) as second,
        door(settings_for(tmp_path, first, second, models=MODELS)) as gate,
    ):
        assert (await gate.ask())[0] == 503
        assert (len(first.requests), len(second.requests)) == (1, 1)
        healths = gate.worker.pipeline.router.healths
        assert [(health.in_flight, health.failures) for health in healths.values()] == [(0, 1), (0, 1)]


async def test_nothing_is_tried_again_after_the_first_byte(tmp_path: Path) -> None:
    async def half(request: Request, wires: Wires) -> None:
        await wires.stream(delta("a"), end=False, pause=0.05)
        wires.cut()

    async with (
        upstream(half) as first,
        upstream() as second,
        door(settings_for(tmp_path, first, second, models=MODELS)) as gate,
    ):
        async with gate.post({**HELLO, "stream": True}) as got:
            body = await got.read()
        assert body.startswith(delta("a"))
        assert b'"error"' in body
        assert second.requests == []


async def test_a_connection_that_is_refused_goes_elsewhere(tmp_path: Path) -> None:
    async with upstream() as gone:
        pass
    async with upstream() as second, door(settings_for(tmp_path, gone, second, models=MODELS)) as gate:
        assert (await gate.ask())[0] == 200


async def test_a_reload_changes_targets_for_new_requests_only(tmp_path: Path) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(request: Request, wires: Wires) -> None:
        arrived.set()
        await go.wait()
        await wires.stream(delta("old", "stop"), DONE)

    async def new(request: Request, wires: Wires) -> None:
        await wires.reply(completion("new"))

    async with upstream(wait) as first, upstream(new) as second, door(settings_for(tmp_path, first)) as gate:

        async def stream() -> bytes:
            async with gate.post({**HELLO, "stream": True}) as got:
                return await got.read()  # type: ignore[no-any-return]

        asking = asyncio.create_task(stream())
        await arrived.wait()
        gate.worker.reload(settings_for(tmp_path, second))
        assert (await gate.ask())[2]["choices"][0]["message"]["content"] == "new"
        go.set()
        assert await asking == delta("old", "stop") + DONE


async def test_a_reload_replaces_the_translate_lane(tmp_path: Path) -> None:
    litellm = {"name": "other", "dialect": "litellm"}
    async with upstream() as up, door(settings_for(tmp_path, litellm)) as gate:
        before = gate.worker.pipeline.lanes.translate()
        gate.worker.reload(settings_for(tmp_path, up))
        assert gate.worker.pipeline.lanes.translate() is not before
        assert (await gate.ask())[0] == 200


def test_names_that_callers_make_up_are_not_kept_without_bound() -> None:
    route = router([{"name": "*", "upstream": "a"}])
    tracemalloc.start()
    try:
        for number in range(2 * MOST_TARGETS):
            route.choose(f"{number}-" + "x" * 100_000, "openai").done("good")
            route.choose(f"{number}", "openai").done("good")
        assert tracemalloc.get_traced_memory()[0] < 2 << 20
    finally:
        tracemalloc.stop()
