"""The console in a real browser, over a real gateway process and a real store: every page, every action."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from axe_playwright_python.async_playwright import Axe
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from registry import (
    Approval,
    EmbeddedRedis,
    Lineage,
    Message,
    Outcome,
    Registry,
    Sample,
    Signer,
    load_settings,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
    pytest.mark.asyncio(loop_scope="module"),
]
OPERATOR, VIEWER = "ops-key-for-tests", "viewer-key-for-tests"
SOUND = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
"""What axe looks for; what passes is not listed, which is the longer part of its work."""
HOSTILE = '<script>window.stolen = 1</script><img src=x onerror="window.stolen = 1">'
GATE = {
    "outcome": "PASS",
    "reason": "Better by +0.062 (interval +0.021 to +0.103) and every rule holds.",
    "table": [
        {"name": "effect", "value": 0.062, "bound": ">= 0.02", "passed": True, "note": ""},
        {"name": "audit_sign", "value": None, "bound": "> 0", "passed": None, "note": "not measured"},
    ],
}


class House:
    """A running gateway with a seeded registry."""

    def __init__(self, url: str, registry: Registry, redis: EmbeddedRedis) -> None:
        self.url = url
        self.registry = registry
        self.redis = redis


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, EmbeddedRedis]]:
    home = tmp_path_factory.mktemp("console")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = home / "metaspo.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "home": str(home),
                "listen": f"127.0.0.1:{port}",
                "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:9/v1"}],
                "keys": [
                    {"name": "ops", "role": "operator", "key": OPERATOR},
                    {"name": "eyes", "role": "viewer", "key": VIEWER},
                ],
            }
        )
    )
    redis = EmbeddedRedis.start(home)
    process = subprocess.Popen(
        [sys.executable, "-m", "metaspo", "--config", str(config), "gateway", "serve"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "METASPO_CONFIG": str(config)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url + "/readyz", process)
        yield url, config, redis
    finally:
        process.terminate()
        process.communicate(timeout=20)
        redis.stop()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # also a timeout, and what urllib raises
            if process.poll() is not None:
                raise AssertionError((process.stderr or sys.stdin).read()) from None
            time.sleep(0.05)
    raise AssertionError(f"{url} never answered")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(gateway: tuple[str, Path, EmbeddedRedis]) -> AsyncIterator[House]:
    url, config, redis = gateway
    settings = load_settings(config)
    registry = await Registry.connect(redis.url, signer=Signer.load_or_create(settings.signing_key_path))
    await seed(registry)
    yield House(url, registry, redis)
    await registry.close()


async def seed(registry: Registry) -> None:
    """A domain with a past: three versions, a canary, samples, an approval, a finished search."""
    from registry import Domain, JudgeSpec, Task

    task = Task(user_prompt="Which team?\n{question}", judge=JudgeSpec(kind="choice", labels=("billing", "shipping")))
    await registry.put_domain(Domain(name="support", tasks={"triage": task}), actor="test")
    await registry.put_domain(Domain(name="empty"), actor="test")
    first = await registry.add_version("support", "You are a helpful assistant.", lineage=Lineage(author="ops"))
    run = await registry.create_run("support", "metaspo", asked_by="ops", why="weekly")
    second = await registry.add_version(
        "support",
        "You are a helpful support assistant. Answer with only the name of the best team.",
        lineage=Lineage(parent=first.number, run=run.id, author="optimizer", gate=GATE, why="better on the holdout"),
    )
    await registry.add_version("support", f"Be kind. {HOSTILE}", lineage=Lineage(parent=second.number, author="ops"))
    await registry.promote("support", first.number, actor="ops", why="first version")
    await registry.promote("support", second.number, actor="ops", why=HOSTILE)
    now = time.time()
    samples = [
        Sample(
            id=f"sample-{i}", domain="support", task="triage", at=now - 3600 * (i % 6), key="app", unit=f"u{i}",
            arm="stable", version=1 + i % 2, messages=(Message(role="user", content=f"Parcel {i}? {HOSTILE}"),),
            answer="shipping" if i % 3 else HOSTILE, score=1.0 if i % 3 else 0.0, score_by="reference",
        )
        for i in range(24)
    ]  # fmt: skip
    outcomes = [
        Outcome(
            domain="support", arm="stable", version=2, unit=f"u{i}", at=now - 60, prompt_tokens=80, answer_tokens=9,
            score=float(i % 4 > 0),
        )
        for i in range(24)
    ]  # fmt: skip
    await registry.record(samples, outcomes)
    await registry.put_approval(
        Approval(id="approval-1", domain="support", version=3, kind="canary", asked_at=now, reason="first promotion")
    )
    for number in (1, 2):
        data = {"score": 0.6 + number / 10, "calls": 200 * number, "best": f"Answer with the team's name. {HOSTILE}"}
        await registry.append_run_event(run.id, {"kind": "generation", "message": f"number {number}", "data": data})
    arm = {"version": 2, "arm": "stable", "exchanges": 24, "errors": 0, "cost_usd": 0.1, "score": [0.75, 0.6, 0.9]}
    search = {"id": run.id, "state": "done", "outcome": "PASS", "version": 2, "calls": 600, "usd": 1.2, "reason": "yes"}
    facts = {
        "since": now - 7 * 86_400,
        "until": now,
        "moves": [{"at": now, "kind": "promote", "actor": "ops", "what": "stable 1 to 2", "why": HOSTILE}],
        "runs": [search],
        "spent": {"calls": 600, "usd": 1.2},
        "arms": [arm],
        "waiting": [{"version": 3, "kind": "canary", "reason": HOSTILE}],
        "incidents": [{"at": now, "kind": "drift", "why": "scores fell"}],
    }
    await registry.append_audit("support", "report", "jobs", "1 promotion, 1 search (600 calls).", facts)
    counts = {"triage": {"format": 9, "reasoning": 2}, "reply": {"format": 1}}
    await registry.append_run_event(run.id, {"kind": "failures", "message": "typed", "data": {"counts": counts}})
    await registry.append_run_event(run.id, {"kind": "progress", "message": "", "data": {"calls": 400, "budget": 1000}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        engine = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield engine
        await engine.close()


async def signed_in(browser: Browser, house: House, key: str = OPERATOR, **options: Any) -> tuple[BrowserContext, Page]:
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.problems = []  # type: ignore[attr-defined]
    page.on("console", lambda m: page.problems.append(m.text) if m.type in ("error", "warning") else None)  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.problems.append(str(error)))  # type: ignore[attr-defined]
    page.on("response", lambda r: page.problems.append(f"{r.status} {r.url}") if r.status >= 500 else None)  # type: ignore[attr-defined]
    await page.goto(house.url + "/console")
    await page.get_by_label("Key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("heading", name="Overview").wait_for()
    return context, page


PAGES = [
    "",
    "?q=supp",
    "/domains/support",
    "/domains/empty",
    "/domains/support/versions/1",
    "/domains/support/versions/2",
    "/domains/support/versions/3?against=1",
    "/domains/support/reports",
    "/domains/empty/reports",
    "/domains/support/samples",
    "/domains/support/samples?band=low",
    "/domains/support/move?action=promote&version=1",
    "/domains/support/move?action=canary&version=3",
    "/domains/support/move?action=rollback",
    "/domains/support/optimize",
    "/domains/empty/optimize",
    "/approvals",
    "/jobs",
    "/audit",
    "/audit?domain=support",
    "/keys",
    "/health",
]


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1600, "light"),
        (400, "dark"),
        pytest.param(1600, "dark", marks=pytest.mark.slow),
        pytest.param(400, "light", marks=pytest.mark.slow),
    ],
)
async def test_every_page_is_sound(house: House, browser: Browser, width: int, scheme: Any) -> None:
    context, page = await signed_in(browser, house, viewport={"width": width, "height": 900}, color_scheme=scheme)
    run = (await house.registry.list_runs("support"))[0]
    shots = os.environ.get("METASPO_SCREENSHOTS")
    axe = Axe()
    for path in [*PAGES, f"/runs/{run.id}"]:
        live = path.startswith("/runs/")
        await page.goto(house.url + "/console" + path)
        await page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        assert await page.evaluate("window.stolen") is None, path
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            f"{path} scrolls sideways"
        )
        found = await axe.run(page, options=SOUND)
        assert found.violations_count == 0, f"{path} at {width} {scheme}: {found.generate_report()}"
        if shots:
            name = re.sub(r"[^a-z0-9]+", "-", path.partition("/runs/")[0] or ("run" if live else "overview")).strip("-")
            await page.screenshot(path=Path(shots) / f"{name}-{width}-{scheme}.png", full_page=True)
    assert page.problems == []  # type: ignore[attr-defined]
    await context.close()


async def test_a_move_shows_what_changes_and_happens_once(house: House, browser: Browser) -> None:
    context, page = await signed_in(browser, house)
    await page.goto(house.url + "/console/domains/support/versions/3")
    await page.get_by_role("link", name="Canary").click()
    assert await page.locator(".diff ins").count() > 0
    await page.get_by_label("Share of the units, at most 0.5").fill("0.10")
    await page.get_by_label("Reason, for the audit").fill("a careful try")
    await page.get_by_role("button", name="Canary").click()
    await page.get_by_text("Version 3 is on canary with 10% of the units.").wait_for()
    deployment = await house.registry.deployment("support")
    assert (deployment.canary, deployment.share) == (3, 0.1)

    await page.get_by_role("link", name="End the canary").click()
    await page.get_by_label("Reason, for the audit").fill("seen enough")
    await page.get_by_role("button", name="Abort").click()
    await page.get_by_text("The canary has ended").wait_for()

    await page.get_by_role("link", name="Roll back to 1").click()
    await page.get_by_label("Reason, for the audit").fill("back")
    await page.get_by_role("button", name="Rollback").click()
    await page.get_by_text("Rolled back: version 1 is stable.").wait_for()

    await page.goto(house.url + "/console/domains/support/versions/2")
    await page.get_by_role("link", name="Promote").click()
    await page.get_by_label("Reason, for the audit").fill("forward again")
    await page.get_by_role("button", name="Promote").click()
    await page.get_by_text("Version 2 is stable").wait_for()
    entries = await house.registry.history("support", 5, None)
    assert [(e.kind, e.actor, e.why) for e in entries][:2] == [
        ("promote", "ops", "forward again"),
        ("rollback", "ops", "back"),
    ]
    await context.close()


async def test_a_stale_page_is_told_what_moved(house: House, browser: Browser) -> None:
    context, page = await signed_in(browser, house)
    await page.goto(house.url + "/console/domains/support/move?action=promote&version=1")
    await house.registry.promote("support", 3, actor="somebody", why="was quicker")
    await page.get_by_label("Reason, for the audit").fill("late")
    await page.get_by_role("button", name="Promote").click()
    await page.get_by_role("heading", name="Something moved meanwhile").wait_for()
    assert "somebody" in await page.inner_text("main")
    assert (await house.registry.deployment("support")).stable == 3
    await house.registry.promote("support", 2, actor="test", why="as before")
    await context.close()


async def test_approvals_labels_and_keys(house: House, browser: Browser) -> None:
    context, page = await signed_in(browser, house)
    await page.goto(house.url + "/console/approvals")
    await page.get_by_label("Reason").fill("read and understood")
    await page.get_by_role("button", name="Reject").click()
    await page.get_by_text("Rejected.").wait_for()
    decided = await house.registry.list_approvals()
    assert [(a.decision, a.by) for a in decided] == [("rejected", "ops")]

    await page.goto(house.url + "/console/domains/support/samples?band=low")
    await page.get_by_role("button", name="Right").first.click()
    await page.wait_for_load_state()
    labelled = [s for s in await house.registry.samples("support", limit=100) if s.label is not None]
    assert [(s.label, s.label_by) for s in labelled] == [(1.0, "ops")]

    await page.goto(house.url + "/console/keys")
    await page.get_by_label("Name").fill("new-app")
    await page.get_by_role("button", name="Make the key").click()
    await page.get_by_text("It is shown this once").wait_for()
    await page.get_by_role("button", name="Revoke new-app").click()
    await page.get_by_text("The key is revoked").wait_for()
    key = next(k for k in await house.registry.list_keys() if k.name == "new-app")
    assert key.revoked_at is not None
    await context.close()


async def test_a_search_is_asked_for_and_followed_live(house: House, browser: Browser) -> None:
    for run in await house.registry.list_runs("support"):
        await finish(house.registry, run.id)
    context, page = await signed_in(browser, house)
    await page.goto(house.url + "/console/domains/support")
    await page.get_by_role("link", name="Optimize now").click()
    cost = await page.inner_text("section[aria-labelledby=cost]")
    assert "6000 calls" in cost
    assert "none are lost" in cost
    assert "24 kept exchanges" in await page.inner_text("section[aria-labelledby=works]")
    await page.get_by_label("Reason, for the audit").fill("scores fell")
    await page.get_by_role("button", name="Optimize").click()
    await page.get_by_text("The search is asked for").wait_for()
    run = next(r for r in await house.registry.list_runs("support") if r.state == "queued")
    add = house.registry.append_run_event
    await add(run.id, {"kind": "candidates", "message": "generation 1: nine candidates"})
    await page.get_by_text("generation 1: nine candidates").wait_for()
    data = {"score": 0.61, "calls": 300, "best": f"Be brief. {HOSTILE}"}
    await add(run.id, {"kind": "generation", "message": "number 1", "data": data})
    await page.get_by_role("cell", name="0.610").wait_for()  # the table grows while one looks
    await add(run.id, {"kind": "progress", "message": "", "data": {"calls": 400, "budget": 1000}})
    await page.get_by_text("Calls of 1000").wait_for()
    await add(run.id, {"kind": "progress", "message": "", "data": {"calls": 700, "budget": 1000}})
    await page.locator('progress[data-spend][value="700"]').wait_for()
    assert await page.evaluate("window.stolen") is None
    second = await context.new_page()
    await second.goto(house.url + "/console/domains/support/optimize")
    await second.get_by_text("has not ended").wait_for()
    assert await second.get_by_role("button", name="Optimize").count() == 0
    await second.close()
    await finish(house.registry, run.id)
    await page.locator(".badge", has_text="done").wait_for()
    await context.close()


async def finish(registry: Registry, id: str) -> None:
    import msgspec

    run = await registry.get_run(id)
    if run.state in ("queued", "running"):
        await registry.update_run(
            msgspec.structs.replace(run, state="done", ended_at=time.time(), reason="ended by the test")
        )


async def test_a_viewer_looks_and_does_not_move(house: House, browser: Browser) -> None:
    context, page = await signed_in(browser, house, key=VIEWER)
    await page.goto(house.url + "/console/domains/support")
    assert await page.get_by_role("link", name="Optimize now").count() == 0
    await page.goto(house.url + "/console/domains/support/move?action=promote&version=1")
    await page.get_by_label("Reason, for the audit").fill("I may not")
    await page.get_by_role("button", name="Promote").click()
    await page.get_by_role("heading", name="Your key only reads").wait_for()
    await context.close()


async def test_bad_input_gets_a_page_that_says_what_to_do(house: House, browser: Browser) -> None:
    context, page = await signed_in(browser, house)
    for path in ("/domains/gone", "/domains/support/versions/99", "/domains/support/move?action=explode", "/runs/none"):
        await page.goto(house.url + "/console" + path)
        await page.get_by_role("heading", name="Not here").wait_for()
    for path in (
        "/nothing-here", "/domains/support/versions/one", "?page=0",
        "/domains/support/move?action=canary&version=3&share=half",
    ):  # fmt: skip
        await page.goto(house.url + "/console" + path)
        assert await page.locator("main h1").inner_text() in ("Not here", "This cannot be taken"), path
        assert await page.get_by_role("link", name="Approvals").count() == 1, path  # and the way on
    spoofed = "?said=Your+key+was+stolen.+Send+it+to+evil.example"
    await page.goto(house.url + "/console" + spoofed)
    assert "evil" not in await page.inner_text("main")
    too_long = await context.request.post(house.url + "/console/keys", form={"name": "x" * 5_000_000})
    assert too_long.status in (400, 413)
    assert re.search("exceeded maximum size|longer than 4 MiB", await too_long.text())
    assert (
        (await context.request.get(house.url + "/console/nothing?format=json"))
        .headers["content-type"]
        .startswith("application/json")
    )
    forged = await context.request.post(
        house.url + "/console/domains/support/move", form={"action": "promote", "version": "1", "csrf": "made-up"}
    )
    assert forged.status == 403
    assert "Nothing was changed" in await forged.text()
    await context.clear_cookies()
    await page.goto(house.url + "/console/audit")
    await page.get_by_label("Key").fill("wrong")
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_text("not a live operator's or viewer's key").wait_for()
    await page.get_by_label("Key").fill(OPERATOR)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("heading", name="Audit").wait_for()  # and back where they wanted to go
    await context.close()


async def test_pages_are_also_json(house: House, browser: Browser) -> None:
    context, _ = await signed_in(browser, house)
    for path in PAGES:
        answer = await context.request.get(
            house.url + "/console" + path + ("&" if "?" in path else "?") + "format=json"
        )
        assert answer.status == 200, path
        assert json.loads(await answer.text())["title"], path
    await context.close()


async def test_it_works_by_keyboard(house: House, browser: Browser) -> None:
    context, page = await signed_in(browser, house)
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    for _ in range(12):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent") == "support":
            break
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="support").wait_for()
    await context.close()


async def test_a_running_canary_says_when_it_decides(house: House, browser: Browser, tmp_path: Path) -> None:
    """Harmless data in demo colours: the pictures of the README come from here."""
    run = await helpdesk(house.registry)
    context, page = await signed_in(browser, house, viewport={"width": 1280, "height": 1180})
    shots = Path(os.environ.get("METASPO_SCREENSHOTS") or tmp_path)
    await page.goto(house.url + "/console/domains/helpdesk", wait_until="networkidle")
    said = await page.inner_text("section[aria-labelledby=trial]")
    assert "1 of 4, since" in said
    assert "24 of 4400 (12 canary, 12 control)" in said
    assert "not before" in said
    tests = await page.inner_text("section[aria-labelledby=tests]")
    assert "hard_failures" in tests
    assert "quiet" in tests
    tasks = await page.inner_text("section[aria-labelledby=tasks]")
    assert "route" in tasks
    await page.screenshot(path=shots / "domain.png")
    await page.goto(f"{house.url}/console/runs/{run}", wait_until="networkidle")
    await page.get_by_text("Better by").first.wait_for()
    await page.screenshot(path=shots / "run.png")
    await context.close()


async def helpdesk(registry: Registry) -> str:
    """A domain with a day of scored traffic, a finished search and its version on canary; returns the search's id."""
    import msgspec

    from registry import Domain, JudgeSpec, Task

    labels = ("billing", "shipping", "technical")
    tasks = {
        "route": Task(user_prompt="Which team?\n{question}", judge=JudgeSpec(kind="choice", labels=labels)),
        "reply": Task(judge=JudgeSpec(kind="rubric", rubric=("Does the answer name a next step?",))),
    }
    await registry.put_domain(Domain(name="helpdesk", tasks=tasks, promotion="canary"), actor="ops")
    texts = (
        "You are a helpful assistant.",
        "You are a support assistant. Answer in one short sentence.",
        "You are a support assistant. Read the whole question. Answer in one short sentence and name the next step.",
    )
    run = await registry.create_run("helpdesk", "metaspo", asked_by="schedule", why="weekly")
    for number, text in enumerate(texts):
        gate = GATE if number == 2 else None
        lineage = Lineage(
            parent=number or None, author="optimizer" if gate else "ops", run=run.id if gate else None, gate=gate,
            why="better on the holdout" if gate else "written by hand",
        )  # fmt: skip
        await registry.add_version("helpdesk", text, lineage=lineage)
    await registry.promote("helpdesk", 1, actor="ops", why="first version")
    await registry.promote("helpdesk", 2, actor="ops", why="reads better")
    moved = await registry.canary("helpdesk", 3, 0.01, actor="jobs", why="passed the gate")
    now = time.time()
    samples, outcomes = [], []
    for i in range(240):
        arm, version = ("stable", 1 + (i < 160)) if i >= 24 else (("canary", 3) if i % 2 else ("control", 2))
        good = float(i % 10 < 5 + version)
        samples.append(
            Sample(
                id=f"desk-{i}", domain="helpdesk", task=("route", "reply")[i % 2], at=now - 360 * i, key="app",
                unit=f"person-{i}", arm=arm, version=version, score=good, score_by="reference", answer="shipping",
                messages=(Message(role="user", content=f"Where is parcel {i}?"),),
            )
        )  # fmt: skip
        outcomes.append(
            Outcome(
                domain="helpdesk", arm=arm, version=version, unit=f"person-{i}", at=now - 360 * i, prompt_tokens=90,
                answer_tokens=12, cost=0.0004, score=good, experiment=moved.experiment if i < 24 else "",
            )
        )  # fmt: skip
    await registry.record(samples, outcomes)
    rows = [
        {"name": "hard_failures", "value": 0.91, "bound": ">= 100", "crossed": False},
        {"name": "quality", "value": None, "bound": "upper bound < 0", "crossed": False},
    ]
    detail = {"action": "hold", "table": rows}
    await registry.append_audit("helpdesk", "canary-look", "jobs", "Stage 1 of 4: 24 of 100 judged units.", detail)
    for number, score in enumerate((0.61, 0.66, 0.7, 0.7, 0.74)):
        data = {"score": score, "calls": {"base": 900 * (number + 1), "optimizer": 12}, "best": texts[min(number, 2)]}
        await registry.append_run_event(run.id, {"kind": "generation", "message": f"number {number}", "data": data})
    counts = {"route": {"format": 31, "reasoning": 6}, "reply": {"instruction": 9}}
    await registry.append_run_event(run.id, {"kind": "failures", "message": "typed", "data": {"counts": counts}})
    data = {"calls": 4560, "budget": 6000}
    await registry.append_run_event(run.id, {"kind": "progress", "message": "", "data": data})
    await registry.update_run(
        msgspec.structs.replace(
            run, state="done", started_at=now - 700, ended_at=now, incumbent=2, version=3, gate=GATE, usd=1.84,
            reason=GATE["reason"], calls={"base": 4500, "optimizer": 60},
        )
    )  # fmt: skip
    return run.id


