"""Messages that show no task, grouped by their embeddings: a real HTTP server answers ``/v1/embeddings``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any, Self

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from jobs import checks, datasets, grouping
from jobs.errors import NoWork
from registry import Message, Registry, Sample, Settings
from tests.jobs.conftest import NOW, Clock, shop, with_shop, work_for

TOPICS = {
    "refund": "money back please since the parcel arrived {} broken",
    "translate": "what is the french word for {}",
    "poem": "write some verses about {}",
}
THINGS = [f"{a}{b}" for a in ("red", "blue", "old", "new", "odd", "thin") for b in ("kettle", "lamp", "door", "song")]


class Embeddings:
    """OpenAI's dialect of embeddings: texts of one topic point in nearly one direction."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.status = 200
        self.short = False

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/embeddings", self._embed)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(body)
        if self.status != 200:
            return web.json_response({"error": {"message": "no such model"}}, status=self.status)
        self.texts += body["input"]
        rows = [{"index": i, "object": "embedding", "embedding": vector(t)} for i, t in enumerate(body["input"])]
        if self.short:
            rows.pop()
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "model": body["model"], "data": rows[::-1], "usage": usage})


def vector(text: str) -> list[float]:
    rng = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
    noise = rng.normal(size=24)
    topic = next((i for i, words in enumerate(TOPICS.values()) if words.split()[0] in text), None)
    if topic is None:
        return [float(x) for x in noise]
    mean = np.zeros(24)
    mean[topic] = 5.0
    return [float(x) for x in mean + 0.5 * noise]


def message(n: int, topic: str) -> str:
    """Distinct, and without four words in a row that all share."""
    draw = random.Random(f"{topic}{n}")
    words = TOPICS[topic].format(f"{draw.choice(THINGS)}{n}").split()
    filler = [f"{draw.choice(THINGS)}{draw.randrange(1000)}" for _ in words]
    return " ".join(w for pair in zip(words, filler, strict=True) for w in pair)


def unnamed(n: int, topic: str, first: int = 0, **changes: Any) -> list[Sample]:
    made = []
    for i in range(first, first + n):
        fields: dict[str, Any] = {
            "id": f"{topic}-{i}", "domain": "shop", "task": "", "at": NOW - 5000 + i, "key": f"app{i % 3}",
            "unit": f"{topic}-user{i}", "messages": (Message(role="user", content=message(i, topic)),),
            "answer": "yes", "finish": "stop", "reference": "yes" if i % 2 else "no",
        }  # fmt: skip
        made.append(Sample(**{**fields, **changes}))
    return made


@pytest_asyncio.fixture
async def embeddings() -> AsyncIterator[Embeddings]:
    async with Embeddings() as server:
        yield server


@pytest.fixture
def grouped(settings: Settings, embeddings: Embeddings) -> Settings:
    upstream = settings.upstreams[0].model_copy(update={"name": "vectors", "base_url": embeddings.url})
    route = settings.models[0].model_copy(update={"name": "embed", "upstream": "vectors", "model": "embed-small"})
    return settings.model_copy(
        update={
            "upstreams": [*settings.upstreams, upstream],
            "models": [*settings.models, route],
            "jobs": settings.jobs.model_copy(update={"embedding_model": "embed"}),
        }
    )


async def test_like_messages_become_tasks_whose_names_last(
    registry: Registry, grouped: Settings, clock: Clock, embeddings: Embeddings
) -> None:
    await with_shop(registry)
    await registry.record([*unnamed(120, "refund"), *unnamed(90, "translate"), *unnamed(20, "poem")], [])
    work = work_for(registry, grouped, clock, "curate")
    assert "2 tasks" in await datasets.run(work)
    found = await datasets.prepare(work, shop())
    names = {t.name: sum(t.rows()) for t in found.tasks}
    assert len(names) == 2 and all(n.startswith("group-") for n in names), names
    assert any("parcel" in n or "arrived" in n for n in names) and any("french" in n for n in names)
    assert 10 <= found.dropped["no_task"] <= 40, "too few messages about poems, and what lies at the edges"
    assert embeddings.calls[0]["model"] == "embed-small"

    asked = len(embeddings.texts)
    await datasets.run(work_for(registry, grouped, clock, "curate"))
    assert len(embeddings.texts) == asked, "what was seen before is not sent again"

    await registry.record(unnamed(40, "refund", first=500), [])
    await datasets.run(work_for(registry, grouped, clock, "curate"))
    later = await datasets.prepare(work, shop())
    assert {t.name for t in later.tasks} == set(names), "new traffic joins the groups that are there"
    assert len(embeddings.texts) - asked == 40
    assert later.samples == 270

    await registry.record(unnamed(90, "poem", first=800), [])
    await datasets.run(work_for(registry, grouped, clock, "curate"))
    last = await datasets.prepare(work, shop())
    assert {t.name for t in last.tasks} > set(names) and len(last.tasks) == 3
    await registry.delete_domain("shop", actor="ops", why="over")
    assert await registry.task_groups("shop") is None


async def test_a_task_that_is_named_or_shows_itself_is_never_regrouped(
    registry: Registry, grouped: Settings, clock: Clock, embeddings: Embeddings
) -> None:
    await with_shop(registry)
    await registry.record(
        [*unnamed(60, "refund", task="complaints"), *unnamed(60, "poem", scaffold="sha256:abcdef1234567")], []
    )
    found = await datasets.prepare(work_for(registry, grouped, clock, "curate"), shop(), look=True)
    assert {t.name for t in found.tasks} == {"complaints", "app-abcdef1234"}
    assert embeddings.calls == []