async def test_a_prompt_of_100_kb_with_html(house: House, browser: Browser) -> None:
    text = "".join(f"<h1 onclick='window.stolen = {i}'>line {i} of {HOSTILE}</h1>\n" for i in range(900))[:100_000]
    await house.registry.put_domain((await house.registry.get_domain("empty")), actor="test")
    await house.registry.add_version("empty", "You are brief.", lineage=Lineage(author="ops"))
    long = await house.registry.add_version("empty", text, lineage=Lineage(author="ops", parent=1))
    await house.registry.add_version("empty", text.replace("line 7", "row 7"), lineage=Lineage(author="ops", parent=2))
    context, page = await signed_in(browser, house)
    for path in (f"/versions/{long.number}", "/versions/3", "/move?action=promote&version=3"):
        await page.goto(f"{house.url}/console/domains/empty{path}")
        assert await page.evaluate("window.stolen") is None
        assert await page.locator("main h1").count() == 1
    await page.goto(f"{house.url}/console/domains/empty/versions/3")
    assert await page.locator("pre.prompt").inner_text() == text.replace("line 7", "row 7")
    assert 0 < await page.locator(".diff ins").count() < 500  # the words that changed, not the whole text
    assert page.problems == []  # type: ignore[attr-defined]
    await context.close()