async def test_one_loud_user_or_key_makes_no_group(registry: Registry, grouped: Settings, clock: Clock) -> None:
    await with_shop(registry)
    alone = unnamed(120, "refund", unit="one")
    invented = [
        s.__class__(**{**{f: getattr(s, f) for f in s.__struct_fields__}, "unit_is_fallback": True, "key": "k"})
        for s in unnamed(120, "poem")
    ]
    await registry.record([*alone, *invented], [])
    with pytest.raises(NoWork, match="240 no_task"):
        await datasets.run(work_for(registry, grouped, clock, "curate"))


@pytest.mark.parametrize("trouble", ["down", "short", "budget", "unknown", "extra"])
async def test_what_goes_wrong_leaves_samples_without_a_task_and_says_why(
    registry: Registry,
    grouped: Settings,
    clock: Clock,
    embeddings: Embeddings,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await with_shop(registry)
    await registry.record([*unnamed(60, "refund"), *unnamed(30, "poem", task="poems")], [])
    says = {
        "down": "cannot be used now",
        "short": "answered 32 texts with 31",
        "budget": "jobs.embedding_texts_per_day (10)",
        "unknown": "No model 'embad' is configured; did you mean 'embed'?",
        "extra": "pip install 'metaspo-gateway[embeddings]'",
    }[trouble]
    changes: dict[str, Any] = {"budget": {"embedding_texts_per_day": 10}, "unknown": {"embedding_model": "embad"}}
    embeddings.status = 404 if trouble == "down" else 200
    embeddings.short = trouble == "short"
    if trouble == "extra":
        monkeypatch.setattr(grouping, "find_spec", lambda _: None)
    bent = grouped.model_copy(update={"jobs": grouped.jobs.model_copy(update=changes.get(trouble, {}))})
    work = work_for(registry, bent, clock, "curate")
    found = await datasets.prepare(work, shop(), look=True)
    assert [t.name for t in found.tasks] == ["poems"] and found.dropped["no_task"] == 60
    assert says in found.notes["other"], found.notes
    cause = {"budget": "daily_budget", "unknown": "unknown_model"}.get(trouble, "no_embeddings")
    counted = work.metrics.registry.get_sample_value("metaspo_run_refused_total", {"domain": "shop", "cause": cause})
    assert counted == 1
    if trouble == "budget":
        assert embeddings.calls == [], "nothing is sent beyond the budget"
    if trouble in {"unknown", "extra"}:
        (finding,) = [f for f in checks._grouping(bent) if not f.ok]
        assert says in finding.message


async def test_off_by_default(registry: Registry, settings: Settings, clock: Clock, embeddings: Embeddings) -> None:
    await with_shop(registry)
    await registry.record(unnamed(80, "refund"), [])
    found = await datasets.prepare(work_for(registry, settings, clock, "curate"), shop(), look=True)
    assert found.tasks == () and found.dropped["no_task"] == 80 and not found.notes
    assert checks._grouping(settings) == [] and embeddings.calls == []


async def test_messages_of_no_kind_make_no_group(
    registry: Registry, grouped: Settings, clock: Clock, embeddings: Embeddings
) -> None:
    """Neither alone nor beside groups that were found: what is not as dense as they are is only watched."""
    await with_shop(registry)
    mixed = [
        Sample(
            id=f"mixed-{n}", domain="shop", task="", at=NOW - 9000 + n, key="app1", unit=f"mixed-{n}", finish="stop",
            messages=(Message(role="user", content=" ".join(random.Random(n).sample(THINGS, 6)) + f" {n}"),),
        )
        for n in range(150)
    ]  # fmt: skip
    await registry.record(mixed, [])
    with pytest.raises(NoWork, match="150 no_task"):
        await datasets.run(work_for(registry, grouped, clock, "curate"))
    await registry.record([*unnamed(80, "refund"), *unnamed(80, "poem")], [])
    await datasets.run(work_for(registry, grouped, clock, "curate"))
    more = [s.__class__(**{**{f: getattr(s, f) for f in s.__struct_fields__}, "id": f"more-{s.id}"}) for s in mixed]
    await registry.record(more, [])
    found = await datasets.prepare(work_for(registry, grouped, clock, "curate"), shop(), look=True)
    assert len(found.tasks) == 2 and found.dropped["no_task"] >= 290


async def test_another_model_begins_anew(registry: Registry, grouped: Settings, clock: Clock) -> None:
    await with_shop(registry)
    await registry.record([*unnamed(80, "refund"), *unnamed(80, "poem")], [])
    await datasets.run(work_for(registry, grouped, clock, "curate"))
    first = await registry.task_groups("shop")
    assert first is not None and first.model == "embed" and len(first.groups) == 2
    routes = [*grouped.models, grouped.models[-1].model_copy(update={"name": "embed-2"})]
    other = grouped.model_copy(
        update={"models": routes, "jobs": grouped.jobs.model_copy(update={"embedding_model": "embed-2"})}
    )
    await datasets.run(work_for(registry, other, clock, "curate"))
    second = await registry.task_groups("shop")
    assert second is not None and second.model == "embed-2" and len(second.groups) == 2


def test_names_hold_only_words_that_several_people_used() -> None:
    said = [(f"visit velmora shop {n}", {"one"}) for n in range(50)]
    assert grouping.terms(said) == []
    assert grouping.terms([(f"parcel late {n}", {f"u{n}"}) for n in range(50)]) == ["parcel", "late"]