async def test_a_domain_deleted_under_an_open_page(house: House, browser: Browser) -> None:
    from registry import Domain

    await house.registry.put_domain(Domain(name="fleeting"), actor="test")
    context, page = await signed_in(browser, house)
    await page.goto(house.url + "/console/domains/fleeting/optimize")
    await house.registry.delete_domain("fleeting", "somebody", "no longer needed")
    await page.get_by_label("Reason").fill("scores fell")
    await page.get_by_role("button", name="Optimize").click()
    await page.get_by_role("heading", name="Not here").wait_for()
    assert "may have been deleted" in await page.inner_text("main")
    for path in ("/domains/fleeting", "/domains/fleeting/move?action=promote&version=1", "/audit?domain=fleeting"):
        await page.goto(house.url + "/console" + path)
        await page.get_by_role("heading", name="Not here").wait_for()
    await context.close()


async def test_an_expired_session(house: House, browser: Browser) -> None:
    class Yesterday(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(time.time()) - 24 * 3600

    secret = await house.registry.secret("console")
    old = URLSafeTimedSerializer(secret, salt="metaspo console session", signer=Yesterday)
    key = next(k for k in await house.registry.list_keys() if k.name == "ops")
    context, page = await signed_in(browser, house)
    await page.goto(house.url + "/console/domains/support/move?action=promote&version=1")
    cookie = next(c for c in await context.cookies() if c["name"] == "metaspo_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert not cookie["secure"]  # this gateway is not behind TLS
    await context.add_cookies([{**cookie, "value": str(old.dumps([key.id, "nonce"]))}])  # type: ignore[list-item]
    await page.get_by_label("Reason, for the audit").fill("too late")
    await page.get_by_role("button", name="Promote").click()
    await page.get_by_role("heading", name="Your session has ended").wait_for()
    assert "Nothing was changed" in await page.inner_text("main")
    await page.goto(house.url + "/console/approvals")
    await page.get_by_label("Key").wait_for()
    await context.close()


async def test_the_doors_hold(house: House, browser: Browser) -> None:
    """A token of another session, a foreign page, a redirect to elsewhere, a viewer with a forged button."""
    one, page = await signed_in(browser, house)
    two, _ = await signed_in(browser, house)
    await page.goto(house.url + "/console/domains/support/move?action=promote&version=1")
    token = await page.locator("main input[name=csrf]").get_attribute("value") or ""
    move = {"action": "promote", "version": "1", "why": "stolen"}
    target = house.url + "/console/domains/support/move"
    before = (await house.registry.deployment("support")).epoch
    assert (await two.request.post(target, form={**move, "csrf": token})).status == 403
    assert (await one.request.post(target, form=move)).status == 403
    eyes, _ = await signed_in(browser, house, key=VIEWER)
    html = await (await eyes.request.get(house.url + "/console")).text()
    own = re.search(r'name="csrf" value="([^"]+)"', html)
    assert own is not None
    for path, form in (
        ("/domains/support/move", move),
        ("/domains/support/optimize", {"why": "x"}),
        ("/samples/sample-1/label", {"score": "1"}),
        ("/keys", {"name": "mine", "role": "operator"}),
        ("/approvals/approval-1", {"decision": "approved", "why": "x"}),
    ):
        answer = await eyes.request.post(house.url + "/console" + path, form={**form, "csrf": own.group(1)})
        assert answer.status == 403, path
    assert (await house.registry.deployment("support")).epoch == before
    headers = (await one.request.get(house.url + "/console")).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    for context in (one, two, eyes):
        await context.close()
    for elsewhere in ("https://evil.example/", "//evil.example/", "/console\\@evil.example", "javascript:alert(1)"):
        answer = sign_in(house.url, elsewhere)
        assert answer["location"].startswith("/console"), elsewhere
        assert "evil" not in answer["location"].replace("%5C%40", ""), elsewhere


def sign_in(url: str, next: str = "/console", **headers: str) -> Any:
    """The headers that answer a sign-in."""
    from urllib.parse import urlencode, urlsplit

    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    form = {"content-type": "application/x-www-form-urlencoded", **headers}
    connection.request("POST", "/console/sign-in", urlencode({"key": OPERATOR, "next": next}), form)
    answer = connection.getresponse()
    assert answer.status == 303
    connection.close()
    return answer.headers


async def test_the_cookie_is_secure_behind_tls(house: House, gateway: tuple[str, Path, EmbeddedRedis]) -> None:
    """``x-forwarded-proto`` is believed from ``gateway.forwarded_allow`` only."""
    https = {"x-forwarded-proto": "https"}
    assert "Secure" in sign_in(house.url, **https)["set-cookie"]
    assert "Secure" not in sign_in(house.url)["set-cookie"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "metaspo", "--config", str(gateway[1]), "gateway", "serve"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "METASPO_LISTEN": f"127.0.0.1:{port}", "METASPO_GATEWAY_FORWARDED_ALLOW": "192.0.2.1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/readyz", process)
        assert "Secure" not in sign_in(f"http://127.0.0.1:{port}", **https)["set-cookie"]
    finally:
        process.terminate()
        process.communicate(timeout=20)


async def test_five_hundred_domains(house: House, browser: Browser, tmp_path: Path) -> None:
    from registry import Domain

    names = [f"team-{i:03}" for i in range(500)]
    for start in range(0, 500, 50):
        await asyncio.gather(
            *(house.registry.put_domain(Domain(name=n), actor="test") for n in names[start : start + 50])
        )
    context, page = await signed_in(browser, house, viewport={"width": 400, "height": 800})
    shots = Path(os.environ.get("METASPO_SCREENSHOTS") or tmp_path)
    known = len(await house.registry.list_domains())
    assert f"{known} domains" in await page.inner_text("main")
    assert await page.locator("tbody tr").count() == 50
    seconds = {}
    for path in ("", "?page=11", "/jobs", "/audit", "/keys", "/approvals", "/health"):
        began = time.perf_counter()
        await page.goto(house.url + "/console" + path)
        seconds[path] = round(time.perf_counter() - began, 2)
        await page.screenshot(path=shots / f"many{re.sub('[^a-z0-9]', '-', path)}.png", full_page=True)
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
    print("seconds to load with 500 domains:", seconds)
    await page.goto(house.url + "/console")
    await page.get_by_label("Name contains").fill("TEAM-49")
    await page.keyboard.press("Enter")
    await page.get_by_text("10 domains").wait_for()
    await page.get_by_role("link", name="team-499").click()
    await page.get_by_role("heading", name="team-499").wait_for()
    assert page.problems == []  # type: ignore[attr-defined]
    await context.close()


async def test_redis_down_while_the_console_is_open(house: House, browser: Browser) -> None:
    context, page = await signed_in(browser, house)
    house.redis.stop()
    await page.goto(house.url + "/console/domains/support", timeout=20_000)
    await page.get_by_role("heading", name="The registry cannot be reached").wait_for()
    await context.close()
